//! Exhaustive checking of the shipped core: small clusters of the real [`raft_core::Node`], and everything that can happen
//! to them, breadth first.
//!
//! Where a seed is one long life of a cluster, a model is all the short ones: at every step a message is delivered,
//! dropped or doubled, a timer fires, a client proposes or reads, a disk finishes or crashes with any prefix of what it
//! had not synced, a server starts again, the membership changes, a snapshot is taken. Each of these within the budget
//! of the [`Model`]; and when nothing is left to choose anywhere, the model is *closed*: no history within its bounds
//! breaks a rule.
//!
//! * The servers are nodes as shipped, driven through `step` and `poll_action`. A node that met the same event in the same
//!   canonical state before is not asked again, since it would say the same: that is why millions of states take seconds.
//! * A state is its canonical form, hashed to 128 bits: see the fingerprints for what that may overlook.
//! * Checked in every state: election safety, one vote a term and nothing sent before it is durable (across crashes), log
//!   matching, that what is committed is durable on those who decide and never changes, leader completeness, state-machine
//!   safety, true outcomes, reads that see every acknowledged write, one membership change at a time by majorities that
//!   meet, and the node's own assertions.
//! * A broken rule is shown by a shortest path to it.
//!
//! ```
//! use raft_sim::explore::{Budget, Limits, Model, explore};
//!
//! let budget = Budget { timeouts: 2, ..Budget::NONE };
//! let model = Model { budget, ..Model::new("mine", "two election timeouts") };
//! let report = explore(&model, &Limits::default(), |_| ());
//! assert!(report.closed() && report.states > 100, "{report:?}");
//! ```
//!
//! Not here: clocks that run apart, and so leases, which rely on them; refused or damaged storage; more servers, terms and
//! entries than the bounds say. The seeds are for those.

#[cfg(feature = "cli")]
pub mod command;
mod disk;
mod fingerprint;
mod history;
mod model;
mod search;
mod server;
mod state;
mod tables;
mod trace;
mod view;

use core::fmt;
use core::time::Duration;

pub use model::{Budget, Lie, Model, models};
pub use search::explore;

/// When to stop early.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Once so many states were met, the model is cut off, and not closed.
    pub states_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { states_max: u64::MAX }
    }
}

/// How far an exploration is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// States met so far.
    pub states: u64,
    /// Choices made so far.
    pub transitions: u64,
    /// How many choices from the start.
    pub depth: u32,
    /// States at the widest depth so far.
    pub widest: u64,
    /// Since it began.
    pub elapsed: Duration,
}

/// What came of an exploration.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of which model.
    pub model: &'static str,
    /// Distinct states met.
    pub states: u64,
    /// Choices made in them.
    pub transitions: u64,
    /// The most choices that the nearest way to a state needs.
    pub depth: u32,
    /// States at the widest depth.
    pub widest: u64,
    /// Distinct servers among them.
    pub servers: u64,
    /// Events that were given to a node; the others were the same again.
    pub steps: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether a limit ended it.
    pub cut: bool,
    /// The first broken rule, if any.
    pub violation: Option<Violation>,
}

impl Report {
    fn new(model: &'static str) -> Self {
        Self {
            model,
            states: 0,
            transitions: 0,
            depth: 0,
            widest: 0,
            servers: 0,
            steps: 0,
            elapsed: Duration::ZERO,
            cut: false,
            violation: None,
        }
    }

    /// Whether everything that the model allows was met, and no rule broken.
    #[must_use]
    pub fn closed(&self) -> bool {
        !self.cut && self.violation.is_none()
    }
}

/// A broken rule, and a shortest way to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The name of the rule.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
    /// How many choices lead there.
    pub steps: u32,
    /// The choices as protocol lines, and below each what the server did.
    pub trace: Vec<String>,
}

impl Violation {
    fn new(broken: Broken, steps: u32, trace: Vec<String>) -> Self {
        Self { rule: broken.rule, what: broken.what, steps, trace }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "{} is broken after {} choices: {}", self.rule, self.steps, self.what)
    }
}

/// A rule does not hold.
#[derive(Clone, Debug)]
struct Broken {
    rule: &'static str,
    what: String,
}

impl Broken {
    fn new(rule: &'static str, what: String) -> Self {
        Self { rule, what }
    }
}
