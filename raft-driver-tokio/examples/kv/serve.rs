//! `kv serve`: one node with its durable log, its TCP transport and its HTTP front, from start to shutdown.
//!
//! * Ports are taken before the data is touched; data is opened before anything is served.
//! * A pristine node is bootstrapped with the list on the command line, or waits to be added; one with data goes on from
//!   that, whoever the members are by now.
//! * Whoever leads hands over before it ends, so that no client waits for an election.
//! * Mistakes that do not heal by themselves end the process, each with its own exit code and advice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{AdminRefusal, Config, LogIndex, NodeId, SnapshotPolicy};
use raft_driver_tokio::storage::{DurableLog, Identity, OpenError, SnapshotFileError, SnapshotFiles};
use raft_driver_tokio::tcp::{Refusal, Refused, Tcp, TcpConfig, TcpError};
use raft_driver_tokio::{
    AdminError, BootstrapDigest, Builder, ClusterId, Raft, Recovered, StartError, StopReason,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::{Peers, Serve};
use crate::failure::{Failure, Kind, chain};
use crate::http::Front;
use crate::listen::accept;
use crate::machine::{COMMAND_BYTES_MAX, Machine};
use crate::report::line;
use crate::stop::{asked_to_stop, stdin_closed};

/// How long a refusal counts: several times the longest pause between two attempts to connect.
const REFUSAL_FRESH: Duration = Duration::from_secs(15);

/// How long a shutdown waits for another node to take over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// How long a shutdown waits for the node.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Runs a node until it is asked to stop or cannot go on.
pub(crate) fn run(options: Serve) -> Result<(), Failure> {
    let peers = options.peers()?;
    tracing_subscriber::fmt()
        .with_max_level(options.log)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let mut runtime = match options.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(options.threads.into()).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(serve(options, peers));
    // A read of a disk that hangs must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn serve(options: Serve, peers: Peers) -> Result<(), Failure> {
    // Before anything else: a signal from here on is a shutdown.
    let stop = asked_to_stop()?;
    let closed = stdin_closed(options.until_stdin_closes)?;

    let http = TcpListener::bind(&options.http)
        .await
        .map_err(|error| no_address("--http", &options.http, &error))?;
    let mut transport = TcpConfig::new(ClusterId::new(options.cluster));
    transport.bootstrap = (!options.join).then(|| BootstrapDigest::of(&peers.members));
    // Where this node listens may be a wildcard; where it is reached is on the list.
    let own = peers.members.get(&options.id);
    transport.advertise = own.map(|address| String::from_utf8_lossy(address).into_owned());
    let tcp = Tcp::bind(&options.raft, transport).await.map_err(|error| match &error {
        TcpError::Bind { error, .. } => no_address("--raft", &options.raft, error),
        TcpError::Config(_) => Failure::other(&error),
    })?;
    for (flag, listens, reached) in [
        ("--raft", &options.raft, own.map(|address| String::from_utf8_lossy(address).into_owned())),
        ("--http", &options.http, peers.http.get(&options.id).cloned()),
    ] {
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
        if let Some(reached) = reached
            && port(listens) != port(&reached)
        {
            tracing::warn!(
                flag,
                listens,
                reached,
                "this node listens on another port than --peer tells the others"
            );
        }
    }
    let refusals = tcp.refusals();
    let (log, snapshots) = open_stores(&options)?;

    let machine = Machine::default();
    let glance = machine.glance();
    let cannot_start = |error| cannot_start(&options, &error);
    let recovered = Recovered::ask(log, snapshots, machine).await.map_err(cannot_start)?;
    // Before a peer hears from this node. Later members are the log's own matter.
    if let Some((LogIndex::FIRST, began)) = recovered.log().memberships.first()
        && !options.join
    {
        same_members(&options, &began.nodes, &peers.members)?;
    }
    let pristine = recovered.membership().is_none();
    let raft = Builder::new(config(&options)).start_recovered(recovered, tcp).map_err(cannot_start)?;
    let front = Front::new(raft.clone(), glance, peers.http.clone());
    let clients = CancellationToken::new();
    let served = tokio::spawn(accept(http, Arc::new(front), clients.clone()));

    let run = async {
        let begin = async {
            if pristine && !options.join {
                bootstrap(&raft, &peers).await?;
            }
            let text = format!(
                "node {} serves http://{}, other nodes at {}",
                options.id, options.http, options.raft
            );
            line("ready", text);
            std::future::pending::<Result<(), Failure>>().await
        };
        tokio::select! {
            failed = begin => failed,
            signal = stop => {
                tracing::info!(signal, "shutting down");
                hand_over(&raft).await;
                Ok(())
            }
            () = closed => {
                hand_over(&raft).await;
                Ok(())
            }
            reason = raft.stopped() => Err(stopped(&reason)),
            failure = refused_by_majority(&raft, refusals, &options, &peers) => Err(failure),
        }
    };
    let result = run.await;

    clients.cancel();
    // An error: the task panicked, and took its connections with it.
    let _ = served.await;
    match tokio::time::timeout(STOP_LIMIT, raft.shutdown()).await {
        Ok(reason) if !reason.is_orderly() => result.and(Err(stopped(&reason))),
        Ok(_) => result,
        Err(_) => result.and(Err(Failure::new(
            Kind::Stopped,
            "the node did not shut down in time",
            "look at its disk; what was acknowledged is safe all the same",
        ))),
    }
}

/// Whoever leads lets another one lead first. One that is alone, or cannot be reached, just ends.
async fn hand_over(raft: &Raft<Machine>) {
    match tokio::time::timeout(HAND_OVER_LIMIT, raft.step_down()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(%error, "no hand-over"),
        Err(_) => tracing::info!("nobody took over in time"),
    }
}

fn open_stores(options: &Serve) -> Result<(DurableLog, SnapshotFiles), Failure> {
    let identity = Identity { cluster: ClusterId::new(options.cluster), node: options.id };
    let kind = |in_use| if in_use { Kind::DataInUse } else { Kind::Data };
    // What to do is in the error's own words.
    let log = DurableLog::open(&options.data, identity)
        .map_err(|error| Failure::new(kind(matches!(error, OpenError::InUse { .. })), chain(&error), ""))?;
    let snapshots = SnapshotFiles::open(options.data.join("snapshots"), identity).map_err(|error| {
        Failure::new(kind(matches!(error, SnapshotFileError::InUse { .. })), chain(&error), "")
    })?;
    Ok((log, snapshots))
}

/// Members that are not those of the data would vote and count in a cluster that is none of theirs.
fn same_members(
    options: &Serve,
    found: &BTreeMap<NodeId, Bytes>,
    wanted: &BTreeMap<NodeId, Bytes>,
) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    let listed = |nodes: &BTreeMap<NodeId, Bytes>| {
        let peer = |(id, address): (&NodeId, &Bytes)| format!("{id}={}", String::from_utf8_lossy(address));
        nodes.iter().map(peer).collect::<Vec<_>>().join(" ")
    };
    let data = options.data.display();
    Err(Failure::new(
        Kind::Peers,
        format!(
            "{data} belongs to a cluster that began with other members: {}; --peer says {}",
            listed(found),
            listed(wanted)
        ),
        "start with the members that the cluster began with, or name another directory",
    ))
}

