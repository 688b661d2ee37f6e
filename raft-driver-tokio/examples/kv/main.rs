//! A replicated key-value store over HTTP that survives `kill -9`: what a program on `raft-driver-tokio` looks like.
//!
//! * [`machine`] with [`frozen`]: the state machine, and its state as bytes. This is what a user writes.
//! * [`serve`], [`listen`], [`request`], [`http`] and [`admin`]: a node with a durable log, snapshots in files, a TCP
//!   transport and an HTTP front.
//! * [`demo`] with [`cluster`], [`client`], [`load`], [`wait`] and [`report`]: three such processes, killed and restarted
//!   under load, every acknowledged write read back.
//!
//! Left out, because nothing here needs it: authentication, encryption, listing of keys, conditional writes.

mod admin;
mod cli;
mod client;
mod cluster;
mod demo;
mod failure;
mod frozen;
mod http;
mod listen;
mod load;
mod machine;
mod report;
mod request;
mod serve;
mod stop;
mod wait;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // clap prints its own errors and ends with code 2.
    let result = match cli::Cli::parse().command {
        cli::Command::Serve(options) => serve::run(options),
        cli::Command::Demo(options) => demo::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
