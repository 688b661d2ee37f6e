//! What happens in a run, as one stream of records.
//!
//! The protocol lines that people read, the JSON lines that other programs check, and the page that [`show`](crate::show)
//! draws are three renderings of it.
//!
//! * Records come in the order in which things happen; their times never go back.
//! * A record says what is true of the simulated world, also where the nodes know nothing of it: that a message is
//!   lost, when it will arrive, how long a partition lasts.
//! * Nothing here has an influence on a run, and when nobody listens no record is made.
//!
//! As JSON, one object a line, every object has `at_ns` and `what`; the other fields are those of [`Record`] and of
//! the kind of [`What`] that `what` names, in snake case: `"what":"commits"` is [`What::Commits`]. A field that
//! does not apply is left out.

mod fault;
mod file;
mod said;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use raft_core::{
    HardState, LogId, LogIndex, Membership, NodeId, Notice, RoleKind, SnapshotId, Status, Term, Write,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use file::{Unreadable, read, write};
pub use said::{Kind, Message, Run, Said};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When, in nanoseconds of true time since the run began. The nodes' own clocks differ from it.
    pub at_ns: u64,
    /// Which node it happened to, or did it. Nodes are numbered from 1 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
    /// The node's state: before the event for what it takes in ([`What::Delivered`], [`What::Takes`]), after it for
    /// everything else. None while it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The event that the core took in or the action that it handed out and that is behind this, in full, as the core
    /// prints it. Messages speak for themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
}

/// What a node is and holds (Figure 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `"Follower"`, `"PreCandidate"`, `"Candidate"` or `"Leader"`.
    pub role: RoleKind,
    /// Its current term.
    pub term: Term,
    /// Whom it voted for in that term: a node, or null.
    pub vote: Option<NodeId>,
    /// The leader of that term that it knows: a node, or null.
    pub leader: Option<NodeId>,
    /// The last entry of its log, durable or not: `{"term":2,"index":7}`.
    pub last: LogId,
    /// Through which index its log is durable.
    pub durable: LogIndex,
    /// Its commit index.
    pub commit: LogIndex,
    /// Through which index its state machine was reported to be.
    pub applied: LogIndex,
    /// The entry before the log's first: what is older was compacted.
    pub base: LogId,
    /// The last entry that its newest complete snapshot replaces.
    pub snapshot: LogId,
    /// The configuration in force on it.
    pub membership: Members,
}

/// Who takes part (§6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Those who vote; C_new in the joint phase.
    pub voters: BTreeSet<NodeId>,
    /// C_old in the joint phase, else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Voters that become learners when the joint phase ends.
    pub learners_next: BTreeSet<NodeId>,
}

