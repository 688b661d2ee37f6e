//! The verdict on a history: whether one order of all operations explains what every client saw.
//!
//! * Linearizability is a matter of each key by itself. Keys that are never deleted are registers, for which the search
//!   is straight however many writes are open; keys that are deleted too are searched with what every write said of
//!   the value before it.
//! * Every key is read at the end of a run, so that a lost write is a history that nothing explains.
//! * Across keys: a write that was answered before another one was made stands before it in the log.

use std::collections::BTreeMap;
use std::fmt;

use raft_sim::history::{Call, Opinion, RegisterHistory, Spec, Verdict, check};

use crate::clients::READER;
use crate::history::{Op, Outcome, Record};

/// Steps that the search of one key may take. A history that is right needs a few for each call.
const STEPS_MAX: u64 = 5_000_000;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) what: String,
    /// The operations that show it.
    pub(crate) records: Vec<Record>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) keys: u64,
    pub(crate) wrong: Vec<Wrong>,
    /// Keys whose search grew too large.
    pub(crate) undecided: Vec<String>,
    /// Writes whose place in the log was compared.
    pub(crate) indexed: u64,
}

/// A key that may be deleted.
struct Cell;

/// An operation on a [`Cell`], with what it returned.
enum Access {
    Put { value: u64, existed: Option<bool> },
    Delete { existed: Option<bool> },
    Saw(Option<u64>),
}

impl Spec for Cell {
    type State = Option<u64>;
    type Op = Access;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn apply(&self, state: &Option<u64>, op: &Access) -> Option<Option<u64>> {
        let fits = |existed: &Option<bool>| existed.is_none_or(|existed| existed == state.is_some());
        match op {
            Access::Put { value, existed } => fits(existed).then_some(Some(*value)),
            Access::Delete { existed } => fits(existed).then_some(None),
            Access::Saw(value) => (value == state).then_some(*state),
        }
    }

    fn only_reads(&self, op: &Access) -> bool {
        matches!(op, Access::Saw(_))
    }
}

/// Judges everything that was recorded. `progress` is told of each key.
pub(crate) fn judge(records: &[Record], mut progress: impl FnMut()) -> Judged {
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        keys.entry(&record.key).or_default().push(record);
    }
    let mut judged = Judged { keys: keys.len() as u64, ..Judged::default() };
    for (key, records) in keys {
        match judge_key(key, &records) {
            Ok(true) => {}
            Ok(false) => judged.undecided.push(key.to_owned()),
            Err(wrong) => judged.wrong.push(wrong),
        }
        progress();
    }
    let (indexed, wrong) = judge_log_order(records);
    judged.indexed = indexed;
    judged.wrong.extend(wrong);
    judged
}

/// Whether a key's history is linearizable; `false` if that was not found out.
fn judge_key(key: &str, records: &[&Record]) -> Result<bool, Wrong> {
    if records.iter().any(|record| record.op == Op::Delete) {
        cell(key, records)
    } else {
        register(key, records)
    }
}

fn register(key: &str, records: &[&Record]) -> Result<bool, Wrong> {
    let mut history = RegisterHistory::default();
    for record in records {
        match (record.op, record.outcome) {
            (Op::Put(value), outcome) => {
                let call = history.put(record.invoked_ns, value);
                match outcome {
                    Outcome::Done { .. } => history.done(call, record.returned_ns),
                    Outcome::Never => history.never(call),
                    Outcome::Unknown | Outcome::Saw(_) => {}
                }
            }
            (_, Outcome::Saw(value)) => {
                let call = history.read(record.invoked_ns);
                history.saw(call, record.returned_ns, value);
            }
            _ => {}
        }
    }
    match history.opinion(STEPS_MAX) {
        Opinion::Right => Ok(true),
        Opinion::Undecided => Ok(false),
        Opinion::Wrong(calls) => {
            let shown = |record: &&&Record| {
                calls.iter().any(|call| call.invoked == record.invoked_ns) || never_and_seen(record, records)
            };
            let shown = records.iter().filter(shown).copied().cloned().collect();
            Err(Wrong { what: format!("key {key} is not linearizable"), records: shown })
        }
    }
}

/// A write that was answered as not done, and was read all the same.
fn never_and_seen(record: &Record, records: &[&Record]) -> bool {
    let Op::Put(value) = record.op else { return false };
    record.outcome == Outcome::Never
        && records.iter().any(|record| record.outcome == Outcome::Saw(Some(value)))
}

