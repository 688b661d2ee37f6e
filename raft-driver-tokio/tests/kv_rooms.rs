//! Runs the unit tests inside `examples/kv`. An example with tests of its own would be built as tests only, and its
//! program is what `kv_processes` needs.

#![allow(dead_code, reason = "tests use parts of each room; the program uses all")]

#[path = "../examples/kv/bench/mod.rs"]
mod bench;
#[path = "../examples/kv/cli/mod.rs"]
mod cli;
#[path = "../examples/kv/client/mod.rs"]
mod client;
#[path = "../examples/kv/demo/mod.rs"]
mod demo;
#[path = "../examples/kv/failure.rs"]
mod failure;
#[path = "../examples/kv/frozen.rs"]
mod frozen;
#[path = "../examples/kv/http/mod.rs"]
mod http;
#[path = "../examples/kv/machine.rs"]
mod machine;
#[path = "../examples/kv/report.rs"]
mod report;
#[path = "../examples/kv/serve/mod.rs"]
mod serve;
#[path = "../examples/kv/stop.rs"]
mod stop;
