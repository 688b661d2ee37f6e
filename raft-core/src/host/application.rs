//! The replicated application in types of its own: what a user implements for [`Typed`](super::Typed).

use core::error::Error;

use super::frozen::{FrozenState, RestoreError, SnapshotSource};
use crate::ids::LogId;

/// What a user writes who thinks in commands and not in bytes. Deterministic, as [`StateMachine`](super::StateMachine) says.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::convert::Infallible;
///
/// use raft_core::LogId;
/// use raft_core::host::Application;
///
/// /// Accounts and what is on them. With serde's derives, [`Typed`](raft_core::host::Typed) needs nothing more.
/// # #[derive(Default)]
/// struct Bank(BTreeMap<String, u64>);
///
/// enum Command {
///     Deposit { account: String, amount: u64 },
///     Withdraw { account: String, amount: u64 },
/// }
///
/// #[derive(Debug, PartialEq, thiserror::Error)]
/// #[error("an amount of 0")]
/// struct NoAmount;
///
/// impl Application for Bank {
///     type Command = Command;
///     /// What is on the account afterwards; `None` if that cannot be, and nothing was done.
///     type Response = Option<u64>;
///     type Rejection = NoAmount;
///     type Error = Infallible;
///
///     fn validate(command: &Command) -> Result<(), NoAmount> {
///         let (Command::Deposit { amount, .. } | Command::Withdraw { amount, .. }) = command;
///         if *amount == 0 { Err(NoAmount) } else { Ok(()) }
///     }
///
///     fn apply(&mut self, command: Command, _at: LogId) -> Result<Option<u64>, Infallible> {
///         let (Command::Deposit { account, .. } | Command::Withdraw { account, .. }) = &command;
///         let sum = self.0.entry(account.clone()).or_default();
///         let after = match command {
///             Command::Deposit { amount, .. } => sum.checked_add(amount),
///             Command::Withdraw { amount, .. } => sum.checked_sub(amount),
///         };
///         *sum = after.unwrap_or(*sum);
///         Ok(after)
///     }
/// }
///
/// let mut bank = Bank::default();
/// let deposit = Command::Deposit { account: "a".into(), amount: 5 };
/// assert_eq!(Bank::validate(&deposit), Ok(()));
/// assert_eq!(bank.apply(deposit, LogId::ZERO), Ok(Some(5)));
/// let withdraw = Command::Withdraw { account: "a".into(), amount: 7 };
/// assert_eq!(bank.apply(withdraw, LogId::ZERO), Ok(None));
/// ```
pub trait Application: Send + 'static {
    /// What clients ask for.
    type Command;
    /// What they get for it. "It could not be done" is a response too.
    type Response: Send + 'static;
    /// Why a command is not even proposed; [`Infallible`](core::convert::Infallible) if all are.
    type Rejection: Error + Send + Sync + 'static;
    /// Why the application cannot go on, which stops the node; [`Infallible`](core::convert::Infallible) for one that
    /// lives in memory.
    type Error: Error + Send + Sync + 'static;

    /// Whether a command may be proposed. It is asked before the command is in the log, wherever a client is, and so knows
    /// the command alone: what depends on the state is for [`apply`](Self::apply) to decide, and to answer.
    ///
    /// # Errors
    /// Why it may not.
    fn validate(command: &Self::Command) -> Result<(), Self::Rejection> {
        let _ = command;
        Ok(())
    }

    /// Applies a committed command, which stands at this place in the log.
    ///
    /// # Errors
    /// If its effect cannot be kept. Never because the command is not to one's liking: then it has no effect, and the
    /// response says so.
    fn apply(&mut self, command: Self::Command, at: LogId) -> Result<Self::Response, Self::Error>;

    /// As [`StateMachine::response_bytes`](super::StateMachine::response_bytes).
    fn response_bytes(response: &Self::Response) -> usize {
        size_of_val(response)
    }

    /// As [`StateMachine::recover`](super::StateMachine::recover).
    ///
    /// # Errors
    /// If its own storage cannot be read.
    fn recover(&mut self) -> Result<LogId, Self::Error> {
        Ok(LogId::ZERO)
    }
}

/// An application that is too large to be written at once, and freezes its state itself.
pub trait Freeze: Application {
    /// Its state at one point.
    type Snapshot: FrozenState;

    /// As [`StateMachine::snapshot`](super::StateMachine::snapshot).
    ///
    /// # Errors
    /// If it cannot be frozen; it goes on as it was.
    fn freeze(&mut self) -> Result<Self::Snapshot, Self::Error>;

    /// As [`StateMachine::restore`](super::StateMachine::restore).
    ///
    /// # Errors
    /// If the snapshot cannot be read, or is none of this application's, or its state cannot be kept.
    fn thaw(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>>;
}
