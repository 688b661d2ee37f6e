//! The rules by which configurations decide (§6), written anew: the core's own are what is under test.

use std::collections::BTreeSet;

use raft_core::{Membership, NodeId};

fn most(set: &BTreeSet<NodeId>, yes: impl Fn(NodeId) -> bool) -> bool {
    set.iter().filter(|node| yes(**node)).count() * 2 > set.len()
}

/// Whether those who say yes decide: a majority, of both sets while joint.
pub(crate) fn decides(membership: &Membership, yes: impl Fn(NodeId) -> bool) -> bool {
    most(&membership.voters, &yes) && (membership.outgoing.is_empty() || most(&membership.outgoing, &yes))
}

/// Whether any two groups that decide, one by each configuration, have a node in common.
///
/// By one pair of sets whose majorities always meet, which every two neighbours of joint consensus have.
pub(crate) fn intersect(a: &Membership, b: &Membership) -> bool {
    let sets = |membership: &Membership| [membership.voters.clone(), membership.outgoing.clone()];
    sets(a).iter().any(|a| sets(b).iter().any(|b| meet(a, b)))
}

fn meet(a: &BTreeSet<NodeId>, b: &BTreeSet<NodeId>) -> bool {
    if a.is_empty() || b.is_empty() {
        return false;
    }
    // Two majorities that avoid each other take their own nodes first, and share out the common ones.
    let of_common = |a: &BTreeSet<NodeId>, b| (a.len() / 2 + 1).saturating_sub(a.difference(b).count());
    of_common(a, b) + of_common(b, a) > a.intersection(b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{joint, node, voters};

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let membership = joint(&[1, 2, 3], &[3, 4, 5]);
        let by = |nodes: &[u64]| decides(&membership, |id| nodes.iter().any(|n| node(*n) == id));
        assert!(by(&[1, 3, 4]) && by(&[2, 3, 5]));
        assert!(!by(&[1, 2, 3]) && !by(&[3, 4, 5]) && !by(&[]));
        assert!(!decides(&Membership::default(), |_| true));
    }

    #[test]
    fn groups_that_can_avoid_each_other_are_seen() {
        let old = voters(&[1, 2, 3]);
        assert!(intersect(&old, &voters(&[1, 2, 3, 4])));
        assert!(intersect(&old, &voters(&[1, 2])));
        assert!(!intersect(&old, &voters(&[1, 2, 3, 4, 5])));
        assert!(!intersect(&old, &voters(&[3, 4, 5])));
        let both = joint(&[1, 2, 3], &[3, 4, 5]);
        assert!(intersect(&old, &both) && intersect(&both, &voters(&[3, 4, 5])));
        assert!(!intersect(&both, &voters(&[6, 7, 8])));
    }

    #[test]
    fn the_shortcut_agrees_with_trying_every_pair_of_groups() {
        let sets: Vec<Vec<u64>> =
            (1..32_u64).map(|bits| (1..=5).filter(|n| (bits >> n) & 1 == 1).collect()).collect();
        for a in sets.iter().filter(|set| !set.is_empty()) {
            for b in sets.iter().filter(|set| !set.is_empty()) {
                let (one, two) = (voters(a), voters(b));
                let has = |bits: u64, id: NodeId| (bits >> id.get()) & 1 == 1;
                let disjoint = (0..64)
                    .any(|bits| decides(&one, |id| has(bits, id)) && decides(&two, |id| !has(bits, id)));
                assert_eq!(intersect(&one, &two), !disjoint, "{a:?} and {b:?}");
            }
        }
    }
}
