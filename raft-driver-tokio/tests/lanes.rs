//! Over a link that is slow, entries and snapshots that take several election timeouts delay no heartbeat.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::{BOUND, Journal, leader, node, within, write};
use raft_core::Config;
use raft_driver_tokio::groups::{Groups, MemoryStores};
use raft_driver_tokio::tcp::{Tcp, TcpConfig, TcpHub};
use raft_driver_tokio::{Builder, ClusterId, GroupId, Raft};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const CLUSTER: ClusterId = ClusterId::new(0x1a7e);
const LARGE: GroupId = GroupId::new(1);
const SMALL: GroupId = GroupId::new(2);
const PAYLOAD_BYTES: usize = 4 << 20;

fn config(id: u64) -> Config {
    let mut config = common::config(id);
    config.command_bytes_max = PAYLOAD_BYTES as u64;
    config.snapshot_chunk_bytes = PAYLOAD_BYTES as u64;
    config.compaction_margin_entries = 0;
    config
}

/// Passes on at most 4 MiB a second of each connection: a payload takes a second, a heartbeat no time.
async fn slow_link(to: SocketAddr) -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a free port");
    socket.set_recv_buffer_size(64 * 1024).expect("a free port");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(16).expect("a free port");
    let address = listener.local_addr().expect("a free port");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                far.set_nodelay(true).expect("a socket");
                let (mut from_near, mut to_near) = near.split();
                let (mut from_far, mut to_far) = far.split();
                let forward = async {
                    let mut buffer = vec![0; 16 * 1024];
                    while let Ok(count @ 1..) = from_near.read(&mut buffer).await {
                        if to_far.write_all(&buffer[..count]).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_secs_f64(count as f64 / PAYLOAD_BYTES as f64))
                            .await;
                    }
                };
                let back = async {
                    // The end of either direction ends both.
                    let _ = tokio::io::copy(&mut from_far, &mut to_near).await;
                };
                tokio::select! {
                    () = forward => {}
                    () = back => {}
                }
            });
        }
    });
    address
}

/// The terms of these nodes, and how often somebody asked them for a vote, or whether it would get one, in vain.
async fn elections(nodes: &[Raft<Journal>]) -> Vec<(u64, u64)> {
    let mut seen = Vec::new();
    for raft in nodes {
        let status = raft.status().await.expect("it runs");
        seen.push((status.term.get(), status.counters.sticky));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_delay_no_heartbeat() {
    let mut processes: Vec<Groups<Journal, MemoryStores, TcpHub>> = Vec::new();
    for id in 1..=3 {
        let tcp = within(Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER))).await.unwrap();
        let hub = tcp.into_hub(&config(id));
        processes.push(Groups::new(Builder::new(config(id)), MemoryStores::default(), hub));
    }
    let slow = slow_link(processes[2].network().local_addr()).await;
    let address = |at: usize| processes[at].network().local_addr();
    let addresses = [address(0), address(1), slow];
    let members: BTreeMap<_, _> =
        (1..).map(node).zip(addresses.map(|address| Bytes::from(address.to_string()))).collect();

    // The third has the small group, and does not run the large one yet.
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for (at, process) in processes.iter().enumerate() {
        small.push(within(process.start(SMALL, Journal::default())).await.unwrap());
        if at < 2 {
            large.push(within(process.start(LARGE, Journal::default())).await.unwrap());
        }
    }
    within(small[0].bootstrap(members.clone())).await.unwrap();
    within(large[0].bootstrap(members)).await.unwrap();
    let payload = |at: u8| Bytes::from(vec![at; PAYLOAD_BYTES]);
    write(&small, Bytes::from("small")).await.unwrap();
    within(small[2].wait(BOUND).leader()).await.unwrap();
    for at in 0..2 {
        write(&large, payload(at)).await.unwrap();
    }
    let leads = leader(&large).await;
    within(leads.snapshot()).await.unwrap();
    let before = (elections(&large).await, elections(&small).await);

    // A snapshot of two payloads, and then entries of as many.
    large.push(within(processes[2].start(LARGE, Journal::default())).await.unwrap());
    let third = &large[2];
    let applied = leads.status().await.unwrap().applied;
    within(third.wait(BOUND).applied(applied)).await.expect("the snapshot arrives");
    assert!(third.status().await.unwrap().counters.snapshots_installed > 0);
    for at in 2..4 {
        write(&large, payload(at)).await.unwrap();
    }
    let applied = leads.status().await.unwrap().applied;
    within(third.wait(BOUND).applied(applied)).await.expect("the entries arrive");

    // All that while both groups heard from their leaders in time.
    assert_eq!(elections(&large[..2]).await, before.0, "the group that sends");
    assert_eq!(elections(&small).await, before.1, "the other group");
    let sent = leads.transport();
    assert!(
        sent.bytes_sent < 3 * 8 * PAYLOAD_BYTES as u64,
        "what is on its way is not sent again and again: {sent:?}"
    );
    for process in processes {
        within(process.shutdown()).await;
    }
}
