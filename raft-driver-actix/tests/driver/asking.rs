//! Asking a cluster for something administrative.

use actix::dev::ToEnvelope;
use actix::prelude::*;
use raft_core::AdminRefusal;
use raft_core::host::StateMachine;
use raft_driver_actix::{AdminError, Raft};

use crate::support::within;

/// What the leader answers, wherever that is; asked again while an election or another change is going on.
pub(crate) async fn ask<S, M, T>(
    leader: impl AsyncFn() -> Addr<Raft<S>>,
    message: M,
) -> Result<T, AdminRefusal>
where
    S: StateMachine,
    M: Message<Result = Result<T, AdminError>> + Clone + Send + 'static,
    T: Send + 'static,
    Raft<S>: Handler<M>,
    <Raft<S> as Actor>::Context: ToEnvelope<Raft<S>, M>,
{
    within(async {
        loop {
            match leader().await.send(message.clone()).await.unwrap() {
                Ok(done) => return Ok(done),
                Err(
                    AdminError::Unknown
                    | AdminError::NotLeader { .. }
                    | AdminError::Refused(AdminRefusal::NoEntryCommitted | AdminRefusal::ChangeInProgress),
                ) => tokio::task::yield_now().await,
                Err(AdminError::Refused(refusal)) => return Err(refusal),
                Err(AdminError::Stopped) => panic!("a node stopped"),
            }
        }
    })
    .await
}
