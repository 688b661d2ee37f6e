//! What operators ask for over HTTP: other members, another leader, a snapshot.
//!
//! * Only what the body says is done; what is not understood is refused.
//! * A change of the members takes as long as new ones need to catch up. Whoever asked is answered 202 after a while, and
//!   finds in `GET /status` how far it is. What is as asked for already is done: to ask again is harmless.
//! * Where clients reach new members is written to the log once their change is in it, and before they can lead: every
//!   node can send clients to every leader, and a change that is refused leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::{StatusCode, Uri};
use raft_core::host::Envelope;
use raft_core::{AdminRefusal, LogIndex, MembershipChange, NodeId};
use raft_driver_tokio::{AdminError, WriteError};
use serde::Deserialize;
use serde_json::json;

use crate::cli::parse_reachable;
use crate::http::Front;
use crate::http::answer::{Answer, Known, Problem, json};
use crate::machine::{self, Addresses};
use crate::node::Node;

/// Between two looks whether a change has begun.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The members were changed; where clients reach them was not written.
pub(crate) const HALF_DONE: &str = "half_done";

/// What `POST /members` takes: one node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    id: u64,
    /// Where other nodes reach it; may be left out for a member.
    raft: Option<String>,
    /// Where clients reach it.
    http: Option<String>,
    /// Whether it only receives the log.
    #[serde(default)]
    learner: bool,
}

/// What `PATCH /members` takes: any change in one step.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Members {
    /// Who is to vote, each with `RAFT` or `RAFT@HTTP`, or null for a member whose addresses are known.
    voters: BTreeMap<u64, Option<String>>,
    /// Who is to receive the log without a vote.
    learners: BTreeMap<u64, Option<String>>,
    /// Who is to leave.
    remove: BTreeSet<u64>,
}

/// What `POST /transfer` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Transfer {
    /// To whom; to the one that is furthest if it is not there.
    to: Option<u64>,
}

/// A change of the members, and where clients reach the new ones.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) membership: MembershipChange,
    pub(crate) http: Addresses,
}

impl Change {
    fn update(
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
        remove: BTreeSet<NodeId>,
        addresses: BTreeMap<NodeId, Bytes>,
        http: BTreeMap<NodeId, String>,
    ) -> Self {
        Self { membership: MembershipChange::Update { voters, learners, remove, addresses }, http }
    }

    /// One node leaves.
    pub(crate) fn remove(id: NodeId) -> Self {
        let none = BTreeSet::new;
        Self::update(none(), none(), [id].into(), BTreeMap::new(), BTreeMap::new())
    }

    /// What is in progress is given up.
    pub(crate) const fn cancel() -> Self {
        Self { membership: MembershipChange::Cancel, http: BTreeMap::new() }
    }

    /// Who leaves, if that is all.
    fn leaves(&self) -> Option<NodeId> {
        match &self.membership {
            MembershipChange::Update { voters, learners, remove, .. }
                if voters.is_empty() && learners.is_empty() && remove.len() == 1 =>
            {
                remove.first().copied()
            }
            _ => None,
        }
    }

    /// Reads the body of `POST /members`.
    pub(crate) fn parse_member(body: &[u8]) -> Result<Self, String> {
        let Member { id, raft, http, learner } =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let id = number(id)?;
        let addresses = raft.map(|raft| Ok::<_, String>((id, Bytes::from(parse_reachable(&raft)?))));
        let addresses = addresses.transpose()?.into_iter().collect();
        let http = http.map(|http| Ok::<_, String>((id, parse_reachable(&http)?))).transpose()?;
        let (one, none) = (BTreeSet::from([id]), BTreeSet::new());
        let (voters, learners) = if learner { (none, one) } else { (one, none) };
        Ok(Self::update(voters, learners, BTreeSet::new(), addresses, http.into_iter().collect()))
    }

    /// Reads the body of `PATCH /members`.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let Members { voters, learners, remove } =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if voters.is_empty() && learners.is_empty() && remove.is_empty() {
            return Err("nobody is named".into());
        }
        let (mut addresses, mut http) = (BTreeMap::new(), BTreeMap::new());
        for (id, text) in voters.iter().chain(&learners) {
            let (id, Some(text)) = (number(*id)?, text) else { continue };
            let (raft, clients) = match text.split_once('@') {
                Some((raft, clients)) => (raft, Some(parse_reachable(clients)?)),
                None => (text.as_str(), None),
            };
            addresses.insert(id, Bytes::from(parse_reachable(raft)?));
            http.extend(clients.map(|clients| (id, clients)));
        }
        let ids = |named: BTreeMap<u64, _>| named.into_keys().map(NodeId::new).collect();
        let remove = remove.into_iter().map(NodeId::new).collect();
        Ok(Self::update(ids(voters), ids(learners), remove, addresses, http))
    }
}

