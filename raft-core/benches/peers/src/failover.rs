//! What clients see when a leader goes, with kv and with etcd, measured by the same program.
//!
//! * Killed: from `kill -9` of the leader until a write is acknowledged that was sent after it. Every few milliseconds one
//!   is sent to one of the two that are left, in turn, and none waits for another; whoever sends a client elsewhere is
//!   believed (kv), or forwards (etcd). The killed node is started again and has caught up before the next round, and the
//!   moment of the kill lies anywhere between two heartbeats.
//! * Stopped: the longest time between two acknowledged writes from a SIGTERM to the leader until a second after it ended. A
//!   client writes to another node every few milliseconds, whatever became of the write before; what failed is not sent
//!   again. What was longest in the second before the SIGTERM stands beside it: so long it takes without a stop.
//! * Both have the same heartbeat interval and election timeout, which either draws from once to twice the shortest, etcd in
//!   whole heartbeat intervals: 750 ms are 700 to it. etcd has no pre-vote by default, kv has. Two followers draw: half of
//!   the time the shorter is above 1.3 times the shortest, one time in fifty above 1.86 times.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use crate::report::Report;
use crate::rounds::Spread;
use crate::servers::link::{Link, Put};
use crate::servers::{Cluster, DEFAULT_TIMEOUTS, NODES, Programs, Result, Timeouts};

/// Between two writes; what is printed says so.
const EVERY: Duration = Duration::from_millis(5);
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(5);
/// By then somebody leads, or nobody ever will.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes before and after a planned stop.
const AROUND: Duration = Duration::from_secs(1);
/// How long a server may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// With which timeouts servers are killed: equal to etcd's own, and kv's own.
const KILLED_WITH: [Timeouts; 2] = [Timeouts { heartbeat_ms: 100, election_ms: 1000 }, DEFAULT_TIMEOUTS];

/// Which of it is wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many leaders of each are killed, with each pair of timeouts.
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    kills: u16,
    /// How many leaders of each are stopped in order.
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    stops: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { kills: 50, stops: 20 }
    }
}

/// Connections to all nodes of a cluster.
struct Links(Vec<Link>);

impl Links {
    fn new(cluster: &Cluster) -> Rc<Self> {
        Rc::new(Self((0..NODES).map(|at| cluster.link(at)).collect()))
    }

    /// Writes once, where it is sent first or where that sends it.
    async fn put(&self, first: usize) -> bool {
        const VALUE: &[u8] = &[b'x'; 256];
        let mut at = first;
        for _ in 0..NODES {
            match self.0[at].put(b"failover", Bytes::from_static(VALUE), LIMIT).await {
                Put::Done => return true,
                Put::Failed => return false,
                Put::Elsewhere(address) => match self.0.iter().position(|link| link.address() == address) {
                    Some(there) => at = there,
                    None => return false,
                },
            }
        }
        false
    }
}

/// Kills the leader, and says for how long nobody could write.
async fn kill(cluster: &mut Cluster) -> Result<Duration> {
    let leader = cluster.leader().await?;
    let links = Links::new(cluster);
    for link in &links.0 {
        link.connect().await.ok_or("a node takes no connection")?;
    }
    let acknowledged = Rc::new(Cell::new(None));
    // Anywhere between two heartbeats, and not on the heels of a write.
    tokio::time::sleep(Duration::from_millis(fastrand::u64(200..400))).await;
    let killed = Instant::now();
    cluster.process(leader).kill();
    let mut turn = leader;
    let mut due = tokio::time::interval(EVERY);
    while acknowledged.get().is_none() {
        due.tick().await;
        if killed.elapsed() > PATIENCE {
            return Err(format!("{} made no write for {PATIENCE:?}", cluster.system.name()));
        }
        turn = (turn + 1) % NODES;
        if turn == leader {
            turn = (turn + 1) % NODES;
        }
        let (links, acknowledged) = (Rc::clone(&links), Rc::clone(&acknowledged));
        tokio::task::spawn_local(async move {
            if links.put(turn).await && acknowledged.get().is_none() {
                acknowledged.set(Some(killed.elapsed()));
            }
        });
    }
    start_again(cluster, leader).await?;
    acknowledged.get().ok_or_else(|| "nothing was acknowledged".to_owned())
}

