//! Majorities, simple and joint (§5.2, §6). Pure functions of a membership.

use alloc::collections::BTreeSet;

use crate::ids::NodeId;
use crate::membership::Membership;

/// The greatest value that a majority of `voters` has reached, in both sets while joint (§6).
///
/// `value(node)` is what that node has reached. An empty set of voters reaches nothing: `T::default()`.
pub(crate) fn reached<T: Ord + Copy + Default>(membership: &Membership, value: impl Fn(NodeId) -> T) -> T {
    let incoming = majority(&membership.voters, &value);
    if membership.outgoing.is_empty() {
        return incoming;
    }
    incoming.min(majority(&membership.outgoing, &value))
}

/// Whether a majority, of both sets while joint, says yes.
pub(crate) fn agrees(membership: &Membership, yes: impl Fn(NodeId) -> bool) -> bool {
    reached(membership, yes)
}

/// Voters up to which a majority is found by sorting what they have reached.
const INLINE: usize = 16;

/// The greatest value that a majority of these has reached; `None` if they are too many to be sorted here.
pub(crate) fn reached_by<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> Option<T> {
    // Kept in falling order: so few are sorted fastest as they come.
    let mut sorted = [T::default(); INLINE];
    let mut count = 0;
    for value in values {
        let mut at = count;
        if at == INLINE {
            return None;
        }
        while at > 0 && sorted[at - 1] < value {
            sorted[at] = sorted[at - 1];
            at -= 1;
        }
        sorted[at] = value;
        count += 1;
    }
    sorted.get(count / 2).copied()
}

/// The greatest value reached by more than half of `voters`.
fn majority<T: Ord + Copy + Default>(voters: &BTreeSet<NodeId>, value: impl Fn(NodeId) -> T) -> T {
    if let Some(reached) = reached_by(voters.iter().map(|node| value(*node))) {
        return reached;
    }
    // Large clusters are rare: each candidate value is counted, without a buffer.
    let needed = voters.len() / 2 + 1;
    let count = |least: T| voters.iter().filter(|node| value(**node) >= least).count();
    voters.iter().map(|node| value(*node)).filter(|least| count(*least) >= needed).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    fn membership(voters: &BTreeSet<u64>, outgoing: &BTreeSet<u64>) -> Membership {
        let ids = |set: &BTreeSet<u64>| set.iter().map(|n| NodeId::new(*n)).collect();
        Membership { voters: ids(voters), outgoing: ids(outgoing), ..Membership::default() }
    }

    /// The definition: the greatest value such that more than half are at or above it.
    fn naive(voters: &BTreeSet<u64>, values: &BTreeMap<u64, u64>) -> u64 {
        (0..=20)
            .rev()
            .find(|least| voters.iter().filter(|n| values[n] >= *least).count() * 2 > voters.len())
            .unwrap_or(0)
    }

    proptest! {
        #[test]
        fn reached_is_the_greatest_value_of_a_majority_of_each_set(
            voters in proptest::collection::btree_set(0u64..40, 0..20),
            outgoing in proptest::collection::btree_set(0u64..40, 0..20),
            values in proptest::collection::vec(0u64..=20, 40),
        ) {
            let values: BTreeMap<u64, u64> = (0..).zip(values).collect();
            let mut expected = naive(&voters, &values);
            if !outgoing.is_empty() {
                expected = expected.min(naive(&outgoing, &values));
            }
            let got = reached(&membership(&voters, &outgoing), |node| values[&node.get()]);
            prop_assert_eq!(got, if voters.is_empty() { 0 } else { expected });
        }
    }

    #[test]
    fn nobody_agrees_without_voters() {
        assert!(!agrees(&Membership::default(), |_| true));
    }
}
