//! Load on a cluster, and what came of it.
//!
//! * Closed loop: each client writes again when it was answered.
//! * Open loop: writes are due at a fixed rate, whatever became of those before. A latency counts from the moment at which
//!   its write was due, so that a cluster that stands still for a moment is not asked less, nor judged by fewer writes.
//! * A write that fails fails the measurement.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raft_driver_tokio::Raft;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::bulk::Bulk;
use crate::hops::Hops;
use crate::nodes::{Cluster, Host, Kind};
use crate::system;

/// What is looked at together when something is followed over time.
pub(crate) const SLICE: Duration = Duration::from_millis(250);
/// Writes under way in an open loop; more wait for their turn, and that time counts.
const OUTSTANDING_MAX: usize = 100_000;
/// What keeps a cluster as busy as it can be.
const OUTSTANDING_FULL: usize = 1024;
/// The pause between two looks at which writes are due.
const PACE: Duration = Duration::from_micros(50);

/// What a closed loop came to.
pub(crate) struct Closed {
    pub(crate) writes: u64,
    pub(crate) seconds: f64,
    /// Of all threads of this process.
    pub(crate) cpu_seconds: f64,
}

impl Closed {
    /// Writes a second. In memory everything is one thread that always has something to do: its CPU time counts, so that
    /// other programs do not.
    pub(crate) fn rate(&self, kind: Kind) -> f64 {
        self.writes as f64 / if kind == Kind::Memory { self.cpu_seconds } else { self.seconds }
    }
}

/// What the clients of a closed loop share.
#[derive(Default)]
struct Run {
    written: AtomicU64,
    over: AtomicBool,
}

/// One client: writes again and again until it is over.
async fn client(write: impl AsyncFn(Bytes), payload: usize, run: Arc<Run>) {
    while !run.over.load(Ordering::Relaxed) {
        // A buffer of its own for each write, as clients have.
        write(Bytes::from(vec![7; payload])).await;
        run.written.fetch_add(1, Ordering::Relaxed);
    }
}

/// So many clients, each with one write under way after the other.
pub(crate) fn closed(cluster: &Cluster, clients: usize, payload: usize, time: Duration) -> Closed {
    measure(cluster.leader_host(), clients, time, |run| {
        let leader = cluster.leader();
        let write = async move |command: Bytes| {
            leader.write(command).await.expect("the leader stays");
        };
        client(write, payload, run)
    })
}

/// The same without a protocol, in memory.
pub(crate) fn closed_without(clients: usize, payload: usize, time: Duration) -> Closed {
    let host = Host::start();
    let hops = host.run(async { Hops::start() });
    measure(&host, clients, time, |run| {
        let hops = hops.clone();
        let write = async move |command| assert!(hops.write(command).await, "the runtime runs");
        client(write, payload, run)
    })
}

fn measure<F>(host: &Host, clients: usize, time: Duration, client: impl Fn(Arc<Run>) -> F) -> Closed
where
    F: Future<Output = ()> + Send + 'static,
{
    let run = Arc::new(Run::default());
    let clients: Vec<_> = (0..clients).map(|_| host.runtime.spawn(client(Arc::clone(&run)))).collect();
    std::thread::sleep(time / 4);
    let (began, cpu, before) = (Instant::now(), system::cpu_seconds(), run.written.load(Ordering::Relaxed));
    std::thread::sleep(time);
    let writes = run.written.load(Ordering::Relaxed) - before;
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), system::cpu_seconds() - cpu);
    run.over.store(true, Ordering::Relaxed);
    host.run(async move {
        for client in clients {
            client.await.expect("no write fails");
        }
    });
    Closed { writes, seconds, cpu_seconds }
}

/// Writes that were answered in a slice of time, and the nanoseconds that those took that were due in it.
struct Slice {
    done: u64,
    nanos: Histogram<u64>,
}

impl Slice {
    fn new() -> Self {
        let nanos = Histogram::new_with_bounds(1_000, 100_000_000_000, 3).expect("bounds in order");
        Self { done: 0, nanos }
    }
}

/// What an open loop came to, over time.
#[derive(Default)]
pub(crate) struct Seen(Vec<Slice>);

impl Seen {
    fn slice(&mut self, after: Duration) -> &mut Slice {
        let at = usize::try_from(after.as_nanos() / SLICE.as_nanos()).expect("not for ever");
        while self.0.len() <= at {
            self.0.push(Slice::new());
        }
        &mut self.0[at]
    }

    fn add(&mut self, due: Duration, done: Duration) {
        let took = u64::try_from(done.saturating_sub(due).as_nanos()).unwrap_or(u64::MAX);
        self.slice(due).nanos.saturating_record(took);
        self.slice(done).done += 1;
    }

