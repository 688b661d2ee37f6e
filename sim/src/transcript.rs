//! The decisions of a run, and the file that holds them.
//!
//! * A run is its [`Scenario`] and what was *decided*: which fault, order or request came when, with all its parameters.
//!   Everything else *reacts*: how long a message takes or which bytes survive a crash is drawn from streams of the link's
//!   or the server's own, so that taking one decision out disturbs the others as little as can be.
//! * Each source of decisions (the faults, the operator, each client) has one decision pending at a time, whether it is
//!   drawn or read from a transcript: the same decisions at the same times are the same run, to the last event.
//! * A file is lines of JSON: a head, then one decision a line. It holds the whole scenario, so that it means the same when
//!   another version draws other scenarios from its seed.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clients::Request;
use crate::clock::Nanos;
use crate::faults::Fault;
use crate::operator::Move;
use crate::scenario::Scenario;

/// The version of the format.
const FORMAT: u32 = 1;

/// Something that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    /// Something goes wrong.
    Fault(Fault),
    /// The operator acts.
    Move(Move),
    /// A client wants something.
    Request(Request),
}

/// A decision, and when it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Nanos, Decision)", into = "(Nanos, Decision)")]
pub(crate) struct Decided {
    pub(crate) at: Nanos,
    pub(crate) decision: Decision,
}

impl From<(Nanos, Decision)> for Decided {
    fn from((at, decision): (Nanos, Decision)) -> Self {
        Self { at, decision }
    }
}

impl From<Decided> for (Nanos, Decision) {
    fn from(Decided { at, decision }: Decided) -> Self {
        (at, decision)
    }
}

/// What is known of a run beside its decisions.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    transcript: u32,
    seed: u64,
    /// `None` in those of former versions.
    workload: Option<String>,
    /// The checker that the run failed by, and what it saw, when this was written.
    failed: Option<(String, String)>,
    /// When the faults end.
    ends_at: Nanos,
    scenario: Scenario,
}

/// A run, written down: the same again wherever it is replayed.
#[derive(Clone, Debug)]
pub struct Transcript {
    pub(crate) seed: u64,
    pub(crate) workload: Option<String>,
    pub(crate) scenario: Scenario,
    pub(crate) ends_at: Nanos,
    pub(crate) decisions: Vec<Decided>,
    /// The checker that the run failed by, and what it saw, when this was written.
    pub(crate) failed: Option<(String, String)>,
}

/// Why a file is no transcript.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is none, or a damaged one.
    #[error("line {line} is not that of a transcript: {error}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        error: serde_json::Error,
    },
    /// It was written by another version.
    #[error(
        "it has format {0}, and this version reads format {FORMAT}: run it with the version that wrote it"
    )]
    Format(u32),
    /// It speaks of what its scenario does not have.
    #[error("line {line} names a server or a client that its scenario does not have")]
    Unknown {
        /// Counted from 1.
        line: usize,
    },
}

impl Transcript {
    /// The seed that it was drawn from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The [name](crate::Workload::name) of the workload that it was made with, if it says so: those of former versions
    /// do not.
    #[must_use]
    pub fn workload(&self) -> Option<&str> {
        self.workload.as_deref()
    }

    /// The checker that the run failed by when this was written.
    #[must_use]
    pub fn failed_by(&self) -> Option<&str> {
        self.failed.as_ref().map(|(checker, _)| checker.as_str())
    }

    /// How many faults, operator's acts and requests it holds.
    #[must_use]
    pub fn decisions(&self) -> (usize, usize, usize) {
        let count =
            |kind: fn(&Decision) -> bool| self.decisions.iter().filter(|of| kind(&of.decision)).count();
        let faults = count(|decision| matches!(decision, Decision::Fault(_)));
        let moves = count(|decision| matches!(decision, Decision::Move(_)));
        (faults, moves, self.decisions.len() - faults - moves)
    }

    /// How many servers begin, and how many there are in all.
    #[must_use]
    pub fn servers(&self) -> (usize, usize) {
        (self.scenario.nodes, self.scenario.configs.len())
    }

