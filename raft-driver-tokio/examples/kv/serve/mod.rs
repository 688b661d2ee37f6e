//! `kv serve`: one node with its durable log, its TCP transport and its HTTP front, from start to shutdown.
//!
//! * Ports are taken before the data is touched; data is opened before anything is served.
//! * A pristine node is bootstrapped with the list on the command line, or waits to be added; one with data goes on from
//!   that, whoever the members are by now.
//! * Whoever leads hands over before it ends, so that no client waits for an election.
//! * Mistakes that do not heal by themselves end the process, each with its own exit code and advice.

mod exposure;
mod refusals;
mod stores;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use raft_core::{AdminRefusal, Config, LogIndex, SnapshotPolicy};
use raft_driver_tokio::storage::DurableLog;
use raft_driver_tokio::tcp::{Tcp, TcpConfig, TcpError, Tls};
use raft_driver_tokio::{AdminError, BootstrapDigest, ClusterId, Recording, Recovered, StopReason};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{Peers, Serve};
use crate::driver::{self, Handle};
use crate::failure::{Failure, Kind, chain};
use crate::http::backup::Backups;
use crate::http::disk::Disk;
use crate::http::listen::Limits;
use crate::http::{Front, health};
use crate::machine::COMMAND_BYTES_MAX;
use crate::node::Node;
use crate::once::replicated;
use crate::report::line;
use crate::serve::refusals::refused_by_majority;
use crate::stop::{Signals, stdin_closed};

/// How long a shutdown waits for the node, beyond the time that a hand-over may take.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often what was measured is put together.
const UPKEEP: Duration = Duration::from_secs(5);

/// Times are counted by these bounds, in seconds: figures of several nodes can be added up.
const BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Runs a node until it is asked to stop or cannot go on.
pub(crate) fn run(options: Serve) -> Result<(), Failure> {
    let peers = options.peers()?;
    tracing_subscriber::fmt()
        .with_max_level(options.log)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    driver::run(options.threads, serve(options, peers))
}

async fn serve(options: Serve, peers: Peers) -> Result<(), Failure> {
    // Before anything else: a signal from here on is a shutdown.
    let mut signals = Signals::new()?;
    let closed = stdin_closed(options.until_stdin_closes)?;
    exposure::check(&options).await?;
    tls(&options)?;

    let http = TcpListener::bind(&options.http)
        .await
        .map_err(|error| no_address("--http", &options.http, &error))?;
    // Found out before the data is touched, and let go again: what it listens with depends on the data.
    free(&options.raft).await?;
    let (log, snapshots) = stores::open(&options)?;
    let tcp = bind(&options, &peers, &log).await?;
    let refusals = tcp.refusals();

    let backups = Backups::new(snapshots.clone());
    let (machine, glance) = replicated();
    let cannot_start = |error| stores::cannot_start(&options, &error);
    let recovered = Recovered::ask(log, snapshots, machine).await.map_err(cannot_start)?;
    // Before a peer hears from this node. Later members are the log's own matter.
    if let Some((LogIndex::FIRST, began)) = recovered.log().memberships.first()
        && !options.join
    {
        stores::same_members(&options, &began.nodes, &peers.members)?;
    }
    let pristine = recovered.membership().is_none();
    // Before the node: it looks for one when it starts.
    let recorder = recorder()?;
    let recording = options.record.as_ref().map(Recording::new);
    let node = driver::start(config(&options), recording, recovered, tcp).await.map_err(cannot_start)?;
    let mut front = Front::new(node.clone(), glance, peers.http.clone());
    front.disk = Some(Arc::new(Disk::new(options.data.clone(), stores::snapshots_in(&options))));
    front.cluster = options.cluster;
    front.backups = Some(backups);
    front.recorder = Some(recorder);
    front.hosts = options.hosts.iter().chain([&options.http]).cloned().collect();
    let front = Arc::new(front);
    tokio::spawn(watch(node.clone(), Arc::clone(&front)));
    let clients = CancellationToken::new();
    let served =
        driver::listen(http, Arc::clone(&front), clients.clone(), Limits::default(), options.threads)
            .map_err(|error| Failure::other(format!("no clients can be served: {error}")))?;

    let run = async {
        let begin = async {
            if pristine && !options.join {
                bootstrap(&node, &peers).await?;
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
            signal = signals.next() => {
                tracing::info!(signal, "shutting down; once more ends at once");
                Ok(())
            }
            () = closed => Ok(()),
            reason = node.stopped() => Err(stopped(&reason)),
            failure = refused_by_majority(&node, refusals, &options, &peers) => Err(failure),
        }
    };
    let result = run.await;

    let hand_over_limit = config(&options).handover_max();
    let in_order = async {
        front.leave();
        if result.is_ok() {
            hand_over(&node, hand_over_limit).await;
        }
        clients.cancel();
        // An error: the task panicked, and took its connections with it.
        let _ = served.await;
        match tokio::time::timeout(hand_over_limit + STOP_LIMIT, node.shutdown()).await {
            Ok(reason) if !reason.is_orderly() => result.and(Err(stopped(&reason))),
            Ok(_) => result,
            Err(_) => result.and(Err(Failure::new(
                Kind::Stopped,
                "the node did not shut down in time",
                "look at its disk; what was acknowledged is safe all the same",
            ))),
        }
    };
    tokio::select! {
        ended = in_order => ended,
        signal = signals.next() => Err(Failure::new(
            Kind::Interrupted,
            format!("ended at once by a second signal, {signal}"),
            "start it again when you like: what was acknowledged is safe",
        )),
    }
}

/// That an address of the other nodes' can be listened on.
async fn free(address: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await;
    listener.map(drop).map_err(|error| no_address("--raft", address, &error))
}

/// What protects the connections to other nodes, if anything does.
fn tls(options: &Serve) -> Result<Option<Tls>, Failure> {
    let (Some(ca), Some(certificate), Some(key)) = (&options.tls_ca, &options.tls_cert, &options.tls_key)
    else {
        return Ok(None);
    };
    let tls = Tls::from_files(stores::identity(options), ca, certificate, key);
    tls.map(Some).map_err(|error| {
        let advice = "name files of this node and cluster; `kv certs` makes some for trying";
        Failure::new(Kind::Arguments, chain(&error), advice)
    })
}

/// Listens for the other nodes.
async fn bind(options: &Serve, peers: &Peers, log: &DurableLog) -> Result<Tcp, Failure> {
    let mut transport = TcpConfig::new(ClusterId::new(options.cluster));
    transport.tls = tls(options)?;
    // A disk that was wiped under an id that others know is noticed.
    transport.known_peers = Some(log.peers());
    transport.bootstrap = (!options.join).then(|| BootstrapDigest::of(&peers.members));
    // Where this node listens may be a wildcard; where it is reached is on the list.
    let listed = peers.members.get(&options.id).map(|address| String::from_utf8_lossy(address).into_owned());
    transport.advertise = options.advertise.clone().or(listed);
    for (flag, listens, reached) in [
        ("--raft", &options.raft, transport.advertise.clone()),
        ("--http", &options.http, peers.http.get(&options.id).cloned()),
    ] {
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
        if let Some(reached) = reached
            && port(listens) != port(&reached)
        {
            let what = "this node listens on another port than others are told";
            tracing::warn!(flag, listens, reached, "{what}");
        }
    }
    Tcp::bind(&options.raft, transport).await.map_err(|error| match &error {
        TcpError::Bind { error, .. } => no_address("--raft", &options.raft, error),
        _ => Failure::other(&error),
    })
}

/// Keeps everything that is measured in this process, for `GET /metrics`.
fn recorder() -> Result<PrometheusHandle, Failure> {
    let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS_S);
    let recorder = recorder
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::other(format!("no metrics: {error}")))?;
    health::describe();
    Ok(recorder)
}