    fn between(&self, from: Duration, until: Duration) -> &[Slice] {
        let at = |time: Duration| (time.as_nanos() / SLICE.as_nanos()) as usize;
        let until = at(until).min(self.0.len());
        &self.0[at(from).min(until)..until]
    }

    /// Writes answered a second, in the whole slices of this time.
    pub(crate) fn rate(&self, from: Duration, until: Duration) -> f64 {
        let slices = self.between(from, until);
        let done: u64 = slices.iter().map(|slice| slice.done).sum();
        done as f64 / (slices.len().max(1) as f64 * SLICE.as_secs_f64())
    }

    /// Latencies of the writes that were due in the whole slices of this time.
    pub(crate) fn nanos(&self, from: Duration, until: Duration) -> Histogram<u64> {
        let mut all = Slice::new().nanos;
        for slice in self.between(from, until) {
            all.add(&slice.nanos).expect("of one size");
        }
        all
    }
}

/// An open loop that runs.
pub(crate) struct Open {
    began: Instant,
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    pacer: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<()>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    /// Begins to write this many times a second; without a rate, as often as the cluster can.
    pub(crate) fn start(cluster: &Cluster, rate: Option<f64>, payload: usize) -> Self {
        let (began, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let (sender, due) = watch::channel(if rate.is_some() { 0 } else { u64::MAX });
        let pacer = rate.map(|rate| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || pace(rate, began, &over, &sender))
        });
        let (end, ended) = oneshot::channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let writer = Writer {
            leader: cluster.leader(),
            command: Bytes::from(vec![7; payload]),
            began,
            rate,
            over: Arc::clone(&over),
            seen: Arc::clone(&seen),
        };
        cluster.leader_host().runtime.spawn(writer.run(due, end));
        Self { began, over, seen, pacer, ended }
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends it. Writes that were due are waited for.
    pub(crate) fn finish(self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        if let Some(pacer) = self.pacer {
            pacer.join().expect("it only counts");
        }
        self.ended.blocking_recv().expect("no write fails");
        std::mem::take(&mut lock(&self.seen))
    }
}

/// Says how many writes are due.
fn pace(rate: f64, began: Instant, over: &AtomicBool, due: &watch::Sender<u64>) {
    // By default a sleep may take 50 µs longer than it should.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).expect("a thread may be exact");
    while !over.load(Ordering::Relaxed) {
        let now = began.elapsed().as_secs_f64() * rate;
        due.send_replace(now as u64);
        std::thread::sleep(PACE.max(Duration::from_secs_f64((now.floor() + 1.0 - now) / rate)));
    }
}

struct Writer {
    leader: Raft<Bulk>,
    command: Bytes,
    began: Instant,
    rate: Option<f64>,
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

impl Writer {
    async fn run(self, mut due: watch::Receiver<u64>, end: oneshot::Sender<()>) {
        let most = if self.rate.is_some() { OUTSTANDING_MAX } else { OUTSTANDING_FULL };
        let places = Arc::new(Semaphore::new(most));
        let mut begun = 0;
        loop {
            let now_due = *due.borrow_and_update();
            while begun < now_due && !(self.rate.is_none() && self.over.load(Ordering::Relaxed)) {
                let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
                let at = match self.rate {
                    Some(rate) => Duration::from_secs_f64((begun + 1) as f64 / rate),
                    None => self.began.elapsed(),
                };
                let (leader, command, began) = (self.leader.clone(), self.command.clone(), self.began);
                let seen = Arc::clone(&self.seen);
                tokio::spawn(async move {
                    // One that fails is not seen, and its place is never given back.
                    if let Err(error) = leader.write(command).await {
                        eprintln!("a write failed: {error}");
                        place.forget();
                        return;
                    }
                    lock(&seen).add(at, began.elapsed());
                    drop(place);
                });
                begun += 1;
            }
            if self.rate.is_none() || due.changed().await.is_err() {
                break;
            }
        }
        let all = u32::try_from(most).expect("not that many");
        // Not within the bound if a write failed: then nobody is told of a good end.
        let waited = tokio::time::timeout(Duration::from_secs(60), places.acquire_many(all)).await;
        if waited.is_ok() {
            // Who began it waits, or the measurement is over.
            let _ = end.send(());
        }
    }
}

/// Writes a second at most, with always as many under way as keep the cluster busy.
pub(crate) fn maximum(cluster: &Cluster, payload: usize, time: Duration) -> f64 {
    let open = Open::start(cluster, None, payload);
    std::thread::sleep(time + time / 4);
    let until = open.elapsed();
    let rate = open.finish().rate(time / 4, until);
    cluster.settle();
    rate
}