fn cannot_start(options: &Serve, error: &StartError) -> Failure {
    match error {
        StartError::Log(_) | StartError::Snapshots(_) | StartError::Machine(_) | StartError::Node(_) => {
            Failure::new(
                Kind::Data,
                format!("{} cannot be used: {}", options.data.display(), chain(error)),
                "keep it as it is for inspection, and replace this node by one of a new id with an empty directory",
            )
        }
        _ => Failure::other(format!("the node cannot be started: {}", chain(error))),
    }
}

fn config(options: &Serve) -> Config {
    let mut config = Config::new(options.id);
    config.heartbeat_interval = options.heartbeat_ms;
    config.election_timeout_min = options.election_ms;
    config.election_timeout_max = 2 * options.election_ms;
    config.command_bytes_max = COMMAND_BYTES_MAX as u64;
    config.snapshot_policy = SnapshotPolicy::LogsSinceLast(options.snapshot_entries);
    config.compaction_margin_entries = options.keep_entries;
    config
}

/// Gives a pristine node the members of the command line.
async fn bootstrap(raft: &Raft<Machine>, peers: &Peers) -> Result<(), Failure> {
    match raft.bootstrap(peers.members.clone()).await {
        // The second: a leader was faster, who began with the same list, and the members may be others by now.
        Ok(()) | Err(AdminError::Refused(AdminRefusal::NotPristine)) => Ok(()),
        Err(error @ (AdminError::NotLeader { .. } | AdminError::Refused(_) | AdminError::Unknown)) => {
            Err(Failure::other(format!("no bootstrap: {error}")))
        }
        Err(AdminError::Stopped) => Err(stopped(&raft.stopped().await)),
    }
}

