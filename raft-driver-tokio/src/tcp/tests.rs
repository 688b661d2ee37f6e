//! One side is the transport, the other a bare socket that says what it likes.

#[cfg(feature = "tls")]
#[path = "../../tests/common/authority.rs"]
mod authority;
#[cfg(feature = "tls")]
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::Transport;
use raft_core::{Body, Commands, Config, Entries, Lease, LogId, LogIndex, Membership, Message, NodeId, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::frame::{self, Content, FrameReader};
use super::handshake::{Hello, Identity, Timing, Versions, Welcome};
use super::queue::{Lane, Parcel};
use super::{Refusal, Refused, Tcp, TcpConfig, TcpError, TcpSender};
use crate::cluster::{BootstrapDigest, ClusterId, GroupId};
use crate::transport::{Closed, Inbox, Incoming, Network, Started, TransportStats};

const CLUSTER: ClusterId = ClusterId::new(77);
const LOOPBACK: &str = "127.0.0.1:0";

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within 30 seconds")
}

fn node(id: u64) -> NodeId {
    NodeId::new(id)
}

fn members(addresses: &[(u64, String)]) -> BTreeMap<NodeId, Bytes> {
    addresses.iter().map(|(id, address)| (node(*id), Bytes::from(address.clone()))).collect()
}

fn digest(seed: u64) -> BootstrapDigest {
    BootstrapDigest::of(&members(&[(seed, String::new())]))
}

fn config() -> TcpConfig {
    let mut config = TcpConfig::new(CLUSTER);
    config.bootstrap = Some(digest(1));
    config.frame_bytes_max = 64 * 1024;
    // All of a test's peers have the same address.
    config.shut_out_max = Duration::ZERO;
    config
}

/// The transport of node 1, with whatever it tells its node.
struct Side {
    sender: TcpSender,
    incoming: UnboundedReceiver<Incoming>,
    stats: Arc<dyn Fn() -> TransportStats + Send + Sync>,
    refusals: watch::Receiver<Option<Refused>>,
    stop: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    address: String,
}

async fn side(config: TcpConfig) -> Side {
    side_of(1, config).await
}

async fn side_of(id: u64, config: TcpConfig) -> Side {
    let tcp = Tcp::bind(LOOPBACK, config).await.unwrap();
    let (address, refusals) = (tcp.local_addr().to_string(), tcp.refusals());
    let (sender, incoming) = unbounded_channel();
    let inbox = Inbox::new(move |incoming| sender.send(incoming).map_err(|_| Closed));
    let Started { transport, stats, stop } = tcp.start(&Config::new(node(id)), inbox);
    Side { sender: transport, incoming, stats, refusals, stop, address }
}

impl Side {
    fn peers(&mut self, addresses: &[(u64, String)]) {
        self.sender.peers(&Arc::new(Membership::of_voters(members(addresses))));
    }

    async fn message(&mut self) -> Message {
        loop {
            if let Incoming::Message(message, _) = within(self.incoming.recv()).await.unwrap() {
                return message;
            }
        }
    }
}

fn timing() -> Timing {
    Timing::of(&Config::new(node(1)))
}

fn identity(id: u64) -> Identity {
    Identity {
        versions: Versions::OURS,
        cluster: CLUSTER,
        bootstrap: None,
        timing: timing(),
        directory: None,
        node: node(id),
    }
}

fn hello() -> Hello {
    let from = Identity { bootstrap: Some(digest(1)), ..identity(2) };
    Hello { from, to: node(1), lane: Lane::Bulk, address: String::new() }
}

fn framed(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    frame::append(&mut out, u32::MAX, fill).unwrap();
    out
}

fn append(from: u64, to: u64, commands: &[&str]) -> Message {
    let first = LogId::new(Term::new(2), LogIndex::new(5));
    let entries = Entries::commands(first, &commands.iter().collect::<Commands>());
    let prev = LogId::new(Term::new(1), LogIndex::new(4));
    let body = Body::AppendEntries { prev, entries, commit: LogIndex::new(3), round: 9 };
    Message { from: node(from), to: node(to), term: Term::new(2), body }
}

