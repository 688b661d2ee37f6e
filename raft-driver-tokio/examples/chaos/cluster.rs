//! The servers of a run: who there is, who should run, and what it takes to start one.
//!
//! * Who should run does run: [`Cluster::reconcile`] starts whoever is neither held nor retired, and reports whoever
//!   ended without having been told to, or having had a reason to.
//! * No data is ever thrown away during a run: a server that was taken out of the cluster is switched off, and would be
//!   switched on again if it turned out to be a member after all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::disk::{self, Disk};
use crate::links::Id;
use crate::network::{Addresses, Network};
use crate::process::{Holds, Process};

/// How long an orderly shutdown may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// How servers are started.
pub(crate) struct Setup {
    /// The program: any with the command line and the HTTP surface of `kv serve`.
    pub(crate) server: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) disks: disk::Kind,
    /// Where certificates are, if servers show each other some.
    pub(crate) tls: Option<PathBuf>,
    /// Further arguments of every server.
    pub(crate) arguments: Vec<String>,
}

/// Servers that certificates are made for: several times as many as ever are in a run of an hour.
const CERTIFICATES: &str = "1000";

/// Has the program make certificates, and says where they are.
pub(crate) fn certificates(server: &Path, directory: &Path) -> io::Result<PathBuf> {
    let out = directory.join("tls");
    let mut command = std::process::Command::new(server);
    command.args(["certs", "--nodes", CERTIFICATES, "--out"]).arg(&out);
    let made = command.stdin(std::process::Stdio::null()).output()?;
    match made.status.success() {
        true => Ok(out),
        false => Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned())),
    }
}

/// One server.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    disk: Disk,
    founder: bool,
    process: Option<Process>,
    holds: Holds,
    retired: bool,
}

impl Server {
    fn should_run(&self) -> bool {
        !self.retired && self.holds.down.is_empty()
    }

    fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.status().is_none())
    }

    fn running(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.status().is_none())
    }
}

/// All servers that ever were.
pub(crate) struct Cluster {
    setup: Setup,
    network: Network,
    peers: Vec<String>,
    servers: Mutex<BTreeMap<Id, Server>>,
    /// Where clients reach those that are not retired.
    http: watch::Sender<Arc<BTreeMap<Id, String>>>,
}

impl Cluster {
    /// Prepares so many servers; none runs before the first [`Cluster::reconcile`].
    pub(crate) async fn found(setup: Setup, network: Network, servers: u64) -> io::Result<Self> {
        let mut founders = BTreeMap::new();
        for id in 1..=servers {
            founders.insert(id, Self::server(&setup, &network, id, true).await?);
        }
        let peer = |(id, server): (&Id, &Server)| {
            ["--peer".to_owned(), format!("{id}={}@{}", server.addresses.raft, server.addresses.http)]
        };
        let peers = founders.iter().flat_map(peer).collect();
        let http = watch::Sender::new(Arc::default());
        let cluster = Self { setup, network, peers, servers: Mutex::new(founders), http };
        cluster.publish(&*cluster.servers.lock().await);
        Ok(cluster)
    }

    async fn server(setup: &Setup, network: &Network, id: Id, founder: bool) -> io::Result<Server> {
        Ok(Server {
            addresses: network.join(id).await?,
            disk: Disk::new(setup.directory.join(format!("disk-{id}")), setup.disks)?,
            founder,
            process: None,
            holds: Holds::default(),
            retired: false,
        })
    }

    fn publish(&self, servers: &BTreeMap<Id, Server>) {
        let there = servers.iter().filter(|(_, server)| !server.retired);
        let http = there.map(|(id, server)| (*id, server.addresses.http.clone())).collect();
        self.http.send_replace(Arc::new(http));
    }

    /// A new server with an empty disk, which waits to be added.
    pub(crate) async fn add(&self) -> io::Result<Id> {
        let mut servers = self.servers.lock().await;
        let id = servers.last_key_value().map_or(1, |(id, _)| id + 1);
        servers.insert(id, Self::server(&self.setup, &self.network, id, false).await?);
        self.publish(&servers);
        self.start_missing(&mut servers)?;
        Ok(id)
    }

