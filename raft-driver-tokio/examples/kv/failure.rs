//! How the program ends when it cannot go on: what is wrong, what to do next, and an exit code that scripts can
//! tell apart.

use std::fmt;
use std::process::ExitCode;

/// Kinds of failure, each with its exit code. `--help` lists them; keep both in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something that should not happen, or a check of the demo that failed.
    Other = 1,
    /// Arguments that contradict each other. clap ends with the same code.
    Arguments = 2,
    /// The data directory is damaged, foreign, or cannot be read.
    Data = 3,
    /// Another process has the data directory.
    DataInUse = 4,
    /// An address cannot be listened on.
    Address = 5,
    /// The peers were started with another list, or belong to another cluster.
    Peers = 6,
    /// The node stopped while it ran.
    Stopped = 7,
    /// Nobody served what a client asked for; nothing changed.
    NotDone = 8,
    /// What a client asked for may have happened, or may happen yet.
    Unknown = 9,
    /// The key has no value.
    NoKey = 10,
    /// What a client asked for was refused.
    Refused = 11,
    /// Ended by a signal, as shells count it.
    Interrupted = 130,
}

/// Why the program ends.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    what: String,
    advice: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, what: impl fmt::Display, advice: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), advice: advice.to_string() }
    }

    /// Without advice: all that can be said is what happened.
    pub(crate) fn other(what: impl fmt::Display) -> Self {
        Self::new(Kind::Other, what, "")
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kv: {}", self.what)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\nkv: what to do: {}", self.advice) }
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