fn message_frame(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let parcel = Parcel::Message(message.clone());
    frame::append_parcel(&mut out, u32::MAX, GroupId::default(), &parcel).unwrap();
    out
}

/// Both connections of the side to a peer that listens here, and what it said at first.
async fn accepted(peer: &TcpListener) -> (TcpStream, TcpStream, Hello) {
    let by = identity(2);
    let welcome = framed(|out| Welcome { verdict: Ok(()), by }.encode(out));
    let (mut control, mut bulk) = (None, None);
    loop {
        let (mut stream, _) = within(peer.accept()).await.unwrap();
        let said =
            Hello::decode(&within(FrameReader::new(&mut stream, 1 << 20).next()).await.unwrap()).unwrap();
        stream.write_all(&welcome).await.unwrap();
        match said.lane {
            Lane::Control => control = Some(stream),
            Lane::Bulk => bulk = Some(stream),
        }
        if control.is_some() && bulk.is_some() {
            return (control.unwrap(), bulk.unwrap(), said);
        }
    }
}

/// The message in a frame of the only group.
fn unframed(frame: Bytes) -> Message {
    let content = Content::of(frame).unwrap();
    assert_eq!(content.group, GroupId::default());
    let Parcel::Message(message) = content.decode().unwrap() else { panic!("a letter") };
    message
}

/// Connects and says hello; returns the socket and the verdict.
async fn connect(side: &Side, hello: &Hello) -> (TcpStream, Result<Identity, Refusal>) {
    let mut stream = TcpStream::connect(&side.address).await.unwrap();
    stream.write_all(&framed(|out| hello.encode(out))).await.unwrap();
    let answer = within(FrameReader::new(&mut stream, 1024).next()).await.unwrap();
    (stream, Welcome::decode(&answer).unwrap())
}

/// The other side closes the connection without another word.
async fn closed(stream: &mut TcpStream) {
    // A reset is a close too: bytes that were not read.
    let read = within(stream.read(&mut [0; 16])).await;
    assert!(read.as_ref().map_or(true, |bytes| *bytes == 0), "{read:?}");
}