    /// Reads it from a file.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn read(path: &Path) -> Result<Self, TranscriptError> {
        Self::parse(&fs::read_to_string(path)?)
    }

    /// Reads it from the text of a file.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, TranscriptError> {
        #[derive(Deserialize)]
        struct Format {
            transcript: u32,
        }
        let malformed = |line: usize| move |error| TranscriptError::Malformed { line, error };
        let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
        let Format { transcript } = serde_json::from_str(head).map_err(malformed(1))?;
        if transcript != FORMAT {
            return Err(TranscriptError::Format(transcript));
        }
        let Head { seed, workload, failed, ends_at, scenario, .. } =
            serde_json::from_str(head).map_err(malformed(1))?;
        let mut decisions = Vec::new();
        for (line, text) in (2..).zip(rest.lines()) {
            let decided: Decided = serde_json::from_str(text).map_err(malformed(line))?;
            if !decided.decision.is_within(scenario.configs.len(), scenario.clients.clients) {
                return Err(TranscriptError::Unknown { line });
            }
            decisions.push(decided);
        }
        if scenario.nodes == 0 || scenario.nodes > scenario.configs.len() {
            return Err(TranscriptError::Unknown { line: 1 });
        }
        Ok(Self { seed, workload, scenario, ends_at, decisions, failed })
    }

    /// The text of a file that holds it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { seed, workload, scenario, ends_at, decisions, failed } = self.clone();
        let head = Head { transcript: FORMAT, seed, workload, failed, ends_at, scenario };
        let mut text = serde_json::to_string(&head).expect("a head is plain data");
        for decided in &decisions {
            text.push('\n');
            text.push_str(&serde_json::to_string(decided).expect("a decision is plain data"));
        }
        text.push('\n');
        text
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::File::create(path)?.write_all(self.to_text().as_bytes())
    }
}

impl Decision {
    /// Whether it names only servers and clients that there are.
    pub(crate) fn is_within(&self, servers: usize, clients: usize) -> bool {
        match self {
            Self::Fault(fault) => fault.is_within(servers),
            Self::Move(step) => step.is_within(servers),
            Self::Request(request) => request.client < clients,
        }
    }
}

/// Where a run's decisions come from, and what was decided so far.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What is replayed, by source; `None`: everything is drawn.
    given: Option<Given>,
    taken: Vec<Decided>,
}

/// What is left of a transcript.
#[derive(Debug)]
struct Given {
    faults: VecDeque<Decided>,
    moves: VecDeque<Decided>,
    /// By client.
    requests: Vec<VecDeque<Decided>>,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Faults,
    Operator,
    Client(usize),
}

impl Plan {
    /// The decisions of a transcript, for so many clients.
    pub(crate) fn given(decisions: &[Decided], clients: usize) -> Self {
        let (faults, moves) = (VecDeque::new(), VecDeque::new());
        let mut given = Given { faults, moves, requests: vec![VecDeque::new(); clients] };
        for decided in decisions {
            let queue = match &decided.decision {
                Decision::Fault(_) => &mut given.faults,
                Decision::Move(_) => &mut given.moves,
                Decision::Request(request) => &mut given.requests[request.client],
            };
            queue.push_back(decided.clone());
        }
        Self { given: Some(given), taken: Vec::new() }
    }

    /// Whether decisions are read rather than drawn.
    pub(crate) fn is_given(&self) -> bool {
        self.given.is_some()
    }

    fn queue(&mut self, source: Source) -> Option<&mut VecDeque<Decided>> {
        let given = self.given.as_mut()?;
        Some(match source {
            Source::Faults => &mut given.faults,
            Source::Operator => &mut given.moves,
            Source::Client(client) => &mut given.requests[client],
        })
    }

    /// When the next decision of a source comes, if they are read.
    pub(crate) fn next_at(&mut self, source: Source) -> Option<Nanos> {
        self.queue(source)?.front().map(|decided| decided.at)
    }

    /// The next decision of a source, if they are read.
    pub(crate) fn next(&mut self, source: Source) -> Option<Decision> {
        self.queue(source)?.pop_front().map(|decided| decided.decision)
    }

    /// Writes down what was decided.
    pub(crate) fn decided(&mut self, at: Nanos, decision: Decision) {
        self.taken.push(Decided { at, decision });
    }

    /// Everything that was decided.
    pub(crate) fn into_taken(self) -> Vec<Decided> {
        self.taken
    }
}