    fn start(&self, id: Id, server: &Server) -> io::Result<Process> {
        let mut command = self.network.command(id, &self.setup.server, self.setup.disks);
        command.args(["serve", "--until-stdin-closes", "--id", &id.to_string()]);
        command.args(["--raft", &server.addresses.raft_listen, "--http", &server.addresses.http_listen]);
        command.arg("--data").arg(server.disk.data()).args(&self.setup.arguments);
        if self.network.has_packets() {
            // Nobody else is in these namespaces.
            command.arg("--insecure");
        }
        if let Some(tls) = &self.setup.tls {
            command.arg("--tls-ca").arg(tls.join("ca.pem"));
            command.arg("--tls-cert").arg(tls.join(format!("node-{id}.pem")));
            command.arg("--tls-key").arg(tls.join(format!("node-{id}.key")));
        }
        match server.founder {
            true => command.args(&self.peers),
            false => command.arg("--join"),
        };
        Process::start(command, &self.log(id), id, self.network.owners())
    }

    pub(crate) fn log(&self, id: Id) -> PathBuf {
        self.setup.directory.join(format!("server-{id}.log"))
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    fn start_missing(&self, servers: &mut MutexGuard<'_, BTreeMap<Id, Server>>) -> io::Result<()> {
        for (id, server) in servers.iter_mut().filter(|(_, server)| server.should_run() && !server.runs()) {
            let mut process = self.start(*id, server)?;
            if !server.holds.disk_full.is_empty() {
                // It may well not come up like that; it is tried again and again, as a supervisor would.
                process.may_end = true;
                server.disk.fill(Some(process.pid))?;
            }
            if !server.holds.paused.is_empty() {
                process.signal(Signal::STOP);
            }
            server.process = Some(process);
        }
        Ok(())
    }

    /// Starts whoever should run and does not. Says who ended although nothing was done to it, and how.
    pub(crate) async fn reconcile(&self) -> io::Result<Vec<String>> {
        let mut servers = self.servers.lock().await;
        let mut surprises = Vec::new();
        for (id, server) in servers.iter_mut() {
            let Some(process) = server.process.take_if(|process| process.status().is_some()) else {
                continue;
            };
            if let (false, Some(status)) = (process.may_end, process.status()) {
                surprises.push(format!("server {id} ended by itself: {status}"));
            }
        }
        self.start_missing(&mut servers)?;
        Ok(surprises)
    }

    /// `kill -9`, all before the first is waited for, and not started again before [`Cluster::release`].
    pub(crate) async fn kill(&self, fault: u64, ids: &BTreeSet<Id>) {
        let mut servers = self.servers.lock().await;
        let mut ends = Vec::new();
        for (_, server) in servers.iter_mut().filter(|(id, _)| ids.contains(id)) {
            server.holds.down.insert(fault);
            if let Some(process) = &mut server.process {
                process.may_end = true;
                process.signal(Signal::KILL);
                ends.push(process.end());
            }
        }
        drop(servers);
        for end in ends {
            end.await;
        }
    }

    /// Asks a server to shut down, as for a new version, and waits for it. Whether it did so in time.
    pub(crate) async fn shut_down(&self, fault: u64, id: Id) -> bool {
        let mut servers = self.servers.lock().await;
        let Some(server) = servers.get_mut(&id) else { return true };
        server.holds.down.insert(fault);
        let Some(process) = &mut server.process else { return true };
        process.may_end = true;
        process.signal(Signal::TERM);
        let end = process.end();
        drop(servers);
        if tokio::time::timeout(SHUTDOWN_LIMIT, end).await.is_ok() {
            return true;
        }
        self.kill(fault, &[id].into()).await;
        false
    }

    /// SIGSTOP.
    pub(crate) async fn pause(&self, fault: u64, ids: &BTreeSet<Id>) {
        let mut servers = self.servers.lock().await;
        for (_, server) in servers.iter_mut().filter(|(id, _)| ids.contains(id)) {
            server.holds.paused.insert(fault);
            server.running().inspect(|process| process.signal(Signal::STOP));
        }
    }

    /// `kill -9`, and started again at once.
    pub(crate) async fn bounce(&self, ids: &BTreeSet<Id>) {
        let mut servers = self.servers.lock().await;
        let hit = servers.iter_mut().filter(|(id, _)| ids.contains(id));
        for process in hit.filter_map(|(_, server)| server.process.as_mut()) {
            process.may_end = true;
            process.signal(Signal::KILL);
        }
    }

    /// No disk of these has room. A server may end of that, and is started again.
    pub(crate) async fn fill_disks(&self, fault: u64, ids: &BTreeSet<Id>) -> io::Result<()> {
        let mut servers = self.servers.lock().await;
        for (_, server) in servers.iter_mut().filter(|(id, _)| ids.contains(id)) {
            server.holds.disk_full.insert(fault);
            if let Some(process) = &mut server.process {
                process.may_end = true;
            }
            server.disk.fill(server.running().map(|process| process.pid))?;
        }
        Ok(())
    }

    /// Ends what this fault did to anybody.
    pub(crate) async fn release(&self, fault: u64) -> io::Result<()> {
        let mut servers = self.servers.lock().await;
        for server in servers.values_mut() {
            server.holds.down.remove(&fault);
            if server.holds.paused.remove(&fault) && server.holds.paused.is_empty() {
                server.running().inspect(|process| process.signal(Signal::CONT));
            }
            if server.holds.disk_full.remove(&fault) && server.holds.disk_full.is_empty() {
                server.disk.free(server.running().map(|process| process.pid))?;
            }
        }
        self.start_missing(&mut servers)
    }

    /// Ends whatever any fault did.
    pub(crate) async fn release_all(&self) -> io::Result<()> {
        let held: BTreeSet<u64> = {
            let servers = self.servers.lock().await;
            let holds = servers.values().flat_map(|server| {
                let Holds { down, paused, disk_full } = &server.holds;
                down.iter().chain(paused).chain(disk_full)
            });
            holds.copied().collect()
        };
        for fault in held {
            self.release(fault).await?;
        }
        Ok(())
    }

    /// Switches a server that left the cluster off, or on again.
    pub(crate) async fn retire(&self, id: Id, retired: bool) -> io::Result<()> {
        let mut servers = self.servers.lock().await;
        let Some(server) = servers.get_mut(&id).filter(|server| server.retired != retired) else {
            return Ok(());
        };
        server.retired = retired;
        if let Some(process) = server.process.as_mut().filter(|_| retired) {
            process.may_end = true;
            process.signal(Signal::KILL);
        }
        self.publish(&servers);
        self.start_missing(&mut servers)
    }

    /// Those that are not retired.
    pub(crate) async fn ids(&self) -> Vec<Id> {
        let servers = self.servers.lock().await;
        servers.iter().filter(|(_, server)| !server.retired).map(|(id, _)| *id).collect()
    }

    /// `RAFT@HTTP`, as others are told of a server.
    pub(crate) async fn address(&self, id: Id) -> Option<String> {
        let servers = self.servers.lock().await;
        servers.get(&id).map(|server| format!("{}@{}", server.addresses.raft, server.addresses.http))
    }

    /// Where a server listens for HTTP: past every fault of the network.
    pub(crate) async fn listens(&self) -> BTreeMap<Id, String> {
        let servers = self.servers.lock().await;
        let there = servers.iter().filter(|(_, server)| !server.retired);
        there.map(|(id, server)| (*id, server.addresses.http_listen.clone())).collect()
    }

    pub(crate) fn http(&self) -> watch::Receiver<Arc<BTreeMap<Id, String>>> {
        self.http.subscribe()
    }

    /// Moves everybody's data out of its disk, for whoever looks at the run later. Nobody may run.
    pub(crate) async fn keep_data(&self) -> io::Result<()> {
        for (id, server) in &*self.servers.lock().await {
            server.disk.keep(&self.setup.directory.join(format!("data-{id}")))?;
        }
        Ok(())
    }
}

/// Puts a program behind a shell that lets it see a write beyond a limit as an error instead of a signal's death.
pub(crate) fn without_file_size_signal(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(program);
    command
}
