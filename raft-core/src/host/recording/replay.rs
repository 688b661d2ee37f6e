//! Steps through a recording and compares: see the [module's head](super).
//!
//! * Bytes end in steps or in a typed error. Damage ends the replay where it begins; all before it is verified.
//! * A file that was altered on purpose, checksums and all, may make a node that no run leads to. Its own assertions
//!   may stop that node with a panic; nothing worse happens.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

use super::codec::{self, encode_brief};
use super::{Account, Checksum, Frame, RecordingError, after_header, split_frame};
use crate::action::Action;
use crate::config::Config;
use crate::error::Fatal;
use crate::event::Event;
use crate::node::Node;
use crate::recovery::Recovery;
use crate::time::Instant;

type Owned = Frame<Config, Recovery, Box<Node>, Event>;

/// What a node did again: what it was told, and all that was taken from it before the next step.
///
/// Its `Display` is a line for what the node was told, with the time in seconds, and one for each action:
///
/// ```text
/// 70.207159 #913 ← n2@74 → n1 RequestVote last=58@73
///     Notify(Role { role: Follower, term: 74 })
///     Log(Write(Write { id: 77, hard_state: Some(HardState { term: 74, voted_for: Some(2) }), reset_to: None, entries: [] }))
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Replayed {
    /// How many steps there were before in the node's life. The beginning of a file has the number of its first step.
    pub number: u64,
    /// What it was told, and when; `None` at the beginning of a file, for what was taken before its first step.
    pub event: Option<(Instant, Event)>,
    /// Whether it could go on.
    pub result: Result<(), Fatal>,
    /// What came out.
    pub actions: Vec<Action>,
    /// Whether it is what was recorded. Otherwise the recording ends here without saying so: then it is all that comes.
    pub verified: bool,
}

/// Longer lines are cut: a chunk of a snapshot is of no use on a screen.
const LINE_CHARS_MAX: usize = 400;

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, event, result, actions, verified } = self;
        match event {
            Some((now, event)) => told(*now, *number, event).fmt(f)?,
            None if *number == 0 => f.write_str("starts")?,
            None => write!(f, "goes on behind step #{number}, from a checkpoint")?,
        }
        if let Err(fatal) = result {
            write!(f, "\n    fatal: {fatal}")?;
        }
        for action in actions {
            let text = match action {
                Action::Send(message) => format!("{message:?}"),
                other => format!("{other:?}"),
            };
            write!(f, "\n    {text:.LINE_CHARS_MAX$}")?;
        }
        if *verified { Ok(()) } else { f.write_str("\n    (not verified: the recording ends here)") }
    }
}

/// A step in a line.
fn told(now: Instant, number: u64, event: &Event) -> String {
    let text = match event {
        Event::Receive(message) => format!("← {message:?}"),
        other => format!("{other:?}"),
    };
    let micros = now.as_nanos() / 1_000;
    format!("{}.{:06} #{number} {text:.LINE_CHARS_MAX$}", micros / 1_000_000, micros % 1_000_000)
}

/// A node did something else than when it was recorded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("recorded: {recorded}, found: {found}, in step {replayed}")]
pub struct Divergence {
    /// What it did now.
    pub replayed: Replayed,
    /// What it did then.
    pub recorded: Account,
    /// What that would be now.
    pub found: Account,
}

/// Why a replay does not go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// The node does something else now.
    #[error("the node does not do what it did: {0}")]
    Diverged(#[from] Box<Divergence>),
    /// What follows makes no sense.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the end of the recording, or because the next file begins.
    Complete,
    /// Without it: nothing more was written. So end those of a process that was killed, or whose node panicked.
    Open,
    /// The rest is cut short or damaged.
    Damaged {
        /// Where that begins.
        offset: usize,
    },
}

/// Does again what was recorded in one file, step by step, and compares all that comes out.
///
/// A node that panicked then does so now: see [`upcoming`](Self::upcoming) for what it was about to do.
#[derive(Clone, Debug)]
pub struct Replay {
    file: Bytes,
    checksum: Checksum,
    /// Where the next frame begins.
    offset: usize,
    node: Box<Node>,
    /// Of the next step.
    number: u64,
    next: Next,
    ending: Option<Ending>,
}

#[derive(Clone, Debug)]
enum Next {
    Beginning,
    Step(Instant, Event),
    Nothing,
}

