//! A replicated key-value store over HTTP that survives `kill -9`: what a program on `raft-driver-tokio` looks like.
//!
//! * [`machine`] with [`frozen`]: the state machine, and its state as bytes. This is what a user writes. [`once`] puts
//!   sessions in front of it.
//! * [`serve`]: a node with a durable log, snapshots in files and a TCP transport, from start to shutdown.
//! * [`http`]: its front for clients, operators and whoever watches, the status page among it. It knows nothing of Tokio's
//!   driver: a trait says what it needs of a node.
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
mod failure;
mod frozen;
mod http;
mod machine;
mod offline;
mod once;
mod report;
mod serve;
mod stop;

use std::process::ExitCode;

use clap::Parser;
use cli::Command;

fn main() -> ExitCode {
    // clap prints its own errors and ends with code 2.
    let result = match cli::Cli::parse().command {
        Command::Serve(options) => serve::run(*options),
        Command::Bench(options) => bench::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Certs(options) => certs::run(&options),
        Command::Get(options) => client::commands::get(&options),
        Command::Put(options) => client::commands::put(options),
        Command::Del(options) => client::commands::remove(&options),
        Command::Status(options) => client::operator::status(&options),
        Command::Member(options) => client::operator::member(options.command),
        Command::Transfer(options) => client::operator::transfer(&options),
        Command::Snapshot(options) => client::operator::snapshot(&options),
        Command::Offline(options) => offline::run(options.command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
