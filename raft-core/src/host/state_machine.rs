//! The replicated state machine (§2).

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

use super::frozen::{FrozenState, RestoreError, SnapshotSource};
use crate::entry::Entries;
use crate::ids::LogId;

/// The state machine that is replicated. It must be deterministic: what it does depends on the entries alone,
/// never on time, chance, or the machine that it runs on (§2).
///
/// ```
/// use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
/// use raft_core::{Entries, EntryRef};
///
/// /// Adds up the lengths of all commands.
/// #[derive(Default)]
/// struct Total(u64);
///
/// impl StateMachine for Total {
///     type Response = u64;
///     type Snapshot = WholeState;
///     type Error = core::convert::Infallible;
///
///     fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Self::Error> {
///         for entry in entries.iter() {
///             if let EntryRef::Command(_, command) = entry {
///                 self.0 += command.len() as u64;
///                 responses.push(self.0);
///             }
///         }
///         Ok(())
///     }
///
///     fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
///         Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
///     }
///
///     fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
///         let mut total = [0; 8];
///         source.read_exact(&mut total)?;
///         self.0 = u64::from_le_bytes(total);
///         Ok(())
///     }
/// }
/// ```
pub trait StateMachine: Send + 'static {
    /// What a client gets for its command.
    type Response: Send + 'static;
    /// Its state at one point, to be written out while it goes on. [`WholeState`](super::WholeState) does for a small
    /// one; a large one is best kept in something that is cheap to clone and shares what did not change.
    type Snapshot: FrozenState;
    /// Why it cannot go on. The driver stops the node: a machine that skipped a command would differ from
    /// the others for ever.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Whether calls wait for a device, or for another thread. A driver then gives the machine a thread of its own; else
    /// it may apply between two messages of the protocol, which wait as long.
    const MAY_BLOCK: bool = false;

    /// Applies committed entries in order, exactly once, and pushes one response for each *command* among
    /// them, none for other entries. `responses` comes empty and keeps its capacity between calls.
    ///
    /// # Errors
    /// If a command cannot be decoded or its effect cannot be kept. Never skip one.
    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> Result<(), Self::Error>;

    /// Freezes the state as it is now: what was applied until now, and nothing that is applied later (§7). Clients wait
    /// while this runs, so it should be short; what takes long belongs into [`FrozenState::next_chunk`]. Two frozen
    /// states may be there at once.
    ///
    /// # Errors
    /// If it cannot be frozen. No snapshot is taken then; the machine itself must be as it was, and goes on.
    fn snapshot(&mut self) -> Result<Self::Snapshot, Self::Error>;

    /// Replaces the state by that of a snapshot, which this machine made on this server or another. A machine that
    /// keeps its state durably also keeps [`SnapshotSource::last`], which is what it [`recover`](Self::recover)s then.
    ///
    /// # Errors
    /// If the snapshot cannot be read, or is none of this machine's, or its state cannot be kept. The driver stops the
    /// node.
    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>>;

    /// The last entry whose effect is durable in the machine itself, asked once at start. A machine that lives
    /// in memory keeps the default and is rebuilt from snapshot and log.
    ///
    /// # Errors
    /// If its own storage cannot be read.
    fn recover(&mut self) -> Result<LogId, Self::Error> {
        Ok(LogId::ZERO)
    }

    /// Whether a command may be in the log, as far as it says so itself. A driver asks before it proposes one, and before it
    /// takes one for another node: once a command is committed that [`apply`](Self::apply) fails on, it stops every node, at
    /// every start.
    ///
    /// # Errors
    /// If `apply` could only fail on it. What depends on the state is no reason: that is for the response to say.
    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        let _ = command;
        Ok(())
    }

    /// About how much memory a response takes, with all that it owns. A driver bounds by it what it keeps of responses
    /// that their writers may yet ask for. The default counts the value itself, and nothing that it points to.
    fn response_bytes(response: &Self::Response) -> usize {
        size_of_val(response)
    }
}

/// Why a command must never be in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unacceptable(Arc<str>);

impl Unacceptable {
    /// For this reason.
    #[must_use]
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string().into())
    }
}

impl fmt::Display for Unacceptable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Unacceptable {}
