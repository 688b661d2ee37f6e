//! A new cluster from what is left: of one that lost its majority for good, or from a backup. Offline.
//!
//! * What is made goes into empty stores, of a node of a cluster with a **new name**. A server of the old cluster that comes
//!   back after all is refused by the new one's transport.
//! * No entry is changed where the state comes from. A start is counted there, and snapshots that are damaged or not needed
//!   are removed, as at any start: copy the directory first if its disk is in doubt. And never start a node on it again:
//!   with others that come back it could be a majority of the old cluster, beside the new one.
//! * [`rescue`] takes what one server holds, its log's end included. What the old cluster had committed and this server
//!   never received is lost: that is what losing a majority means. What it had received and nobody had committed becomes
//!   part of the new cluster.
//! * It refuses while it is not needed: as long as those members that still answer could be a majority, and as long as
//!   another survivor is known to hold a longer log.
//! * [`import`] begins with a [`BackupFile`]; every founder of the new cluster imports the same one.
//! * What goes wrong in the middle leaves stores that no node can be started on, or empty ones: delete them, and try again.
//!
//! ```no_run
//! use std::collections::{BTreeMap, BTreeSet};
//! use std::time::Duration;
//!
//! use raft_core::NodeId;
//! use raft_driver_tokio::ClusterId;
//! use raft_driver_tokio::restore::{Evidence, Stores, answering, rescue};
//! use raft_driver_tokio::storage::{DurableLog, Identity, SnapshotFiles};
//!
//! # async fn restore() -> Result<(), Box<dyn std::error::Error>> {
//! fn open(dir: &str, identity: Identity) -> Result<Stores<DurableLog, SnapshotFiles>, Box<dyn std::error::Error>> {
//!     let snapshots = SnapshotFiles::open(format!("{dir}/snapshots"), identity)?;
//!     Ok(Stores { log: DurableLog::open(dir, identity)?, snapshots })
//! }
//! let node = NodeId::new(1);
//! let mut survivor = open("/var/lib/total-1", Identity { cluster: ClusterId::new(7), node })?;
//! let mut founder = open("/var/lib/total-new", Identity { cluster: ClusterId::new(8), node })?;
//!
//! let held = survivor.inspect()?; // compare `held.last` with the other survivors', if there are any
//! let evidence = Evidence {
//!     survivor: node,
//!     lost: BTreeSet::from([NodeId::new(2), NodeId::new(3)]),
//!     others: BTreeMap::new(),
//!     answering: answering(&held.membership.nodes, Duration::from_secs(3)).await,
//! };
//! rescue(&mut survivor, &mut founder, "127.0.0.1:7101".into(), &evidence, |_| ())?;
//! // Start the founder with the new cluster's name, and add servers with empty directories.
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::{LogReader, LogStore, RefoundError, Refounding, SnapshotStore, SnapshotWriter};
use raft_core::{LogId, LogRecovery, Membership, NodeId, SnapshotMeta, Term};

use crate::storage::BackupFile;

/// So many bytes are in memory at once.
const COPY_BYTES: u64 = 4 << 20;

/// Where one server keeps its log and its snapshots. No node runs on them.
#[derive(Debug)]
pub struct Stores<L, P> {
    /// The log.
    pub log: L,
    /// The snapshots.
    pub snapshots: P,
}

/// What a server holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// The term that it knows.
    pub term: Term,
    /// The last entry of its log, or of its snapshot if that reaches further. Of several survivors, the one where this is
    /// the greatest (term first) has lost the least.
    pub last: LogId,
    /// The configuration that it has in force.
    pub membership: Arc<Membership>,
}

/// What is known of the servers of a cluster that is to be given up.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Whose stores these are.
    pub survivor: NodeId,
    /// The voters that will never come back.
    pub lost: BTreeSet<NodeId>,
    /// The other voters, with the last entry that each of them [holds](Held::last).
    pub others: BTreeMap<NodeId, LogId>,
    /// Which members' addresses answered just now: see [`answering`].
    pub answering: BTreeSet<NodeId>,
}

/// How far it has come: bytes of the snapshot, then entries of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of the snapshot are copied, of so many.
    Snapshot(u64, u64),
    /// So many entries of the log are copied, of so many.
    Log(u64, u64),
}

