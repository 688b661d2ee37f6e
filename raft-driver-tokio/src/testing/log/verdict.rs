//! Which promise is broken by a state that should not be there.

use super::model::{Allowed, Found, Log};
use crate::testing::promise::Promise;
use crate::testing::report::Violation;

/// What a crash came upon.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// What may be found.
    pub(super) allowed: &'a Allowed,
    /// All that was reported.
    pub(super) reported: &'a Log,
    /// The states before that, oldest first.
    pub(super) past: &'a [Log],
    /// If not, only the process is gone, and nothing that was written.
    pub(super) power_was_lost: bool,
}

impl Expected<'_> {
    /// The state that was found, if it may be there.
    pub(super) fn judge(&self, found: &Found) -> Result<Log, Violation> {
        self.allowed.find(found).ok_or_else(|| self.name(found))
    }

    fn name(&self, found: &Found) -> Violation {
        let told = |promise, what: String| {
            Violation::new(
                promise,
                format_args!("{what}\n  found: {}\n  expected: {}", words(found), self.words()),
            )
        };
        let invented = found.entries.iter().find(|entry| {
            !self.allowed.has(entry) && !self.past.iter().any(|log| log.entries.contains(entry))
        });
        if let Some(entry) = invented {
            let written =
                self.allowed.logs().flat_map(|log| &log.entries).find(|e| e.id.index == entry.id.index);
            let what = match written {
                Some(written) => format!("entry {entry} was never written; {written} was"),
                None => format!("entry {entry} was never written"),
            };
            return told(Promise::NothingInvented, what);
        }
        let is_else_right = |log: &Log| log.is(&Found { hard_state: log.hard_state, ..found.clone() });
        let hard_states: Vec<_> = self.allowed.logs().map(|log| log.hard_state).collect();
        let is_lost = !hard_states.contains(&found.hard_state);
        if is_lost && !self.power_was_lost && self.allowed.logs().any(is_else_right) {
            return told(
                Promise::HardStateKept,
                format!("the hard state is {}", hard_state(found.hard_state)),
            );
        }
        if let Some(at) = self.past.iter().rposition(|log| log.is(found)) {
            let lost = self.past.len() - at;
            let what = format!("the last {lost} reported writes are gone");
            // What was written is there: it was not understood.
            if !self.power_was_lost && self.is_other_log(&self.past[at]) {
                return told(Promise::ResetDropsAll, what);
            }
            return told(Promise::DurableOnReturn, what);
        }
        if is_lost {
            let what = format!("the hard state is {}", hard_state(found.hard_state));
            return told(Promise::HardStateKept, what);
        }
        self.name_base(found).or_else(|| self.name_entries(found)).map_or_else(
            || told(Promise::PartsInOrder, "its parts are of different writes".into()),
            |(promise, what)| told(promise, what),
        )
    }

    /// What its beginning says.
    fn name_base(&self, found: &Found) -> Option<(Promise, String)> {
        let base = found.base;
        let fits = |log: &Log| {
            let range = log.base.index..=log.goal.max(log.base.index);
            range.contains(&base.index) && log.id_at(base.index) == Some(base)
        };
        if self.allowed.logs().any(fits) {
            return None;
        }
        let is_index = |log: &Log| (log.base.index..=log.last().index).contains(&base.index);
        if self.allowed.logs().any(|log| is_index(log) && log.id_at(base.index) != Some(base)) {
            let is_reset = self.past.iter().any(|log| {
                log.base.index > self.reported.base.index
                    || log.base != self.reported.base && log.base == base
            });
            let promise = if is_reset { Promise::ResetDropsAll } else { Promise::RecoverTellsEnds };
            return Some((promise, format!("the log begins behind {base}, which is not the entry there")));
        }
        if self.allowed.logs().any(|log| base.index > log.goal && base.index <= log.last().index) {
            return Some((Promise::CompactsNoMore, format!("the log begins behind {base}")));
        }
        // Before a reset the log began elsewhere; otherwise it is a compaction that was undone.
        let of_other_log =
            self.past.iter().rev().find(|log| fits(log)).is_some_and(|log| self.is_other_log(log));
        let promise = if of_other_log { Promise::ResetDropsAll } else { Promise::CompactionStays };
        Some((promise, format!("the log begins behind {base}")))
    }

    /// Whether it was reset in between.
    fn is_other_log(&self, past: &Log) -> bool {
        past.id_at(self.reported.base.index) != Some(self.reported.base)
    }

    /// What its entries say. None of them is invented.
    fn name_entries(&self, found: &Found) -> Option<(Promise, String)> {
        let last = found.entries.last().map_or(found.base, |entry| entry.id);
        let old = found.entries.iter().find(|entry| !self.allowed.has(entry));
        if let Some(old) = old {
            let what = format!("entry {old} was replaced or dropped by a later write");
            let holder = self.past.iter().rev().find(|log| log.entries.contains(old));
            let is_of_other_log = holder.is_some_and(|log| self.is_other_log(log));
            let promise = if is_of_other_log { Promise::ResetDropsAll } else { Promise::OverwriteTruncates };
            return Some((promise, what));
        }
        let reported = self.reported.last();
        let is_shorter = self.allowed.logs().all(|log| last.index < log.last().index);
        if is_shorter {
            return Some((
                Promise::DurableOnReturn,
                format!("the log ends at {last}, and {reported} was reported"),
            ));
        }
        None
    }

    fn words(&self) -> String {
        let mut states: Vec<String> = self
            .allowed
            .logs()
            .map(|log| {
                let state =
                    Found { hard_state: log.hard_state, base: log.base, entries: log.entries.clone() };
                words(&state)
            })
            .collect();
        states.dedup();
        states.join("\n         or: ")
    }
}

fn hard_state(hard_state: raft_core::HardState) -> String {
    match hard_state.voted_for {
        Some(node) => format!("term {} with a vote for {node}", hard_state.term),
        None => format!("term {} without a vote", hard_state.term),
    }
}

fn words(found: &Found) -> String {
    let entries = match (found.entries.first(), found.entries.last()) {
        (Some(first), Some(last)) => format!("entries {}..={}", first.id, last.id),
        _ => "no entries".into(),
    };
    format!("{}, {entries} behind {}", hard_state(found.hard_state), found.base)
}
