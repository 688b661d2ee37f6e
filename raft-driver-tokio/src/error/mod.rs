//! What callers are told when something did not work, in words that say what to do about it.
//!
//! Every error of a write says what is known about the command: that it did not happen and never will (and then
//! the command comes back), that it happened, or that nobody knows.

mod node;
mod request;

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use raft_core::{LogId, NodeId};

pub use node::{Panicked, StartError, StopReason};
pub use request::{AdminError, ReadError, WriteError};

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

/// An error with its causes: a `StopReason` is mostly seen in logs, where `source` would be lost.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let next = error.to_string();
            // Some errors repeat their cause in their own words.
            if !text.contains(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}
