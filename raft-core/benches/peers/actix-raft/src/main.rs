//! Writes a second through actix-raft 0.4, printed as a number: three nodes as actors on one thread, logs in memory, 256 bytes
//! a write, each client with one write under way; a write counts when it was applied. A second is one of the thread's CPU
//! time.
//!
//! * The first node leads: its election timeout is short, the others' is longer than a run. So are heartbeats. No snapshots.
//! * Requests of other nodes are calls of the actor that they are for; payloads are shared.
//! * It has no pre-vote and no check-quorum, and replies before what it voted is saved.
//!
//! `raft-core-peers-actix-raft CLIENTS [WRITES]`; with the second, so many writes, by the clock on the wall.

mod store;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter, Context, Handler, ResponseFuture, System};
use actix_raft::messages::{
    AppendEntriesRequest, AppendEntriesResponse, ClientPayload, EntryNormal, InstallSnapshotRequest,
    InstallSnapshotResponse, ResponseMode, VoteRequest, VoteResponse,
};
use actix_raft::{Config, Raft, RaftMetrics, RaftNetwork, SnapshotPolicy};
use bytes::Bytes;
use futures::future::{self, Future, Loop};
use rustix::time::{clock_gettime, ClockId};
use tokio_timer::Delay;

use crate::store::{NoSnapshots, Store, Write, Written};

const NODES: u64 = 3;
const WARM_UP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(500);
/// The leader is elected within this.
const ELECTION: Duration = Duration::from_millis(500);

type Node = Raft<Write, Written, NoSnapshots, Network, Store>;

/// Knows all nodes, and has no use for what they measure.
#[derive(Default)]
struct Network(Vec<Addr<Node>>);

impl Actor for Network {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1 << 16);
    }
}

impl RaftNetwork<Write> for Network {}

/// All nodes.
struct Nodes(Vec<Addr<Node>>);

impl actix::Message for Nodes {
    type Result = ();
}

impl Handler<Nodes> for Network {
    type Result = ();

    fn handle(&mut self, nodes: Nodes, _: &mut Self::Context) {
        self.0 = nodes.0;
    }
}

impl Handler<RaftMetrics> for Network {
    type Result = ();

    fn handle(&mut self, _: RaftMetrics, _: &mut Self::Context) {}
}

macro_rules! passed_on {
    ($request:ty, $response:ty) => {
        impl Handler<$request> for Network {
            type Result = ResponseFuture<$response, ()>;

            fn handle(&mut self, request: $request, _: &mut Self::Context) -> Self::Result {
                let place = usize::try_from(request.target - 1).expect("a small id");
                Box::new(self.0[place].send(request).map_err(drop).and_then(|answer| answer))
            }
        }
    };
}

passed_on!(AppendEntriesRequest<Write>, AppendEntriesResponse);
passed_on!(VoteRequest, VoteResponse);
passed_on!(InstallSnapshotRequest, InstallSnapshotResponse);

fn start(id: u64) -> (Addr<Network>, Addr<Node>) {
    let (shortest, longest) = if id == 1 { (200, 201) } else { (60_000, 65_000) };
    let config = Config::build(std::env::temp_dir().to_string_lossy().into_owned())
        .election_timeout_min(shortest)
        .election_timeout_max(longest)
        .heartbeat_interval(30_000)
        .max_payload_entries(1024)
        .metrics_rate(Duration::from_secs(3600))
        .snapshot_policy(SnapshotPolicy::Disabled);
    let config = config.validate().expect("a sound configuration");
    let network = Network::default().start();
    let store = Store::new((1..=NODES).collect()).start();
    let node = Raft::new(id, config, network.clone(), store, network.clone().recipient());
    (network, node.start())
}

/// One client: writes again and again until a write fails or enough are written.
fn client(leader: Addr<Node>, written: Rc<Cell<u64>>, enough: u64) -> impl Future<Item = (), Error = ()> {
    let command = Bytes::from_static(&[7; 256]);
    future::loop_fn((), move |()| {
        let entry = EntryNormal { data: Write(command.clone()) };
        let written = Rc::clone(&written);
        leader.send(ClientPayload::new(entry, ResponseMode::Applied)).map_err(drop).and_then(move |answer| {
            let Ok(_) = answer else { return Ok(Loop::Break(())) };
            written.set(written.get() + 1);
            Ok(if written.get() < enough { Loop::Continue(()) } else { Loop::Break(()) })
        })
    })
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn pause(duration: Duration) -> impl Future<Item = (), Error = ()> {
    Delay::new(Instant::now() + duration).map_err(|error| panic!("the timer stopped: {error}"))
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u64>().expect("a number"));
    let clients = numbers.next().expect("usage: raft-core-peers-actix-raft CLIENTS [WRITES]");
    let writes = numbers.next();
    let ran = System::run(move || {
        let (networks, nodes): (Vec<_>, Vec<_>) = (1..=NODES).map(start).unzip();
        for network in networks {
            network.do_send(Nodes(nodes.clone()));
        }
        let leader = nodes[0].clone();
        let written = Rc::new(Cell::new(0));
        let measured = pause(ELECTION).and_then(move |()| {
            let client = || client(leader.clone(), Rc::clone(&written), writes.unwrap_or(u64::MAX));
            let all: Vec<_> = (0..clients).map(|_| client()).collect();
            let began = Instant::now();
            let rate: Box<dyn Future<Item = f64, Error = ()>> = if writes.is_some() {
                Box::new(
                    future::join_all(all).map(move |_| written.get() as f64 / began.elapsed().as_secs_f64()),
                )
            } else {
                all.into_iter().for_each(Arbiter::spawn);
                Box::new(pause(WARM_UP).and_then(move |()| {
                    let (began, before) = (cpu_seconds(), written.get());
                    pause(ROUND).map(move |()| (written.get() - before) as f64 / (cpu_seconds() - began))
                }))
            };
            rate.map(|rate| {
                println!("{rate}");
                System::current().stop();
            })
        });
        Arbiter::spawn(measured);
    });
    ran.expect("the system runs");
}
