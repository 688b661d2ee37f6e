//! What callers are told when something did not work, in words that say what to do about it.
//!
//! Every error of a write says what is known about the command: that it did not happen and never will (and then
//! the command comes back), that it happened, or that nobody knows.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::{Rejection, Unacceptable};
use raft_core::{AdminOutcome, AdminRefusal, Fatal, LogId, NodeId, WriteRefusal};

/// A command that was committed and applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// Where it stands in the log.
    pub id: LogId,
    /// What the state machine answered.
    pub response: R,
}

/// What is known about a command whose write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It is not in the log and never will be: trying again is safe.
    DidNotHappen,
    /// It may be committed already or later, or never: trying again may do it twice.
    Unknown,
    /// It is committed: trying again would do it twice.
    Happened,
}

/// What to do about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing was done here: ask the leader, or this node with [`forwarding`](crate::Raft::forwarding).
    AskLeader {
        /// Who leads.
        leader: NodeId,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
    },
    /// Nothing was done, and later it may work: when there is a leader, or room.
    RetryLater,
    /// It does not work however often it is tried here: the request or the node is the matter.
    GiveUp,
    /// It may have been done, or may be done yet: find out before it is tried again, or send commands that may come twice.
    OutcomeUnknown,
    /// It was done; only the answer is lost.
    Done,
}

impl Advice {
    fn ask(leader: Option<NodeId>, address: Option<&Bytes>) -> Self {
        leader.map_or(Self::RetryLater, |leader| Self::AskLeader { leader, address: address.cloned() })
    }
}

/// Why a write has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Did not happen: this node does not lead. Ask the leader.
    #[error("this node does not lead; the leader is {}", Leader(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
        /// The command, to be tried elsewhere.
        command: Bytes,
    },
    /// Did not happen: limits are reached. Try again later.
    #[error("too much is pending; try again later")]
    Busy {
        /// The command, to be tried again.
        command: Bytes,
    },
    /// Did not happen: another leader's entry was committed in its place. Trying again is safe.
    #[error("another leader's entry was committed in its place")]
    Superseded {
        /// The command, to be tried again.
        command: Bytes,
    },
    /// Did not happen, and never can.
    #[error("refused: {refusal}")]
    Refused {
        /// Why.
        refusal: WriteRefusal,
        /// The command.
        command: Bytes,
    },
    /// Did not happen, and never can: the state machine could only fail on it, on every node.
    #[error("no command of this state machine: {why}")]
    Invalid {
        /// What is wrong with it: see [`StateMachine::check`](raft_core::host::StateMachine::check).
        why: Unacceptable,
        /// The command.
        command: Bytes,
    },
    /// Did not happen: the node has stopped; [`Raft::stop_reason`](crate::Raft::stop_reason) says why.
    #[error("the node has stopped")]
    Stopped {
        /// The command, to be tried elsewhere.
        command: Bytes,
    },
    /// It may happen or not: the limit passed, the node stopped, or an answer was lost.
    #[error("it is unknown whether the command is or will be committed")]
    Unknown,
    /// It is committed, and every machine will apply it, but this node has no response for it.
    #[error("committed at {id}, but the response is lost")]
    ResponseLost {
        /// Where it stands in the log.
        id: LogId,
    },
}

impl WriteError {
    /// What a caller is told whose `command` has this `rejection`.
    #[must_use]
    pub fn new(rejection: Rejection, command: Bytes) -> Self {
        match rejection {
            Rejection::NotLeader { leader, address } => Self::NotLeader { leader, address, command },
            Rejection::Busy => Self::Busy { command },
            Rejection::Superseded => Self::Superseded { command },
            Rejection::Refused(refusal) => Self::Refused { refusal, command },
            Rejection::Invalid(why) => Self::Invalid { why, command },
            Rejection::Stopped => Self::Stopped { command },
            Rejection::Unknown => Self::Unknown,
            Rejection::ResponseLost(id) => Self::ResponseLost { id },
        }
    }

