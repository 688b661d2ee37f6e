//! Without the feature `metrics`: nothing is measured.

use raft_core::Node;

use super::{Labels, Load};
use crate::transport::TransportStats;

/// Exports nothing.
#[derive(Debug)]
pub(crate) struct Export;

impl Export {
    pub(crate) fn new(_: Labels) -> Self {
        Self
    }

    pub(crate) fn publish(&mut self, _: bool, _: &Node, _: Load, _: &dyn Fn() -> TransportStats) {}
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
