//! Peers that do not belong here, or misbehave.

use std::io;
use std::sync::Mutex;

use super::*;

#[tokio::test]
async fn whoever_does_not_belong_here_is_refused_and_told_why() {
    let mut side = side(config()).await;
    side.peers(&[(1, side.address.clone()), (2, "127.0.0.1:1".to_owned())]);
    let identity = hello().from;
    let leases =
        Timing::of(&Config { lease: Some(Lease { clock_drift_ppm_max: 9 }), ..Config::new(node(2)) });
    let cases = [
        (Hello { from: Identity { cluster: ClusterId::new(78), ..identity }, ..hello() }, Refusal::Cluster),
        (Hello { from: Identity { bootstrap: Some(digest(2)), ..identity }, ..hello() }, Refusal::Bootstrap),
        (Hello { from: Identity { node: node(1), ..identity }, ..hello() }, Refusal::OwnId),
        (Hello { from: Identity { timing: leases, ..identity }, ..hello() }, Refusal::Lease),
        (Hello { to: node(2), ..hello() }, Refusal::Target),
    ];
    for (hello, expected) in cases {
        let (mut stream, verdict) = connect(&side, &hello).await;
        assert_eq!(verdict, Err(expected));
        closed(&mut stream).await;
        let ours = |told: &Option<Refused>| {
            told.as_ref().is_some_and(|told| told.refusal == expected && !told.by_peer)
        };
        within(side.refusals.wait_for(ours)).await.unwrap();
    }
    let stats = (side.stats)();
    assert_eq!((stats.refused_cluster, stats.refused_bootstrap), (1, 1));
    assert_eq!((stats.refused_own_id, stats.refused_lease, stats.refused_target), (1, 1, 1));
    let (_stream, verdict) = connect(&side, &hello()).await;
    assert!(verdict.is_ok(), "the next one is welcome");
}

#[tokio::test]
async fn another_version_is_told_so() {
    let side = side(config()).await;
    let mut stream = TcpStream::connect(&side.address).await.unwrap();
    let mut bytes = framed(|out| hello().encode(out));
    bytes[8] += 1;
    stream.write_all(&bytes).await.unwrap();
    let answer = within(FrameReader::new(&mut stream, 1024).next()).await.unwrap();
    assert_eq!(Welcome::decode(&answer), Ok(Err(Refusal::Version)));
    closed(&mut stream).await;
    assert_eq!((side.stats)().refused_version, 1);
}