    /// What is known about the command.
    #[must_use]
    pub const fn certainty(&self) -> Certainty {
        match self {
            Self::NotLeader { .. }
            | Self::Busy { .. }
            | Self::Superseded { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::Stopped { .. } => Certainty::DidNotHappen,
            Self::Unknown => Certainty::Unknown,
            Self::ResponseLost { .. } => Certainty::Happened,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotLeader { leader, address, .. } => Advice::ask(*leader, address.as_ref()),
            Self::Busy { .. } | Self::Superseded { .. } => Advice::RetryLater,
            Self::Refused { .. } | Self::Invalid { .. } | Self::Stopped { .. } => Advice::GiveUp,
            Self::Unknown => Advice::OutcomeUnknown,
            Self::ResponseLost { .. } => Advice::Done,
        }
    }

    /// The command, if it certainly did not happen.
    #[must_use]
    pub fn into_command(self) -> Option<Bytes> {
        match self {
            Self::NotLeader { command, .. }
            | Self::Busy { command }
            | Self::Superseded { command }
            | Self::Refused { command, .. }
            | Self::Invalid { command, .. }
            | Self::Stopped { command } => Some(command),
            Self::Unknown | Self::ResponseLost { .. } => None,
        }
    }
}

/// Why a read was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no leader that could answer for it, or it changed meanwhile. Ask again, or ask the leader.
    #[error("no leader answered for the read; the leader is {}", Leader(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
    },
    /// Too many reads are pending. Try again later.
    #[error("too many reads are pending; try again later")]
    Busy,
    /// The closure panicked. The node goes on: a reader cannot change the state machine.
    #[error("the read closure panicked")]
    Panicked,
    /// The limit of [`Raft::within`](crate::Raft::within) passed.
    #[error("the read was not served in time")]
    TimedOut,
    /// The node has stopped; [`Raft::stop_reason`](crate::Raft::stop_reason) says why.
    #[error("the node has stopped")]
    Stopped,
}

impl ReadError {
    /// What to do about it. A read can be tried again as often as one likes.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotLeader { leader, address } => Advice::ask(*leader, address.as_ref()),
            Self::Busy | Self::TimedOut => Advice::RetryLater,
            Self::Panicked | Self::Stopped => Advice::GiveUp,
        }
    }
}

impl From<Rejection> for ReadError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NotLeader { leader, address } => Self::NotLeader { leader, address },
            Rejection::Busy => Self::Busy,
            // No read is refused for the other reasons; all that is known is that there is no answer.
            Rejection::Superseded
            | Rejection::Refused(_)
            | Rejection::Invalid(_)
            | Rejection::Stopped
            | Rejection::Unknown
            | Rejection::ResponseLost(_) => Self::Stopped,
        }
    }
}

/// Why an administrative request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Not done: only the leader can do it.
    #[error("this node does not lead; the leader is {}", Leader(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
    },
    /// Not done.
    #[error(transparent)]
    Refused(#[from] AdminRefusal),
    /// The leadership ended, or the limit passed, before the outcome was known: it may happen yet.
    #[error("it is unknown whether it was or will be done")]
    Unknown,
    /// The node stopped before it answered: done or not, nobody knows.
    #[error("the node has stopped")]
    Stopped,
}

impl AdminError {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        use AdminRefusal as R;
        match self {
            Self::NotLeader { leader, address } => Advice::ask(*leader, address.as_ref()),
            Self::Refused(refusal) => match refusal {
                R::NotLeader { leader } => Advice::ask(*leader, None),
                R::ChangeInProgress
                | R::NoEntryCommitted
                | R::TimedOut
                | R::TransferInProgress
                | R::LeaderAlive
                | R::Busy
                | R::NotDurable => Advice::RetryLater,
                R::NotPristine
                | R::NotAMember
                | R::NoChange
                | R::NoVoters
                | R::UnknownNode(_)
                | R::NoAddress(_)
                | R::NamedTwice(_)
                | R::NothingToCancel
                | R::TooLate
                | R::Cancelled
                | R::OtherLeader(_)
                | R::NoOtherVoter
                | R::NoSnapshotNeeded
                | R::Snapshot(_)
                | R::NotAVoter
                | R::AlreadyLeader
                | R::NoTermLeft => Advice::GiveUp,
            },
            Self::Unknown | Self::Stopped => Advice::OutcomeUnknown,
        }
    }

    /// What a caller is told of an outcome: who leads now, if the leadership was transferred.
    ///
    /// # Errors
    /// If it was not done, or nobody knows.
    pub fn of(outcome: AdminOutcome) -> Result<Option<NodeId>, Self> {
        match outcome {
            AdminOutcome::Done => Ok(None),
            AdminOutcome::Transferred { to } => Ok(Some(to)),
            AdminOutcome::Unknown => Err(Self::Unknown),
            // Whoever knows the membership fills the address in.
            AdminOutcome::Refused(AdminRefusal::NotLeader { leader }) => {
                Err(Self::NotLeader { leader, address: None })
            }
            AdminOutcome::Refused(refusal) => Err(refusal.into()),
        }
    }
}

/// Code panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {part} panicked: {message}")]
pub struct Panicked {
    /// Whose.
    pub part: &'static str,
    /// What it said.
    pub message: String,
}

impl Panicked {
    pub(crate) fn new(part: &'static str, payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Self { part, message: text.unwrap_or_else(|| "no message".to_owned()) }
    }
}