/// Tells the front what it shows beside the node's own account, until the node stops.
async fn watch(node: Handle, front: Arc<Front<Handle>>) {
    let mut metrics = node.metrics();
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            changed = metrics.changed() => {
                if changed.is_err() || metrics.borrow().stopped.is_some() {
                    return;
                }
                front.elections.observe(&metrics.borrow_and_update().status);
            }
            // Without it, what is measured piles up until somebody asks.
            _ = upkeep.tick() => front.recorder.iter().for_each(PrometheusHandle::run_upkeep),
        }
    }
}

/// Whoever leads lets another one lead first. One that is alone, or cannot be reached, just ends.
async fn hand_over(node: &Handle, limit: Duration) {
    match tokio::time::timeout(limit, node.step_down()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(%error, "no hand-over"),
        Err(_) => tracing::info!("nobody took over in time"),
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
async fn bootstrap(node: &Handle, peers: &Peers) -> Result<(), Failure> {
    match node.bootstrap(peers.members.clone()).await {
        // The second: a leader was faster, who began with the same list, and the members may be others by now.
        Ok(()) | Err(AdminError::Refused(AdminRefusal::NotPristine)) => Ok(()),
        Err(AdminError::Stopped) => Err(stopped(&node.stopped().await)),
        Err(error) => Err(Failure::other(format!("no bootstrap: {error}"))),
    }
}

fn stopped(reason: &StopReason) -> Failure {
    let first = if reason.is_log_store() { "see to the disk before you" } else { "remove the cause, then" };
    Failure::new(
        Kind::Stopped,
        format!("the node stopped: {reason}"),
        format!("{first} start it again; what was acknowledged is safe on a majority"),
    )
}

fn no_address(flag: &str, address: &str, error: &std::io::Error) -> Failure {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop the program that listens there, or choose another port",
        _ => "name an address of this host",
    };
    Failure::new(Kind::Address, format!("cannot listen on {flag} {address}: {error}"), advice)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use raft_driver_tokio::storage::DurableError;

    use super::*;

    #[test]
    fn a_disk_that_failed_is_seen_to_before_the_next_start() {
        let failed =
            |error: io::Error| stopped(&StopReason::Log(Arc::new(DurableError::from(error)))).to_string();
        let text = failed(io::Error::other("EIO"));
        assert!(text.contains("reboot or mount its file system anew"), "{text}");
        assert!(text.contains("see to the disk before you start it again"), "{text}");
        assert_eq!(text.matches("EIO").count(), 1, "{text}");
        let text = failed(io::ErrorKind::StorageFull.into());
        assert!(text.contains("free some space") && !text.contains("reboot"), "{text}");
        let text = stopped(&StopReason::Machine(Arc::new(io::Error::other("x")))).to_string();
        assert!(text.contains("remove the cause") && !text.contains("disk"), "{text}");
    }
}
