//! OpenRaft 0.10, still an alpha, as [`openraft_0_9`](super::openraft_0_9): log and state machine in memory, no snapshots,
//! purging or heartbeats within a run. Appends stream to a follower without waiting for the answer of the one before.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft_next as openraft;

use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{
    Config, EntryPayload, OptionalSend, RaftLogReader, RaftNetworkFactory, RaftNetworkV2,
    RaftSnapshotBuilder, SnapshotPolicy,
};

use crate::drivers::{BATCH_ENTRIES, HEARTBEAT_MS, NODES, on_one_thread};
use crate::load::{Work, client, load};

openraft::declare_raft_types!(
    /// Responses are counts.
    Types: D = Write, R = u64, Node = ()
);

#[derive(Clone, Debug)]
struct Write(Bytes);

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

type Raft = openraft::Raft<Types, Count>;

/// A log; its clones are the same.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    vote: Option<VoteOf<Types>>,
    purged: Option<LogIdOf<Types>>,
    /// Without gaps, from behind what was purged.
    entries: Vec<EntryOf<Types>>,
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
    ) -> io::Result<Vec<EntryOf<Types>>> {
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

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let kept = self.lock();
        let last_log_id = kept.entries.last().map(|entry| entry.log_id).or(kept.purged);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.lock().entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let mut kept = self.lock();
        let place = last.map_or(0, |last| kept.place(last.index + 1));
        kept.entries.truncate(place);
        Ok(())
    }

    async fn purge(&mut self, through: LogIdOf<Types>) -> io::Result<()> {
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
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
}

/// No snapshot is asked for in a run.
struct NoSnapshots;

fn no_snapshots<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        no_snapshots()
    }
}

impl RaftStateMachine<Types> for Count {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(_) => self.count += 1,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            if let Some(responder) = responder {
                responder.send(self.count);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<Types>, _snapshot: ()) -> io::Result<()> {
        no_snapshots()
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(None)
    }
}

/// All nodes, once they are there.
#[derive(Clone, Default)]
struct Network(Arc<OnceLock<Vec<Raft>>>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &()) -> Connection {
        let nodes = self.0.get().expect("nodes are there before they are told of each other");
        let place = usize::try_from(target - 1).expect("a small id");
        Connection(nodes[place].clone())
    }
}

/// To one node.
struct Connection(Raft);

fn refused<E: std::error::Error>(_error: E) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&io::Error::from(io::ErrorKind::ConnectionAborted)))
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.0.append_entries(request).await.map_err(refused)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let answers = self.0.stream_append(input).map(|answer| answer.map_err(refused));
        let answers: BoxStream<'s, _> = Box::pin(answers);
        async { Ok(answers) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.0.vote(request).await.map_err(refused)
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let error = io::Error::from(io::ErrorKind::Unsupported);
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
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
        let network = Network::default();
        let mut nodes = Vec::new();
        for id in 1..=NODES {
            let (log, machine) = (Log::default(), Count::default());
            let node = Raft::new(id, Arc::clone(&config), network.clone(), log, machine).await;
            nodes.push(node.expect("nothing to recover"));
        }
        let leader = nodes[0].clone();
        network.0.set(nodes).unwrap_or_else(|_| unreachable!("set once"));
        let members: BTreeMap<u64, ()> = (1..=NODES).map(|id| (id, ())).collect();
        leader.initialize(members).await.expect("it is pristine");
        load(clients, work, |written, enough| {
            let leader = leader.clone();
            let write = async move |command: Bytes| leader.client_write(Write(command)).await.is_ok();
            tokio::spawn(client(write, written, enough))
        })
        .await
    })
}
