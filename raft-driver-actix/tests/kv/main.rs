//! The example's program as users run it: what is asked of the same program on Tokio, from the same source, and clusters
//! of both. Its rooms' unit tests run here too, since those of the connections depend on who speaks HTTP.
//!
//! Cargo builds this crate's examples together with the tests. The Tokio program is built with the whole workspace's, or
//! by `cargo build -p raft-driver-tokio --example kv`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "tests use parts of each room; the program uses all")]

mod flood;
mod mixed;

#[path = "../../../raft-driver-tokio/tests/kv_processes/cluster.rs"]
mod cluster;
#[path = "../../../raft-driver-tokio/tests/kv_processes/members.rs"]
mod members;
#[path = "../../../raft-driver-tokio/tests/kv_processes/support.rs"]
mod support;
#[path = "../../../raft-driver-tokio/tests/kv_processes/watch.rs"]
mod watch;

#[path = "../../../raft-driver-tokio/examples/kv/bench/mod.rs"]
mod bench;
#[path = "../../../raft-driver-tokio/examples/kv/certs.rs"]
mod certs;
#[path = "../../../raft-driver-tokio/examples/kv/cli/mod.rs"]
mod cli;
#[path = "../../../raft-driver-tokio/examples/kv/client/mod.rs"]
mod client;
#[path = "../../../raft-driver-tokio/examples/kv/demo/mod.rs"]
mod demo;
#[path = "../../examples/kv/driver/mod.rs"]
mod driver;
#[path = "../../../raft-driver-tokio/examples/kv/failure.rs"]
mod failure;
#[path = "../../../raft-driver-tokio/examples/kv/frozen.rs"]
mod frozen;
#[path = "../../../raft-driver-tokio/examples/kv/http/mod.rs"]
mod http;
#[path = "../../../raft-driver-tokio/examples/kv/machine.rs"]
mod machine;
#[path = "../../../raft-driver-tokio/examples/kv/node.rs"]
mod node;
#[path = "../../../raft-driver-tokio/examples/kv/offline.rs"]
mod offline;
#[path = "../../../raft-driver-tokio/examples/kv/once.rs"]
mod once;
#[path = "../../../raft-driver-tokio/examples/kv/report.rs"]
mod report;
#[path = "../../../raft-driver-tokio/examples/kv/serve/mod.rs"]
mod serve;
#[path = "../../../raft-driver-tokio/examples/kv/stop.rs"]
mod stop;

/// The name of the program that is tested.
const PROGRAM: &str = "kv-actix";
