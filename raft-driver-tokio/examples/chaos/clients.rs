//! Clients that write, read and delete at the same time, and write down honestly what they know.
//!
//! * Three kinds of keys: *registers* that several clients write and read; *cells* that they delete too; and keys that
//!   are written once, so that each acknowledged write can be looked for at the end.
//! * A request that was not performed is tried again, at another server or where the answer points to. One that may have
//!   been performed is not: its outcome is unknown for ever. Reads are tried again whatever became of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use raft_sim::Rng;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::api::{Answer, Caller, Lost};
use crate::events::Events;
use crate::history::{Op, Outcome, Record, number, value};
use crate::links::Id;

/// How long a client goes on with one operation.
const OPERATION_LIMIT: Duration = Duration::from_secs(4);
/// How long it waits for one answer, at least and at most: servers say "unknown" later than that. Whoever waits long at
/// a leader that was cut off does not see what the next one does meanwhile.
const ANSWER_MS: (u64, u64) = (150, 2_500);
const PAUSE: Duration = Duration::from_millis(20);

/// Keys of a kind at a time, and how often they are used before others take their place: what the search for an
/// order has to do with one key stays small.
const REGISTERS: (u64, u64) = (4, 8_000);
const CELLS: (u64, u64) = (6, 360);

/// What all clients share.
pub(crate) struct Load {
    pub(crate) servers: watch::Receiver<Arc<BTreeMap<Id, String>>>,
    pub(crate) events: Arc<Events>,
    pub(crate) records: mpsc::UnboundedSender<Record>,
    pub(crate) numbers: AtomicU64,
    pub(crate) register_uses: AtomicU64,
    pub(crate) cell_uses: AtomicU64,
    /// Whoever led last.
    pub(crate) leader: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// Between two operations of a client, on average.
    pub(crate) think: Duration,
}

/// The body of a write's answer.
#[derive(Deserialize)]
struct Done {
    index: Option<u64>,
    existed: Option<bool>,
}

/// The key of a kind for its next use.
fn live_key(name: &str, (live, uses): (u64, u64), used: &AtomicU64, rng: &mut Rng) -> String {
    let generation = used.fetch_add(1, Ordering::Relaxed) / uses;
    format!("{name}{generation}-{}", rng.below(live))
}

impl Load {
    /// The same servers, for whoever keeps its records itself.
    pub(crate) fn without_records(&self) -> Self {
        Self {
            servers: self.servers.clone(),
            events: Arc::clone(&self.events),
            records: mpsc::unbounded_channel().0,
            numbers: AtomicU64::new(0),
            register_uses: AtomicU64::new(0),
            cell_uses: AtomicU64::new(0),
            leader: AtomicU64::new(self.leader.load(Ordering::Relaxed)),
            stop: AtomicBool::new(false),
            think: self.think,
        }
    }

    /// What a client does next.
    fn draw(&self, client: u32, rng: &mut Rng) -> (String, Op) {
        let next = || self.numbers.fetch_add(1, Ordering::Relaxed);
        match rng.below(100) {
            0..40 => {
                let key = live_key("r", REGISTERS, &self.register_uses, rng);
                (key, if rng.below(2) == 0 { Op::Put(next()) } else { Op::Get })
            }
            40..75 => {
                let key = live_key("c", CELLS, &self.cell_uses, rng);
                let op = match rng.below(10) {
                    0..4 => Op::Put(next()),
                    4..7 => Op::Delete,
                    _ => Op::Get,
                };
                (key, op)
            }
            _ => {
                let number = next();
                (format!("once-{client}-{number}"), Op::Put(number))
            }
        }
    }

    /// One client, until all are stopped. The seed decides what it does, not when.
    pub(crate) async fn client(self: Arc<Self>, client: u32, seed: u64) {
        let mut rng = Rng::new(seed, 1000 + u64::from(client));
        let mut caller = Caller::default();
        let think_us = u64::try_from(self.think.as_micros()).unwrap_or(u64::MAX);
        while !self.stop.load(Ordering::Relaxed) {
            let (key, op) = self.draw(client, &mut rng);
            let patience = Duration::from_millis(rng.log_between(ANSWER_MS.0, ANSWER_MS.1));
            let record = self.perform(&mut caller, client, key, op, [patience, OPERATION_LIMIT]).await;
            // An error: nobody keeps the records any more, and the run is over.
            if self.records.send(record).is_err() {
                return;
            }
            sleep(Duration::from_micros(rng.exponential(think_us))).await;
        }
    }

