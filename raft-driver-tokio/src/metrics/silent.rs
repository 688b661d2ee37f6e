//! Without the feature `metrics`: nothing is measured.

use raft_core::{Instant, Node, NodeId};

use super::{Labels, Load};
use crate::transport::TransportStats;

/// Exports nothing, since the feature `metrics` is off.
#[derive(Debug)]
pub struct Export;

impl Export {
    /// For drivers: the figures of this node.
    #[must_use]
    pub fn of(id: NodeId) -> Self {
        Self::new(Labels { id, group: None })
    }

    pub(crate) fn new(_: Labels) -> Self {
        Self
    }

    /// For drivers, after each turn: exports, if something important changed or the last time is long ago.
    pub fn publish(&mut self, _: bool, _: &Node, _: Load, _: Instant, _: &dyn Fn() -> TransportStats) {}
}

/// Measures nothing.
#[derive(Debug)]
pub(crate) struct Times;

impl Times {
    pub(crate) fn new(_: Labels) -> Self {
        Self
    }

    pub(crate) fn write(&self) -> Timed {
        Timed
    }

    pub(crate) fn read(&self) -> Timed {
        Timed
    }
}

/// A request that nobody measures.
pub(crate) struct Timed;
