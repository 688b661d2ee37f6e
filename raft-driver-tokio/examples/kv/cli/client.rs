//! The client's commands: their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use raft_core::NodeId;

use crate::cli::{parse_address, parse_cluster, parse_id, parse_reachable};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done                                   8  not done: nobody served it in time, nothing changed
  1  anything else                          9  unknown: it may have happened, or may happen yet
  2  arguments                             10  the key has no value
                                           11  refused, for the reason that is printed";

/// Whom to ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct Endpoints {
    /// HTTP addresses of nodes; one that runs is enough, and the leader is found by itself.
    #[arg(
        long,
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        default_value = "127.0.0.1:8101,127.0.0.1:8102,127.0.0.1:8103",
        value_parser = parse_address
    )]
    pub(crate) endpoints: Vec<String>,
}

/// Whom to ask, and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Reach {
    #[command(flatten)]
    pub(crate) at: Endpoints,
    /// Give up when there is no outcome after so long.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) limit_s: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    pub(crate) key: String,
    /// The value; read from standard input if it is left out.
    #[arg(conflicts_with = "file")]
    pub(crate) value: Option<String>,
    /// Take the value from this file.
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print what each node said, one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Member {
    #[command(subcommand)]
    pub(crate) command: MemberCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Who takes part, and where.
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Add a node that was started with --join, or make a learner a voter or the reverse.
    ///
    /// Waits until it has caught up and counts.
    #[command(after_help = EXIT_CODES)]
    Add {
        /// Its number.
        #[arg(value_parser = parse_id)]
        id: NodeId,
        /// Where other nodes reach it; may be left out for a member.
        #[arg(long, value_name = "HOST:PORT", value_parser = parse_reachable)]
        raft: Option<String>,
        /// Where clients reach it.
        #[arg(long, value_name = "HOST:PORT", value_parser = parse_reachable)]
        http: Option<String>,
        /// It receives the log, and has no vote.
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove a node. Switch it off afterwards, and never give its number to another disk.
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// Its number.
        #[arg(value_parser = parse_id)]
        id: NodeId,
        #[command(flatten)]
        reach: Reach,
    },
    /// Give up the change in progress.
    #[command(after_help = EXIT_CODES)]
    Cancel {
        #[command(flatten)]
        reach: Reach,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Transfer {
    /// To this node; to the voter that is furthest if it is left out.
    #[arg(long, value_name = "N", value_parser = parse_id)]
    pub(crate) to: Option<NodeId>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// This node only; all members if it is left out.
    #[arg(long, value_name = "N", value_parser = parse_id)]
    pub(crate) node: Option<NodeId>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct BackupTo {
    /// The file; it must not exist.
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) at: Endpoints,
}

/// Put load on a cluster, and report throughput, latencies and errors.
#[derive(Debug, Args)]
#[command(after_help = "\
Closed loop by default: each client sends its next request when the last one was answered. With --rate an open
loop: requests are due at fixed times whether or not others were answered, and a latency counts from when its
request was due, so that a stall is seen as what it was for all who would have asked during it.

Exit code 0 even with errors: they are part of the report; 8 if no node serves a read at the start.")]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Start three nodes on loopback for it, with data in a temporary directory, instead of asking --endpoints.
    #[arg(long, conflicts_with = "endpoints")]
    pub(crate) local: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// What a bench does.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// Clients at work at the same time, each with one request under way.
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) clients: u32,
    /// HTTP/2 connections to each node, shared by the clients. A node takes 128 requests at a time on each.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) connections: u16,
    /// For how long.
    #[arg(long, value_name = "SECONDS", default_value = "10", conflicts_with = "count", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) duration_s: u32,
    /// So many requests, however long it takes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Open loop: so many requests a second in all.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// Of a hundred requests, so many are reads.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// Reads go to all nodes in turn, instead of to the leader.
    #[arg(long)]
    pub(crate) spread_reads: bool,
    /// Bytes in a value.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = clap::value_parser!(u32).range(0..=1024 * 1024))]
    pub(crate) value_bytes: u32,
    /// Keys to choose from, at random.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keys: u32,
    /// Each client writes in a session, so that what is tried again happens once.
    #[arg(long)]
    pub(crate) sessions: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Writes in the first stage; the stages under `kill -9` write half as many each.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub(crate) writes: u32,
    /// Clients that write at the same time, over one connection to each node.
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) clients: u16,
    /// Bytes in a value.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = clap::value_parser!(u32).range(64..=1024 * 1024))]
    pub(crate) value_bytes: u32,
    /// Fail when it takes longer than this.
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) limit_s: u32,
    /// Leave the temporary directory with data and the nodes' output where it is.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Certs {
    /// Where to put ca.pem, ca.key, and node-N.pem and node-N.key for each node. Nothing is overwritten.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// For nodes 1 to this.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) nodes: u16,
    /// The --cluster of these nodes.
    #[arg(long, value_name = "ID", default_value = "1", value_parser = parse_cluster)]
    pub(crate) cluster: u128,
}
