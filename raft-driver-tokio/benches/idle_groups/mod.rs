//! Groups in which nothing happens: three processes on loopback, heartbeats every 500 ms, leaders spread evenly, and what
//! each process costs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, NodeId};
use raft_driver_tokio::groups::{DurableStores, GroupStores, Groups, MemoryStores};
use raft_driver_tokio::storage::{Identity, MemoryLog, MemorySnapshots};
use raft_driver_tokio::tcp::{Tcp, TcpConfig};
use raft_driver_tokio::transport::TransportStats;
use raft_driver_tokio::{Builder, ClusterId, GroupId, Raft};
use rustix::time::{ClockId, clock_gettime};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
type Stats = Box<dyn Fn() -> TransportStats>;

const CLUSTER: ClusterId = ClusterId::new(0x6720);
/// How many there are.
pub(crate) const PROCESSES: u64 = 3;

/// A process of its own, which is told what to do line by line.
struct Remote {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Remote {
    fn start(mode: &str, id: u64, groups: u64) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["process", mode, &id.to_string(), &groups.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(from)) = (to, from) else { return Err("no pipes".into()) };
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    fn ask(&mut self, line: &str) -> Result<String, Failure> {
        writeln!(self.to, "{line}")?;
        self.hear()
    }

    fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.from.read_line(&mut line)? {
            0 => Err("a process has ended".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // One that has ended already need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process costs while nothing happens.
pub(crate) struct Idleness {
    /// Of one core.
    pub(crate) core_share: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_bytes_max: u64,
    pub(crate) messages_sent_per_s: f64,
    /// To sockets.
    pub(crate) writes_per_s: f64,
    pub(crate) switches_per_s: f64,
    /// If there were any, it was not idle.
    pub(crate) elections: u64,
}

/// What each of the processes costs that have so many groups between them, after a while over some time. The program must
/// give what it is started with as `process ...` to [`process`].
pub(crate) fn measure(
    mode: &str,
    groups: u64,
    quiet: Duration,
    measured: Duration,
) -> Result<Vec<Idleness>, Failure> {
    let mut processes = Vec::new();
    for id in 1..=PROCESSES {
        processes.push(Remote::start(mode, id, groups)?);
    }
    let mut ports = Vec::new();
    for process in &mut processes {
        ports.push(process.hear()?);
    }
    let ports = ports.join(" ");
    processes.iter_mut().try_for_each(|process| writeln!(process.to, "{ports}"))?;
    for process in &mut processes {
        process.hear()?;
    }
    std::thread::sleep(quiet);
    let ask = |processes: &mut Vec<Remote>| -> Result<Vec<Vec<u64>>, Failure> {
        let numbers = |line: String| line.split(' ').map(|number| Ok(number.parse()?)).collect();
        processes.iter_mut().map(|process| process.ask("look").and_then(numbers)).collect()
    };
    let before = ask(&mut processes)?;
    let since = Instant::now();
    std::thread::sleep(measured);
    let after = ask(&mut processes)?;
    // On a machine that is busy with something else, an answer may take its time.
    let seconds = since.elapsed().as_secs_f64();
    let cost = |(before, after): (&Vec<u64>, &Vec<u64>)| {
        let rate = |at: usize| (after[at] - before[at]) as f64 / seconds;
        Idleness {
            core_share: rate(0) / 1e9,
            rss_bytes: after[1] * 1024,
            rss_bytes_max: after[2] * 1024,
            messages_sent_per_s: rate(3),
            writes_per_s: rate(4),
            switches_per_s: rate(5),
            elections: after[6] - before[6],
        }
    };
    Ok(before.iter().zip(&after).map(cost).collect())
}

// --- one of the processes ------------------------------------------------------------------------------------------

fn config(id: u64) -> Config {
    let mut config = Config::new(NodeId::new(id));
    config.heartbeat_interval = Duration::from_millis(500);
    config.election_timeout_min = Duration::from_millis(2000);
    config.election_timeout_max = Duration::from_millis(4000);
    config
}

/// Runs one of the processes: what follows `process` are its arguments.
pub(crate) fn process(arguments: &[String]) -> Result<(), Failure> {
    let [mode, id, groups] = arguments else { return Err("which mode, id, and how many groups?".into()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_process(mode, id.parse()?, groups.parse()?))
}

async fn run_process(mode: &str, id: u64, groups: u64) -> Result<(), Failure> {
    let builder = Builder::new(config(id));
    let identity = Identity { cluster: CLUSTER, node: NodeId::new(id) };
    match mode {
        "shared" => shared(builder, MemoryStores::default(), id, groups).await,
        "unaligned" => {
            shared(builder.timer_step(Duration::from_nanos(1)), MemoryStores::default(), id, groups).await
        }
        "durable" => {
            let dir = tempfile::tempdir()?;
            shared(builder, DurableStores::open(dir.path(), identity)?, id, groups).await
        }
        "separate" => {
            let mut sockets = Vec::new();
            for _ in 0..groups {
                sockets.push(Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await?);
            }
            let ports: Vec<_> = sockets.iter().map(|tcp| tcp.local_addr().port().to_string()).collect();
            let peers = meet(&ports.join(","))?;
            let mut nodes = Vec::new();
            for tcp in sockets {
                let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
                nodes.push(builder.clone().start(log, snapshots, Idle, tcp).await?);
            }
            let handles = nodes.clone();
            let stats = move || {
                handles.iter().map(Raft::transport).fold(TransportStats::default(), |mut sum, stats| {
                    sum.messages_sent += stats.messages_sent;
                    sum.writes += stats.writes;
                    sum
                })
            };
            run(id, &nodes, &peers, Box::new(stats)).await
        }
        _ => Err(format!("no mode is called {mode}").into()),
    }
}

async fn shared<D: GroupStores>(builder: Builder, stores: D, id: u64, count: u64) -> Result<(), Failure> {
    let hub = Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await?.into_hub(&config(id));
    let peers = meet(&hub.local_addr().port().to_string())?;
    let groups = Groups::new(builder, stores, hub.clone());
    let mut nodes = Vec::new();
    for group in 0..count {
        nodes.push(groups.start(GroupId::new(group), Idle).await?);
    }
    run(id, &nodes, &peers, Box::new(move || hub.stats())).await
}

/// Says where this process listens, and hears where all do.
fn meet(own: &str) -> Result<Vec<Vec<String>>, Failure> {
    println!("{own}");
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end().split(' ').map(|ports| ports.split(',').map(str::to_owned).collect()).collect())
}

/// Bootstraps and leads its share of the groups, and then tells what it costs when it is asked.
async fn run(id: u64, nodes: &[Raft<Idle>], peers: &[Vec<String>], stats: Stats) -> Result<(), Failure> {
    let limit = Duration::from_secs(120);
    for (at, raft) in nodes.iter().enumerate() {
        if at as u64 % PROCESSES + 1 != id {
            continue;
        }
        // One port for all groups, or one for each.
        let port = |ports: &Vec<String>| ports[at % ports.len()].clone();
        let address = |ports: &Vec<String>| Bytes::from(format!("127.0.0.1:{}", port(ports)));
        let members: BTreeMap<_, _> = (1..).map(NodeId::new).zip(peers.iter().map(address)).collect();
        raft.bootstrap(members).await?;
        // Refused if the others are not there yet; then somebody else may lead this one.
        let _ = raft.campaign().await;
    }
    for raft in nodes {
        raft.wait(limit).leader().await?;
    }
    println!("ready");
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        stdin().lock().lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
    });
    while asked.recv().await.is_some() {
        let mut elections = 0;
        for raft in nodes {
            elections += raft.status().await.map_or(0, |status| status.term.get());
        }
        let (stats, memory) = (stats(), fs::read_to_string("/proc/self/status")?);
        let line = |name: &str| memory.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let number = |name| line(name).split_whitespace().next().unwrap_or_default().to_owned();
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let nanos = time.tv_sec * 1_000_000_000 + time.tv_nsec;
        let (rss, high) = (number("VmRSS:"), number("VmHWM:"));
        let switches = number("voluntary_ctxt_switches:");
        println!("{nanos} {rss} {high} {} {} {switches} {elections}", stats.messages_sent, stats.writes);
    }
    Ok(())
}

/// Keeps nothing: what it costs is the groups'.
struct Idle;

impl StateMachine for Idle {
    type Response = ();
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<()>) -> Result<(), Infallible> {
        responses.extend(entries.iter().filter(|entry| matches!(entry, EntryRef::Command(..))).map(|_| ()));
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(""))
    }

    fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        Ok(())
    }
}
