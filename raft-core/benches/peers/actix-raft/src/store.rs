//! Log and state machine of a node, in memory: an actor on the same thread.

use std::fmt;

use actix::{Actor, Context, Handler, ResponseActFuture};
use actix_raft::messages::{Entry, MembershipConfig};
use actix_raft::storage::{
    AppendEntryToLog, ApplyEntryToStateMachine, CreateSnapshot, CurrentSnapshotData, GetCurrentSnapshot,
    GetInitialState, GetLogEntries, HardState, InitialState, InstallSnapshot, RaftStorage, ReplicateToLog,
    ReplicateToStateMachine, SaveHardState,
};
use actix_raft::{AppData, AppDataResponse, AppError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Write(pub(crate) Bytes);

impl AppData for Write {}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written(u64);

impl AppDataResponse for Written {}

/// Asked for a snapshot, which no run needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NoSnapshots;

impl fmt::Display for NoSnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there are no snapshots")
    }
}

impl std::error::Error for NoSnapshots {}

impl AppError for NoSnapshots {}

type Stored<T> = Result<T, NoSnapshots>;

pub(crate) struct Store {
    hard_state: HardState,
    /// The first has index 1.
    log: Vec<Entry<Write>>,
    count: u64,
}

/// Where an index is among the entries.
fn place(index: u64) -> usize {
    usize::try_from(index - 1).expect("no more than memory holds")
}

impl Store {
    /// Of a node that knows who the members are.
    pub(crate) fn new(members: Vec<u64>) -> Self {
        let (non_voters, removing) = (Vec::new(), Vec::new());
        let membership = MembershipConfig { is_in_joint_consensus: false, members, non_voters, removing };
        let hard_state = HardState { current_term: 0, voted_for: None, membership };
        Self { hard_state, log: Vec::new(), count: 0 }
    }
}

impl Actor for Store {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1 << 16);
    }
}

impl RaftStorage<Write, Written, NoSnapshots> for Store {
    type Actor = Self;
    type Context = Context<Self>;
}

impl Handler<GetInitialState<NoSnapshots>> for Store {
    type Result = Stored<InitialState>;

    fn handle(&mut self, _: GetInitialState<NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        let hard_state = self.hard_state.clone();
        let (last_log_index, last_log_term) = self.log.last().map_or((0, 0), |last| (last.index, last.term));
        Ok(InitialState { last_log_index, last_log_term, last_applied_log: 0, hard_state })
    }
}

impl Handler<SaveHardState<NoSnapshots>> for Store {
    type Result = Stored<()>;

    fn handle(&mut self, save: SaveHardState<NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        self.hard_state = save.hs;
        Ok(())
    }
}

impl Handler<GetLogEntries<Write, NoSnapshots>> for Store {
    type Result = Stored<Vec<Entry<Write>>>;

    fn handle(&mut self, get: GetLogEntries<Write, NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        let last = self.log.len();
        Ok(self.log[place(get.start.max(1)).min(last)..place(get.stop.max(get.start).max(1)).min(last)]
            .to_vec())
    }
}

impl Handler<AppendEntryToLog<Write, NoSnapshots>> for Store {
    type Result = Stored<()>;

    fn handle(
        &mut self,
        append: AppendEntryToLog<Write, NoSnapshots>,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.log.push((*append.entry).clone());
        Ok(())
    }
}

impl Handler<ReplicateToLog<Write, NoSnapshots>> for Store {
    type Result = Stored<()>;

    fn handle(&mut self, append: ReplicateToLog<Write, NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        self.log.extend_from_slice(&append.entries);
        Ok(())
    }
}

impl Handler<ApplyEntryToStateMachine<Write, Written, NoSnapshots>> for Store {
    type Result = Stored<Written>;

    fn handle(
        &mut self,
        _: ApplyEntryToStateMachine<Write, Written, NoSnapshots>,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.count += 1;
        Ok(Written(self.count))
    }
}

impl Handler<ReplicateToStateMachine<Write, NoSnapshots>> for Store {
    type Result = Stored<()>;

    fn handle(
        &mut self,
        apply: ReplicateToStateMachine<Write, NoSnapshots>,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.count += apply.payload.len() as u64;
        Ok(())
    }
}

impl Handler<CreateSnapshot<NoSnapshots>> for Store {
    type Result = Stored<CurrentSnapshotData>;

    fn handle(&mut self, _: CreateSnapshot<NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        Err(NoSnapshots)
    }
}

impl Handler<InstallSnapshot<NoSnapshots>> for Store {
    type Result = ResponseActFuture<Self, (), NoSnapshots>;

    fn handle(&mut self, _: InstallSnapshot<NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        Box::new(actix::fut::err(NoSnapshots))
    }
}

impl Handler<GetCurrentSnapshot<NoSnapshots>> for Store {
    type Result = Stored<Option<CurrentSnapshotData>>;

    fn handle(&mut self, _: GetCurrentSnapshot<NoSnapshots>, _: &mut Self::Context) -> Self::Result {
        Ok(None)
    }
}
