//! Administrative requests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::host::StateMachine;
use raft_core::{AdminRefusal, MembershipChange, NodeId};
use tokio::sync::oneshot;

use super::{Raft, until};
use crate::error::AdminError;
use crate::request::{AdminReply, AdminRequest, Request};

impl<S: StateMachine> Raft<S> {
    /// Gives a pristine cluster its first configuration: every voter with its address, this node among them. Call
    /// it on one node or on several, with the same set; again is harmless, whoever has joined or left meanwhile. Never
    /// call it on a node that has lost its data: add that one under a new id.
    ///
    /// # Errors
    /// If the node was bootstrapped with another set (which it knows until the first snapshot behind a change of the
    /// membership), or the set cannot be used.
    pub async fn bootstrap(&self, members: BTreeMap<NodeId, Bytes>) -> Result<(), AdminError> {
        self.admin(AdminRequest::Bootstrap(members)).await.map(drop)
    }

    /// Asks for an election now.
    ///
    /// # Errors
    /// If the node may not campaign.
    pub async fn campaign(&self) -> Result<(), AdminError> {
        self.admin(AdminRequest::Campaign).await.map(drop)
    }

    /// Changes who takes part (§6), at the leader: to a set, or by differences. Returns when the last configuration of
    /// the change is committed, which takes as long as new voters need to catch up; one that makes no progress is given up
    /// after [`catch_up_timeout`](raft_core::Config::catch_up_timeout).
    ///
    /// # Errors
    /// If it was refused or given up; [`AdminError::Unknown`] if this node lost the leadership before the change was
    /// complete: a new leader goes on with it.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<(), AdminError> {
        self.admin(AdminRequest::ChangeMembership(Box::new(change))).await.map(drop)
    }

    /// Adds a node that receives the log and does not vote, or makes a voter one, at the leader. Returns when the change
    /// is committed; the node may still be far behind.
    ///
    /// # Errors
    /// As for [`change_membership`](Self::change_membership).
    pub async fn add_learner(&self, node: NodeId, address: impl Into<Bytes>) -> Result<(), AdminError> {
        let (learners, addresses) = (BTreeSet::from([node]), BTreeMap::from([(node, address.into())]));
        self.change_membership(MembershipChange::Update {
            voters: BTreeSet::new(),
            learners,
            remove: BTreeSet::new(),
            addresses,
        })
        .await
    }

    /// Adds a voter, or makes a learner one, at the leader: it receives the log first, and votes once it has caught up.
    ///
    /// # Errors
    /// As for [`change_membership`](Self::change_membership).
    pub async fn add_voter(&self, node: NodeId, address: impl Into<Bytes>) -> Result<(), AdminError> {
        let (voters, addresses) = (BTreeSet::from([node]), BTreeMap::from([(node, address.into())]));
        self.change_membership(MembershipChange::Update {
            voters,
            learners: BTreeSet::new(),
            remove: BTreeSet::new(),
            addresses,
        })
        .await
    }

    /// Removes a voter or a learner, at the leader, which may be the one removed: then it hands over and goes.
    ///
    /// # Errors
    /// As for [`change_membership`](Self::change_membership).
    pub async fn remove(&self, node: NodeId) -> Result<(), AdminError> {
        self.change_membership(MembershipChange::Update {
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            remove: BTreeSet::from([node]),
            addresses: BTreeMap::new(),
        })
        .await
    }

    /// Hands the leadership to another voter (thesis §3.10): to the one whose log is longest if `to` is `None`. Returns
    /// who leads, once it does.
    ///
    /// # Errors
    /// If this node does not lead, or nobody took over in time.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminError> {
        let led_by = self.admin(AdminRequest::TransferLeadership(to)).await?;
        led_by.or(to).ok_or(AdminError::Unknown)
    }

    /// Hands the leadership over if this node has it, and then follows. [`shutdown`](Self::shutdown) does so by itself.
    ///
    /// # Errors
    /// If there is nobody who could take over.
    pub async fn step_down(&self) -> Result<(), AdminError> {
        self.admin(AdminRequest::StepDown).await.map(drop)
    }

    /// Takes a snapshot of this node's state machine now (§7). Returns when it is durable.
    ///
    /// # Errors
    /// If nothing was applied since the last one, one is being taken, or it cannot be kept.
    pub async fn snapshot(&self) -> Result<(), AdminError> {
        self.admin(AdminRequest::TakeSnapshot).await.map(drop)
    }

    async fn admin(&self, request: AdminRequest) -> Result<Option<NodeId>, AdminError> {
        let (deadline, (sender, receiver)) = (self.deadline(), oneshot::channel());
        let request = Request::Admin(request, AdminReply(sender));
        match until(deadline, self.shared.inbox.request(request)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(AdminError::Stopped),
            // It was not handed over, and never will be.
            None => return Err(AdminRefusal::Busy.into()),
        }
        match until(deadline, receiver).await {
            Some(answer) => answer.unwrap_or(Err(AdminError::Stopped)),
            None => Err(AdminError::Unknown),
        }
    }
}