fn number(id: u64) -> Result<NodeId, String> {
    if id == 0 { Err("nodes are numbered from 1 on".into()) } else { Ok(NodeId::new(id)) }
}

fn not_understood(why: String, next: &str) -> Answer {
    Problem::bad_request("bad_body", format!("the body is not understood: {why}"), next)
        .known(Known::DidNotHappen)
        .answer()
}

impl<N: Node> Front<N> {
    /// `POST /members`.
    pub(crate) async fn add_member(&self, body: &[u8], uri: &Uri) -> Answer {
        match Change::parse_member(body) {
            Ok(change) => self.change_members(change, uri).await,
            Err(why) => not_understood(
                why,
                "send {\"id\":4,\"raft\":\"HOST:PORT\",\"http\":\"HOST:PORT\",\"learner\":false}",
            ),
        }
    }

    /// `PATCH /members`.
    pub(crate) async fn patch_members(&self, body: &[u8], uri: &Uri) -> Answer {
        match Change::parse(body) {
            Ok(change) => self.change_members(change, uri).await,
            Err(why) => not_understood(
                why,
                "send {\"voters\":{\"4\":\"RAFT@HTTP\"},\"learners\":{},\"remove\":[1]}, or a part of it",
            ),
        }
    }

    pub(crate) async fn change_members(&self, change: Change, uri: &Uri) -> Answer {
        // New members may only have heard of the log, not of the list that this node was started with. What was not
        // asked for here is true whatever becomes of the change.
        let known = self.addresses();
        let started_with = self.http.iter().filter(|(id, _)| !known.contains_key(id));
        let missing = started_with.map(|(id, address)| (*id, address.clone())).collect();
        if let Err(error) = self.write_addresses(&missing).await {
            return match error {
                WriteError::NotLeader { leader, .. } => self.elsewhere(leader, uri).answer(),
                error => {
                    let message = format!("the members were not changed: {error}");
                    Problem::unavailable("no_write", message).answer()
                }
            };
        }
        let leaves = change.leaves();
        let Some(before) = self.node.observe().await else {
            return Problem::unavailable("stopped", "the node has stopped").answer();
        };
        let mut written = false;
        let mut changing = pin!(self.node.change_membership(change.membership));
        let changed = tokio::select! {
            biased;
            changed = &mut changing => changed,
            () = self.begun(before.status.membership_index) => {
                // If it cannot be written, it is tried again at the end.
                written = self.write_addresses(&change.http).await.is_ok() && !change.http.is_empty();
                changing.await
            }
        };
        match changed {
            Ok(()) | Err(AdminError::Refused(AdminRefusal::NoChange)) => {}
            Err(AdminError::Refused(AdminRefusal::UnknownNode(id))) if leaves == Some(id) => {}
            Err(error) => {
                let problem = self.not_done(error, uri);
                // Another change began at the same time, and was taken for this one.
                let partly = written && problem.outcome == Some(Known::DidNotHappen);
                return if partly { problem.known(Known::Unknown) } else { problem }.answer();
            }
        }
        match self.write_addresses(&change.http).await {
            Ok(()) => done(),
            Err(error) => {
                let message =
                    format!("the members are as asked for; where clients reach them is not written: {error}");
                let failed = StatusCode::INTERNAL_SERVER_ERROR;
                let problem = Problem::new(failed, HALF_DONE, message, "ask again: what is done stays done");
                problem.known(Known::Committed).answer()
            }
        }
    }

    /// Writes what the log does not say yet of where clients reach whom.
    async fn write_addresses(&self, addresses: &Addresses) -> Result<(), WriteError> {
        let known = self.addresses();
        for (id, address) in addresses {
            if known.get(id) != Some(address) {
                let marked = format!("{address}{}", self.mark());
                self.node.write(Envelope::Plain.seal(machine::set_http(*id, &marked))).await?;
            }
        }
        Ok(())
    }