    /// Performs one operation, with a limit for each answer and one for all, and says what is known of it.
    pub(crate) async fn perform(
        &self,
        caller: &mut Caller,
        client: u32,
        key: String,
        op: Op,
        [patience, limit]: [Duration; 2],
    ) -> Record {
        let deadline = Instant::now() + limit;
        let invoked_ns = self.events.now_ns();
        let (mut tries, mut server) = (0, None);
        let (outcome, why) = loop {
            let (id, address) = self.target(op);
            let Some(address) = address else { break (Outcome::Never, Some("no server".to_owned())) };
            (tries, server) = (tries + 1, Some(id));
            let (method, body) = match op {
                Op::Put(number) => (Method::PUT, value(number)),
                Op::Get => (Method::GET, Vec::new()),
                Op::Delete => (Method::DELETE, Vec::new()),
            };
            let body = Bytes::from(body);
            let asked = caller.ask(&address, method, &format!("/kv/{key}"), body, patience).await;
            let why = match self.judge(op, id, asked).await {
                Attempt::Known(outcome) => break (outcome, None),
                Attempt::NotDone(why) => why,
                Attempt::Maybe(why) if op != Op::Get => break (Outcome::Unknown, Some(why)),
                Attempt::Maybe(why) => why,
            };
            if Instant::now() > deadline || self.stop.load(Ordering::Relaxed) {
                let outcome = if op == Op::Get { Outcome::Unknown } else { Outcome::Never };
                break (outcome, Some(why));
            }
        };
        let returned_ns = self.events.now_ns();
        Record { client, key, op, invoked_ns, returned_ns, outcome, server, tries, why }
    }

    /// The server to ask: whoever led last, if it is known; for half of the reads any: all can serve them,
    /// and one that led before must not.
    fn target(&self, op: Op) -> (Id, Option<String>) {
        let servers = self.servers.borrow();
        let leader = self.leader.load(Ordering::Relaxed);
        let anywhere = op == Op::Get && fastrand::bool();
        match servers.get(&leader) {
            Some(address) if !anywhere => (leader, Some(address.clone())),
            _ => {
                let at = fastrand::usize(..servers.len().max(1));
                let any = servers.iter().nth(at);
                (any.map_or(0, |(id, _)| *id), any.map(|(_, address)| address.clone()))
            }
        }
    }

    /// What one answer, or its absence, says.
    async fn judge(&self, op: Op, server: Id, asked: Result<Answer, Lost>) -> Attempt {
        let answer = match asked {
            Ok(answer) => answer,
            Err(lost) => {
                self.move_on(server, None);
                sleep(PAUSE).await;
                return match lost {
                    Lost::Unsent(why) => Attempt::NotDone(why),
                    Lost::Maybe(why) => Attempt::Maybe(why),
                };
            }
        };
        match (answer.status, op) {
            (StatusCode::OK, Op::Get) => Attempt::Known(match number(&answer.body) {
                Ok(number) => Outcome::Saw(Some(number)),
                Err(what) => {
                    self.events.wrong(format!("server {server} returned {what}"));
                    Outcome::Unknown
                }
            }),
            (StatusCode::NOT_FOUND, Op::Get) => Attempt::Known(Outcome::Saw(None)),
            (StatusCode::OK, _) => {
                self.leader.store(server, Ordering::Relaxed);
                let done = serde_json::from_slice(&answer.body);
                let Done { index, existed } = done.unwrap_or(Done { index: None, existed: None });
                Attempt::Known(Outcome::Done { existed, index })
            }
            (StatusCode::TEMPORARY_REDIRECT, _) => {
                let servers = self.servers.borrow().clone();
                let leader = servers.iter().find(|(_, address)| Some(*address) == answer.leader.as_ref());
                self.move_on(server, leader.map(|(id, _)| *id));
                // Two servers that each take the other for the leader must not make this spin.
                sleep(PAUSE / 10).await;
                Attempt::NotDone(answer.told())
            }
            (StatusCode::REQUEST_TIMEOUT, _) => Attempt::NotDone(answer.told()),
            (status, _) if status.is_server_error() => {
                self.move_on(server, None);
                sleep(PAUSE).await;
                if answer.did_not_happen() {
                    Attempt::NotDone(answer.told())
                } else {
                    Attempt::Maybe(answer.told())
                }
            }
            _ => {
                self.events.wrong(format!("server {server} answered {}", answer.told()));
                Attempt::Known(if op == Op::Get { Outcome::Unknown } else { Outcome::Never })
            }
        }
    }

    /// Of several clients that failed at one server only the first moves on.
    fn move_on(&self, from: Id, to: Option<Id>) {
        let to = to.unwrap_or_else(|| {
            let servers = self.servers.borrow();
            let at = fastrand::usize(..servers.len().max(1));
            servers.keys().nth(at).copied().unwrap_or(0)
        });
        // Failure: somebody else moved on already.
        let _ = self.leader.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The client that reads everything back at the end.
pub(crate) const READER: u32 = u32::MAX;

/// What one request came to.
enum Attempt {
    Known(Outcome),
    /// Not performed.
    NotDone(String),
    /// Performed or not.
    Maybe(String),
}
