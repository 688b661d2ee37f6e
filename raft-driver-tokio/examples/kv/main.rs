//! A replicated key-value store over HTTP that survives `kill -9`: what a program on `raft-driver-tokio` looks like.
//!
//! * [`machine`] with [`frozen`]: the state machine, and its state as bytes. This is what a user writes. [`once`] puts
//!   sessions in front of it.
//! * [`serve`]: a node with a durable log, snapshots in files and a TCP transport, from start to shutdown.
//! * [`http`]: its front for clients, operators and whoever watches, the status page among it.
//! * [`driver`]: what is Tokio's own. The rest knows a [`node`] by what it needs of one, and is shared with the same program
//!   on Actix.
//! * [`client`]: the commands `get`, `put`, `del`, `status`, `member`, `transfer` and `snapshot`; [`bench`]: load.
//! * [`offline`]: backups, and a new cluster from what is left of another.
//! * [`demo`]: three such processes, killed and restarted under load, every acknowledged write read back.
//!
//! Left out, because nothing here needs it: authentication of clients, HTTP over TLS, listing of keys, conditional writes.

mod bench;
mod certs;
mod cli;
mod client;
mod demo;
mod driver;
mod failure;
mod frozen;
mod http;
mod machine;
mod node;
mod offline;
mod once;
mod report;
mod serve;
mod stop;

fn main() -> std::process::ExitCode {
    cli::run()
}
