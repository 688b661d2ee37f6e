//! The models: what each cluster is, and what may happen to it how often.
//!
//! * A bound is a condition on what may be chosen, never a state that is thrown away: when the queue runs empty, everything
//!   that the model allows has been seen.
//! * Messages are never due: whatever is on its way may stay there for ever, which is as good as lost. To drop one is a
//!   choice all the same, within its budget, and so is to deliver one and keep a copy.
//! * Each server has a clock of its own, which goes on when its timer fires and at no other time.

use core::time::Duration;

use raft_core::{Config, NodeId, SnapshotPolicy};

/// How often each kind of thing may happen in one history of a model. What is not here may happen whenever it can:
/// to deliver a message, to report that a disk or a machine has finished, to start a server that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Timers of servers that do not lead.
    pub timeouts: u8,
    /// Timers of leaders: heartbeats, and the check that a majority is there.
    pub heartbeats: u8,
    /// Messages lost for good.
    pub drops: u8,
    /// Messages delivered of which a copy stays on its way.
    pub duplicates: u8,
    /// Crashes, each keeping any prefix of what its disk has not reported.
    pub crashes: u8,
    /// Commands proposed to whoever leads.
    pub proposals: u8,
    /// Linearizable reads, at any server.
    pub reads: u8,
    /// Changes of the membership, each to any of the model's targets.
    pub changes: u8,
    /// Snapshots on demand, at any server.
    pub snapshots: u8,
    /// Transfers of the leadership to any other voter.
    pub transfers: u8,
}

impl Budget {
    /// Nothing but deliveries.
    pub const NONE: Self = Self {
        timeouts: 0,
        heartbeats: 0,
        drops: 0,
        duplicates: 0,
        crashes: 0,
        proposals: 0,
        reads: 0,
        changes: 0,
        snapshots: 0,
        transfers: 0,
    };

    /// In a fixed order, with their names.
    pub(super) fn parts(&self) -> [(&'static str, u8); 10] {
        [
            ("timeouts", self.timeouts),
            ("heartbeats", self.heartbeats),
            ("drops", self.drops),
            ("duplicates", self.duplicates),
            ("crashes", self.crashes),
            ("proposals", self.proposals),
            ("reads", self.reads),
            ("changes", self.changes),
            ("snapshots", self.snapshots),
            ("transfers", self.transfers),
        ]
    }
}

/// How a model's environment breaks a driver's duty: to show that the checks see what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A write is reported durable as soon as it is handed out.
    ReportedBeforeDurable,
    /// A restart finds the term, but not whom the server voted for in it.
    VoteForgotten,
    /// A restart finds an empty disk.
    DiskForgotten,
}

/// A small cluster and everything that may happen to it.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is called on the command line.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// How many servers there are: 1, 2, and so on.
    pub servers: u8,
    /// Of these, the first so many are bootstrapped as voters; the others have empty disks.
    pub voters: u8,
    /// Server 1 leads, and its first entry is committed, before anything is chosen. Otherwise all follow nobody.
    pub led: bool,
    /// What may be chosen.
    pub budget: Budget,
    /// The sets of voters that a change of the membership may ask for.
    pub targets: &'static [&'static [u64]],
    /// Machines take their tasks one at a time, and so do the stores of snapshots. Otherwise they have finished at once.
    pub slow: bool,
    /// Writes handed to the disk and not reported.
    pub writes_inflight_max: usize,
    /// A link keeps its latest message only: one that it overtakes is lost. So histories can be longer.
    pub latest_only: bool,
    /// Entries in one message.
    pub append_entries_max: u64,
    /// Messages with entries on their way to one peer.
    pub inflight_appends_max: usize,
    /// Entries of the machine in one chunk of a snapshot.
    pub chunk_entries: u64,
    /// Servers that nothing tells apart are not told apart: states that differ only in which of them is which are one.
    pub symmetric: bool,
    /// How its environment lies. No shipped model does.
    pub lie: Option<Lie>,
}

