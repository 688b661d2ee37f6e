//! Why a node did not start, and why it stopped.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use raft_core::Fatal;

use super::Chain;
use crate::driver::LOG_STORE;

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
    /// The log store failed. Nothing was retried: see to its disk before the process is started anew. After a failed write or
    /// fsync that means a reboot, or to mount the file system anew: until then the system may show what the disk does not hold.
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

    /// Whether the log store failed, by an error or a panic. What it shows from then on may not be on its disk: no node
    /// may go on from it in this process.
    #[must_use]
    pub fn is_log_store(&self) -> bool {
        match self {
            Self::Log(_) => true,
            Self::Panicked { part, .. } => *part == LOG_STORE,
            _ => false,
        }
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