#[tokio::test]
async fn messages_arrive_as_they_were_sent() {
    let mut side = side(config()).await;
    let (mut stream, verdict) = connect(&side, &hello()).await;
    assert_eq!(verdict.unwrap().node, node(1));
    let sent = [append(2, 1, &["a", "b"]), append(2, 1, &[]), append(2, 1, &["c"])];
    let bytes: Vec<u8> = sent.iter().flat_map(message_frame).collect();
    // In pieces that respect no boundary.
    for piece in bytes.chunks(7) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    for message in sent {
        assert_eq!(side.message().await, message);
    }
    assert_eq!((side.stats)().messages_received, 3);
}

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
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let mut side = side(config()).await;
    let (mut older, _) = connect(&side, &hello()).await;
    let (mut newer, _) = connect(&side, &hello()).await;
    closed(&mut older).await;
    newer.write_all(&message_frame(&append(2, 1, &["new"]))).await.unwrap();
    assert_eq!(side.message().await, append(2, 1, &["new"]));
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
async fn a_message_is_sent_and_sent_again_after_the_peer_was_away() {
    let mut side = side(config()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    side.peers(&[(1, side.address.clone()), (2, peer.local_addr().unwrap().to_string())]);
    for round in 0..3 {
        let (control, mut stream, said) = accepted(&peer).await;
        assert_eq!((said.from.node, said.to, said.address), (node(1), node(2), side.address.clone()));
        // The sender learns of the connection a little later, and drops what came before: so once more each time.
        let mut reader = FrameReader::new(&mut stream, 1 << 20);
        let received = loop {
            side.sender.send(append(1, 2, &["again"]));
            if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), reader.next()).await {
                break frame.unwrap();
            }
        };
        assert_eq!(unframed(received), append(1, 2, &["again"]));
        drop((control, stream));
        for _ in Lane::ALL {
            let lost = async {
                while !matches!(side.incoming.recv().await.unwrap(), Incoming::Unreachable(peer) if peer == node(2))
                {
                }
            };
            within(lost).await;
        }
        assert_eq!((side.stats)().disconnects, 2 * (round + 1));
    }
    side.sender.send(append(1, 9, &["nobody"]));
    assert!((side.stats)().messages_dropped > 0);
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
async fn a_node_without_members_answers_who_speaks_to_it() {
    let mut side = side(config()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    let hello = Hello { address: peer.local_addr().unwrap().to_string(), ..hello() };
    let (_stream, verdict) = connect(&side, &hello).await;
    assert!(verdict.is_ok());
    side.sender.send(append(1, 2, &["answer"]));
    let (mut stream, _) = within(peer.accept()).await.unwrap();
    let said = Hello::decode(&within(FrameReader::new(&mut stream, 1 << 20).next()).await.unwrap()).unwrap();
    assert_eq!(said.to, node(2));
}

/// A leader that was added while this node was away is none of those that it knows (§6).
#[tokio::test]
async fn a_node_answers_members_that_it_has_not_heard_of_as_long_as_they_speak() {
    let mut side = side(config()).await;
    let member = TcpListener::bind(LOOPBACK).await.unwrap();
    let set = [(1, side.address.clone()), (3, member.local_addr().unwrap().to_string())];
    side.peers(&set);
    let stranger = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    side.sender.send(append(1, 2, &["who is that"]));
    assert_eq!((side.stats)().messages_dropped, 1, "it never spoke");
    let (mut spoken, verdict) = connect(&side, &Hello { address: address.clone(), ..hello() }).await;
    assert!(verdict.is_ok());
    spoken.write_all(&message_frame(&append(2, 1, &["I lead"]))).await.unwrap();
    assert_eq!(side.message().await, append(2, 1, &["I lead"]));
    side.sender.send(append(1, 2, &["yes"]));
    let (control, mut stream, _) = accepted(&stranger).await;
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    let answer = loop {
        // The sender learns of the connection a little later.
        side.sender.send(append(1, 2, &["yes"]));
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), reader.next()).await {
            break frame.unwrap();
        }
    };
    assert_eq!(unframed(answer), append(1, 2, &["yes"]));

    // Other members change nothing about that, nor does becoming one.
    side.peers(&set[..1]);
    side.peers(&[set[0].clone(), (2, address)]);
    side.sender.send(append(1, 2, &["still"]));
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    let answer = within(reader.next()).await.unwrap();
    assert_eq!(unframed(answer), append(1, 2, &["still"]));
    // Once it left, the connection ends, though it still speaks.
    side.peers(&set[..1]);
    closed(&mut stream).await;
    drop(control);

    // An answer is still due, and once it is silent it is not looked for any more.
    side.sender.send(append(1, 2, &["goodbye"]));
    let (control, mut stream, _) = accepted(&stranger).await;
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    within(reader.next()).await.unwrap();
    drop(spoken);
    let stats = Arc::clone(&side.stats);
    within(async {
        while stats().inbound_closed == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop((control, stream, stranger));
    let lost = async {
        while !matches!(side.incoming.recv().await.unwrap(), Incoming::Unreachable(peer) if peer == node(2)) {
        }
    };
    within(lost).await;
    let dropped = stats().messages_dropped;
    within(async {
        while stats().messages_dropped == dropped {
            side.sender.send(append(1, 2, &["anybody?"]));
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stats().connect_failures, 0, "nobody looked for it again");
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

#[tokio::test]
async fn stopping_closes_everything() {
    let mut side = side(config()).await;
    let (mut stream, _) = connect(&side, &hello()).await;
    side.peers(&[(2, "127.0.0.1:1".to_owned())]);
    within(side.stop).await;
    closed(&mut stream).await;
    drop(side.sender);
    assert!(TcpStream::connect(&side.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_configuration_are_told() {
    let taken = Tcp::bind(LOOPBACK, config()).await.unwrap();
    let address = taken.local_addr().to_string();
    let error = Tcp::bind(&address, config()).await.expect_err("in use");
    assert!(matches!(&error, TcpError::Bind { address: told, .. } if *told == address), "{error}");
    let mut bad = config();
    bad.queue_messages_max = 0;
    assert!(matches!(Tcp::bind(LOOPBACK, bad).await, Err(TcpError::Config(_))));
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
