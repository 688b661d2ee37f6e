//! What operators say to the [`Raft`](crate::Raft) actor.
//!
//! Errors are [`AdminError`]s: [`NotLeader`](AdminError::NotLeader) with the leader and its address,
//! [`Refused`](AdminError::Refused) with the reason, [`Unknown`](AdminError::Unknown) if the leadership ended meanwhile: a
//! new leader goes on with a change of the membership that an old one began.

use std::collections::{BTreeMap, BTreeSet};

use actix::Message;
use bytes::Bytes;
use raft_core::host::{Operator, StateMachine};
use raft_core::{AdminOutcome, Membership, MembershipChange, NodeId};
use raft_driver_tokio::driver::AdminRequest;
use raft_driver_tokio::{AdminError, StopReason};

use crate::inbox::Request;
use crate::messages::{Deferrable, Reply};

/// Forms a cluster: gives pristine nodes their first configuration. Send it to one of them or to all at once, with the
/// same set; again is harmless, but never to a node that has lost its data: add that one under a new id. A node that is
/// alone in the set leads at once.
///
/// A node that was started with its own [`address`](crate::Builder::address) adds itself if it is missing. One that
/// belongs to a cluster of another set already answers [`NotPristine`](raft_core::AdminRefusal::NotPristine), as long as
/// it knows with whom it began: until the first snapshot behind a change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitWithConfig {
    /// Every voter with its address, in whatever form the network uses.
    pub members: BTreeMap<NodeId, Bytes>,
}

impl InitWithConfig {
    /// These members; whoever is named twice counts once.
    pub fn new<A: Into<Bytes>>(members: impl IntoIterator<Item = (NodeId, A)>) -> Self {
        Self { members: members.into_iter().map(|(id, address)| (id, address.into())).collect() }
    }
}

/// Adds voters and removes members, at the leader, which may be among those removed: then it hands over and goes (§6).
///
/// Whoever is new begins as a non-voter, and is promoted when it has caught up. Answered when the last configuration of
/// the change is committed. One change at a time: [`CancelConfigChange`] alone may come in between.
///
/// | refused as | because |
/// |---|---|
/// | [`AdminError::NotLeader`] | only the leader changes the membership |
/// | [`NoChange`](raft_core::AdminRefusal::NoChange) | everything is as asked for already |
/// | [`NoVoters`](raft_core::AdminRefusal::NoVoters) | nobody would be left to vote |
/// | [`ChangeInProgress`](raft_core::AdminRefusal::ChangeInProgress) | another change is not complete yet |
/// | [`NoEntryCommitted`](raft_core::AdminRefusal::NoEntryCommitted) | the leader has only just been elected: try again |
/// | [`TimedOut`](raft_core::AdminRefusal::TimedOut) | new voters made no progress for [`catch_up_timeout`](raft_core::Config::catch_up_timeout) |
/// | [`Cancelled`](raft_core::AdminRefusal::Cancelled) | somebody cancelled it |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProposeConfigChange {
    /// Who is to vote, with their addresses. A learner among them is promoted.
    pub add: BTreeMap<NodeId, Bytes>,
    /// Who is to leave, voter or learner, or still catching up.
    pub remove: BTreeSet<NodeId>,
}

/// Gives up the change of the membership that is in progress: at any leader that votes while new voters catch up; once the joint
/// configuration is in the log, only at the leader that put it there, and only until it is committed
/// ([`TooLate`](raft_core::AdminRefusal::TooLate)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelConfigChange;

/// Adds a node that receives the log and is not counted in any vote, until somebody changes that; or makes a voter one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddLearner {
    /// Who.
    pub node: NodeId,
    /// Where it is reached.
    pub address: Bytes,
}

/// Any other change of who takes part (§6): to an exact set, or of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeMembership(pub MembershipChange);

/// Asks for an election now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Campaign;

/// Hands the leadership to another voter (thesis §3.10): to the one whose log is longest if it is `None`. Answered with
/// who leads, once it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLeader(pub Option<NodeId>);

/// Hands the leadership over if the node has it, and then follows. [`Shutdown`] does so by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepDown;

/// Takes a snapshot of the node's state machine now (§7). Answered when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerSnapshot;

/// Stops the node, after it has handed the leadership over if it has it, which takes
/// [`Config::handover_max`](raft_core::Config::handover_max) at most.
///
/// Resolves when everything of the node has ended: log store and state machine are dropped, their threads and tasks are
/// gone, the network is closed, and nothing of it sends a heartbeat any more. Says why the node stopped, which may be an
/// earlier reason than this message. What is committed and was handed to the state machine is applied first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown;

/// As [`Shutdown`], at once: if the node leads, its followers find out by an election timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownNow;

impl Message for TransferLeader {
    type Result = Result<NodeId, AdminError>;
}

impl Message for Shutdown {
    type Result = StopReason;
}

impl Message for ShutdownNow {
    type Result = StopReason;
}

/// Messages that are answered when the node has done something.
macro_rules! requests {
    ($($message:ident as $this:ident => $request:expr),* $(,)?) => {$(
        impl Message for $message {
            type Result = Result<(), AdminError>;
        }

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
    ProposeConfigChange as this => {
        let voters = this.add.keys().copied().collect();
        update(voters, BTreeSet::new(), this.remove, this.add)
    },
    CancelConfigChange as _this => AdminRequest::ChangeMembership(Box::new(MembershipChange::Cancel)),
    AddLearner as this => {
        let addresses = [(this.node, this.address)].into();
        update(BTreeSet::new(), [this.node].into(), BTreeSet::new(), addresses)
    },
    ChangeMembership as this => AdminRequest::ChangeMembership(Box::new(this.0)),
    Campaign as _this => AdminRequest::Campaign,
    StepDown as _this => AdminRequest::StepDown,
    TriggerSnapshot as _this => AdminRequest::TakeSnapshot,
);

fn update(
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    remove: BTreeSet<NodeId>,
    addresses: BTreeMap<NodeId, Bytes>,
) -> AdminRequest {
    let change = MembershipChange::Update { voters, learners, remove, addresses };
    AdminRequest::ChangeMembership(Box::new(change))
}

impl<S: StateMachine> Deferrable<S> for TransferLeader {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        let Self(to) = self;
        Request::Admin(AdminRequest::TransferLeadership(to), AdminReply::Transferred(to, reply))
    }
}

impl<S: StateMachine> Deferrable<S> for Shutdown {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        Request::Shutdown { at_once: false, reply }
    }
}

impl<S: StateMachine> Deferrable<S> for ShutdownNow {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        Request::Shutdown { at_once: true, reply }
    }
}

/// Where an administrative answer goes.
pub(crate) enum AdminReply {
    Done(Reply<Result<(), AdminError>>),
    /// And to whom the leadership was to go.
    Transferred(Option<NodeId>, Reply<Result<NodeId, AdminError>>),
}

impl AdminReply {
    pub(crate) fn tell(self, result: Result<Option<NodeId>, AdminError>) {
        match self {
            Self::Done(reply) => reply.answer(result.map(drop)),
            Self::Transferred(to, reply) => {
                reply.answer(result.and_then(|led_by| led_by.or(to).ok_or(AdminError::Unknown)));
            }
        }
    }
}

impl Operator for AdminReply {
    fn answer(self, outcome: AdminOutcome, membership: &Membership) {
        self.tell(AdminError::of(outcome, membership));
    }

    fn stopped(self) {
        self.tell(Err(AdminError::Stopped));
    }
}
