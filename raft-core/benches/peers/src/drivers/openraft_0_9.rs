//! OpenRaft 0.9, with its log and state machine in memory, and requests of other nodes by a call of the node that they are
//! for. Left out, as its documentation allows: snapshots, purging and heartbeats do not happen within a run.
//!
//! What it does not do: pre-vote, check-quorum. It does gate on durability: an append is reported by a callback, here at
//! once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{
    Config, Entry, EntryPayload, LogId, OptionalSend, Raft, RaftLogReader, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, SnapshotPolicy, StorageError, StorageIOError, StoredMembership, Vote,
};

use crate::drivers::{BATCH_ENTRIES, HEARTBEAT_MS, NODES, on_one_thread};
use crate::load::{Work, client, load};

openraft::declare_raft_types!(
    /// Commands are buffers, responses are counts.
    Types: D = Bytes, R = u64, Node = ()
);

type Stored<T> = Result<T, StorageError<u64>>;

/// A log; its clones are the same.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
    /// Without gaps, from behind what was purged.
    entries: Vec<Entry<Types>>,
}

impl Kept {
    /// Where `index` is among the entries, or would be.
    fn place(&self, index: u64) -> usize {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX).min(self.entries.len())
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Stored<Vec<Entry<Types>>> {
        let kept = self.lock();
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        Ok(kept.entries[kept.place(from)..kept.place(to)].to_vec())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        let kept = self.lock();
        let last_log_id = kept.entries.last().map(|entry| entry.log_id).or(kept.purged);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        Ok(self.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.lock().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Stored<()> {
        let mut kept = self.lock();
        let place = kept.place(from.index);
        kept.entries.truncate(place);
        Ok(())
    }

    async fn purge(&mut self, through: LogId<u64>) -> Stored<()> {
        let mut kept = self.lock();
        let place = kept.place(through.index + 1);
        kept.entries.drain(..place);
        kept.purged = Some(through);
        Ok(())
    }
}

/// Counts what it applies.
#[derive(Default)]
struct Count {
    count: u64,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, ()>,
}

/// No snapshot is asked for in a run.
struct NoSnapshots;

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        let error = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(StorageIOError::read_state_machine(&error).into())
    }
}

impl RaftStateMachine<Types> for Count {
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Stored<(Option<LogId<u64>>, StoredMembership<u64, ()>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter();
        let mut responses = Vec::with_capacity(entries.size_hint().0);
        for entry in entries {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(_) => self.count += 1,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            responses.push(self.count);
        }
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, ()>,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Stored<()> {
        let error = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(StorageIOError::write_state_machine(&error).into())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        Ok(None)
    }
}

/// All nodes, once they are there.
type Nodes = Arc<OnceLock<Vec<Raft<Types>>>>;

#[derive(Clone)]
struct Network(Nodes);

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &()) -> Connection {
        let nodes = self.0.get().expect("nodes are there before they are told of each other");
        let place = usize::try_from(target - 1).expect("a small id");
        Connection(nodes[place].clone())
    }
}

/// To one node.
struct Connection(Raft<Types>);

type Refused<E> = RPCError<u64, (), E>;

fn refused<E: std::error::Error>(_error: E) -> Refused<E> {
    let error = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
    RPCError::Network(openraft::error::NetworkError::new(&error))
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Refused<RaftError<u64>>> {
        self.0.append_entries(request).await.map_err(refused)
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Refused<RaftError<u64, InstallSnapshotError>>> {
        self.0.install_snapshot(request).await.map_err(refused)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Refused<RaftError<u64>>> {
        self.0.vote(request).await.map_err(refused)
    }
}

/// Writes a second with so many clients.
pub(super) fn measure(clients: usize, work: Work) -> f64 {
    on_one_thread(async {
        let config = Config {
            heartbeat_interval: HEARTBEAT_MS,
            election_timeout_min: 2 * HEARTBEAT_MS,
            election_timeout_max: 4 * HEARTBEAT_MS,
            max_payload_entries: BATCH_ENTRIES,
            snapshot_policy: SnapshotPolicy::Never,
            ..Config::default()
        };
        let config = Arc::new(config.validate().expect("a sound configuration"));
        let network = Network(Nodes::default());
        let mut nodes = Vec::new();
        for id in 1..=NODES {
            let node =
                Raft::new(id, Arc::clone(&config), network.clone(), Log::default(), Count::default()).await;
            nodes.push(node.expect("nothing to recover"));
        }
        let leader = nodes[0].clone();
        network.0.set(nodes).unwrap_or_else(|_| unreachable!("set once"));
        let members: BTreeMap<u64, ()> = (1..=NODES).map(|id| (id, ())).collect();
        leader.initialize(members).await.expect("it is pristine");
        load(clients, work, |written, enough| {
            let leader = leader.clone();
            let write = async move |command: Bytes| leader.client_write(command).await.is_ok();
            tokio::spawn(client(write, written, enough))
        })
        .await
    })
}