impl From<Panicked> for StopReason {
    fn from(Panicked { part, message }: Panicked) -> Self {
        Self::Panicked { part, message }
    }
}

impl From<Panicked> for StartError {
    fn from(Panicked { part, message }: Panicked) -> Self {
        Self::Panicked { part, message }
    }
}

/// Why a node stopped.
#[derive(Clone, Debug)]
pub enum StopReason {
    /// [`Raft::shutdown`](crate::Raft::shutdown) was called.
    Requested,
    /// Nobody holds a handle any more.
    HandlesDropped,
    /// The log store failed. Nothing was retried: start the node anew when the cause is gone.
    Log(Arc<dyn Error + Send + Sync>),
    /// The state machine failed.
    Machine(Arc<dyn Error + Send + Sync>),
    /// The state machine could not be brought to a snapshot's state: the snapshot cannot be read, or is another
    /// machine's.
    Restore(Arc<dyn Error + Send + Sync>),
    /// The state machine did not return one response for each command.
    Responses {
        /// Commands applied.
        commands: usize,
        /// Responses returned.
        responses: usize,
    },
    /// Code panicked.
    Panicked {
        /// Whose.
        part: &'static str,
        /// What it said.
        message: String,
    },
    /// The driver broke a duty towards the node.
    Driver(Fatal),
    /// The Tokio runtime was shut down under the node.
    RuntimeEnded,
}

impl StopReason {
    /// Whether it was asked for.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::Requested | Self::HandlesDropped)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("shutdown was requested"),
            Self::HandlesDropped => f.write_str("every handle was dropped"),
            Self::Log(error) => write!(f, "the log store failed: {}", Chain(&**error)),
            Self::Machine(error) => write!(f, "the state machine failed: {}", Chain(&**error)),
            Self::Restore(error) => write!(f, "the snapshot cannot be restored: {}", Chain(&**error)),
            Self::Responses { commands, responses } => {
                write!(f, "the state machine gave {responses} responses to {commands} commands")
            }
            Self::Panicked { part, message } => write!(f, "the {part} panicked: {message}"),
            Self::Driver(fatal) => write!(f, "the driver broke a duty: {fatal}"),
            Self::RuntimeEnded => f.write_str("the runtime was shut down"),
        }
    }
}

impl Error for StopReason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Log(error) | Self::Machine(error) | Self::Restore(error) => Some(&**error),
            Self::Driver(fatal) => Some(fatal),
            _ => None,
        }
    }
}

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What survived in the log store cannot be read or trusted.
    #[error("the log store cannot be recovered: {0}")]
    Log(#[source] Box<dyn Error + Send + Sync>),
    /// What survived in the snapshot store cannot be read or trusted.
    #[error("the snapshot store cannot be recovered: {0}")]
    Snapshots(#[source] Box<dyn Error + Send + Sync>),
    /// The state machine cannot say what it holds.
    #[error("the state machine cannot be recovered: {0}")]
    Machine(#[source] Box<dyn Error + Send + Sync>),
    /// The node refuses what was recovered, or the configuration.
    #[error(transparent)]
    Node(#[from] raft_core::StartError),
    /// The transport could not carry the longest message that the configuration allows.
    #[error("the transport carries messages of {message_bytes_max} bytes, but {needed_bytes} may be needed")]
    MessageTooLong {
        /// The transport's limit.
        message_bytes_max: u64,
        /// What the configuration of the node asks for.
        needed_bytes: u64,
    },
    /// A limit of the builder is outside of what is possible.
    #[error("{what} is {value}, but must be between 1 and {value_max}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// What it was set to.
        value: usize,
        /// The highest possible.
        value_max: usize,
    },
    /// Timers would be late by a heartbeat interval.
    #[error("timer_step must be shorter than heartbeat_interval")]
    TimerStep,
    /// The network does not fit the configuration.
    #[error("the network does not fit: {0}")]
    Network(&'static str),
    /// Code panicked during recovery.
    #[error("the recovery of the {part} panicked: {message}")]
    Panicked {
        /// Whose.
        part: &'static str,
        /// What it said.
        message: String,
    },
    /// The directory for recordings cannot be created or looked at.
    #[error("no recordings in {directory}: {error}")]
    Recording {
        /// The directory.
        directory: String,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// No thread could be started.
    #[error("no thread for the {part}: {error}")]
    Thread {
        /// Which thread.
        part: &'static str,
        /// Why.
        #[source]
        error: std::io::Error,
    },
}

struct Leader(Option<NodeId>);

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(leader) => write!(f, "node {leader}"),
            None => f.write_str("unknown"),
        }
    }
}

/// An error with its causes: a `StopReason` is mostly seen in logs, where `source` would be lost.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