/// Sends bytes after a good handshake, and sees the connection closed.
async fn after_handshake(side: &Side, bytes: &[u8]) {
    let (mut stream, verdict) = connect(side, &hello()).await;
    assert!(verdict.is_ok());
    stream.write_all(bytes).await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn nonsense_closes_the_connection_and_is_counted() {
    let mut side = side(config()).await;
    after_handshake(&side, &framed(|out| out.extend_from_slice(b"\0\0\0\0\0\0\0\0\0no message"))).await;
    assert_eq!((side.stats)().malformed, 1);
    after_handshake(&side, &framed(|_| {})).await;
    assert_eq!((side.stats)().malformed, 2);
    after_handshake(&side, &framed(|out| out.extend_from_slice(b"\0\0\0\0\0\0\0\0\x02no kind"))).await;
    assert_eq!((side.stats)().malformed, 3);
    let mut damaged = message_frame(&append(2, 1, &["a", "b", "c"]));
    let end = damaged.len();
    damaged[end - 12] = 0xff;
    after_handshake(&side, &damaged).await;
    assert_eq!((side.stats)().malformed, 4);
    after_handshake(&side, &u32::MAX.to_le_bytes()).await;
    assert_eq!((side.stats)().oversized, 1);
    after_handshake(&side, &(64 * 1024 + 1_u32).to_le_bytes()).await;
    assert_eq!((side.stats)().oversized, 2);
    after_handshake(&side, &message_frame(&append(3, 1, &["another sender"]))).await;
    assert_eq!((side.stats)().misaddressed, 1);
    after_handshake(&side, &message_frame(&append(2, 3, &["another receiver"]))).await;
    assert_eq!((side.stats)().misaddressed, 2);
    // Instead of a handshake: something else, and something far too long.
    for bytes in [&framed(|out| out.extend_from_slice(b"GET / HTTP/1.1"))[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(&side.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closed(&mut stream).await;
    }
    let stats = (side.stats)();
    assert_eq!((stats.malformed, stats.inbound_failures), (6, 2));
    // Nothing of it reached the node, and whoever behaves is heard.
    let (mut stream, _) = connect(&side, &hello()).await;
    stream.write_all(&message_frame(&append(2, 1, &["good"]))).await.unwrap();
    assert_eq!(side.message().await, append(2, 1, &["good"]));
    assert_eq!((side.stats)().messages_received, 1);
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(50);
    config.handshakes_max = 1;
    let side = side(config).await;
    let mut silent = TcpStream::connect(&side.address).await.unwrap();
    closed(&mut silent).await;
    let (_stream, verdict) = connect(&side, &hello()).await;
    assert!(verdict.is_ok(), "its place is free again");
}

#[tokio::test]
async fn a_flood_waits_in_the_socket() {
    let mut config = config();
    config.inbound_bytes_max = 8 * 1024;
    let mut side = side(config).await;
    let (mut stream, _) = connect(&side, &hello()).await;
    let one = message_frame(&append(2, 1, &["x"]));
    let count = 100_000;
    let flood = tokio::spawn(async move {
        for _ in 0..count {
            stream.write_all(&one).await.unwrap();
        }
        stream
    });
    // Eight messages are in the queue and one waits for its room; the reader has stopped, whatever is sent.
    let mut taken = Vec::new();
    for _ in 0..8 {
        taken.push(within(side.incoming.recv()).await.unwrap());
    }
    assert!(side.incoming.try_recv().is_err(), "the budget is used up");
    assert!(!flood.is_finished() || (side.stats)().messages_received <= 9);
    taken.clear();
    for _ in 8..count {
        drop(within(side.incoming.recv()).await.unwrap());
    }
    within(flood).await.unwrap();
}

#[tokio::test]
async fn a_refusal_by_the_peer_is_seen_here() {
    let mut side = side(config()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    side.peers(&[(2, peer.local_addr().unwrap().to_string())]);
    let by = Identity { cluster: ClusterId::new(5), ..identity(2) };
    for (verdict, by_peer) in [(Err(Refusal::Bootstrap), true), (Ok(()), false)] {
        let (mut stream, _) = within(peer.accept()).await.unwrap();
        within(FrameReader::new(&mut stream, 1 << 20).next()).await.unwrap();
        stream.write_all(&framed(|out| Welcome { verdict, by }.encode(out))).await.unwrap();
        // One who welcomes us but belongs to another cluster is refused by us.
        let refusal = verdict.err().unwrap_or(Refusal::Cluster);
        let seen = side.refusals.wait_for(|told| told.as_ref().is_some_and(|told| told.refusal == refusal));
        let told = within(seen).await.unwrap().clone().unwrap();
        assert_eq!((told.peer, told.by_peer), (node(2), by_peer));
    }
    assert_eq!(((side.stats)().refused_by_peers, (side.stats)().refused_cluster), (1, 1));
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_given_up() {
    let mut config = config();
    config.write_timeout = Duration::from_millis(100);
    config.queue_bytes_max = 1 << 30;
    let mut side = side(config).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    side.peers(&[(2, peer.local_addr().unwrap().to_string())]);
    let streams = accepted(&peer).await;
    // Far more than the kernel buffers; the node itself never waits.
    let command = "x".repeat(60 * 1024);
    for _ in 0..2000 {
        side.sender.send(append(1, 2, &[&command]));
    }
    assert!(
        matches!(within(side.incoming.recv()).await, Some(Incoming::Unreachable(peer)) if peer == node(2))
    );
    drop(streams);
}

#[tokio::test]
async fn a_full_queue_drops() {
    let mut config = config();
    config.queue_messages_max = 3;
    let mut side = side(config).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    side.peers(&[(2, peer.local_addr().unwrap().to_string())]);
    // The task that sends has not run since: this test does not yield.
    for _ in 0..10 {
        side.sender.send(append(1, 2, &["x"]));
    }
    assert_eq!((side.stats)().messages_dropped, 7);
}

#[tokio::test]
async fn strangers_have_a_limit_and_members_do_not_count() {
    let mut config = config();
    config.strangers_max = 1;
    let mut side = side(config).await;
    side.peers(&[(1, side.address.clone()), (2, "127.0.0.1:1".to_owned())]);
    let speak = |id| {
        let from = Identity { node: node(id), ..hello().from };
        Hello { from, ..hello() }
    };
    let (_three, verdict) = connect(&side, &speak(3)).await;
    assert!(verdict.is_ok());
    let (_four, verdict) = connect(&side, &speak(4)).await;
    assert_eq!(verdict.map(|by| by.node), Err(Refusal::Full));
    let (_again, verdict) = connect(&side, &speak(3)).await;
    assert!(verdict.is_ok(), "the same one, anew");
    let (_member, verdict) = connect(&side, &speak(2)).await;
    assert!(verdict.is_ok());
    assert_eq!((side.stats)().refused_full, 1);
}

fn stranger(id: u64) -> Hello {
    let directory = Some(DirectoryId::new(id.into()));
    Hello { from: Identity { node: node(id), directory, ..hello().from }, ..hello() }
}

fn remembering(known: &KnownPeers) -> TcpConfig {
    TcpConfig { known_peers: Some(known.clone()), strangers_max: 1, ..config() }
}

#[tokio::test]
async fn who_is_sent_away_takes_no_place_in_the_memory() {
    let known = KnownPeers::in_memory(DirectoryId::new(1));
    let side = side(remembering(&known)).await;
    let (_three, verdict) = connect(&side, &stranger(3)).await;
    assert!(verdict.is_ok());
    let (_four, verdict) = connect(&side, &stranger(4)).await;
    assert_eq!(verdict, Err(Refusal::Full));
    assert_eq!((known.get(node(3)), known.get(node(4))), (Some(DirectoryId::new(3)), None));
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn another_directory_is_logged_when_it_comes_and_not_again_until_that_changes() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    // All that this test runs has its thread.
    let _logs = tracing::subscriber::set_default(subscriber);
    let known = KnownPeers::in_memory(DirectoryId::new(1));
    let side = side(TcpConfig { known_peers: Some(known.clone()), ..config() }).await;
    for id in [2, 3] {
        known.admit(node(id), Some(DirectoryId::new(id.into()))).await.unwrap();
    }
    let speak = |id, directory| {
        let directory = Some(DirectoryId::new(directory));
        Hello { from: Identity { node: node(id), directory, ..hello().from }, ..hello() }
    };
    // Whose, with which directory, and how often that was logged until then. The own one is no news.
    let attempts = [(2, 7, 1), (2, 7, 1), (3, 7, 2), (2, 7, 2), (2, 8, 3), (2, 8, 3), (2, 2, 3), (2, 8, 4)];
    for (id, directory, logged) in attempts {
        let (_stream, verdict) = connect(&side, &speak(id, directory)).await;
        let expected = if u128::from(id) == directory { None } else { Some(Refusal::Directory) };
        assert_eq!(verdict.err(), expected);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("raft.tcp.directory").count(), logged, "{text}");
    }
}

#[tokio::test]
async fn a_memory_that_is_full_is_not_the_fault_of_who_comes() {
    let known = KnownPeers::in_memory(DirectoryId::new(1));
    for id in 0..KNOWN_PEERS_MAX as u64 {
        known.admit(node(1000 + id), Some(DirectoryId::new(1))).await.unwrap();
    }
    let mut side = side(remembering(&known)).await;
    let (_three, verdict) = connect(&side, &stranger(3)).await;
    assert_eq!(verdict, Err(Refusal::Unremembered));
    assert_eq!(told(&mut side).await, (Refusal::Unremembered, false));
    assert_eq!(((side.stats)().refused_unremembered, (side.stats)().refused_directory), (1, 0));
    known.forget(node(1000)).unwrap();
    let (_three, verdict) = connect(&side, &stranger(3)).await;
    assert!(verdict.is_ok());
}

/// An entry that is kept for long must not keep the heartbeats that were received with it.
#[tokio::test]
async fn a_small_frame_keeps_nothing_but_itself() {
    let mut sent = Vec::new();
    for length in [40, 9_000, 40] {
        super::frame::append(&mut sent, 1 << 20, |out| out.resize(out.len() + length, 7));
    }
    let mut reader = super::frame::FrameReader::new(sent.as_slice(), 1 << 20);
    for (length, alone) in [(40, true), (9_000, false), (40, true)] {
        let frame = reader.next().await.unwrap();
        assert_eq!((frame.len(), frame.is_unique()), (length, alone));
    }
}

#[tokio::test]
async fn who_stops_within_a_frame_is_not_waited_for() {
    let mut config = config();
    config.stall_timeout = Duration::from_millis(50);
    let side = side(config).await;
    let whole = message_frame(&append(2, 1, &["never whole"]));
    // Within the length, after it, and within the rest.
    for (count, cut) in [(1, 2), (2, 4), (3, whole.len() - 1)] {
        let (mut stream, _) = connect(&side, &hello()).await;
        stream.write_all(&whole[..cut]).await.unwrap();
        closed(&mut stream).await;
        assert_eq!((side.stats)().stalled, count);
    }
}

#[tokio::test]
async fn who_stops_within_the_handshake_is_not_waited_for() {
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(50);
    let side = side(config).await;
    let hello = framed(|out| hello().encode(out));
    for (count, cut) in [(1, 1), (2, 4), (3, hello.len() - 1)] {
        let mut stream = TcpStream::connect(&side.address).await.unwrap();
        stream.write_all(&hello[..cut]).await.unwrap();
        closed(&mut stream).await;
        assert_eq!((side.stats)().stalled, count);
    }
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let mut config = config();
    config.handshake_timeout = Duration::from_secs(600);
    config.handshakes_max = 4;
    let side = side(config).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(&side.address).await.unwrap());
    }
    let (_stream, verdict) = connect(&side, &hello()).await;
    assert!(verdict.is_ok());
    // Whoever came first went first.
    for stream in &mut silent[..7] {
        closed(stream).await;
    }
    assert_eq!((side.stats)().refused_full, 7);
}

#[tokio::test]
async fn who_misbehaves_again_and_again_is_shut_out_for_a_while() {
    let mut config = config();
    config.shut_out_max = Duration::from_millis(300);
    let mut side = side(config).await;
    // It stays connected, whatever others at its address do.
    let (mut good, _) = connect(&side, &hello()).await;
    let from = Identity { node: node(3), ..hello().from };
    let said = framed(|out| Hello { from, ..hello() }.encode(out));
    // Whether it is heard at all.
    let speak = async |then: &[u8]| {
        let mut stream = TcpStream::connect(&side.address).await.unwrap();
        // Fails if the connection is closed already.
        let _ = stream.write_all(&[&said[..], then].concat()).await;
        within(FrameReader::new(&mut stream, 1024).next()).await.is_ok()
    };
    let mut attempts = 0;
    while speak(&u32::MAX.to_le_bytes()).await {
        attempts += 1;
        assert!(attempts < 100, "it is never shut out");
    }
    // Once when it was shut out, and once when it came again.
    assert!((side.stats)().refused_shut_out >= 2);
    good.write_all(&message_frame(&append(2, 1, &["still here"]))).await.unwrap();
    // Not for ever.
    let back = async {
        while !speak(&[]).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(back).await;
    assert_eq!(told(&mut side).await, (Refusal::ShutOut, false));
    assert_eq!(side.message().await, append(2, 1, &["still here"]));
}

/// Whatever length a frame claims to have, and in whatever pieces it comes.
#[tokio::test]
async fn memory_grows_with_what_arrives() {
    const MAX: usize = 64 << 20;
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(far, MAX);
    near.write_all(&(MAX as u32).to_le_bytes()).await.unwrap();
    near.write_all(b"that was all").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), reader.next()).await.is_err());
    assert!(reader.capacity() <= 2 << 20, "{} bytes for sixteen", reader.capacity());
    drop(near);
    assert!(matches!(reader.next().await, Err(frame::FrameError::Closed)));

    let lengths = [0, 1, 8 * 1024 - 1, 8 * 1024, 70_000, 5 << 20, 3];
    let mut sent = Vec::new();
    for (at, length) in lengths.into_iter().enumerate() {
        frame::append(&mut sent, MAX as u32, |out| out.resize(out.len() + length, at as u8)).unwrap();
    }
    for piece in [7, 4096, 1 << 19] {
        let (mut near, far) = tokio::io::duplex(piece);
        let mut reader = FrameReader::new(far, MAX);
        let sent = sent.clone();
        let sending = tokio::spawn(async move { near.write_all(&sent).await });
        for (at, length) in lengths.into_iter().enumerate() {
            let frame = within(reader.next()).await.unwrap();
            assert!(frame.len() == length && frame.iter().all(|byte| usize::from(*byte) == at), "frame {at}");
        }
        within(sending).await.unwrap().unwrap();
    }
}
