//! How a node is, as JSON: for people, for the status page, and for programs that compare nodes.

use raft_core::{NodeId, ReplicationState, RoleKind};
use raft_driver_tokio::Metrics;
use serde::Serialize;

use crate::http::disk::Figures;
use crate::http::elections::{Election, unix_ms};
use crate::machine::{Addresses, Summary};

/// The body of `GET /status`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusView {
    id: u64,
    role: &'static str,
    term: u64,
    leader: Option<u64>,
    commit_index: u64,
    last_applied: u64,
    last_log_index: u64,
    /// Through where the log is durable.
    durable_index: u64,
    log_base_index: u64,
    snapshot_index: u64,
    /// Whether the members are being changed.
    changing: bool,
    members: Vec<Member>,
    /// What a leader knows of the others; empty elsewhere.
    peers: Vec<Peer>,
    machine: MachineView,
    /// The newest first.
    elections: Vec<Election>,
    storage: Option<Figures>,
    pending_writes: usize,
    pending_reads: usize,
    transport: TransportView,
    counters: CountersView,
    uptime_s: u64,
    at_unix_ms: u64,
    version: &'static str,
}

/// Somebody who takes part.
#[derive(Debug, Serialize)]
struct Member {
    id: u64,
    raft: Option<String>,
    http: Option<String>,
    voter: bool,
}

#[derive(Debug, Serialize)]
struct Peer {
    id: u64,
    state: &'static str,
    match_index: u64,
    next_index: u64,
    /// Entries of the leader's log that it is not known to have.
    lag_entries: u64,
    inflight_bytes: u64,
    /// How much of a snapshot it has, and the snapshot's length, while one is sent to it.
    snapshot_bytes: Option<(u64, u64)>,
}

/// The state machine, to compare nodes by: equal `applied` means equal `digest`.
#[derive(Debug, Serialize)]
struct MachineView {
    applied: u64,
    keys: u64,
    digest: String,
}

#[derive(Debug, Serialize)]
struct TransportView {
    bytes_sent: u64,
    bytes_received: u64,
    messages_dropped: u64,
    disconnects: u64,
}

/// Since the start.
#[derive(Debug, Serialize)]
struct CountersView {
    campaigns: u64,
    elections_won: u64,
    leases_lost: u64,
    snapshots_installed: u64,
    violations: u64,
}

/// What is known beside the node's own account.
pub(crate) struct Beside {
    pub(crate) machine: Summary,
    pub(crate) elections: Vec<Election>,
    pub(crate) storage: Option<Figures>,
    pub(crate) uptime_s: u64,
}

impl StatusView {
    /// `http` says where clients reach whom.
    pub(crate) fn new(metrics: &Metrics, beside: Beside, http: impl Fn(NodeId) -> Option<String>) -> Self {
        let Metrics { status, membership, peers, transport, .. } = metrics;
        let member = |id: NodeId| Member {
            id: id.get(),
            raft: membership.nodes.get(&id).map(|address| String::from_utf8_lossy(address).into_owned()),
            http: http(id),
            voter: membership.is_voter(id),
        };
        let peer = |peer: &raft_core::PeerStatus| Peer {
            id: peer.id.get(),
            state: match peer.state {
                ReplicationState::Probe => "probe",
                ReplicationState::Replicate => "replicate",
                ReplicationState::Snapshot => "snapshot",
            },
            match_index: peer.match_index.get(),
            next_index: peer.next_index.get(),
            lag_entries: status.last.index.get().saturating_sub(peer.match_index.get()),
            inflight_bytes: peer.inflight_bytes,
            snapshot_bytes: peer.snapshot_bytes,
        };
        Self {
            id: status.id.get(),
            role: role(status.role),
            term: status.term.get(),
            leader: status.leader.map(NodeId::get),
            commit_index: status.commit.get(),
            last_applied: status.applied.get(),
            last_log_index: status.last.index.get(),
            durable_index: status.durable.get(),
            log_base_index: status.base.index.get(),
            snapshot_index: status.snapshot.index.get(),
            changing: membership.intent.is_some(),
            members: membership.members().into_iter().map(member).collect(),
            peers: peers.iter().filter(|peer| peer.id != status.id).map(peer).collect(),
            machine: MachineView {
                applied: beside.machine.applied.get(),
                keys: beside.machine.keys,
                digest: format!("{:032x}", beside.machine.digest),
            },
            elections: beside.elections,
            storage: beside.storage,
            pending_writes: metrics.pending_writes,
            pending_reads: metrics.pending_reads,
            transport: TransportView {
                bytes_sent: transport.bytes_sent,
                bytes_received: transport.bytes_received,
                messages_dropped: transport.messages_dropped,
                disconnects: transport.disconnects,
            },
            counters: CountersView {
                campaigns: status.counters.campaigns,
                elections_won: status.counters.elections_won,
                leases_lost: status.counters.leases_lost,
                snapshots_installed: status.counters.snapshots_installed,
                violations: status.counters.violations,
            },
            uptime_s: beside.uptime_s,
            at_unix_ms: unix_ms(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Where clients reach a node: as the log says, or as this node was started with.
pub(crate) fn reached(known: &Addresses, listed: &Addresses, id: NodeId) -> Option<String> {
    known.get(&id).or_else(|| listed.get(&id)).cloned()
}

const fn role(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "follower",
        RoleKind::PreCandidate => "pre-candidate",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => "leader",
    }
}
