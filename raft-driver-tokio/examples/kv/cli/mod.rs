//! The command line: what can be asked for, in words that teach, and who does it.

mod client;
mod offline;
mod serve;

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use raft_core::NodeId;

pub(crate) use client::{
    BackupTo, Bench, Certs, Demo, Get, Load, Member, MemberCommand, Put, Reach, Remove, Snapshot, Status,
    Transfer,
};
pub(crate) use offline::{Backup, DataDir, Import, Offline, OfflineCommand, Rescue};
pub(crate) use serve::{Peers, Serve};

/// Most of what a server allocates is of HTTP requests, and short-lived.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Three nodes on one machine, each in a terminal of its own; the --peer list is the same for all:
  kv serve --id 1 --raft 127.0.0.1:7101 --http 127.0.0.1:8101 --data /tmp/kv-1 \\
      --peer 1=127.0.0.1:7101@127.0.0.1:8101 \\
      --peer 2=127.0.0.1:7102@127.0.0.1:8102 \\
      --peer 3=127.0.0.1:7103@127.0.0.1:8103
  kv serve --id 2 --raft 127.0.0.1:7102 --http 127.0.0.1:8102 --data /tmp/kv-2 --peer ...
  kv serve --id 3 --raft 127.0.0.1:7103 --http 127.0.0.1:8103 --data /tmp/kv-3 --peer ...
Look at them: open http://127.0.0.1:8101/ in a browser, or
  kv status
Then:
  kv put greeting hello                   curl -L -X PUT --data-binary hello http://127.0.0.1:8101/kv/greeting
  kv get greeting                         curl http://127.0.0.1:8102/kv/greeting
  kv bench --duration-s 10
Replace node 1 by node 4:
  kv serve --id 4 --raft 127.0.0.1:7104 --http 127.0.0.1:8104 --data /tmp/kv-4 --join
  kv member add 4 --raft 127.0.0.1:7104 --http 127.0.0.1:8104
  kv member remove 1
All of it, with `kill -9` and a check that nothing is lost:
  kv demo";

/// A replicated key-value store over HTTP that survives `kill -9`: server, client, load generator.
#[derive(Debug, Parser)]
#[command(name = "kv", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node.
    #[command(max_term_width = 110, after_help = serve::HELP)]
    Serve(Box<Serve>),
    /// Print the value of a key.
    #[command(after_help = client::EXIT_CODES)]
    Get(Get),
    /// Set a key. Tried again until there is an outcome, it happens once all the same.
    #[command(after_help = client::EXIT_CODES)]
    Put(Put),
    /// Remove a key. Tried again until there is an outcome, it happens once all the same.
    #[command(after_help = client::EXIT_CODES)]
    Del(Remove),
    /// Show every node: role, term, indexes, lag.
    #[command(after_help = client::EXIT_CODES)]
    Status(Status),
    /// Show or change who takes part.
    Member(Member),
    /// Let another node lead.
    #[command(after_help = client::EXIT_CODES)]
    Transfer(Transfer),
    /// Have nodes take a snapshot now.
    #[command(after_help = client::EXIT_CODES)]
    Snapshot(Snapshot),
    /// Copy the state of a running cluster into a file, from which `kv offline import` begins a new cluster.
    ///
    /// It holds every write that was acknowledged before. Checked as a whole before the file has its name.
    #[command(after_help = client::EXIT_CODES)]
    Backup(BackupTo),
    /// Look into data directories while no node runs on them, back one up, or begin a new cluster from what is left.
    #[command(max_term_width = 110, after_help = offline::HELP)]
    Offline(Offline),
    /// Make certificates for trying TLS between the nodes.
    Certs(Certs),
    /// Put load on a cluster, and report throughput, latencies and errors.
    Bench(Bench),
    /// Run three nodes on loopback, kill and restart them under load, and check that nothing was lost.
    ///
    /// Exit status 0 only if every acknowledged write was read back and all three nodes ended in the same state;
    /// 130 if interrupted.
    Demo(Demo),
}

/// Does what the command line asks for.
pub(crate) fn run() -> ExitCode {
    // clap prints its own errors and ends with code 2.
    let result = match Cli::parse().command {
        Command::Serve(options) => crate::serve::run(*options),
        Command::Bench(options) => crate::bench::run(&options),
        Command::Demo(options) => crate::demo::run(&options),
        Command::Certs(options) => crate::certs::run(&options),
        Command::Get(options) => crate::client::commands::get(&options),
        Command::Put(options) => crate::client::commands::put(options),
        Command::Del(options) => crate::client::commands::remove(&options),
        Command::Status(options) => crate::client::operator::status(&options),
        Command::Member(options) => crate::client::operator::member(options.command),
        Command::Transfer(options) => crate::client::operator::transfer(&options),
        Command::Backup(options) => crate::client::backup::backup(&options),
        Command::Snapshot(options) => crate::client::operator::snapshot(&options),
        Command::Offline(options) => crate::offline::run(options.command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

/// A node's number.
pub(crate) fn parse_id(text: &str) -> Result<NodeId, String> {
    match text.parse() {
        Ok(0) => Err("nodes are numbered from 1 on".into()),
        Ok(id) => Ok(NodeId::new(id)),
        Err(error) => Err(format!("'{text}' is not a node's number: {error}")),
    }
}

/// Checks the form only; names are resolved when they are used.
pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("'{text}' is not HOST:PORT"))?;
    let named = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@=".contains(c));
    match port.parse::<u16>() {
        Ok(1..) if named => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not HOST:PORT with a port from 1 to 65535")),
    }
}

/// The same, for an address that others are to connect to.
pub(crate) fn parse_reachable(text: &str) -> Result<String, String> {
    let text = parse_address(text)?;
    if is_wildcard(&text) {
        return Err(format!(
            "'{text}' is where a node listens on all of its addresses: name one that others reach"
        ));
    }
    Ok(text)
}

/// Whether it stands for every address of a host.
pub(crate) fn is_wildcard(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.is_ok_and(|ip| ip.to_canonical().is_unspecified())
}

/// A cluster's number.
pub(crate) fn parse_cluster(text: &str) -> Result<u128, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("'{text}' is not a cluster id: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_to_connect_to_is_no_wildcard() {
        for address in ["h:1", "127.0.0.1:1", "[::1]:1", "zero.example:1"] {
            assert_eq!(parse_reachable(address).as_deref(), Ok(address));
        }
        for address in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "h", "h:0"] {
            assert!(parse_reachable(address).is_err(), "{address}");
        }
        assert!(is_wildcard("0.0.0.0") && !is_wildcard("[::1]"));
    }
}