/// Why no new cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Those that answer, or are not said to be lost, are a majority: the cluster needs no rescue.
    #[error(
        "not needed: {present:?} are enough for a majority; start them, and remove the others by a change of the membership"
    )]
    NotNeeded {
        /// The voters that are there, the survivor among them.
        present: BTreeSet<NodeId>,
    },
    /// A server that is said to be lost answers.
    #[error(
        "server {node} is said to be lost, and answers at its address; stop it for good, and delete its data, or do without a rescue"
    )]
    Answers {
        /// Which.
        node: NodeId,
    },
    /// Voters of which nothing was said.
    #[error(
        "what about {nodes:?}? Each other voter is either lost for good, or holds a log whose end has to be compared"
    )]
    Unaccounted {
        /// Which.
        nodes: BTreeSet<NodeId>,
    },
    /// Another survivor holds more.
    #[error("server {node} holds a log through {last}, this one through {own}: rescue that one")]
    Behind {
        /// Which.
        node: NodeId,
        /// The end of its log.
        last: LogId,
        /// The end of this one's.
        own: LogId,
    },
    /// The survivor is no voter of its cluster.
    #[error("server {0} is no voter of the configuration that it has in force")]
    NoVoter(NodeId),
    /// What is to be filled is not empty.
    #[error(
        "the new stores are not empty: choose an empty directory, or delete what an attempt left that was cut short"
    )]
    NotEmpty,
    /// What the server holds makes no cluster.
    #[error(transparent)]
    Refound(#[from] RefoundError),
    /// A store failed.
    #[error("{what}: {source}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The copy is not what was read: a store gave back something else.
    #[error("the snapshot was copied, and the copy differs; the disk cannot be trusted")]
    Differs,
}

impl RestoreError {
    fn store<E: Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Store { what, source: Box::new(error) }
    }
}

/// Which of these members have an address at which something listens. Tries all at once, each within `limit`.
pub async fn answering(nodes: &BTreeMap<NodeId, Bytes>, limit: Duration) -> BTreeSet<NodeId> {
    let mut tries = tokio::task::JoinSet::new();
    for (node, address) in nodes {
        let (node, Ok(address)) = (*node, String::from_utf8(address.to_vec())) else { continue };
        tries.spawn(async move {
            let connected = tokio::net::TcpStream::connect(address);
            matches!(tokio::time::timeout(limit, connected).await, Ok(Ok(_))).then_some(node)
        });
    }
    tries.join_all().await.into_iter().flatten().collect()
}

impl<L: LogStore, P: SnapshotStore> Stores<L, P> {
    /// What the server holds. Blocking.
    ///
    /// # Errors
    /// If a store cannot be recovered, or holds no cluster's state.
    pub fn inspect(&mut self) -> Result<Held, RestoreError> {
        let (found, snapshot) = self.recover()?;
        held(&found, snapshot.as_deref())
    }

    fn recover(&mut self) -> Result<(LogRecovery, Option<Arc<SnapshotMeta>>), RestoreError> {
        let found = self.log.recover().map_err(RestoreError::store("recover the log"))?;
        let snapshot = self.snapshots.recover(found.base);
        Ok((found, snapshot.map_err(RestoreError::store("recover the snapshots"))?))
    }

    fn recover_empty(&mut self) -> Result<(), RestoreError> {
        // Of a copy that was cut short the log may lack its snapshot: that is no fault of the store.
        let found = self.log.recover().map_err(RestoreError::store("recover the log"))?;
        let empty = found == LogRecovery::default() && self.recover()?.1.is_none();
        if empty { Ok(()) } else { Err(RestoreError::NotEmpty) }
    }

    fn write(&mut self, write: raft_core::Write) -> Result<(), RestoreError> {
        self.log.write(&[write]).map_err(RestoreError::store("write to the new log"))
    }

    /// Begins the log, and then copies the snapshot that `read` gives, from an offset on.
    fn copy_snapshot(
        &mut self,
        (begin, meta): (raft_core::Write, SnapshotMeta),
        mut read: impl FnMut(u64) -> Result<Bytes, RestoreError>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), RestoreError> {
        self.write(begin)?;
        let failed = || RestoreError::store("write the new snapshot");
        let mut writer = self.snapshots.begin(meta.id).map_err(failed())?;
        let mut offset = 0;
        while offset < meta.size_bytes {
            let part = read(offset)?;
            if part.is_empty() {
                return Err(RestoreError::Differs);
            }
            writer.write(&part).map_err(failed())?;
            offset += part.len() as u64;
            progress(Progress::Snapshot(offset, meta.size_bytes));
        }
        let written = writer.written();
        if (written.size_bytes, written.digest) != (meta.size_bytes, meta.digest) {
            return Err(RestoreError::Differs);
        }
        writer.finish(&meta).map_err(failed())
    }
}

fn held(found: &LogRecovery, snapshot: Option<&SnapshotMeta>) -> Result<Held, RestoreError> {
    let membership = found.membership(snapshot).ok_or(RefoundError::Unfounded)?;
    let last = snapshot.map_or(found.last, |meta| found.last.max(meta.id.last));
    Ok(Held { term: found.hard_state.term.max(last.term), last, membership: Arc::clone(membership) })
}

