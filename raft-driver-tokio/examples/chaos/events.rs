//! What happened in a run beside the clients' operations: faults, notes, and what must not be.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::history::Lines;

/// One line of `events.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) at_ns: u64,
    /// `begin` and `end` of a fault, `note`, or `wrong`.
    pub(crate) kind: String,
    /// The fault's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<u64>,
    pub(crate) what: String,
}

struct Inner {
    lines: Lines,
    faults: BTreeMap<&'static str, u64>,
    under_way: BTreeMap<u64, &'static str>,
    wrong: Vec<String>,
}

/// Everything that happened so far.
pub(crate) struct Events {
    began: Instant,
    inner: Mutex<Inner>,
}

impl Events {
    /// Begins the run's clock.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let (faults, under_way) = (BTreeMap::new(), BTreeMap::new());
        let inner = Inner { lines: Lines::create(path)?, faults, under_way, wrong: Vec::new() };
        Ok(Self { began: Instant::now(), inner: Mutex::new(inner) })
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, kind: &str, fault: Option<u64>, what: String) {
        let event = Event { at_ns: self.now_ns(), kind: kind.to_owned(), fault, what };
        let mut inner = self.inner();
        // Few, and wanted most when the run does not end in order.
        if let Err(error) = inner.lines.write(&event).and_then(|()| inner.lines.flush()) {
            eprintln!("chaos: events cannot be written: {error}");
        }
    }

    /// A fault begins.
    pub(crate) fn begin(&self, fault: u64, kind: &'static str, what: String) {
        self.write("begin", Some(fault), format!("{kind}: {what}"));
        let mut inner = self.inner();
        *inner.faults.entry(kind).or_default() += 1;
        inner.under_way.insert(fault, kind);
    }

    pub(crate) fn end(&self, fault: u64, what: impl Into<String>) {
        self.write("end", Some(fault), what.into());
        self.inner().under_way.remove(&fault);
    }

    pub(crate) fn note(&self, what: String) {
        self.write("note", None, what);
    }

    /// Something that must not be: the run has failed.
    pub(crate) fn wrong(&self, what: String) {
        let mut inner = self.inner();
        // Some would be found again several times a second.
        if !inner.wrong.contains(&what) && inner.wrong.len() < 1000 {
            inner.wrong.push(what.clone());
            drop(inner);
            self.write("wrong", None, what);
        }
    }

    pub(crate) fn all_wrong(&self) -> Vec<String> {
        self.inner().wrong.clone()
    }

    /// How many faults of each kind there were.
    pub(crate) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.inner().faults.clone()
    }

    /// The faults under way, in a few words.
    pub(crate) fn now(&self) -> String {
        let inner = self.inner();
        let kinds: Vec<&str> = inner.under_way.values().copied().collect();
        kinds.join(", ")
    }
}