/// The kinds of things that happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The run begins.
    Begins {
        /// Its seed.
        seed: u64,
        /// How many servers there are, with those that may join later.
        servers: u64,
        /// What the seed means, in lines to read.
        scenario: Vec<String>,
    },
    /// The faults end for a majority; what follows as [`What::Fault`] stays for good, till the faults are over.
    MajorityHealed {
        /// Who is in it.
        nodes: Vec<NodeId>,
    },
    /// The faults are over: every cut, pause and stall ends now.
    FaultsOver,
    /// The cluster has come to rest: the run ends well.
    AtRest,
    /// A rule was broken: the run ends.
    Broken {
        /// Which checker saw it.
        checker: String,
        /// What it saw.
        found: String,
    },

    /// Something goes wrong on purpose. What it begins ends at `until_ns`, or when the faults are over; a pause and a
    /// stall also when the server crashes.
    Fault {
        /// What: `"partition"`, `"pause"`, ….
        fault: String,
        /// To which servers: those of one side of a partition, the one that pauses, ….
        nodes: Vec<NodeId>,
        /// The links that are cut, each as `[from, to]`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cuts: Vec<(NodeId, NodeId)>,
        /// Until when; none for what happens at once, or stays for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ns: Option<u64>,
        /// Whatever else was drawn for it, by name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        more: BTreeMap<String, Value>,
    },

    /// A server starts from what its disk kept.
    Starts {
        /// The entry before the log's first.
        base: LogId,
        /// The log's last entry.
        last: LogId,
        /// The last entry that its newest snapshot replaces.
        snapshot: LogId,
        /// What its state machine holds durably.
        applied: LogId,
    },
    /// A server refuses to start: what its disk kept is not what it must be.
    Refuses {
        /// Why.
        why: String,
    },
    /// A server stops at once.
    Crashes {
        /// How much of what was not synced survives.
        kept_bytes: u64,
        /// How much was not synced.
        unsynced_bytes: u64,
    },
    /// The driver drops its node, because a disk or a state machine failed. The server's crash follows.
    DropsNode {
        /// What failed.
        why: String,
    },
    /// The operator switches a server off that is no member any more. Its crash follows.
    SwitchedOff,
    /// A server is told to form a cluster.
    Bootstraps {
        /// With another set of servers than the others are told.
        alien: bool,
    },

    /// The node takes in an event that is no message: `core` says it in full.
    Takes {
        /// Its name in the core's vocabulary: `"Wake"`, `"Persisted"`, ….
        event: String,
    },
    /// Role or term changed: `state` has both.
    Becomes {
        /// The role now.
        role: RoleKind,
    },
    /// It gives its vote of this term.
    Votes {
        /// To whom.
        candidate: NodeId,
    },
    /// The commit index advances.
    Commits {
        /// To here.
        through: LogIndex,
    },
    /// It tells its operators something.
    Notes {
        /// What, as the core's `Notice`.
        notice: Notice,
    },
    /// It wants to be connected to these.
    Connects {
        /// Every peer, itself among them.
        peers: Vec<NodeId>,
    },

    /// It sends a message.
    Sent {
        /// Names the message; a copy has the same id.
        id: u64,
        /// The message.
        message: Message,
        /// When it arrives, each copy; empty if it is lost.
        arrives_ns: Vec<u64>,
    },
    /// It receives a message.
    Delivered {
        /// The id under which it was sent.
        id: u64,
        /// The message.
        message: Message,
    },
    /// A message comes to nobody: its receiver is down, or was cut off meanwhile. `node` is the receiver.
    Swallowed {
        /// The id under which it was sent.
        id: u64,
        /// The message.
        message: Message,
        /// `"down"` or `"cut"`.
        why: String,
    },

    /// It hands a write to its disk.
    Writes {
        /// The write's id, in this life of the server.
        write: u64,
        /// Term and vote, if they are written: `{"term":2,"voted_for":1}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hard_state: Option<HardState>,
        /// The whole log is dropped and begins anew behind this entry.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reset_to: Option<LogId>,
        /// They replace the log from their first index on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        entries: Vec<Run>,
    },
    /// A sync ends: this write and all before it are durable. The node may be told later.
    Syncs {
        /// The last of them.
        through: u64,
    },
    /// It drops the beginning of its log.
    Compacts {
        /// Through this entry.
        through: LogId,
    },
    /// It reads its log. The answer comes as [`What::Takes`] `LogRead`.
    ReadsLog {
        /// The first index wanted.
        from: LogIndex,
        /// The last.
        through: LogIndex,
    },

    /// Its state machine has applied entries.
    Applied {
        /// Where it is now.
        through: LogId,
    },
    /// Its state machine is to take a snapshot.
    TakesSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// The snapshot that it took is durable.
    TookSnapshot {
        /// Which.
        snapshot: SnapshotId,
        /// Its size.
        size_bytes: u64,
    },
    /// The snapshot that it took could not be kept.
    LostSnapshot,
    /// Its state machine is to be replaced by a snapshot.
    Restores {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Its state machine was replaced.
    Restored {
        /// Where it is now.
        through: LogId,
    },
    /// It reads a part of a snapshot, to send it.
    ReadsChunk {
        /// Of which.
        snapshot: SnapshotId,
        /// From where.
        offset: u64,
    },
    /// It writes a part of a snapshot that it receives.
    WritesChunk {
        /// Of which.
        snapshot: SnapshotId,
        /// From where.
        offset: u64,
        /// How much.
        bytes: u64,
    },
    /// It drops a snapshot.
    DropsSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },

    /// A client asks a server.
    Asks {
        /// Which client.
        client: u64,
        /// The first request's ticket; the others follow.
        ticket: u64,
        /// What it asks for.
        requests: Vec<Request>,
    },
    /// A client waits no longer.
    GivesUp {
        /// Which client.
        client: u64,
        /// For which operation.
        op: u64,
        /// `"withdraws"`: no server had taken it. `"forgets"`: it tells the server. `"leaves"`: it tells nobody.
        how: String,
    },
    /// A server answers a client's write, or does not serve its read.
    Answers {
        /// Which client.
        client: u64,
        /// Which operation.
        op: u64,
        /// A write, else a read.
        write: bool,
        /// The outcome, as the core prints it.
        outcome: String,
    },
    /// A server answers a client's read.
    Serves {
        /// Which client.
        client: u64,
        /// Which operation.
        op: u64,
        /// The key.
        key: u64,
        /// The operation that wrote what it found there last; none if nobody wrote.
        saw: Option<u64>,
    },
    /// The operator gives an order to a server.
    Orders {
        /// Its number; none if the answer does not matter.
        errand: Option<u64>,
        /// What.
        order: String,
    },
    /// A server answers its operator.
    Reports {
        /// To what: `"Operator(3)"` (the errand), `"Bootstrap"`, ….
        errand: String,
        /// The outcome, as the core prints it.
        outcome: String,
    },
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The operation's number, unique in the run. A write writes it.
    pub op: u64,
    /// A write, else a read.
    pub write: bool,
    /// The key.
    pub key: u64,
}

