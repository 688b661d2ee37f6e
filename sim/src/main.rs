//! The command line of the simulator: run seeds, show one, prove that the checkers see.

mod mutants;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use raft_sim::{Registers, cli};

/// Deterministic simulation of a Raft cluster, with every checker on.
#[derive(Debug, Parser)]
#[command(name = "sim", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Workload(cli::Command),
    /// Plant known bugs, one at a time, and see whether the checkers find them.
    Mutants(mutants::Mutants),
    /// Check small models of a cluster exhaustively: everything that can happen to them.
    Explore(raft_sim::explore::command::Explore),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Workload(command) => command.run(Registers),
        Command::Mutants(mutants) => mutants.run(),
        Command::Explore(explore) => explore.run(),
    }
}
