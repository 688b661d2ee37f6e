//! What is in a log, as its records add up to it: what reads see.
//!
//! * A record replaces the log from its first entry on; one that begins the log anew drops everything.

use raft_core::{Entries, LogId, LogIndex};

/// The log as the records add up to it: what a read sees.
#[derive(Default)]
pub(super) struct LogView {
    /// Consecutive, none empty.
    parts: Vec<Entries>,
}

fn first_of(entries: &Entries) -> LogIndex {
    entries.first().map_or(LogIndex::ZERO, |id| id.index)
}

fn last_of(entries: &Entries) -> LogIndex {
    entries.last().map_or(LogIndex::ZERO, |id| id.index)
}

impl LogView {
    pub(super) fn take_in(&mut self, reset_to: Option<LogId>, entries: &Entries) {
        if reset_to.is_some() {
            self.parts.clear();
        }
        self.replace_from(entries);
    }

    /// The last entry of the last record that ends at or before `through`.
    pub(super) fn last_record_within(&self, through: LogIndex) -> Option<LogId> {
        let within = self.parts.partition_point(|part| last_of(part) <= through);
        self.parts.get(within.checked_sub(1)?)?.last()
    }

    pub(super) fn compact(&mut self, through: LogIndex) {
        let dropped = self.parts.partition_point(|part| last_of(part) <= through);
        self.parts.drain(..dropped);
        if let Some(part) = self.parts.first_mut()
            && first_of(part) <= through
        {
            *part = part.slice(through.next(), last_of(part));
        }
    }

    fn replace_from(&mut self, entries: &Entries) {
        if entries.is_empty() {
            return;
        }
        let first = first_of(entries);
        while self.parts.pop_if(|part| first_of(part) >= first).is_some() {}
        if let Some(part) = self.parts.last_mut()
            && last_of(part) >= first
        {
            *part = part.slice(first_of(part), first.prev());
        }
        self.parts.push(entries.clone());
    }

    pub(super) fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Option<Entries> {
        let start = self.parts.partition_point(|part| last_of(part) < from);
        let mut found = Vec::new();
        let mut bytes = 0;
        for part in self.parts.get(start..)? {
            if first_of(part) > through || bytes >= bytes_max {
                break;
            }
            let part = part.slice(from, through);
            bytes += part.size_bytes();
            found.push(part);
        }
        let joined = Entries::join(found).expect("the parts of a view are consecutive");
        (joined.first()?.index == from).then(|| joined.prefix(bytes_max))
    }
}