impl Model {
    /// Three voters to which nothing happens.
    #[must_use]
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            servers: 3,
            voters: 3,
            led: false,
            budget: Budget::NONE,
            targets: &[],
            slow: false,
            writes_inflight_max: 2,
            latest_only: false,
            append_entries_max: 8,
            inflight_appends_max: 2,
            chunk_entries: 8,
            symmetric: true,
            lie: None,
        }
    }

    /// Times on a small grid, and no jitter: an election timeout is two heartbeats.
    pub(super) fn config(&self, id: NodeId) -> Config {
        let tick = Duration::from_nanos(1);
        Config {
            heartbeat_interval: tick,
            election_timeout_min: tick * 2,
            election_timeout_max: tick * 3,
            catch_up_timeout: tick * 3,
            writes_inflight_max: self.writes_inflight_max,
            append_entries_max: self.append_entries_max,
            inflight_appends_max: self.inflight_appends_max,
            snapshot_policy: SnapshotPolicy::Never,
            snapshot_chunk_bytes: self.chunk_entries * super::view::ENTRY_BYTES,
            compaction_margin_entries: 0,
            ..Config::new(id)
        }
    }

    /// So many servers, from the first on, are told apart.
    pub(super) fn fixed(&self) -> usize {
        let alike = self.symmetric && self.budget.transfers == 0 && self.targets.is_empty();
        if alike && self.voters == self.servers {
            // The first of a led cluster is its leader, and no other.
            usize::from(self.led)
        } else {
            self.servers.into()
        }
    }

    /// What the servers may be called instead without any difference; first, what they are called. The node treats ids
    /// alike, but for two things: who is chosen among equals in a transfer, and who is in which configuration.
    pub(super) fn callings(&self) -> Vec<Vec<NodeId>> {
        let servers: Vec<NodeId> = (1..=u64::from(self.servers)).map(NodeId::new).collect();
        let fixed = self.fixed();
        let mut all = vec![servers[..fixed].to_vec()];
        for _ in fixed..servers.len() {
            let longer = |begun: &Vec<NodeId>| {
                let rest = servers.iter().filter(|server| !begun.contains(server));
                rest.map(|server| [begun.as_slice(), &[*server]].concat()).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all
    }

    /// The budget in one line: `3 timeouts, 1 crashes`.
    #[must_use]
    pub fn bounds(&self) -> String {
        let parts = self.budget.parts();
        let given = parts.iter().filter(|(_, count)| *count > 0);
        given.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    }
}

/// The shipped models. All of them close.
#[must_use]
pub fn models() -> Vec<Model> {
    let led = Model { led: true, latest_only: true, ..Model::new("", "") };
    vec![
        Model {
            latest_only: true,
            budget: Budget { timeouts: 3, crashes: 1, ..Budget::NONE },
            ..Model::new(
                "election",
                "three servers campaign against each other, crash, and forget what was not synced",
            )
        },
        Model {
            budget: Budget { timeouts: 2, ..Budget::NONE },
            ..Model::new(
                "campaigns",
                "two campaigns at once, and every message of theirs may come at any time",
            )
        },
        Model {
            name: "replication",
            about: "leaders replace each other while entries are on their way: conflicts, truncations, Figure 8",
            budget: Budget { timeouts: 3, proposals: 2, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "conflicts",
            about: "a leader that was replaced hears of what was committed without it",
            budget: Budget { timeouts: 2, heartbeats: 1, proposals: 1, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "reorder",
            about: "appends of one leader and their answers overtake each other in every way",
            latest_only: false,
            budget: Budget { heartbeats: 1, proposals: 2, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "fsync",
            about: "disks finish when they like, and a crash keeps any prefix of the rest, cut within a write too",
            budget: Budget { timeouts: 2, crashes: 1, proposals: 1, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "network",
            about: "messages are lost and doubled, and every one that is not may come at any time",
            latest_only: false,
            budget: Budget { timeouts: 2, drops: 1, duplicates: 1, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "joint",
            about: "a voter joins and another leaves, through the joint phase, with leaders that fail on the way",
            voters: 2,
            budget: Budget { timeouts: 2, heartbeats: 1, changes: 1, ..Budget::NONE },
            targets: &[&[2, 3], &[3]],
            ..led.clone()
        },
        Model {
            name: "leaving",
            about: "a leader that its own change removes crashes on the way, and may be needed once more",
            voters: 2,
            budget: Budget { timeouts: 3, crashes: 1, changes: 1, ..Budget::NONE },
            targets: &[&[2, 3]],
            ..led.clone()
        },
        Model {
            name: "snapshot",
            about: "a follower that lags behind the compacted log gets a snapshot in two chunks, while leaders change",
            slow: true,
            chunk_entries: 2,
            budget: Budget { timeouts: 1, heartbeats: 2, proposals: 1, snapshots: 1, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "install",
            about: "the same with a crash anywhere, in the midst of an installation too",
            slow: true,
            chunk_entries: 2,
            budget: Budget { heartbeats: 2, crashes: 1, proposals: 1, snapshots: 1, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "read",
            about: "reads at any server while the leader changes: each sees every acknowledged write",
            budget: Budget { timeouts: 2, proposals: 1, reads: 1, ..Budget::NONE },
            ..led.clone()
        },
        Model {
            name: "transfer",
            about: "the leadership is handed over while entries are on their way and others campaign",
            budget: Budget { timeouts: 1, proposals: 1, transfers: 1, ..Budget::NONE },
            ..led
        },
    ]
}
