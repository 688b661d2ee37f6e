//! Nodes as actors of one process, over stores and over storage that is an actor itself.
//!
//! Nothing sleeps: tests wait for what listeners, storages and replies tell. Time limits bound a hang, no more.

#![allow(clippy::unwrap_used, reason = "what a test expects")]

mod asking;
mod conformance;
mod drivers;
mod floods;
mod hubs;
mod journals;
mod lifecycle;
mod operators;
mod router;
mod runtime_ends;
mod storage;
mod stores;
mod supervision;
mod support;
mod table;
