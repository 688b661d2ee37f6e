//! A write may be stored as several records, so that a crash can cut it between them.

use raft_core::{Entries, Write};

/// The parts of a write in the order in which they are stored, its entries in as many pieces.
pub(crate) fn parts_of(write: &Write, pieces: u64) -> Vec<Write> {
    let part = |entries| Write { id: write.id, hard_state: None, reset_to: None, entries };
    let mut parts = Vec::new();
    if write.hard_state.is_some() {
        parts.push(Write { hard_state: write.hard_state, ..part(Entries::empty()) });
    }
    if write.reset_to.is_some() {
        parts.push(Write { reset_to: write.reset_to, ..part(Entries::empty()) });
    }
    if let Some((mut first, last)) = write.entries.first().zip(write.entries.last()) {
        let step = write.entries.len().div_ceil(pieces.max(1));
        while first.index <= last.index {
            let next = first.index.plus(step);
            parts.push(part(write.entries.slice(first.index, next.prev())));
            first.index = next;
        }
    }
    if parts.is_empty() {
        parts.push(part(Entries::empty()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{commands, hard_state, id, write};

    #[test]
    fn a_write_can_be_cut_between_its_parts_in_their_order() {
        let whole = Write {
            reset_to: Some(id(6, 2)),
            ..write(1, hard_state(3, 1), commands(7, 3, &["a", "b", "c"]))
        };
        let parts = parts_of(&whole, 2);
        let shapes: Vec<_> = parts
            .iter()
            .map(|part| (part.hard_state.is_some(), part.reset_to.is_some(), part.entries.len()))
            .collect();
        assert_eq!(shapes, [(true, false, 0), (false, true, 0), (false, false, 2), (false, false, 1)]);
        assert_eq!(Entries::join(parts.into_iter().map(|part| part.entries)).unwrap(), whole.entries);
        assert_eq!(parts_of(&write(1, None, Entries::empty()), 3).len(), 1);
    }
}
