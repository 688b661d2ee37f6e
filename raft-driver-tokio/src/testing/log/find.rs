//! What a store holds, as a node sees it after a start: what it recovers, and all of its entries.

use raft_core::host::{LogReader, LogStore};
use raft_core::{LogIndex, LogRecovery, Term};

use super::model::Found;
use crate::testing::entries::{Entry, Payload, owned};
use crate::testing::promise::Promise;
use crate::testing::report::{Violation, ensure, guarded};

/// How much is read at once: small enough that a log takes several reads.
const READ_BYTES: u64 = 20_000;

/// Recovers and reads everything. The recovery must [`agree`] with it.
pub(super) fn find<S: LogStore>(store: &mut S) -> Result<(Found, LogRecovery), Violation> {
    let recovery = guarded("LogStore::recover", || store.recover())?;
    let recovery = recovery
        .map_err(|error| Violation::new(Promise::OpensAfterCrash, format_args!("recover fails: {error}")))?;
    let reader = guarded("LogStore::reader", || store.reader())?;
    let entries = read_all(&reader, &recovery)?;
    let found = Found { hard_state: recovery.hard_state, base: recovery.base, entries };
    Ok((found, recovery))
}

fn read_all<R: LogReader>(reader: &R, recovery: &LogRecovery) -> Result<Vec<Entry>, Violation> {
    let (base, last) = (recovery.base.index, recovery.last.index);
    for gone in [base, last.next(), last.plus(7)].into_iter().filter(|index| *index > LogIndex::ZERO) {
        let found = read(reader, gone, LogIndex::LIMIT, u64::MAX)?;
        ensure(found.is_empty(), Promise::ReadsNothingElse, || {
            format!("reading from index {gone} gives {:?}; the log has {}..={last}", found[0], base.next())
        })?;
    }
    let mut entries: Vec<Entry> = Vec::new();
    while base.plus(entries.len() as u64) < last {
        let next = base.plus(entries.len() as u64 + 1);
        let found = read(reader, next, LogIndex::LIMIT, READ_BYTES)?;
        ensure(!found.is_empty(), Promise::ReadsWhatIsThere, || {
            format!("reading from index {next} gives nothing; the log has {}..={last}", base.next())
        })?;
        entries.extend(found);
    }
    Ok(entries)
}

/// One read, and that it keeps to what was asked.
pub(super) fn read<R: LogReader>(
    reader: &R,
    from: LogIndex,
    through: LogIndex,
    bytes_max: u64,
) -> Result<Vec<Entry>, Violation> {
    let asked = format!("reading {from}..={through} within {bytes_max} bytes");
    let found = guarded("LogReader::read", || reader.read(from, through, bytes_max))?;
    let found = found
        .map_err(|error| Violation::new(Promise::ReadsWhatIsThere, format_args!("{asked} fails: {error}")))?;
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(Vec::new()) };
    let entries = owned(&found);
    ensure(first.index == from, Promise::ReadsWhatIsThere, || format!("{asked} begins with {first}"))?;
    ensure(last.index <= through, Promise::ReadsNothingElse, || format!("{asked} goes on to {last}"))?;
    ensure(found.len() == 1 || found.size_bytes() <= bytes_max, Promise::ReadsKeepToBytes, || {
        format!("{asked} gives {} entries of {} bytes", found.len(), found.size_bytes())
    })?;
    Ok(entries)
}

/// What is recovered is what the entries say.
pub(super) fn agree(recovery: &LogRecovery, entries: &[Entry]) -> Result<(), Violation> {
    let last = entries.last().map_or(recovery.base, |entry| entry.id);
    ensure(recovery.last == last, Promise::RecoverTellsEnds, || {
        format!("recover says that the last entry is {}; the last one read is {last}", recovery.last)
    })?;
    let mut terms: Vec<(Term, LogIndex)> = Vec::new();
    for entry in entries {
        if terms.last().is_none_or(|(term, _)| *term != entry.id.term) {
            terms.push((entry.id.term, entry.id.index));
        }
    }
    let told: Vec<_> = recovery.terms.iter().map(|run| (run.term, run.first)).collect();
    ensure(told == terms, Promise::RecoverTellsTerms, || {
        format!("recover says (term, first index) {told:?}; the entries say {terms:?}")
    })?;
    let memberships: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.id.index, membership)),
            _ => None,
        })
        .collect();
    let told: Vec<_> = recovery.memberships.iter().map(|(index, membership)| (*index, membership)).collect();
    ensure(told == memberships, Promise::RecoverTellsMemberships, || {
        let places = |list: &[(LogIndex, _)]| list.iter().map(|(index, _)| index.get()).collect::<Vec<_>>();
        let (told, there) = (places(&told), places(&memberships));
        if told == there {
            format!("recover tells other memberships than those read at {there:?}")
        } else {
            format!("recover says that memberships are at {told:?}; they are at {there:?}")
        }
    })
}