fn stopped(reason: &StopReason) -> Failure {
    Failure::new(
        Kind::Stopped,
        format!("the node stopped: {reason}"),
        "remove the cause, then start it again; what was acknowledged is safe on a majority",
    )
}

/// Resolves when so many peers refuse this node that it can never be part of a majority.
async fn refused_by_majority(
    raft: &Raft<Machine>,
    mut refusals: watch::Receiver<Option<Refused>>,
    options: &Serve,
    peers: &Peers,
) -> Failure {
    let mut by: BTreeMap<NodeId, (Refusal, Instant)> = BTreeMap::new();
    while refusals.changed().await.is_ok() {
        let Some(refused) = refusals.borrow_and_update().clone() else { continue };
        let membership = Arc::clone(&raft.metrics().borrow().membership);
        let members: BTreeSet<NodeId> = match membership.voters.is_empty() {
            true => peers.members.keys().copied().collect(),
            false => membership.voters.clone(),
        };
        // Who connects to this node may be anybody; whom it connects to is a member. `Full` passes.
        if !refused.by_peer || refused.refusal == Refusal::Full || !members.contains(&refused.peer) {
            continue;
        }
        by.insert(refused.peer, (refused.refusal, Instant::now()));
        // Whoever still refuses says so at each of this node's attempts; others were mended meanwhile.
        by.retain(|_, (_, at)| at.elapsed() < REFUSAL_FRESH);
        let led = raft.status().await.is_some_and(|status| status.leader.is_some());
        if !led && members.len().saturating_sub(by.len()) < members.len() / 2 + 1 {
            let peers = by.iter().map(|(peer, (refusal, _))| format!("node {peer}: {refusal}"));
            let advice = match refused.refusal {
                Refusal::Bootstrap => format!(
                    "give every node the same --peer list; then remove {}, which holds no data yet if this node \
                     never answered a client, and start again",
                    options.data.display()
                ),
                Refusal::Cluster => "give every node of the cluster the same --cluster".to_owned(),
                Refusal::Version => "run the same version on all nodes".to_owned(),
                Refusal::Lease => "give every node the same --election-ms".to_owned(),
                _ => {
                    "compare the ids and addresses in --peer with what the nodes were started with".to_owned()
                }
            };
            let what =
                format!("a majority of peers refuses this node: {}", peers.collect::<Vec<_>>().join("; "));
            return Failure::new(Kind::Peers, what, advice);
        }
    }
    // The transport is gone, and the node with it: that is told elsewhere.
    std::future::pending().await
}

fn no_address(flag: &str, address: &str, error: &std::io::Error) -> Failure {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop the program that listens there, or choose another port",
        _ => "name an address of this host",
    };
    Failure::new(Kind::Address, format!("cannot listen on {flag} {address}: {error}"), advice)
}
