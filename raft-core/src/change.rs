//! Which configuration follows which in a change of the membership (§6, thesis §4.3). Pure functions of a membership.
//!
//! A change of the voters goes through three entries:
//!
//! 1. *catching up*: as before, with the target as `intent`. Whoever it names receives the log and counts for nothing
//!    yet (thesis §4.2.1). It is left by the next step, or by a cancel, which appends the same without intent.
//! 2. *joint*, C_old,new: `voters` are the new ones, `outgoing` the old ones, and both majorities must agree (§6).
//! 3. *final*, C_new: the target, without intent.
//!
//! A change that leaves the voters as they are is one final entry: no majority changes.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::action::AdminRefusal;
use crate::ids::NodeId;
use crate::membership::{Membership, MembershipChange, Target};

/// The configuration with which `change` begins, where nothing else is in progress. [`MembershipChange::Cancel`] is
/// not for here.
pub(crate) fn begin(now: &Membership, change: &MembershipChange) -> Result<Membership, AdminRefusal> {
    let (target, addresses) = match change {
        MembershipChange::Set { target, addresses } => (target.clone(), addresses.clone()),
        MembershipChange::Update { voters, learners, remove, addresses } => {
            (updated(now, voters, learners, remove)?, addresses.clone())
        }
        MembershipChange::SetAddress { node, address } => {
            let target = Target { voters: now.voters.clone(), learners: now.learners.clone() };
            (target, BTreeMap::from([(*node, address.clone())]))
        }
        MembershipChange::Cancel => return Err(AdminRefusal::NothingToCancel),
    };
    if target.voters.is_empty() {
        return Err(AdminRefusal::NoVoters);
    }
    if let Some(node) = target.voters.intersection(&target.learners).next() {
        return Err(AdminRefusal::NamedTwice(*node));
    }
    if let Some(node) = addresses.keys().find(|node| !target.contains(**node)) {
        return Err(AdminRefusal::UnknownNode(*node));
    }
    let mut nodes = now.nodes.clone();
    nodes.extend(addresses);
    if let Some(node) = target.voters.union(&target.learners).find(|node| !nodes.contains_key(node)) {
        return Err(AdminRefusal::NoAddress(*node));
    }
    let voters_stay = target.voters == now.voters;
    let next = Membership { intent: Some(target), nodes, ..now.clone() };
    let next = if voters_stay { finish(&next) } else { next };
    if next == *now { Err(AdminRefusal::NoChange) } else { Ok(next) }
}

fn updated(
    now: &Membership,
    voters: &BTreeSet<NodeId>,
    learners: &BTreeSet<NodeId>,
    remove: &BTreeSet<NodeId>,
) -> Result<Target, AdminRefusal> {
    let twice = voters.intersection(learners).chain(remove.intersection(voters));
    if let Some(node) = twice.chain(remove.intersection(learners)).next() {
        return Err(AdminRefusal::NamedTwice(*node));
    }
    if let Some(node) = remove.iter().find(|node| !now.contains(**node)) {
        return Err(AdminRefusal::UnknownNode(*node));
    }
    let merged = |now: &BTreeSet<NodeId>, add: &BTreeSet<NodeId>, elsewhere: &BTreeSet<NodeId>| {
        let kept = now.iter().filter(|node| !elsewhere.contains(node) && !remove.contains(node));
        kept.chain(add).copied().collect()
    };
    Ok(Target {
        voters: merged(&now.voters, voters, learners),
        learners: merged(&now.learners, learners, voters),
    })
}

/// C_old,new: what a configuration that catches up turns into (§6).
pub(crate) fn join(catching_up: &Membership) -> Membership {
    let target = catching_up.intent.clone().expect("a change in progress has a target");
    let outgoing = catching_up.voters.clone();
    pruned(Membership {
        learners: target.learners.difference(&outgoing).copied().collect(),
        learners_next: target.learners.intersection(&outgoing).copied().collect(),
        voters: target.voters.clone(),
        outgoing,
        intent: Some(target),
        nodes: catching_up.nodes.clone(),
    })
}

