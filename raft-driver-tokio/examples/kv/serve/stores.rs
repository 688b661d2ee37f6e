//! The data directory: opened, and found to belong to this node and its cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use raft_core::NodeId;
use raft_driver_tokio::storage::{
    DurableError, DurableLog, Identity, OpenError, SnapshotFileError, SnapshotFiles,
};
use raft_driver_tokio::{ClusterId, StartError};

use crate::cli::Serve;
use crate::failure::{Failure, Kind, chain};

/// Whose data it is.
pub(super) fn identity(options: &Serve) -> Identity {
    Identity { cluster: ClusterId::new(options.cluster), node: options.id }
}

/// Where snapshots are.
pub(super) fn snapshots_in(options: &Serve) -> PathBuf {
    options.data.join("snapshots")
}

pub(super) fn open(options: &Serve) -> Result<(DurableLog, SnapshotFiles), Failure> {
    let identity = identity(options);
    let kind = |in_use| if in_use { Kind::DataInUse } else { Kind::Data };
    // What to do is in the error's own words.
    let log = DurableLog::open(&options.data, identity)
        .map_err(|error| Failure::new(kind(matches!(error, OpenError::InUse { .. })), chain(&error), ""))?;
    let snapshots = SnapshotFiles::open(snapshots_in(options), identity).map_err(|error| {
        Failure::new(kind(matches!(error, SnapshotFileError::InUse { .. })), chain(&error), "")
    })?;
    Ok((log, snapshots))
}

/// Members that are not those of the data would vote and count in a cluster that is none of theirs.
pub(super) fn same_members(
    options: &Serve,
    found: &BTreeMap<NodeId, Bytes>,
    wanted: &BTreeMap<NodeId, Bytes>,
) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    let listed = |nodes: &BTreeMap<NodeId, Bytes>| {
        let peer = |(id, address): (&NodeId, &Bytes)| format!("{id}={}", String::from_utf8_lossy(address));
        nodes.iter().map(peer).collect::<Vec<_>>().join(" ")
    };
    let data = options.data.display();
    Err(Failure::new(
        Kind::Peers,
        format!(
            "{data} belongs to a cluster that began with other members: {}; --peer says {}",
            listed(found),
            listed(wanted)
        ),
        "start with the members that the cluster began with, or name another directory",
    ))
}

/// Whether the data is damaged, and nothing brings it back.
fn is_lost(error: &StartError) -> bool {
    match error {
        StartError::Log(error) => matches!(error.downcast_ref(), Some(DurableError::Damaged(_))),
        StartError::Snapshots(error) => matches!(
            error.downcast_ref(),
            Some(
                SnapshotFileError::Needed { .. }
                    | SnapshotFileError::Damaged { .. }
                    | SnapshotFileError::Missing { part: None, .. }
            )
        ),
        StartError::Node(error) => !matches!(error, raft_core::StartError::Config(_)),
        _ => false,
    }
}

pub(super) fn cannot_start(options: &Serve, error: &StartError) -> Failure {
    match error {
        StartError::Log(_) | StartError::Snapshots(_) | StartError::Machine(_) | StartError::Node(_) => {
            let what = format!("{} cannot be used: {}", options.data.display(), chain(error));
            let advice = "keep it as it is for inspection, and replace this node by one of a new id with an empty directory; but \
                          what an import or a rescue left that was cut short is deleted, and begun anew";
            // What to do of anything else is in the error's own words.
            Failure::new(Kind::Data, what, if is_lost(error) { advice } else { "" })
        }
        StartError::Recording { .. } => {
            let advice = "name a directory that this program may write to: --record DIR";
            Failure::new(Kind::Arguments, chain(error), advice)
        }
        _ => Failure::other(format!("the node cannot be started: {}", chain(error))),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use clap::Parser;
    use raft_core::LogId;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn only_what_cannot_be_mended_costs_the_node() {
        let fixed = ["kv", "serve", "--id", "1", "--raft", "h:1", "--http", "h:2", "--data", "d", "--join"];
        let Command::Serve(options) = Cli::try_parse_from(fixed).unwrap().command else { unreachable!() };
        let path = || PathBuf::from("d/snapshots/x");
        let snapshots = |error| StartError::Snapshots(Box::new(error));
        let says = |error| cannot_start(&options, &error).to_string();
        for lost in [
            snapshots(SnapshotFileError::Needed { path: path(), what: "a block is" }),
            snapshots(SnapshotFileError::Damaged { path: path(), what: "a block is" }),
            snapshots(SnapshotFileError::Missing { dir: path(), base: LogId::ZERO, part: None }),
            StartError::Log(Box::new(DurableError::Damaged("a block is".into()))),
            StartError::Node(raft_core::StartError::MissingSnapshot(LogId::ZERO)),
        ] {
            let text = says(lost);
            assert!(text.contains("replace this node by one of a new id"), "{text}");
        }
        for (mendable, part) in [
            (
                snapshots(SnapshotFileError::Io {
                    op: "remove",
                    path: path(),
                    source: io::ErrorKind::PermissionDenied.into(),
                }),
                "check the path, its permissions",
            ),
            (snapshots(SnapshotFileError::InUse { path: path() }), "stop it"),
            (
                snapshots(SnapshotFileError::Missing {
                    dir: path(),
                    base: LogId::ZERO,
                    part: Some(path().with_extension("part")),
                }),
                "rename d/snapshots/x.part to d/snapshots/x.snapshot",
            ),
            (StartError::Log(Box::new(DurableError::Full)), "free some space"),
            (StartError::Log(Box::new(DurableError::from(io::Error::other("x")))), "the disk failed"),
        ] {
            let text = says(mendable);
            assert!(text.contains(part) && !text.contains("with an empty directory"), "{text}");
        }
    }
}
