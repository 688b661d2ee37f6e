//! Runs the unit tests inside `examples/kv`. An example with tests of its own would be built as tests only, and its
//! program is what `kv_processes` needs.

#![allow(dead_code, reason = "tests use parts of each room; the program uses all")]

#[path = "../examples/kv/admin.rs"]
mod admin;
#[path = "../examples/kv/cli.rs"]
mod cli;
#[path = "../examples/kv/client.rs"]
mod client;
#[path = "../examples/kv/failure.rs"]
mod failure;
#[path = "../examples/kv/frozen.rs"]
mod frozen;
#[path = "../examples/kv/http.rs"]
mod http;
#[path = "../examples/kv/listen.rs"]
mod listen;
#[path = "../examples/kv/load.rs"]
mod load;
#[path = "../examples/kv/machine.rs"]
mod machine;
#[path = "../examples/kv/report.rs"]
mod report;
#[path = "../examples/kv/request.rs"]
mod request;