/// C_new: the target and nothing else (§6). A joint configuration without one, which no leader here writes, ends at what
/// it says of itself.
pub(crate) fn finish(changing: &Membership) -> Membership {
    let learners = || changing.learners.union(&changing.learners_next).copied();
    let target = changing.intent.clone();
    let target = target.unwrap_or_else(|| Target {
        voters: changing.voters.clone(),
        learners: learners().filter(|node| !changing.voters.contains(node)).collect(),
    });
    let Target { voters, learners } = target;
    pruned(Membership { voters, learners, nodes: changing.nodes.clone(), ..Membership::default() })
}

/// The configuration as it was before the change began to catch up. Addresses that came with the change stay: members are
/// there, whatever becomes of it.
pub(crate) fn abandon(catching_up: &Membership) -> Membership {
    pruned(Membership { intent: None, ..catching_up.clone() })
}

/// Without the addresses of those who do not take part any more.
fn pruned(mut membership: Membership) -> Membership {
    let members = membership.members();
    membership.nodes.retain(|node, _| members.contains(node));
    membership
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId::new).collect()
    }

    fn addresses(of: &[u64]) -> BTreeMap<NodeId, Bytes> {
        of.iter().map(|id| (NodeId::new(*id), Bytes::from_static(b"there"))).collect()
    }

    fn cluster(voters: &[u64], learners: &[u64]) -> Membership {
        let all: alloc::vec::Vec<u64> = voters.iter().chain(learners).copied().collect();
        Membership {
            voters: ids(voters),
            learners: ids(learners),
            nodes: addresses(&all),
            ..Membership::default()
        }
    }

    fn update(voters: &[u64], learners: &[u64], remove: &[u64], new: &[u64]) -> MembershipChange {
        MembershipChange::Update {
            voters: ids(voters),
            learners: ids(learners),
            remove: ids(remove),
            addresses: addresses(new),
        }
    }

    #[test]
    fn replacing_demoting_and_promoting_at_once_goes_through_a_joint_phase() {
        let now = cluster(&[1, 2, 3], &[4, 5]);
        let catching = begin(&now, &update(&[4, 6], &[3], &[1, 5], &[6])).expect("it can be done");
        assert_eq!((&catching.voters, &catching.learners), (&ids(&[1, 2, 3]), &ids(&[4, 5])));
        assert!(catching.contains(NodeId::new(6)) && !catching.is_voter(NodeId::new(6)));
        assert_eq!(abandon(&catching), now, "a cancel leaves no trace of who was to come");
        let joint = join(&catching);
        assert_eq!((&joint.voters, &joint.outgoing), (&ids(&[2, 4, 6]), &ids(&[1, 2, 3])));
        assert_eq!((&joint.learners, &joint.learners_next), (&ids(&[]), &ids(&[3])));
        assert_eq!(joint.validate(), Ok(()));
        let done = finish(&joint);
        assert_eq!(done, cluster(&[2, 4, 6], &[3]));
    }

    #[test]
    fn learners_alone_need_no_joint_phase() {
        let now = cluster(&[1, 2, 3], &[4]);
        assert_eq!(begin(&now, &update(&[], &[5], &[4], &[5])), Ok(cluster(&[1, 2, 3], &[5])));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let now = cluster(&[1, 2], &[]);
        let refused = [
            (update(&[1], &[], &[], &[]), AdminRefusal::NoChange),
            (update(&[3], &[], &[], &[]), AdminRefusal::NoAddress(NodeId::new(3))),
            (update(&[], &[], &[3], &[]), AdminRefusal::UnknownNode(NodeId::new(3))),
            (update(&[], &[], &[1, 2], &[]), AdminRefusal::NoVoters),
            (update(&[1], &[1], &[], &[]), AdminRefusal::NamedTwice(NodeId::new(1))),
            (update(&[], &[], &[], &[9]), AdminRefusal::UnknownNode(NodeId::new(9))),
            (MembershipChange::Cancel, AdminRefusal::NothingToCancel),
        ];
        for (change, refusal) in refused {
            assert_eq!(begin(&now, &change), Err(refusal), "{change:?}");
        }
    }

    #[test]
    fn an_address_changes_alone() {
        let now = cluster(&[1, 2], &[]);
        let node = NodeId::new(2);
        let change = MembershipChange::SetAddress { node, address: Bytes::from_static(b"elsewhere") };
        let next = begin(&now, &change).expect("a member moved");
        assert_eq!(next.voters, now.voters);
        assert_eq!(next.nodes[&node], Bytes::from_static(b"elsewhere"));
    }
}
