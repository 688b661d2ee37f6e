//! What went wrong once, or would have: each test failed before its cause was mended.

#[path = "../support/mod.rs"]
mod support;

mod membership;
mod messages;
mod reads;
mod snapshots;
