//! What operators ask for over HTTP: other members, another leader, a snapshot.
//!
//! * Only what the body says is done; what is not understood is refused.
//! * A change of the members takes as long as new ones need to catch up. Whoever asked is answered 202 after a while, and
//!   finds in `GET /status` how far it is.
//! * Where clients reach the members is written to the log before they become members, so that every node can send
//!   clients to every leader.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hyper::{StatusCode, Uri};
use raft_core::{AdminRefusal, MembershipChange, NodeId};
use raft_driver_tokio::{AdminError, WriteError};
use serde::Deserialize;
use serde_json::json;

use crate::cli::parse_address;
use crate::http::{Answer, Front, json, problem, unavailable, unknown};
use crate::machine;

/// What `POST /admin/members` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Members {
    /// Who is to vote, each with `RAFT` or `RAFT@HTTP`, or null for a member whose addresses are known.
    voters: BTreeMap<u64, Option<String>>,
    /// Who is to receive the log without a vote.
    learners: BTreeMap<u64, Option<String>>,
    /// Who is to leave.
    remove: BTreeSet<u64>,
    /// Give up the change in progress instead.
    cancel: bool,
}

/// What `POST /admin/transfer` takes.
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
    pub(crate) http: BTreeMap<NodeId, String>,
}

/// Reads the body of `POST /admin/members`.
pub(crate) fn parse_change(body: &[u8]) -> Result<Change, String> {
    let asked: Members = serde_json::from_slice(body).map_err(|error| {
        format!("expected {{\"voters\":{{\"4\":\"RAFT@HTTP\"}},\"remove\":[1]}} or the like: {error}")
    })?;
    let Members { voters, learners, remove, cancel } = asked;
    let nothing = voters.is_empty() && learners.is_empty() && remove.is_empty();
    if cancel != nothing {
        return Err("name voters, learners or nodes to remove; or say \"cancel\":true alone".into());
    }
    if cancel {
        return Ok(Change { membership: MembershipChange::Cancel, http: BTreeMap::new() });
    }
    let (mut addresses, mut http) = (BTreeMap::new(), BTreeMap::new());
    for (id, text) in voters.iter().chain(&learners) {
        let (id, Some(text)) = (NodeId::new(*id), text) else { continue };
        let (raft, clients) = match text.split_once('@') {
            Some((raft, clients)) => (raft, Some(parse_address(clients)?)),
            None => (text.as_str(), None),
        };
        addresses.insert(id, Bytes::from(parse_address(raft)?));
        http.extend(clients.map(|clients| (id, clients)));
    }
    let ids = |named: BTreeMap<u64, _>| named.into_keys().map(NodeId::new).collect();
    let membership = MembershipChange::Update {
        voters: ids(voters),
        learners: ids(learners),
        remove: remove.into_iter().map(NodeId::new).collect(),
        addresses,
    };
    Ok(Change { membership, http })
}

impl Front {
    /// `POST /admin/members`.
    pub(crate) async fn change_members(&self, body: &[u8], uri: &Uri) -> Answer {
        let change = match parse_change(body) {
            Ok(change) => change,
            Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
        };
        let known = self.glance.http();
        // New members may only have heard of the log, not of the list that this node was started with.
        let all = self.http.iter().filter(|(id, _)| !known.contains_key(id)).chain(&change.http);
        for (id, address) in all.filter(|(id, address)| known.get(id) != Some(address)) {
            match self.raft.write(machine::set_http(*id, address)).await {
                Ok(_) => {}
                Err(WriteError::NotLeader { leader, .. }) => return self.elsewhere(leader, uri),
                Err(error) => return unavailable(&format!("the members were not changed: {error}")),
            }
        }
        match self.raft.change_membership(change.membership).await {
            Ok(()) => json(StatusCode::OK, &json!({ "done": true })),
            Err(error) => self.not_done(error, uri),
        }
    }

    /// `POST /admin/transfer`.
    pub(crate) async fn transfer(&self, body: &[u8], uri: &Uri) -> Answer {
        let asked = if body.is_empty() { Ok(Transfer::default()) } else { serde_json::from_slice(body) };
        let to = match asked {
            Ok(Transfer { to }) => to.map(NodeId::new),
            Err(error) => {
                let what = format!("expected nothing or {{\"to\":2}}: {error}");
                return problem(StatusCode::BAD_REQUEST, &what);
            }
        };
        match self.raft.transfer_leadership(to).await {
            Ok(leader) => json(StatusCode::OK, &json!({ "leader": leader.get() })),
            Err(error) => self.not_done(error, uri),
        }
    }

    /// `POST /admin/snapshot`: of this node.
    pub(crate) async fn snapshot(&self, uri: &Uri) -> Answer {
        match self.raft.snapshot().await {
            Ok(()) => json(StatusCode::OK, &json!({ "done": true })),
            Err(error) => self.not_done(error, uri),
        }
    }

    fn not_done(&self, error: AdminError, uri: &Uri) -> Answer {
        match error {
            AdminError::NotLeader { leader, .. } => self.elsewhere(leader, uri),
            AdminError::Refused(
                refusal @ (AdminRefusal::NoEntryCommitted | AdminRefusal::Busy | AdminRefusal::NotDurable),
            ) => unavailable(&refusal.to_string()),
            AdminError::Refused(refusal) => problem(StatusCode::CONFLICT, &refusal.to_string()),
            error @ (AdminError::Unknown | AdminError::Stopped) => unknown(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("{error}: it may be done or not; GET /status tells"),
            ),
        }
    }
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
        let change = parse_change(body).unwrap();
        let membership = MembershipChange::Update {
            voters: [n(2), n(4)].into(),
            learners: [n(5)].into(),
            remove: [n(1)].into(),
            addresses: [(n(4), "h:1".into()), (n(5), "h:3".into())].into(),
        };
        assert_eq!(change, Change { membership, http: [(n(4), "h:2".to_owned())].into() });
        assert_eq!(parse_change(br#"{"cancel":true}"#).unwrap().membership, MembershipChange::Cancel);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for body in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"voters":{"x":null}}"#,
            br#"{"voters":{"4":"nowhere"}}"#,
            br#"{"voters":{"4":"h:1@nowhere"}}"#,
            br#"{"voter":{"4":"h:1"}}"#,
            br#"{"cancel":true,"remove":[1]}"#,
        ] {
            assert!(parse_change(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
