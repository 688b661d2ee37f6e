//! The offline commands: their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use raft_core::{LogId, LogIndex, NodeId, Term};

use crate::cli::{parse_cluster, parse_id, parse_reachable};

pub(super) const HELP: &str = "\
Look first:
  kv offline inspect --id 1 --cluster 1 --data /tmp/kv-1
A backup of a cluster that runs is `kv backup FILE`: it has all that was acknowledged. Of a node
that is stopped there is its newest snapshot; --snapshot-only if its log goes on behind that:
  kv offline backup --id 1 --cluster 1 --data /tmp/kv-1 --to /tmp/kv.backup
A new cluster from it, here of one node; of three, with the same --peer list on each of them:
  kv offline import /tmp/kv.backup --id 1 --cluster 2 --data /tmp/kv-new --peer 1=127.0.0.1:7101
Nodes 2 and 3 of three are lost for good, and node 1 is what is left:
  kv offline rescue --id 1 --cluster 1 --data /tmp/kv-1 --lost 2 --lost 3 \\
      --new-cluster 2 --new-data /tmp/kv-new --raft 127.0.0.1:7101
Then, with the new name, and others added by `kv member add`:
  kv serve --id 1 --cluster 2 --data /tmp/kv-new --raft 127.0.0.1:7101 --http 127.0.0.1:8101 --join

Exit codes: 0 done, 2 arguments, 3 a directory or file that cannot be used, 4 in use, 11 refused, 1 anything else.";

/// What is done to data directories while no node runs on them.
#[derive(Debug, Subcommand)]
pub(crate) enum OfflineCommand {
    /// Show what a data directory holds.
    Inspect(DataDir),
    /// Copy the newest snapshot to a file of its own.
    ///
    /// What the log holds behind the snapshot, acknowledged writes too, is not in it: refuses while there is any. `kv
    /// backup` of a running node has everything.
    Backup(Backup),
    /// Fill an empty data directory from a backup: the beginning of a new cluster.
    Import(Import),
    /// Fill an empty data directory from that of a survivor, when the majority of its cluster is lost for good.
    ///
    /// The old directory stays as it is. What the lost nodes had and this one never received is lost with them. Refuses
    /// while the nodes that answer or are not lost would be a majority, and while another survivor holds more.
    Rescue(Rescue),
}

/// Offline commands.
#[derive(Debug, Args)]
pub(crate) struct Offline {
    #[command(subcommand)]
    pub(crate) command: OfflineCommand,
}

/// A data directory and whose it is.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataDir {
    /// The node's number.
    #[arg(long, value_name = "N", value_parser = parse_id)]
    pub(crate) id: NodeId,
    /// The cluster's name, as in `kv serve`.
    #[arg(long, value_name = "ID", default_value = "1", value_parser = parse_cluster)]
    pub(crate) cluster: u128,
    /// Where the node keeps its log and snapshots.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) from: DataDir,
    /// The file; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Do without what the log holds behind the snapshot: says how many entries that are.
    #[arg(long)]
    pub(crate) snapshot_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The backup.
    pub(crate) backup: PathBuf,
    #[command(flatten)]
    pub(crate) into: DataDir,
    /// A member of the new cluster and its address for the other nodes. Once for each, the same on all of them, all with
    /// the same backup.
    #[arg(long = "peer", value_name = "N=RAFT", required = true, value_parser = parse_member)]
    pub(crate) peers: Vec<(NodeId, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct Rescue {
    #[command(flatten)]
    pub(crate) from: DataDir,
    /// A voter that will never come back.
    #[arg(long, value_name = "N", value_parser = parse_id)]
    pub(crate) lost: Vec<NodeId>,
    /// Another survivor, with the last entry that `kv offline inspect` shows for it.
    #[arg(long = "other", value_name = "N=INDEX@TERM", value_parser = parse_other)]
    pub(crate) others: Vec<(NodeId, LogId)>,
    /// The new cluster's name; another one than the old one's.
    #[arg(long, value_name = "ID", value_parser = parse_cluster)]
    pub(crate) new_cluster: u128,
    /// An empty directory for the new cluster's first node, which keeps the survivor's number.
    #[arg(long, value_name = "DIR")]
    pub(crate) new_data: PathBuf,
    /// Where the others will reach that node.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_reachable)]
    pub(crate) raft: String,
}

fn parse_member(text: &str) -> Result<(NodeId, String), String> {
    let (id, address) = text.split_once('=').ok_or("expected N=RAFT, as in 2=127.0.0.1:7102")?;
    Ok((parse_id(id)?, parse_reachable(address)?))
}

fn parse_other(text: &str) -> Result<(NodeId, LogId), String> {
    let wrong = || format!("'{text}' is not N=INDEX@TERM, as in 2=1042@7");
    let (id, last) = text.split_once('=').ok_or_else(wrong)?;
    let (index, term) = last.split_once('@').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    Ok((parse_id(id)?, LogId::new(Term::new(number(term)?), LogIndex::new(number(index)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_logs_are_index_and_term() {
        let last = LogId::new(Term::new(7), LogIndex::new(1042));
        assert_eq!(parse_other("2=1042@7"), Ok((NodeId::new(2), last)));
        for wrong in ["2", "2=1042", "2=@7", "0=1@1", "2=1@x"] {
            assert!(parse_other(wrong).is_err(), "{wrong}");
        }
    }
}
