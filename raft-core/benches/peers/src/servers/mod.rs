//! Three processes of one program on loopback, as servers: kv, which is this project's example, or etcd.
//!
//! * Every process ends with the bench: when a [`Cluster`] is dropped (also by a panic or a signal, which end `main` in
//!   order), and when the bench is killed: kv because its standard input closes, etcd by the signal that `setpriv` (of
//!   util-linux) asks the system for, where that is there. Only processes that were started here are ever signalled.
//! * Data is in a temporary directory that goes with the cluster; ports are free ones of loopback.

pub(crate) mod etcd;
pub(crate) mod kv;
pub(crate) mod link;
mod process;

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;

use crate::servers::link::{Link, Put, Status};
use crate::servers::process::Process;

pub(crate) const NODES: usize = 3;
/// Below the range that systems take the ports of outgoing connections from: a node that is down keeps its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How long a cluster may take to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_LIMIT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What went wrong, for whoever started the bench.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Whose servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Kv,
    Etcd,
}

impl System {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Etcd => "etcd",
        }
    }
}

/// How nodes find out that a leader is gone; the same for either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) heartbeat_ms: u32,
    /// The shortest; drawn up to twice this by either.
    pub(crate) election_ms: u32,
}

/// kv's own.
pub(crate) const DEFAULT_TIMEOUTS: Timeouts = Timeouts { heartbeat_ms: 100, election_ms: 750 };

/// Programs to start, and where data goes.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) kv: PathBuf,
    /// If it is installed.
    pub(crate) etcd: Option<PathBuf>,
    pub(crate) data: PathBuf,
}

impl Programs {
    /// Those that there are programs of.
    pub(crate) fn systems(&self) -> impl Iterator<Item = System> + use<> {
        std::iter::once(System::Kv).chain(self.etcd.is_some().then_some(System::Etcd))
    }
}

/// See above.
pub(crate) struct Cluster {
    pub(crate) system: System,
    // Before the directory: whoever writes into it is gone when it is removed.
    nodes: Vec<Node>,
    program: PathBuf,
    timeouts: Timeouts,
    directory: TempDir,
}

struct Node {
    /// For the others.
    peer: String,
    /// For clients.
    client: String,
    process: Option<Process>,
}

impl Cluster {
    /// Starts one and waits until it has a leader.
    pub(crate) async fn start(system: System, programs: &Programs, timeouts: Timeouts) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("raft-core-peers-").tempdir_in(&programs.data);
        let directory =
            directory.map_err(|error| format!("no directory in {}: {error}", programs.data.display()))?;
        let program = match system {
            System::Kv => programs.kv.clone(),
            System::Etcd => programs.etcd.clone().ok_or("etcd is not installed")?,
        };
        let mut ports = free_ports(2 * NODES)?.into_iter().map(|port| format!("127.0.0.1:{port}"));
        let nodes =
            std::iter::from_fn(|| Some(Node { peer: ports.next()?, client: ports.next()?, process: None }));
        let mut cluster = Self { system, nodes: nodes.collect(), program, timeouts, directory };
        (0..NODES).try_for_each(|at| cluster.start_node(at))?;
        cluster.leader().await?;
        Ok(cluster)
    }

    /// Starts a node on whatever data it has.
    pub(crate) fn start_node(&mut self, at: usize) -> Result<()> {
        let failed = |error: std::io::Error| format!("{} cannot be started: {error}", self.program.display());
        let output = File::options().create(true).append(true).open(self.output(at)).map_err(failed)?;
        let peers: Vec<_> =
            self.nodes.iter().map(|node| (node.peer.as_str(), node.client.as_str())).collect();
        let data = self.directory.path().join(format!("node-{}", at + 1));
        let (mut command, arguments) = match self.system {
            System::Kv => (Command::new(&self.program), kv::arguments(at, &peers, &data, self.timeouts)),
            System::Etcd => {
                (process::ends_with_us(&self.program), etcd::arguments(at, &peers, &data, self.timeouts))
            }
        };
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(output.try_clone().map_err(failed)?).stderr(output);
        self.nodes[at].process = Some(Process::start(command).map_err(failed)?);
        Ok(())
    }

    pub(crate) fn process(&mut self, at: usize) -> &mut Process {
        self.nodes[at].process.as_mut().expect("it was started")
    }

    /// A connection to a node; made when it is used.
    pub(crate) fn link(&self, at: usize) -> Link {
        Link::new(self.system, &self.nodes[at].client)
    }

    /// Waits until a node leads and takes a write, and says which.
    pub(crate) async fn leader(&mut self) -> Result<usize> {
        let links: Vec<Link> = (0..NODES).map(|at| self.link(at)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (at, link) in links.iter().enumerate() {
                if link.status(LOOK_LIMIT).await.is_some_and(|status| status.leads)
                    && link.put(b"leads", Bytes::from_static(b"1"), LOOK_LIMIT).await == Put::Done
                {
                    return Ok(at);
                }
            }
            self.wait(deadline, "have no leader").await?;
        }
    }

    /// Waits until a node has applied what the leader has.
    pub(crate) async fn caught_up(&mut self, at: usize, leader: usize) -> Result<()> {
        let (link, leader) = (self.link(at), self.link(leader));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let least = leader.status(LOOK_LIMIT).await.map(|status| status.applied);
            if let (Some(Status { applied, .. }), Some(least)) = (link.status(LOOK_LIMIT).await, least)
                && applied >= least
            {
                return Ok(());
            }
            self.wait(deadline, "do not catch up").await?;
        }
    }

    /// Before it is looked again.
    async fn wait(&mut self, deadline: Instant, what: &str) -> Result<()> {
        for at in 0..NODES {
            if let Some(process) = &mut self.nodes[at].process
                && let Some(status) = process.ended()
            {
                return Err(format!("{} {} ended: {status}\n{}", self.system.name(), at + 1, self.tail(at)));
            }
        }
        if Instant::now() >= deadline {
            let tails: Vec<String> = (0..NODES).map(|at| self.tail(at)).collect();
            return Err(format!("the nodes of {} {what}\n{}", self.system.name(), tails.join("\n")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        Ok(())
    }

    /// CPU time of all processes.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::cpu_seconds).sum()
    }

    fn output(&self, at: usize) -> PathBuf {
        self.directory.path().join(format!("node-{}.out", at + 1))
    }

    /// The last that a node said.
    fn tail(&self, at: usize) -> String {
        let said = std::fs::read_to_string(self.output(at)).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Ports that are free now.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        // Held until all are found, so that none is found twice.
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))));
        if held.len() == count {
            let port = |listener: &TcpListener| Some(listener.local_addr().ok()?.port());
            return Ok(held.iter().filter_map(port).collect());
        }
    }
    Err("no free ports on 127.0.0.1".to_owned())
}

/// Whether a directory is in memory: nothing there is ever durable.
pub(crate) fn in_memory(directory: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    #[allow(clippy::useless_conversion, reason = "its type depends on the platform")]
    rustix::fs::statfs(directory).is_ok_and(|found| i64::from(found.f_type) == TMPFS)
}
