//! The data directory: opened, and found to belong to this node and its cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use raft_core::NodeId;
use raft_driver_tokio::storage::{DurableLog, Identity, OpenError, SnapshotFileError, SnapshotFiles};
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

pub(super) fn cannot_start(options: &Serve, error: &StartError) -> Failure {
    match error {
        StartError::Log(_) | StartError::Snapshots(_) | StartError::Machine(_) | StartError::Node(_) => {
            Failure::new(
                Kind::Data,
                format!("{} cannot be used: {}", options.data.display(), chain(error)),
                "keep it as it is for inspection, and replace this node by one of a new id with an empty directory",
            )
        }
        StartError::Recording { .. } => {
            let advice = "name a directory that this program may write to: --record DIR";
            Failure::new(Kind::Arguments, chain(error), advice)
        }
        _ => Failure::other(format!("the node cannot be started: {}", chain(error))),
    }
}
