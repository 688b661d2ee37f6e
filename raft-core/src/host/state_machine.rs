//! The replicated state machine (§2).

use alloc::vec::Vec;

use crate::entry::Entries;
use crate::ids::LogId;

/// The state machine that is replicated. It must be deterministic: what it does depends on the entries alone,
/// never on time, chance, or the machine that it runs on (§2).
///
/// ```
/// use raft_core::host::StateMachine;
/// use raft_core::{Entries, EntryRef};
///
/// /// Adds up the lengths of all commands.
/// #[derive(Default)]
/// struct Total(u64);
///
/// impl StateMachine for Total {
///     type Response = u64;
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
/// }
/// ```
pub trait StateMachine: Send + 'static {
    /// What a client gets for its command.
    type Response: Send + 'static;
    /// Why it cannot go on. The driver stops the node: a machine that skipped a command would differ from
    /// the others for ever.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Applies committed entries in order, exactly once, and pushes one response for each *command* among
    /// them, none for other entries. `responses` comes empty and keeps its capacity between calls.
    ///
    /// # Errors
    /// If a command cannot be decoded or its effect cannot be kept. Never skip one.
    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> Result<(), Self::Error>;

    /// The last entry whose effect is durable in the machine itself, asked once at start. A machine that lives
    /// in memory keeps the default and is rebuilt from the log.
    ///
    /// # Errors
    /// If its own storage cannot be read.
    fn recover(&mut self) -> Result<LogId, Self::Error> {
        Ok(LogId::ZERO)
    }
}
