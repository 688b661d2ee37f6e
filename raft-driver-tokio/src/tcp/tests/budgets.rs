//! No peer fills the memory of a node, however often it connects, and by whatever names and groups.

use super::*;
use crate::tcp::TcpHub;

/// The least that a message counts.
const MESSAGE_BYTES: usize = 1024;

/// A process that runs some groups, of which nobody takes anything in.
struct Idle {
    hub: TcpHub,
    incoming: UnboundedReceiver<Incoming>,
    groups: Vec<TcpSender>,
}

async fn idle(config: TcpConfig, groups: u64) -> Idle {
    let hub = Tcp::bind(LOOPBACK, config).await.unwrap().into_hub(&Config::new(node(1)));
    let (sender, incoming) = unbounded_channel();
    let start = |group| {
        let sender = sender.clone();
        let inbox = Inbox::new(move |incoming| sender.send(incoming).map_err(|_| Closed));
        hub.group(GroupId::new(group)).unwrap().start(&Config::new(node(1)), inbox).transport
    };
    let groups = (0..groups).map(start).collect();
    Idle { hub, incoming, groups }
}

impl Idle {
    async fn until(&self, reached: impl Fn(TransportStats) -> bool) {
        within(async {
            while !reached(self.hub.stats()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Connects as node `from`.
    async fn connect(&self, from: u64) -> TcpStream {
        let from = Identity { node: node(from), ..hello().from };
        let hello = Hello { from, lane: Lane::Control, ..hello() };
        let mut stream = TcpStream::connect(self.hub.local_addr()).await.unwrap();
        stream.write_all(&framed(|out| hello.encode(out))).await.unwrap();
        within(FrameReader::new(&mut stream, 1024).next()).await.unwrap();
        stream
    }

    /// Says ten things to each of these groups, which are heard.
    async fn say(&self, stream: &mut TcpStream, from: u64, groups: std::ops::Range<u64>) {
        let before = self.hub.stats().messages_received;
        let mut said = 0;
        for group in groups {
            let parcel = Parcel::Message(append(from, 1, &[]));
            let mut frame = Vec::new();
            frame::append_parcel(&mut frame, u32::MAX, GroupId::new(group), &parcel).unwrap();
            stream.write_all(&frame.repeat(10)).await.unwrap();
            said += 10;
        }
        self.until(|stats| stats.messages_received == before + said).await;
    }

    /// The same by a connection that is closed afterwards.
    async fn flood(&self, from: u64, groups: std::ops::Range<u64>) {
        let mut stream = self.connect(from).await;
        self.say(&mut stream, from, groups).await;
        let closed = self.hub.stats().inbound_closed;
        drop(stream);
        self.until(|stats| stats.inbound_closed > closed).await;
    }

    /// The messages that wait; they are taken in when they are dropped.
    fn heard(&mut self) -> Vec<Incoming> {
        let waiting = std::iter::from_fn(|| self.incoming.try_recv().ok());
        waiting.filter(|incoming| matches!(incoming, Incoming::Message(..))).collect()
    }
}

fn small(group_messages: usize, peer_messages: usize) -> TcpConfig {
    TcpConfig {
        inbound_bytes_max: group_messages * MESSAGE_BYTES,
        inbound_peer_bytes_max: peer_messages * MESSAGE_BYTES,
        ..config()
    }
}

#[tokio::test]
async fn who_connects_again_finds_the_budget_that_it_left() {
    let mut idle = idle(small(8, 100), 1).await;
    for _ in 0..5 {
        idle.flood(2, 0..1).await;
    }
    let heard = idle.heard();
    assert_eq!(heard.len(), 8);
    drop(heard);
    idle.flood(2, 0..1).await;
    assert_eq!(idle.heard().len(), 8, "what was taken in was given back");
}

#[tokio::test]
async fn many_groups_share_what_one_peer_may_send() {
    let mut idle = idle(small(4, 10), 20).await;
    idle.flood(2, 0..20).await;
    assert_eq!(idle.heard().len(), 10);
    idle.flood(2, 3..4).await;
    assert_eq!(idle.heard().len(), 4, "no more for one of them than before");
}

#[tokio::test]
async fn strangers_share_one_budget_by_whatever_names_and_members_have_their_own() {
    let mut idle = idle(small(8, 100), 1).await;
    let mut stream = idle.connect(2).await;
    for name in 10..20 {
        idle.flood(name, 0..1).await;
    }
    idle.say(&mut stream, 2, 0..1).await;
    let strangers = idle.heard();
    assert_eq!(strangers.len(), 8);
    // It is a member from now on, as this node hears; it need not connect again.
    let member = (2, "127.0.0.1:1".to_owned());
    idle.groups[0].peers(&Arc::new(Membership::of_voters(members(&[member]))));
    idle.say(&mut stream, 2, 0..1).await;
    assert_eq!(idle.heard().len(), 8);
    idle.groups[0].peers(&Arc::default());
    idle.say(&mut stream, 2, 0..1).await;
    assert_eq!(idle.heard().len(), 0, "a stranger again");
}
