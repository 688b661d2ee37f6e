//! Runs the unit tests inside `examples/chaos`. An example with tests of its own would be built as tests only.

#![cfg(target_os = "linux")]
#![allow(dead_code, reason = "tests use parts of each room; the program uses all")]

#[path = "../examples/chaos/api.rs"]
mod api;
#[path = "../examples/chaos/cli.rs"]
mod cli;
#[path = "../examples/chaos/clients.rs"]
mod clients;
#[path = "../examples/chaos/cluster.rs"]
mod cluster;
#[path = "../examples/chaos/disk.rs"]
mod disk;
#[path = "../examples/chaos/events.rs"]
mod events;
#[path = "../examples/chaos/history.rs"]
mod history;
#[path = "../examples/chaos/links.rs"]
mod links;
#[path = "../examples/chaos/members.rs"]
mod members;
#[path = "../examples/chaos/namespaces.rs"]
mod namespaces;
#[path = "../examples/chaos/nemesis.rs"]
mod nemesis;
#[path = "../examples/chaos/network.rs"]
mod network;
#[path = "../examples/chaos/owner.rs"]
mod owner;
#[path = "../examples/chaos/process.rs"]
mod process;
#[path = "../examples/chaos/proxy.rs"]
mod proxy;
#[path = "../examples/chaos/recordings.rs"]
mod recordings;
#[path = "../examples/chaos/report.rs"]
mod report;
#[path = "../examples/chaos/run.rs"]
mod run;
#[path = "../examples/chaos/said.rs"]
mod said;
#[path = "../examples/chaos/schedule.rs"]
mod schedule;
#[path = "../examples/chaos/settle.rs"]
mod settle;
#[path = "../examples/chaos/verdict.rs"]
mod verdict;
#[path = "../examples/chaos/watch.rs"]
mod watch;