    /// Resolves when a configuration is in the log that was not there before; never, if the node stops.
    async fn begun(&self, before: LogIndex) {
        while self.node.observe().await.is_none_or(|now| now.status.membership_index <= before) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// `POST /transfer`.
    pub(crate) async fn transfer(&self, body: &[u8], uri: &Uri) -> Answer {
        let asked = if body.is_empty() { Ok(Transfer::default()) } else { serde_json::from_slice(body) };
        let to = match asked {
            Ok(Transfer { to }) => to.map(NodeId::new),
            Err(error) => return not_understood(error.to_string(), "send nothing, or {\"to\":2}"),
        };
        match self.node.transfer_leadership(to).await {
            Ok(leader) => json(StatusCode::OK, &json!({ "leader": leader.get() })),
            Err(AdminError::Refused(AdminRefusal::AlreadyLeader)) => {
                json(StatusCode::OK, &json!({ "leader": self.node.id().get() }))
            }
            Err(error) => self.not_done(error, uri).answer(),
        }
    }

    /// `POST /snapshot`: of this node.
    pub(crate) async fn snapshot(&self, uri: &Uri) -> Answer {
        match self.node.snapshot().await {
            Ok(()) => done(),
            Err(error) => self.not_done(error, uri).answer(),
        }
    }

    fn not_done(&self, error: AdminError, uri: &Uri) -> Problem {
        let refusal = match error {
            AdminError::NotLeader { leader, .. } => return self.elsewhere(leader, uri),
            AdminError::Refused(refusal) => refusal,
            error => {
                let message = format!("{error}: it may be done or not");
                let next = "look at GET /status; to ask again is harmless";
                return Problem::unknown(StatusCode::INTERNAL_SERVER_ERROR, message, next);
            }
        };
        let next = match &refusal {
            AdminRefusal::NoEntryCommitted | AdminRefusal::Busy | AdminRefusal::NotDurable => {
                return Problem::unavailable("not_now", refusal);
            }
            AdminRefusal::ChangeInProgress => {
                "wait until GET /status says \"changing\":false, or POST /members/cancel"
            }
            AdminRefusal::NoAddress(_) => "name its address, as in \"raft\":\"HOST:PORT\"",
            AdminRefusal::NoVoters => "leave at least one voter",
            AdminRefusal::TimedOut => "see that the nodes it names run and can be reached, then ask again",
            AdminRefusal::UnknownNode(_) => "name one of the members in GET /status",
            AdminRefusal::NoSnapshotNeeded => {
                "nothing, if GET /status has \"snapshot_index\" as high as \"last_applied\"; else one is being taken: ask again when that is done"
            }
            _ => "look at GET /status",
        };
        let kind = match &refusal {
            AdminRefusal::ChangeInProgress => "change_in_progress",
            _ => "refused",
        };
        // Whoever was asked to take over may do so yet.
        let known = if refusal == AdminRefusal::TimedOut { Known::Unknown } else { Known::DidNotHappen };
        Problem::new(StatusCode::CONFLICT, kind, refusal, next).known(known)
    }
}

fn done() -> Answer {
    json(StatusCode::OK, &json!({ "done": true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(id: u64) -> NodeId {
        NodeId::new(id)
    }

    #[test]
    fn a_change_names_members_and_their_addresses() {
        let body = br#"{"voters":{"4":"h:1@h:2","2":null},"learners":{"5":"h:3"},"remove":[1]}"#;
        let change = Change::parse(body).unwrap();
        let membership = MembershipChange::Update {
            voters: [n(2), n(4)].into(),
            learners: [n(5)].into(),
            remove: [n(1)].into(),
            addresses: [(n(4), "h:1".into()), (n(5), "h:3".into())].into(),
        };
        assert_eq!(change, Change { membership, http: [(n(4), "h:2".to_owned())].into() });
    }

    #[test]
    fn one_member_is_a_voter_unless_it_is_to_learn() {
        let update = |body: &str| match Change::parse_member(body.as_bytes()).unwrap() {
            Change { membership: MembershipChange::Update { voters, learners, remove, addresses }, http } => {
                assert!(remove.is_empty());
                (voters.len(), learners.len(), addresses.len(), http.len())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(update(r#"{"id":4,"raft":"h:1","http":"h:2"}"#), (1, 0, 1, 1));
        assert_eq!(update(r#"{"id":4,"raft":"h:1","learner":true}"#), (0, 1, 1, 0));
        assert_eq!(update(r#"{"id":4}"#), (1, 0, 0, 0), "a learner that is to vote");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for body in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"voters":{"x":null}}"#,
            br#"{"voters":{"0":null}}"#,
            br#"{"voters":{"4":"nowhere"}}"#,
            br#"{"voters":{"4":"h:1@nowhere"}}"#,
            br#"{"voter":{"4":"h:1"}}"#,
        ] {
            assert!(Change::parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        for body in [&b""[..], b"{}", br#"{"id":0}"#, br#"{"id":4,"raft":"h"}"#, br#"{"id":4,"voter":true}"#]
        {
            assert!(Change::parse_member(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
