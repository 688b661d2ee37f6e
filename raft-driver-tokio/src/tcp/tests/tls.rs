//! Mutual TLS: who is let in, and what both sides hear of it.

use std::fs;
use std::path::PathBuf;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::{Authority, Issued};
use super::*;
use crate::storage::Identity as Owner;
use crate::tcp::tls::server_name;
use crate::tcp::{Tls, TlsError, TlsPart};

fn owner(id: u64) -> Owner {
    Owner { cluster: CLUSTER, node: node(id) }
}

fn names(id: u64) -> Vec<String> {
    vec![Tls::name(CLUSTER, node(id))]
}

/// What a node would not load is loaded too: its peer is to refuse it.
fn unchecked(id: u64, trusted: &Authority, issued: &Issued) -> Option<Tls> {
    let Issued { certificate, key } = issued;
    Some(Tls::from_pem_unchecked(owner(id), trusted.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()))
}

fn good(id: u64, authority: &Authority) -> Option<Tls> {
    let Issued { certificate, key } = authority.issue(&names(id));
    let ca = authority.pem.as_bytes();
    Some(Tls::from_pem(owner(id), ca, certificate.as_bytes(), key.as_bytes()).unwrap())
}

fn with(tls: Option<Tls>) -> TcpConfig {
    TcpConfig { tls, ..config() }
}

/// What is told on either side when node 2 connects to node 1.
async fn refused(connecting: Option<Tls>, listening: Option<Tls>) -> ((Refusal, bool), (Refusal, bool)) {
    let mut listening = side(with(listening)).await;
    let mut connecting = side_of(2, with(connecting)).await;
    connecting.peers(&[(1, listening.address.clone())]);
    let both = (told(&mut connecting).await, told(&mut listening).await);
    assert_eq!((connecting.stats)().connects, 0);
    assert!((connecting.stats)().connect_failures > 0);
    within(connecting.stop).await;
    within(listening.stop).await;
    both
}

#[tokio::test]
async fn two_nodes_with_certificates_talk() {
    let authority = Authority::new("ours");
    let mut one = side(with(good(1, &authority))).await;
    let mut two = side_of(2, with(good(2, &authority))).await;
    two.peers(&[(1, one.address.clone())]);
    // More than a record of TLS and more than its buffers.
    let large = "x".repeat(60 * 1024);
    let mut sent = append(2, 1, &["a"]);
    let received = loop {
        // What is sent before there is a connection is dropped.
        two.sender.send(sent.clone());
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(20), one.message()).await {
            break message;
        }
    };
    assert_eq!(received, sent);
    sent = append(2, 1, &[&large]);
    for _ in 0..20 {
        two.sender.send(sent.clone());
    }
    let mut count = 0;
    while count < 20 {
        count += usize::from(one.message().await == sent);
    }
    assert_eq!(((one.stats)().malformed, (two.stats)().disconnects), (0, 0));
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let strange = theirs.issue(&names(2));
    let both = refused(unchecked(2, &ours, &strange), good(1, &ours)).await;
    assert_eq!(both, ((Refusal::Untrusted, true), (Refusal::Untrusted, false)), "of the side that connects");
    let strange = theirs.issue(&names(1));
    let both = refused(good(2, &ours), unchecked(1, &ours, &strange)).await;
    assert_eq!(both, ((Refusal::Untrusted, false), (Refusal::Untrusted, true)), "of the side that listens");
    // An authority that only has the same name.
    let impostor = Authority::new("ours").issue(&names(2));
    let both = refused(unchecked(2, &ours, &impostor), good(1, &ours)).await;
    assert_eq!(both, ((Refusal::Untrusted, true), (Refusal::Untrusted, false)));
}