fn cell(key: &str, records: &[&Record]) -> Result<bool, Wrong> {
    let call = |record: &&Record| {
        let (existed, open) = match record.outcome {
            Outcome::Done { existed, .. } => (existed, false),
            Outcome::Saw(_) => (None, false),
            Outcome::Unknown => (None, true),
            Outcome::Never => return None,
        };
        let op = match (record.op, record.outcome) {
            (Op::Put(value), _) => Access::Put { value, existed },
            (Op::Delete, _) => Access::Delete { existed },
            (Op::Get, Outcome::Saw(value)) => Access::Saw(value),
            (Op::Get, _) => return None,
        };
        let returned = (!open).then_some(record.returned_ns);
        Some(Call { invoked: record.invoked_ns, returned, op })
    };
    let calls: Vec<Call<Access>> = records.iter().filter_map(call).collect();
    match check(&Cell, &calls, STEPS_MAX) {
        Verdict::Linearizable(_) => Ok(true),
        Verdict::Undecided => Ok(false),
        Verdict::Impossible(_) => {
            let records = records.iter().copied().cloned().collect();
            Err(Wrong { what: format!("key {key} is not linearizable"), records })
        }
    }
}

/// Compares the places in the log that servers named for writes, with when clients made and heard of them.
fn judge_log_order(records: &[Record]) -> (u64, Option<Wrong>) {
    let placed = records.iter().filter_map(|record| match record.outcome {
        Outcome::Done { index: Some(index), .. } => Some((index, record)),
        _ => None,
    });
    let mut by_invocation: Vec<(u64, &Record)> = placed.collect();
    let mut by_return = by_invocation.clone();
    by_invocation.sort_by_key(|(_, record)| record.invoked_ns);
    by_return.sort_by_key(|(_, record)| record.returned_ns);
    let wrong = |what: &str, one: &Record, two: &Record| {
        let what = format!("{what}, of the keys {} and {}", one.key, two.key);
        Some(Wrong { what, records: vec![one.clone(), two.clone()] })
    };
    let mut earlier = by_return.into_iter().peekable();
    let mut highest: Option<(u64, &Record)> = None;
    for (index, record) in &by_invocation {
        while let Some(next) = earlier.next_if(|(_, earlier)| earlier.returned_ns < record.invoked_ns) {
            highest = if highest.is_some_and(|(index, _)| index > next.0) { highest } else { Some(next) };
        }
        if let Some((_, before)) = highest.filter(|(before, _)| before >= index) {
            return (
                0,
                wrong(
                    "a write stands in the log before one that was done before it was made",
                    before,
                    record,
                ),
            );
        }
    }
    let mut by_index = by_invocation;
    by_index.sort_by_key(|(index, _)| *index);
    let same = by_index.windows(2).find(|pair| pair[0].0 == pair[1].0);
    let wrong = same.and_then(|pair| wrong("two writes stand at one place in the log", pair[0].1, pair[1].1));
    (by_index.len() as u64, wrong)
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        let mut records: Vec<&Record> = self.records.iter().collect();
        records.sort_by_key(|record| record.invoked_ns);
        for record in records {
            writeln!(f, "  {record}")?;
        }
        Ok(())
    }
}

/// As in `12.345678 s to 12.350000 s  client 3  put 17 k: done, at index 9 (server 2)`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |ns: u64| ns as f64 / 1e9;
        write!(f, "{:.6} s to {:.6} s  ", s(self.invoked_ns), s(self.returned_ns))?;
        match self.client {
            READER => f.write_str("at the end  ")?,
            client => write!(f, "client {client}  ")?,
        }
        match self.op {
            Op::Put(value) => write!(f, "put {value} {}: ", self.key)?,
            Op::Get => write!(f, "get {}: ", self.key)?,
            Op::Delete => write!(f, "delete {}: ", self.key)?,
        }
        match self.outcome {
            Outcome::Done { existed, index } => {
                f.write_str("done")?;
                existed.map_or(Ok(()), |existed| {
                    write!(f, ", {}", if existed { "had a value" } else { "had none" })
                })?;
                index.map_or(Ok(()), |index| write!(f, ", at index {index}"))?;
            }
            Outcome::Saw(Some(value)) => write!(f, "{value}")?,
            Outcome::Saw(None) => f.write_str("nothing")?,
            Outcome::Never => f.write_str("not done")?,
            Outcome::Unknown => f.write_str("unknown")?,
        }
        self.server.map_or(Ok(()), |server| write!(f, " (server {server})"))?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, " {why}"))
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