/// Whether a rescue may be, by what is known.
fn examine(held: &Held, evidence: &Evidence) -> Result<(), RestoreError> {
    let Evidence { survivor, lost, others, answering } = evidence;
    let membership = &held.membership;
    let voters: BTreeSet<NodeId> = membership.voters.union(&membership.outgoing).copied().collect();
    if !voters.contains(survivor) {
        return Err(RestoreError::NoVoter(*survivor));
    }
    if let Some(node) = lost.iter().find(|node| answering.contains(node)) {
        return Err(RestoreError::Answers { node: *node });
    }
    let named = |node: &NodeId| node == survivor || lost.contains(node) || others.contains_key(node);
    let nodes: BTreeSet<NodeId> = voters.iter().filter(|node| !named(node)).copied().collect();
    if !nodes.is_empty() {
        return Err(RestoreError::Unaccounted { nodes });
    }
    let present: BTreeSet<NodeId> = voters.iter().filter(|node| !lost.contains(node)).copied().collect();
    let agrees =
        |set: &BTreeSet<NodeId>| set.is_empty() || set.intersection(&present).count() > set.len() / 2;
    if agrees(&membership.voters) && agrees(&membership.outgoing) {
        return Err(RestoreError::NotNeeded { present });
    }
    match others.iter().find(|(_, last)| **last > held.last) {
        Some((node, last)) => Err(RestoreError::Behind { node: *node, last: *last, own: held.last }),
        None => Ok(()),
    }
}

/// Makes `founder` the only server of a new cluster that holds what `survivor` holds, reached at `address`. Blocking.
///
/// Returns the last entry. Open the founder's stores for the survivor's node id and the new cluster's name, and start a node
/// on them; add others with empty stores.
///
/// # Errors
/// If it is not needed, another server should be rescued, or a store fails.
pub fn rescue<L, P, M, Q>(
    survivor: &mut Stores<L, P>,
    founder: &mut Stores<M, Q>,
    address: Bytes,
    evidence: &Evidence,
    mut progress: impl FnMut(Progress),
) -> Result<LogId, RestoreError>
where
    L: LogStore,
    P: SnapshotStore,
    M: LogStore,
    Q: SnapshotStore,
{
    let (found, snapshot) = survivor.recover()?;
    examine(&held(&found, snapshot.as_deref())?, evidence)?;
    founder.recover_empty()?;
    let members = BTreeMap::from([(evidence.survivor, address)]);
    let mut refounding = Refounding::plan(&found, snapshot.as_deref(), members)?;
    if let Some(meta) = &snapshot {
        let read = |offset| {
            let part = survivor.snapshots.read(meta.id, offset, COPY_BYTES);
            part.map_err(RestoreError::store("read the snapshot"))
        };
        founder.copy_snapshot(refounding.begin(meta), read, &mut progress)?;
    }
    let reader = survivor.log.reader();
    let entries = refounding.rest().map_or(0, |(from, through)| through.since(from) + 1);
    while let Some((from, through)) = refounding.rest() {
        let part = reader.read(from, through, COPY_BYTES).map_err(RestoreError::store("read the log"))?;
        if part.is_empty() {
            return Err(RefoundError::Gap { base: LogId::new(Term::ZERO, from.prev()) }.into());
        }
        founder.write(refounding.copy(&part)?)?;
        let left = refounding.rest().map_or(0, |(from, through)| through.since(from) + 1);
        progress(Progress::Log(entries - left, entries));
    }
    let last = refounding.last();
    founder.write(refounding.finish())?;
    Ok(last)
}

/// Makes `founder` one of the first `members` of a new cluster that begins with a backup. Each of them imports the same
/// backup, with the same members. Blocking.
///
/// Returns the last entry. Then start the nodes, under the new cluster's name; they need no bootstrap.
///
/// # Errors
/// If the stores are not empty, the members are none, or something cannot be read or written.
pub fn import<L: LogStore, P: SnapshotStore>(
    backup: &BackupFile,
    founder: &mut Stores<L, P>,
    members: BTreeMap<NodeId, Bytes>,
    mut progress: impl FnMut(Progress),
) -> Result<LogId, RestoreError> {
    founder.recover_empty()?;
    let mut refounding = Refounding::plan(&LogRecovery::default(), Some(backup.meta()), members)?;
    let read = |offset| backup.read(offset, COPY_BYTES).map_err(RestoreError::store("read the backup"));
    founder.copy_snapshot(refounding.begin(backup.meta()), read, &mut progress)?;
    let last = refounding.last();
    founder.write(refounding.finish())?;
    Ok(last)
}
