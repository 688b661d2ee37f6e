//! Writes of typed commands: validated and encoded before they are proposed.
//!
//! * A command that the application rejects, or that has no bytes, never reaches the node: nothing is in the log.
//! * What the application said comes back as it was said.

use std::error::Error;
use std::future::Future;

use raft_core::LogId;
use raft_core::host::{Application, Codec, CommandError, StateMachine, Typed};

use crate::error::{Advice, Applied, Certainty, WriteError};
use crate::handle::Raft;

/// Why a typed command has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError<J, W = WriteError> {
    /// Did not happen: the application rejects it. Nothing is in the log.
    #[error("rejected: {0}")]
    Rejected(#[source] J),
    /// Did not happen: it cannot be encoded. Nothing is in the log.
    #[error("the command cannot be encoded: {0}")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    /// It was proposed, or would have been.
    #[error(transparent)]
    Write(W),
}

impl<J> ProposeError<J> {
    /// What is known about the command.
    #[must_use]
    pub const fn certainty(&self) -> Certainty {
        match self {
            Self::Rejected(_) | Self::Encode(_) => Certainty::DidNotHappen,
            Self::Write(error) => error.certainty(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Rejected(_) | Self::Encode(_) => Advice::GiveUp,
            Self::Write(error) => error.advice(),
        }
    }
}

impl<J, W> From<CommandError<J>> for ProposeError<J, W> {
    fn from(error: CommandError<J>) -> Self {
        match error {
            CommandError::Rejected(rejection) => Self::Rejected(rejection),
            CommandError::Encode(error) => Self::Encode(error),
        }
    }
}

impl<A, C, K> Raft<Typed<A, C, K>>
where
    A: Application,
    C: Codec<A::Command>,
    K: 'static,
    Typed<A, C, K>: StateMachine<Response = A::Response>,
{
    /// As [`write`](Self::write), of a command that the application has [validated](Application::validate).
    ///
    /// `write` itself takes bytes: they too are decoded and validated before anything is in the log
    /// ([`WriteError::Invalid`]), by the leader.
    ///
    /// # Errors
    /// If the command is rejected or cannot be encoded, which is found before anything is proposed; else as for `write`.
    pub fn propose<'a>(
        &'a self,
        command: &A::Command,
    ) -> impl Future<Output = Result<Applied<A::Response>, ProposeError<A::Rejection>>> + Send + use<'a, A, C, K>
    {
        let command = Typed::<A, C, K>::command(command);
        async move { self.write(command?).await.map_err(ProposeError::Write) }
    }

    /// As [`propose`](Self::propose), without waiting for the state machine: see
    /// [`write_committed`](Self::write_committed).
    ///
    /// # Errors
    /// As for `propose`.
    pub fn propose_committed<'a>(
        &'a self,
        command: &A::Command,
    ) -> impl Future<Output = Result<LogId, ProposeError<A::Rejection>>> + Send + use<'a, A, C, K> {
        let command = Typed::<A, C, K>::command(command);
        async move { self.write_committed(command?).await.map_err(ProposeError::Write) }
    }
}
