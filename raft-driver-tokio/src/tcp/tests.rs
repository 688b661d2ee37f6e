//! One side is the transport, the other a bare socket that says what it likes.

#[cfg(feature = "tls")]
#[path = "../../tests/common/authority.rs"]
mod authority;
mod budgets;
mod connections;
mod refusals;
#[cfg(feature = "tls")]
mod tls;
mod versions;

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
use crate::cluster::{BootstrapDigest, ClusterId, DirectoryId, GroupId};
use crate::storage::{KNOWN_PEERS_MAX, KnownPeers};
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
    side_speaking(id, config, Versions::OURS).await
}

async fn side_speaking(id: u64, config: TcpConfig, versions: Versions) -> Side {
    let tcp = Tcp::bind(LOOPBACK, config).await.unwrap().speaking(versions);
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
        (control, bulk) = match (control, bulk) {
            (Some(control), Some(bulk)) => return (control, bulk, said),
            some => some,
        };
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

/// The refusal that a side tells of, and whether its peer refused.
async fn told(side: &mut Side) -> (Refusal, bool) {
    let told = within(side.refusals.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    (told.refusal, told.by_peer)
}
