//! A replicated key-value store over HTTP that survives `kill -9`: what a program on `raft-driver-actix` with actix-web
//! looks like.
//!
//! It is `raft-driver-tokio/examples/kv` with another [`driver`]: the same commands, flags, HTTP, files and connections
//! between nodes, from the same source. Nodes of both programs form one cluster, and open each other's directories.

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

fn main() -> std::process::ExitCode {
    cli::run()
}