impl Replay {
    /// A replay of this file, whose recorder used this checksum.
    ///
    /// # Errors
    /// If it is no recording, or of another release, or nothing of it can be used.
    pub fn open(file: Bytes, checksum: Checksum) -> Result<Self, RecordingError> {
        let frames = after_header(&file)?;
        let start = file.len() - frames.len();
        let (content, after) = split_frame(frames, checksum).ok_or(RecordingError::Damaged)?;
        let senseless = |what| RecordingError::Senseless { offset: start, what };
        let (number, node) =
            match codec::decode::<Owned>(content).map_err(|error| senseless(error.to_string()))? {
                Frame::Start(config, recovery, now) => (0, Box::new(Node::start(config, recovery, now)?)),
                Frame::Checkpoint(number, node) => {
                    node.config().validate().map_err(crate::error::StartError::from)?;
                    (number, node)
                }
                Frame::Step(..) | Frame::End(_) => return Err(senseless("a file begins with it".into())),
            };
        let offset = file.len() - after.len();
        Ok(Self { file, checksum, offset, node, number, next: Next::Beginning, ending: None })
    }

    /// How many steps the node has taken in its life: the next one's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What the next step will tell the node, as a line of text, for the case that it panics.
    #[must_use]
    pub fn upcoming(&self) -> Option<String> {
        match &self.next {
            Next::Step(now, event) => Some(told(*now, self.number, event)),
            Next::Beginning | Next::Nothing => None,
        }
    }

    /// The node as it is now, to be looked at.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// How the recording ends, once all of it was replayed.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Takes the next step and compares what comes out; `None` at the end. The first call is for what came out before
    /// the first step. Nothing follows an error.
    ///
    /// # Errors
    /// At the first step that comes out otherwise than it was recorded, or if what follows makes no sense.
    pub fn next_step(&mut self) -> Result<Option<Replayed>, ReplayError> {
        let number = self.number;
        let (event, result) = match core::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => return Ok(None),
            Next::Beginning => (None, Ok(())),
            Next::Step(now, event) => {
                self.number = number.saturating_add(1);
                (Some((now, event.clone())), self.node.step(now, event))
            }
        };
        let recorded = self.next_frame()?;
        let (actions, found) = self.take(recorded, result);
        let replayed = Replayed { number, event, result, actions, verified: recorded.is_some() };
        match recorded {
            Some(recorded) if recorded != found => {
                self.next = Next::Nothing;
                Err(Box::new(Divergence { replayed, recorded, found }).into())
            }
            _ => Ok(Some(replayed)),
        }
    }

    /// Takes as many actions as were taken, or all if nobody knows how many.
    fn take(&mut self, recorded: Option<Account>, result: Result<(), Fatal>) -> (Vec<Action>, Account) {
        let (mut actions, mut taken) = (Vec::new(), Vec::new());
        if let Err(fatal) = result {
            encode_brief(&fatal, &mut taken);
        }
        let mut drained = false;
        // An action more, if none should be left, is one too many, and it shows which.
        while !drained && recorded.is_none_or(|recorded| goes_on(recorded, actions.len() as u64)) {
            match self.node.poll_action() {
                Some(action) => {
                    encode_brief(&action, &mut taken);
                    actions.push(action);
                }
                None => drained = true,
            }
        }
        let found = Account { actions: actions.len() as u64, drained, digest: (self.checksum)(&taken) };
        (actions, found)
    }

    /// Reads the next frame: what is to be done next, and what came out before it.
    fn next_frame(&mut self) -> Result<Option<Account>, RecordingError> {
        let offset = self.offset;
        let rest = self.file.get(offset..).unwrap_or(&[]);
        let Some((content, after)) = split_frame(rest, self.checksum) else {
            self.ending = Some(if rest.is_empty() { Ending::Open } else { Ending::Damaged { offset } });
            return Ok(None);
        };
        self.offset = self.file.len() - after.len();
        let senseless = |what| Err(RecordingError::Senseless { offset, what });
        match codec::decode::<Owned>(content) {
            Ok(Frame::Step(account, now, event)) => {
                self.next = Next::Step(now, event);
                Ok(Some(account))
            }
            Ok(Frame::End(account)) => {
                let damaged = Ending::Damaged { offset: self.offset };
                self.ending = Some(if after.is_empty() { Ending::Complete } else { damaged });
                Ok(Some(account))
            }
            Ok(Frame::Start(..) | Frame::Checkpoint(..)) => senseless("a file begins here".into()),
            Err(error) => senseless(error.to_string()),
        }
    }
}

/// Whether to poll once more after so many actions.
fn goes_on(recorded: Account, taken: u64) -> bool {
    taken < recorded.actions || (recorded.drained && taken == recorded.actions)
}
