//! What operators say to the [`Raft`](crate::Raft) actor.

use std::collections::BTreeMap;

use actix::Message;
use bytes::Bytes;
use raft_core::host::{Operator, StateMachine};
use raft_core::{AdminOutcome, NodeId};
use raft_driver_tokio::{AdminError, StopReason};

use crate::actor::Request;
use crate::messages::{Deferrable, Reply};

/// Forms a cluster: gives pristine nodes their first configuration. Send it to one of them or to all, with the same
/// set; again is harmless. A node that is alone in the set leads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitWithConfig {
    /// Every voter with its address, in whatever form the network uses; the receiver is among them.
    pub members: BTreeMap<NodeId, Bytes>,
}

impl Message for InitWithConfig {
    type Result = Result<(), AdminError>;
}

/// Stops the node. Resolves when everything of it has ended: log store and state machine are dropped, their threads
/// idle, and the network is closed. Says why the node stopped, which may be an earlier reason than this message.
///
/// What is committed and was handed to the state machine is applied first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown;

impl Message for Shutdown {
    type Result = StopReason;
}

impl<S: StateMachine> Deferrable<S> for InitWithConfig {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        Request::Bootstrap { members: self.members, reply: AdminReply(reply) }
    }
}

impl<S: StateMachine> Deferrable<S> for Shutdown {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        Request::Shutdown(reply)
    }
}

/// Where an administrative answer goes.
pub(crate) struct AdminReply(Reply<Result<(), AdminError>>);

impl Operator for AdminReply {
    fn answer(self, outcome: AdminOutcome) {
        self.0.answer(match outcome {
            AdminOutcome::Done => Ok(()),
            AdminOutcome::Refused(refusal) => Err(refusal.into()),
        });
    }

    fn stopped(self) {
        self.0.answer(Err(AdminError::Stopped));
    }
}