/// Stops the leader in order, and says how long the longest time between two acknowledged writes was, and the longest
/// before the stop.
async fn stop(cluster: &mut Cluster) -> Result<(Duration, Duration)> {
    let leader = cluster.leader().await?;
    let at = (leader + 1 + fastrand::usize(..NODES - 1)) % NODES;
    let links = Links::new(cluster);
    for link in &links.0 {
        link.connect().await.ok_or("a node takes no connection")?;
    }
    let acknowledged = Rc::new(RefCell::new(Vec::new()));
    let ends = Rc::new(Cell::new(false));
    let writes = tokio::task::spawn_local({
        let (links, acknowledged, ends) = (Rc::clone(&links), Rc::clone(&acknowledged), Rc::clone(&ends));
        async move {
            let mut due = tokio::time::interval(EVERY);
            while !ends.get() {
                due.tick().await;
                let (links, acknowledged) = (Rc::clone(&links), Rc::clone(&acknowledged));
                tokio::task::spawn_local(async move {
                    if links.put(at).await {
                        acknowledged.borrow_mut().push(Instant::now());
                    }
                });
            }
        }
    });
    tokio::time::sleep(AROUND + Duration::from_millis(fastrand::u64(..100))).await;
    let asked = Instant::now();
    cluster.process(leader).terminate();
    let ended = cluster.process(leader).wait(STOP_LIMIT).await;
    tokio::time::sleep(AROUND).await;
    ends.set(true);
    writes.await.map_err(|error| error.to_string())?;
    if !ended {
        return Err(format!("a server of {} does not stop", cluster.system.name()));
    }
    let acknowledged = acknowledged.take();
    if acknowledged.last().is_none_or(|last| *last < asked) {
        return Err(format!("no write of {} was acknowledged after a stop", cluster.system.name()));
    }
    start_again(cluster, leader).await?;
    let (mut longest, mut before) = (Duration::ZERO, Duration::ZERO);
    for pair in acknowledged.windows(2) {
        let longest = if pair[1] > asked { &mut longest } else { &mut before };
        *longest = (pair[1] - pair[0]).max(*longest);
    }
    Ok((longest, before))
}

async fn start_again(cluster: &mut Cluster, at: usize) -> Result<()> {
    cluster.start_node(at)?;
    let leader = cluster.leader().await?;
    cluster.caught_up(at, leader).await
}

/// What is done to a cluster.
#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Stop,
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Stop => "stopped",
        }
    }
}

async fn measure(
    fault: Fault,
    times: u16,
    timeouts: Timeouts,
    programs: &Programs,
    report: &mut Report,
) -> Result<()> {
    let mut clusters = Vec::new();
    for system in programs.systems() {
        clusters.push((Cluster::start(system, programs, timeouts).await?, Vec::new(), Vec::new()));
    }
    let bar = report.bar("failover", usize::from(times) * clusters.len());
    let ms = |took: Duration| took.as_secs_f64() * 1000.0;
    for _ in 0..times {
        for (cluster, found, before) in &mut clusters {
            bar.set_message(format!("{} {}", cluster.system.name(), fault.name()));
            match fault {
                Fault::Kill => found.push(ms(kill(cluster).await?)),
                Fault::Stop => {
                    let (longest, longest_before) = stop(cluster).await?;
                    found.push(ms(longest));
                    before.push(ms(longest_before));
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let Timeouts { heartbeat_ms, election_ms } = timeouts;
    for (cluster, mut found, before) in clusters {
        found.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| found[((found.len() as f64 * part) as usize).min(found.len() - 1)];
        let (least, median, p90, worst) = (found[0], at(0.5), at(0.9), at(1.0));
        let before = (!before.is_empty()).then(|| Spread::of(before));
        let without = before.map_or("-".to_owned(), |before| before.to_string());
        let (server, fault) = (cluster.system.name(), fault.name());
        println!(
            "{fault:<7}  {heartbeat_ms:>9}  {election_ms:>8}  {server:<6}  {times:>5}  {least:>8.0}  {median:>6.0}  \
             {p90:>6.0}  {worst:>6.0}  {without}"
        );
        report.row(
            "failover",
            json!({
                "fault": fault, "heartbeat_ms": heartbeat_ms, "election_ms": election_ms, "server": server,
                "times": times, "least_ms": least, "median_ms": median, "p90_ms": p90, "worst_ms": worst,
                "all_ms": found, "before_median_ms": before.map(|before| before.median),
                "before_worst_ms": before.map(|before| before.most),
            }),
        );
    }
    Ok(())
}

/// Measures and prints it.
pub(crate) async fn run(options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    println!(
        "\nFailover: three processes of each on loopback. Killed: ms from kill -9 of the leader until a write is\n\
         acknowledged, sent to one of the others every 5 ms. Stopped: the longest ms between two acknowledged writes,\n\
         sent to another node every 5 ms, from a SIGTERM to the leader on; before: in the second before it.\n"
    );
    println!(
        "leader   heartbeat  election  server  times  least ms  median     p90   worst  before (min to max)"
    );
    for timeouts in KILLED_WITH {
        if options.kills > 0 {
            measure(Fault::Kill, options.kills, timeouts, programs, report).await?;
        }
    }
    if options.stops > 0 {
        measure(Fault::Stop, options.stops, KILLED_WITH[0], programs, report).await?;
    }
    Ok(())
}
