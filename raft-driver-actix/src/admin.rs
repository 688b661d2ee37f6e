//! What operators say to the [`Raft`](crate::Raft) actor.

use std::collections::BTreeMap;

use actix::Message;
use bytes::Bytes;
use raft_core::host::{Operator, StateMachine};
use raft_core::{AdminOutcome, MembershipChange, NodeId};
use raft_driver_tokio::driver::AdminRequest;
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

/// Asks for an election now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Campaign;

impl Message for Campaign {
    type Result = Result<(), AdminError>;
}

/// Changes who takes part (§6), at the leader. Answered when the last configuration of the change is committed, which
/// takes as long as new voters need to catch up. [`AdminError::Unknown`] if the node lost the leadership before: a new
/// leader goes on with the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeMembership(pub MembershipChange);

impl Message for ChangeMembership {
    type Result = Result<(), AdminError>;
}

/// Hands the leadership to another voter (thesis §3.10): to the one whose log is longest if it is `None`. Answered with
/// who leads, once it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLeadership(pub Option<NodeId>);

impl Message for TransferLeadership {
    type Result = Result<NodeId, AdminError>;
}

/// Hands the leadership over if the node has it: send it before [`Shutdown`], and no client waits for an election
/// timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepDown;

impl Message for StepDown {
    type Result = Result<(), AdminError>;
}

/// Takes a snapshot of the node's state machine now (§7). Answered when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeSnapshot;

impl Message for TakeSnapshot {
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

/// Messages that are answered when the node has done something.
macro_rules! requests {
    ($($message:ident as $this:ident => $request:expr),* $(,)?) => {$(
        impl<S: StateMachine> Deferrable<S> for $message {
            fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
                let $this = self;
                Request::Admin($request, AdminReply::Done(reply))
            }
        }
    )*};
}
requests!(
    InitWithConfig as this => AdminRequest::Bootstrap(this.members),
    Campaign as _this => AdminRequest::Campaign,
    ChangeMembership as this => AdminRequest::ChangeMembership(Box::new(this.0)),
    StepDown as _this => AdminRequest::StepDown,
    TakeSnapshot as _this => AdminRequest::TakeSnapshot,
);

impl<S: StateMachine> Deferrable<S> for TransferLeadership {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        let Self(to) = self;
        Request::Admin(AdminRequest::TransferLeadership(to), AdminReply::Transferred(to, reply))
    }
}

impl<S: StateMachine> Deferrable<S> for Shutdown {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        Request::Shutdown(reply)
    }
}

/// Where an administrative answer goes.
pub(crate) enum AdminReply {
    Done(Reply<Result<(), AdminError>>),
    /// And to whom the leadership was to go.
    Transferred(Option<NodeId>, Reply<Result<NodeId, AdminError>>),
}

impl AdminReply {
    fn tell(self, result: Result<Option<NodeId>, AdminError>) {
        match self {
            Self::Done(reply) => reply.answer(result.map(drop)),
            Self::Transferred(to, reply) => {
                reply.answer(result.and_then(|led_by| led_by.or(to).ok_or(AdminError::Unknown)));
            }
        }
    }
}

impl Operator for AdminReply {
    fn answer(self, outcome: AdminOutcome) {
        self.tell(AdminError::of(outcome));
    }

    fn stopped(self) {
        self.tell(Err(AdminError::Stopped));
    }
}