#[tokio::test]
async fn expired_certificates_are_refused() {
    let ours = Authority::new("ours");
    let both = refused(unchecked(2, &ours, &ours.issue_expired(&names(2))), good(1, &ours)).await;
    assert_eq!(both, ((Refusal::Expired, true), (Refusal::Expired, false)), "of the side that connects");
    let both = refused(good(2, &ours), unchecked(1, &ours, &ours.issue_expired(&names(1)))).await;
    assert_eq!(both, ((Refusal::Expired, false), (Refusal::Expired, true)), "of the side that listens");
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused() {
    let ours = Authority::new("ours");
    let listening = || good(1, &ours);
    let another_cluster = vec![Tls::name(ClusterId::new(78), node(2))];
    let wildcard = vec![names(2)[0].replace("node-2", "*")];
    let several = [names(2), names(3)].concat();
    for names in [names(3), another_cluster, wildcard, several, vec!["localhost".to_owned()]] {
        let both = refused(unchecked(2, &ours, &ours.issue(&names)), listening()).await;
        assert_eq!(both, ((Refusal::Name, true), (Refusal::Name, false)), "{names:?} connects as node 2");
    }
    let both = refused(good(2, &ours), unchecked(1, &ours, &ours.issue(&names(3)))).await;
    assert_eq!(both, ((Refusal::Name, false), (Refusal::Certificate, true)), "node 3 listens as node 1");
    for anybody in [vec![names(1)[0].replace("node-1", "*")], [names(1), names(3)].concat()] {
        let mut listening = side(with(unchecked(1, &ours, &ours.issue(&anybody)))).await;
        let mut connecting = side_of(2, with(good(2, &ours))).await;
        connecting.peers(&[(1, listening.address.clone())]);
        assert_eq!(told(&mut connecting).await, (Refusal::Name, false), "nor is {anybody:?} node 1");
        assert!(listening.incoming.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_certificate_for_another_use_is_refused() {
    let ours = Authority::new("ours");
    let both = refused(unchecked(2, &ours, &ours.issue_for_servers(&names(2))), good(1, &ours)).await;
    assert_eq!(both, ((Refusal::Certificate, true), (Refusal::Certificate, false)));
}

#[tokio::test]
async fn plain_text_and_tls_do_not_mix() {
    let ours = Authority::new("ours");
    let both = refused(None, good(1, &ours)).await;
    assert_eq!(both, ((Refusal::Tls, true), (Refusal::Tls, false)), "plain text to a TLS port");
    let both = refused(good(2, &ours), None).await;
    assert_eq!(both, ((Refusal::Tls, false), (Refusal::Tls, false)), "TLS to a plain port");
}

type Spoken = TlsStream<TcpStream>;

/// Connects with a certificate, without a handshake of ours.
async fn open(side: &Side, tls: &Option<Tls>) -> Spoken {
    let stream = TcpStream::connect(&side.address).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(&tls.as_ref().unwrap().latest().await.client));
    within(connector.connect(server_name(CLUSTER, node(1)), stream)).await.unwrap()
}

async fn greet(stream: &mut Spoken, hello: &Hello) -> Result<Identity, Refusal> {
    stream.write_all(&framed(|out| hello.encode(out))).await.unwrap();
    stream.flush().await.unwrap();
    let answer = within(FrameReader::new(stream, 1024).next()).await.unwrap();
    Welcome::decode(&answer).unwrap()
}

#[tokio::test]
async fn who_has_a_certificate_is_believed_no_other_id() {
    let ours = Authority::new("ours");
    let mut side = side(with(good(1, &ours))).await;
    let two = good(2, &ours);
    // Node 2 claims to be node 3.
    let mut liar = open(&side, &two).await;
    let hello_of_three = Hello { from: Identity { node: node(3), ..hello().from }, ..hello() };
    assert_eq!(greet(&mut liar, &hello_of_three).await, Err(Refusal::Name));
    assert_eq!((side.stats)().refused_name, 1);
    // As itself it is welcome, but not with messages of another.
    let mut stream = open(&side, &two).await;
    assert_eq!(greet(&mut stream, &hello()).await.unwrap().node, node(1));
    stream.write_all(&message_frame(&append(2, 1, &["mine"]))).await.unwrap();
    assert_eq!(side.message().await, append(2, 1, &["mine"]));
    stream.write_all(&message_frame(&append(3, 1, &["another's"]))).await.unwrap();
    stream.flush().await.unwrap();
    assert!(matches!(within(stream.read(&mut [0; 1])).await, Ok(0) | Err(_)), "closed");
    assert_eq!((side.stats)().misaddressed, 1);
}

#[tokio::test]
async fn noise_within_and_instead_of_tls_closes_the_connection() {
    let ours = Authority::new("ours");
    let mut side = side(with(good(1, &ours))).await;
    // A record of TLS that holds no handshake, plain noise, and half a record.
    for (noise, malformed) in [(&b"\x16\x03\x01\x00\x05noise"[..], 1), (b"GET / HTTP/1.1\r\n\r\n", 2)] {
        let mut stream = TcpStream::connect(&side.address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        let mut rest = Vec::new();
        // An alert at most, and the end.
        let _ = within(stream.read_to_end(&mut rest)).await;
        assert!(rest.len() < 64, "{rest:?}");
        assert_eq!((side.stats)().malformed, malformed);
    }
    let mut stream = open(&side, &good(2, &ours)).await;
    stream.write_all(b"\x05\0\0\0noise").await.unwrap();
    stream.flush().await.unwrap();
    assert!(matches!(within(stream.read(&mut [0; 1])).await, Ok(0) | Err(_)), "closed");
    assert_eq!((side.stats)().malformed, 3);
    assert!(side.incoming.try_recv().is_err(), "nothing of it reached the node");
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        // As it should be done: written aside, and put in place at once.
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn load(&self, id: u64) -> Result<Tls, TlsError> {
        Tls::from_files(owner(id), self.path("ca"), self.path("certificate"), self.path("key"))
    }
}

fn dir(authority: &Authority, issued: &Issued) -> Dir {
    let dir = Dir(tempfile::tempdir().unwrap());
    dir.write("ca", &authority.pem);
    dir.write("certificate", &issued.certificate);
    dir.write("key", &issued.key);
    dir
}

#[tokio::test]
async fn renewed_files_are_used_by_the_next_connection() {
    let (ours, mut next) = (Authority::new("ours"), Authority::new("next"));
    let first = ours.issue(&names(1));
    let dir = dir(&ours, &first);
    let side = side(with(Some(dir.load(1).unwrap()))).await;
    let client = good(2, &ours);
    let shown = async || {
        let stream = open(&side, &client).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    assert_eq!(shown().await, before);
    // The certificate came, its key did not yet.
    let second = ours.issue(&names(1));
    dir.write("certificate", &second.certificate);
    assert_eq!(shown().await, before, "what is of no use is not used");
    dir.write("key", &second.key);
    let after = shown().await;
    assert_ne!(after, before);
    // An authority is replaced in two steps: both are trusted first.
    next.pem.push_str(&ours.pem);
    dir.write("ca", &next.pem);
    let mut stream = open(&side, &good(2, &next)).await;
    assert!(greet(&mut stream, &hello()).await.is_ok());
}

/// The authority's clock is ahead.
#[tokio::test]
async fn what_was_of_no_use_at_first_is_used_once_it_is() {
    let ours = Authority::new("ours");
    let dir = dir(&ours, &ours.issue(&names(1)));
    let tls = dir.load(1).unwrap();
    let before = tls.latest().await;
    let next = ours.issue_good_in(&names(1), Duration::from_secs(2));
    dir.write("key", &next.key);
    dir.write("certificate", &next.certificate);
    assert!(Arc::ptr_eq(&before, &tls.latest().await), "not good yet");
    within(async {
        while dir.load(1).is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(!Arc::ptr_eq(&before, &tls.latest().await), "as a process that starts now");
}

/// A file system that hangs, as one over a network may: here a pipe that nobody writes to.
#[cfg(unix)]
#[test]
fn files_that_hang_do_not_keep_what_was_read_before_from_use() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    runtime.unwrap().block_on(async {
        let ours = Authority::new("ours");
        let issued = ours.issue(&names(1));
        let dir = dir(&ours, &issued);
        let tls = dir.load(1).unwrap();
        let side = side(with(Some(tls.clone()))).await;
        let before = tls.latest().await;
        fs::remove_file(dir.path("key")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(dir.path("key")).status().unwrap().success());
        let client = good(2, &ours);
        let client = Arc::clone(&client.unwrap().latest().await.client);
        let mut connected = 0;
        for _ in 0..4 {
            let stream = TcpStream::connect(&side.address).await.unwrap();
            let connecting =
                TlsConnector::from(Arc::clone(&client)).connect(server_name(CLUSTER, node(1)), stream);
            connected += usize::from(within(connecting).await.is_ok());
        }
        let free = tokio::time::timeout(Duration::from_secs(1), tokio::task::spawn_blocking(|| ())).await;
        // Lets the threads go, for which the runtime waits.
        let writes = fs::OpenOptions::new().read(true).write(true).open(dir.path("key")).unwrap();
        dir.write("key", &issued.key);
        drop(writes);
        assert_eq!((connected, free.is_ok()), (4, true), "one thread hangs, the other one is free");
        let renewed = async { while Arc::ptr_eq(&before, &tls.latest().await) {} };
        within(renewed).await;
    });
}

#[test]
fn what_peers_would_refuse_is_refused_when_it_is_loaded() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let issued = ours.issue(&names(1));
    let loading = |file: &str, content: Option<&str>| {
        let dir = dir(&ours, &issued);
        match content {
            Some(content) => dir.write(file, content),
            None => fs::remove_file(dir.path(file)).unwrap(),
        }
        let error = dir.load(1).expect_err(file);
        assert!(error.to_string().len() > 20, "it says what to do");
        error
    };
    for (file, part) in [("ca", TlsPart::Ca), ("certificate", TlsPart::Certificate), ("key", TlsPart::Key)] {
        assert!(matches!(loading(file, None), TlsError::Read { part: told, .. } if told == part));
        assert!(matches!(loading(file, Some("nothing")), TlsError::Missing { part: told } if told == part));
        let cut = "-----BEGIN PRIVATE KEY-----\nAAAA";
        assert!(matches!(loading(file, Some(cut)), TlsError::Pem { part: told, .. } if told == part));
    }
    assert!(matches!(loading("key", Some(&issued.certificate)), TlsError::Missing { part: TlsPart::Key }));
    let encrypted = issued.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert!(matches!(loading("key", Some(&encrypted)), TlsError::Missing { part: TlsPart::Key }));
    assert!(matches!(loading("key", Some(&ours.issue(&names(1)).key)), TlsError::KeyMismatch));
    let certificate = |issued: &Issued| loading("certificate", Some(&issued.certificate));
    assert!(matches!(certificate(&theirs.issue(&names(1))), TlsError::Untrusted));
    assert!(matches!(certificate(&ours.issue_expired(&names(1))), TlsError::Expired));
    assert!(matches!(certificate(&ours.issue_for_servers(&names(1))), TlsError::Unusable { .. }));
    let wildcard = names(1)[0].replace("node-1", "*");
    assert!(matches!(certificate(&ours.issue(&[wildcard])), TlsError::Wildcard));
    let several = certificate(&ours.issue(&[names(1), names(2)].concat()));
    assert!(matches!(several, TlsError::Several { found, .. } if found == [names(1), names(2)].concat()));
    let beside = ours.issue(&[names(1), vec!["localhost".to_owned()]].concat());
    assert!(dir(&ours, &beside).load(1).is_ok(), "names of other kinds");
    let TlsError::Name { expected, found } = certificate(&ours.issue(&names(2))) else { panic!("node 2") };
    assert_eq!((expected, found.len()), (names(1).remove(0), 1));
    assert!(found[0].contains("node-2"), "{found:?}");
    assert!(dir(&ours, &issued).load(1).is_ok());
}

#[tokio::test]
async fn a_configuration_of_two_clusters_is_refused() {
    let mut config = with(good(1, &Authority::new("ours")));
    config.cluster = ClusterId::new(78);
    assert!(matches!(Tcp::bind(LOOPBACK, config).await, Err(TcpError::Config(_))));
    let tcp = Tcp::bind(LOOPBACK, with(good(1, &Authority::new("ours")))).await.unwrap();
    assert!(tcp.check(&Config::new(node(1))).is_ok());
    assert!(tcp.check(&Config::new(node(2))).is_err(), "nor of two nodes");
}

#[test]
fn keys_are_not_printed() {
    let issued = Authority::new("ours");
    let tls = good(1, &issued).unwrap();
    assert_eq!(format!("{tls:?}"), "Tls { identity: Identity { cluster: 4d, node: 1 }, files: None, .. }");
}
