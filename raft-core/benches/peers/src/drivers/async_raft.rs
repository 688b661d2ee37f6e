//! async-raft 0.6, with its log and state machine in memory, and requests of other nodes by a call of the node that they are
//! for. A follower that is behind by less than a million entries gets them from memory.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{Cursor, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Result;
use async_raft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, ClientWriteRequest, Entry, EntryPayload,
    InstallSnapshotRequest, InstallSnapshotResponse, MembershipConfig, VoteRequest, VoteResponse,
};
use async_raft::storage::{CurrentSnapshotData, HardState, InitialState};
use async_raft::{AppData, AppDataResponse, Config, Raft, RaftNetwork, RaftStorage, SnapshotPolicy};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::drivers::{BATCH_ENTRIES, HEARTBEAT_MS, NODES, on_one_thread};
use crate::load::{Work, client, load};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Write(Bytes);

impl AppData for Write {}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written(u64);

impl AppDataResponse for Written {}

type Node = Raft<Write, Written, Network, Store>;

/// Log and state machine.
struct Store {
    id: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    hard_state: Option<HardState>,
    /// The first has index 1.
    log: Vec<Entry<Write>>,
    applied: u64,
    count: u64,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an index is among the entries.
fn place(index: u64) -> usize {
    usize::try_from(index - 1).expect("no more than memory holds")
}

fn no_snapshots<T>() -> Result<T> {
    Err(std::io::Error::from(ErrorKind::Unsupported).into())
}

#[async_trait]
impl RaftStorage<Write, Written> for Store {
    type Snapshot = Cursor<Vec<u8>>;
    type ShutdownError = Infallible;

    async fn get_membership_config(&self) -> Result<MembershipConfig> {
        let kept = self.lock();
        let found = kept.log.iter().rev().find_map(|entry| match &entry.payload {
            EntryPayload::ConfigChange(change) => Some(change.membership.clone()),
            _ => None,
        });
        Ok(found.unwrap_or_else(|| MembershipConfig::new_initial(self.id)))
    }

    async fn get_initial_state(&self) -> Result<InitialState> {
        let membership = self.get_membership_config().await?;
        let mut kept = self.lock();
        let Some(hard_state) = kept.hard_state.clone() else {
            let state = InitialState::new_initial(self.id);
            kept.hard_state = Some(state.hard_state.clone());
            return Ok(state);
        };
        let (last_log_index, last_log_term) = kept.log.last().map_or((0, 0), |last| (last.index, last.term));
        let last_applied_log = kept.applied;
        Ok(InitialState { last_log_index, last_log_term, last_applied_log, hard_state, membership })
    }

    async fn save_hard_state(&self, hard_state: &HardState) -> Result<()> {
        self.lock().hard_state = Some(hard_state.clone());
        Ok(())
    }

    async fn get_log_entries(&self, start: u64, stop: u64) -> Result<Vec<Entry<Write>>> {
        let kept = self.lock();
        let last = kept.log.len();
        Ok(kept.log[place(start.max(1)).min(last)..place(stop.max(start).max(1)).min(last)].to_vec())
    }

    async fn delete_logs_from(&self, start: u64, stop: Option<u64>) -> Result<()> {
        let mut kept = self.lock();
        let last = kept.log.len();
        let to = stop.map_or(last, |stop| place(stop).min(last));
        kept.log.drain(place(start).min(to)..to);
        Ok(())
    }

    async fn append_entry_to_log(&self, entry: &Entry<Write>) -> Result<()> {
        self.lock().log.push(entry.clone());
        Ok(())
    }

    async fn replicate_to_log(&self, entries: &[Entry<Write>]) -> Result<()> {
        self.lock().log.extend_from_slice(entries);
        Ok(())
    }

    async fn apply_entry_to_state_machine(&self, index: &u64, _data: &Write) -> Result<Written> {
        let mut kept = self.lock();
        kept.applied = *index;
        kept.count += 1;
        Ok(Written(kept.count))
    }

    async fn replicate_to_state_machine(&self, entries: &[(&u64, &Write)]) -> Result<()> {
        let mut kept = self.lock();
        kept.applied = entries.last().map_or(kept.applied, |(index, _)| **index);
        kept.count += entries.len() as u64;
        Ok(())
    }

    async fn do_log_compaction(&self) -> Result<CurrentSnapshotData<Cursor<Vec<u8>>>> {
        no_snapshots()
    }

    async fn create_snapshot(&self) -> Result<(String, Box<Cursor<Vec<u8>>>)> {
        no_snapshots()
    }

    async fn finalize_snapshot_installation(
        &self,
        _index: u64,
        _term: u64,
        _delete_through: Option<u64>,
        _id: String,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<()> {
        no_snapshots()
    }

    async fn get_current_snapshot(&self) -> Result<Option<CurrentSnapshotData<Cursor<Vec<u8>>>>> {
        Ok(None)
    }
}

/// All nodes, once they are there.
#[derive(Default)]
struct Network(OnceLock<Vec<Node>>);

impl Network {
    fn node(&self, id: u64) -> &Node {
        &self.0.get().expect("nodes are there before they are told of each other")[place(id)]
    }
}

#[async_trait]
impl RaftNetwork<Write> for Network {
    async fn append_entries(
        &self,
        target: u64,
        request: AppendEntriesRequest<Write>,
    ) -> Result<AppendEntriesResponse> {
        Ok(self.node(target).append_entries(request).await?)
    }

    async fn install_snapshot(
        &self,
        target: u64,
        request: InstallSnapshotRequest,
    ) -> Result<InstallSnapshotResponse> {
        Ok(self.node(target).install_snapshot(request).await?)
    }

    async fn vote(&self, target: u64, request: VoteRequest) -> Result<VoteResponse> {
        Ok(self.node(target).vote(request).await?)
    }
}

/// Writes a second with so many clients.
pub(super) fn measure(clients: usize, work: Work) -> f64 {
    on_one_thread(async {
        let config = Config::build("peers".into())
            .heartbeat_interval(HEARTBEAT_MS)
            .election_timeout_min(2 * HEARTBEAT_MS)
            .election_timeout_max(4 * HEARTBEAT_MS)
            .max_payload_entries(BATCH_ENTRIES)
            .replication_lag_threshold(1 << 20)
            .snapshot_policy(SnapshotPolicy::LogsSinceLast(u64::MAX / 2));
        let config = Arc::new(config.validate().expect("a sound configuration"));
        let network = Arc::new(Network::default());
        let node = |id| {
            let store = Arc::new(Store { id, kept: Mutex::default() });
            Raft::new(id, Arc::clone(&config), Arc::clone(&network), store)
        };
        let nodes: Vec<Node> = (1..=NODES).map(node).collect();
        let leader = nodes[0].clone();
        network.0.set(nodes).unwrap_or_else(|_| unreachable!("set once"));
        // Until it has started it does not take this.
        while leader.initialize((1..=NODES).collect::<HashSet<_>>()).await.is_err() {
            tokio::task::yield_now().await;
        }
        load(clients, work, |written, enough| {
            let leader = leader.clone();
            let write = async move |command: Bytes| {
                leader.client_write(ClientWriteRequest::new(Write(command))).await.is_ok()
            };
            tokio::spawn(client(write, written, enough))
        })
        .await
    })
}
