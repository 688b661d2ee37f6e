//! Links `raft-core` without std: `make no-std`.
//!
//! A program has one panic handler. This library brings its own, so as soon as `raft-core`, or anything that it
//! depends on, brings std and with it std's handler, this does not compile: `error[E0152]: found duplicate lang item
//! panic_impl`. That takes a second and works on any machine; no other target need be installed.
#![no_std]

use core::panic::PanicInfo;

use raft_core::{Action, Config, Event, Fatal, Instant, Node, NodeId, Recovery, StartError};

/// What a host without std does at the least: starts a node,
///
/// # Errors
/// as the node does.
pub fn start(id: NodeId, recovery: Recovery, now: Instant) -> Result<Node, StartError> {
    Node::start(Config::new(id), recovery, now)
}

/// and drives it.
///
/// # Errors
/// As the node does.
pub fn turn(node: &mut Node, now: Instant, event: Event, perform: impl FnMut(Action)) -> Result<(), Fatal> {
    node.step(now, event)?;
    core::iter::from_fn(|| node.poll_action()).for_each(perform);
    Ok(())
}

#[panic_handler]
fn halt(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