impl State {
    /// What a node says of itself.
    #[must_use]
    pub fn of(status: &Status, membership: &Membership) -> Self {
        Self {
            role: status.role,
            term: status.term,
            vote: status.voted_for,
            leader: status.leader,
            last: status.last,
            durable: status.durable,
            commit: status.commit,
            applied: status.applied,
            base: status.base,
            snapshot: status.snapshot,
            membership: membership.into(),
        }
    }
}

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.voters.clone(),
            outgoing: membership.outgoing.clone(),
            learners: membership.learners.clone(),
            learners_next: membership.learners_next.clone(),
        }
    }
}

impl What {
    /// A write for the disk.
    pub(crate) fn writes(write: &Write) -> Self {
        let Write { id, hard_state, reset_to, entries } = write;
        let entries = Run::of(entries);
        Self::Writes { write: id.get(), hard_state: *hard_state, reset_to: *reset_to, entries }
    }

    /// A message goes out, and its copies arrive then.
    pub(crate) fn sent(id: u64, message: &raft_core::Message, arrivals: &[Option<u64>]) -> Self {
        let arrives_ns = arrivals.iter().copied().flatten().collect();
        Self::Sent { id, message: message.into(), arrives_ns }
    }

    /// A client waits no longer.
    pub(crate) fn gives_up(client: usize, op: u64, how: &str) -> Self {
        Self::GivesUp { client: client as u64, op, how: how.to_owned() }
    }

    /// A server answers a client otherwise than with what was read.
    pub(crate) fn answers(client: usize, op: u64, write: bool, outcome: &impl Debug) -> Self {
        Self::Answers { client: client as u64, op, write, outcome: format!("{outcome:?}") }
    }

    /// A server answers a read.
    pub(crate) fn serves(client: usize, op: u64, key: u16, saw: Option<u64>) -> Self {
        Self::Serves { client: client as u64, op, key: key.into(), saw }
    }

    /// The node takes in what the core prints like this.
    pub(crate) fn takes(text: &str) -> Self {
        let end = text.find(|next: char| !next.is_alphanumeric()).unwrap_or(text.len());
        Self::Takes { event: text[..end].to_owned() }
    }
}
