//! What is done to data directories while no node runs on them: look, back up, begin a new cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use indicatif::ProgressBar;
use raft_core::host::{LogStore, SnapshotStore};
use raft_core::{LogIndex, NodeId};
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::restore::{Evidence, Held, Progress, RestoreError, Stores, answering, import, rescue};
use raft_driver_tokio::storage::{
    BackupFile, DurableLog, Identity, OpenError, SnapshotFileError, SnapshotFiles,
};

use crate::cli::{Backup, DataDir, Import, OfflineCommand, Rescue};
use crate::failure::{Failure, Kind, chain};
use crate::report::{bar, line};

/// How long a member has to answer at its address.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

pub(crate) fn run(command: OfflineCommand) -> Result<(), Failure> {
    match command {
        OfflineCommand::Inspect(dir) => inspect(&dir),
        OfflineCommand::Backup(options) => backup(&options),
        OfflineCommand::Import(options) => begin_from_backup(&options),
        OfflineCommand::Rescue(options) => begin_from_survivor(&options),
    }
}

fn open(dir: &DataDir) -> Result<Stores<DurableLog, SnapshotFiles>, Failure> {
    let identity = Identity { cluster: ClusterId::new(dir.cluster), node: dir.id };
    let log = DurableLog::open(&dir.data, identity).map_err(|error| {
        let kind = if matches!(error, OpenError::InUse { .. }) { Kind::DataInUse } else { Kind::Data };
        Failure::new(kind, chain(&error), "")
    })?;
    let snapshots =
        SnapshotFiles::open(dir.data.join("snapshots"), identity).map_err(|error| in_data(&error))?;
    Ok(Stores { log, snapshots })
}

/// Opened only if it is there: looking makes nothing.
fn open_existing(dir: &DataDir) -> Result<Stores<DurableLog, SnapshotFiles>, Failure> {
    if dir.data.is_dir() {
        return open(dir);
    }
    let what = format!("{} is no directory", dir.data.display());
    Err(Failure::new(Kind::Data, what, "name the data directory of a node with --data"))
}

fn in_data(error: &SnapshotFileError) -> Failure {
    let in_use = matches!(error, SnapshotFileError::InUse { .. });
    Failure::new(if in_use { Kind::DataInUse } else { Kind::Data }, chain(error), "")
}

fn refused(error: &RestoreError) -> Failure {
    let kind = match error {
        RestoreError::Store { .. } | RestoreError::Differs => Kind::Data,
        _ => Kind::Refused,
    };
    // What to do is in the error's own words.
    Failure::new(kind, chain(error), "")
}

fn inspect(dir: &DataDir) -> Result<(), Failure> {
    let Held { term, last, membership } = open_existing(dir)?.inspect().map_err(|error| refused(&error))?;
    let listed = |nodes: &BTreeSet<NodeId>| {
        let node = |id: &NodeId| {
            let address = membership.nodes.get(id).map(|address| String::from_utf8_lossy(address));
            format!("{id}={}", address.unwrap_or_default())
        };
        nodes.iter().map(node).collect::<Vec<_>>().join(" ")
    };
    line("last entry", format!("{last} (index@term)"));
    line("term", term);
    line("voters", listed(&membership.voters));
    if !membership.outgoing.is_empty() {
        line("outgoing", listed(&membership.outgoing));
    }
    if !membership.learners.is_empty() {
        line("learners", listed(&membership.learners));
    }
    Ok(())
}

fn backup(options: &Backup) -> Result<(), Failure> {
    let mut stores = open_existing(&options.from)?;
    let log = stores.log.recover().map_err(|error| Failure::new(Kind::Data, chain(&error), ""))?;
    let newest = stores.snapshots.recover(log.base).map_err(|error| in_data(&error))?;
    // Entries: which of them are writes, and which were acknowledged, nobody knows while the node is stopped.
    let lacking = log.last.index.since(newest.map_or(LogIndex::ZERO, |newest| newest.id.last.index));
    if lacking > 0 && !options.snapshot_only {
        return Err(Failure::new(
            Kind::Refused,
            format!("{lacking} entries of the log, through {}, are in no snapshot", log.last),
            "start the node and run `kv backup FILE`, which has all that was acknowledged; or do without them: \
             --snapshot-only",
        ));
    }
    let meta = stores.snapshots.export(&options.to).map_err(|error| in_data(&error))?;
    line("backup", format!("{} bytes of state through {}", meta.size_bytes, meta.id.last));
    if lacking > 0 {
        line("not in it", format!("{lacking} entries of the log, through {}", log.last));
    }
    Ok(())
}

fn begin_from_backup(options: &Import) -> Result<(), Failure> {
    let backup = BackupFile::open(&options.backup).map_err(|error| in_data(&error))?;
    let members: BTreeMap<NodeId, Bytes> =
        options.peers.iter().map(|(id, address)| (*id, Bytes::from(address.clone()))).collect();
    let into = &options.into;
    if !members.contains_key(&into.id) || members.len() != options.peers.len() {
        let what = format!("--peer has to name each member once, and node {} among them", into.id);
        return Err(Failure::new(Kind::Arguments, what, "give the same list to every member"));
    }
    other_name(backup.origin().cluster.get(), into.cluster)?;
    let last = import(&backup, &mut open(into)?, members, watched()).map_err(|error| refused(&error))?;
    begun(last, &into.data, into.cluster);
    Ok(())
}

fn begin_from_survivor(options: &Rescue) -> Result<(), Failure> {
    let Rescue { from, lost, others, new_cluster, new_data, raft } = options;
    other_name(from.cluster, *new_cluster)?;
    let mut survivor = open_existing(from)?;
    let held = survivor.inspect().map_err(|error| refused(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    let mut asked = held.membership.nodes.clone();
    asked.remove(&from.id);
    let evidence = Evidence {
        survivor: from.id,
        lost: lost.iter().copied().collect(),
        others: others.iter().copied().collect(),
        answering: runtime.block_on(answering(&asked, ANSWERS_WITHIN)),
    };
    let new = DataDir { id: from.id, cluster: *new_cluster, data: new_data.clone() };
    let mut founder = open(&new)?;
    let last = rescue(&mut survivor, &mut founder, raft.clone().into(), &evidence, watched());
    begun(last.map_err(|error| refused(&error))?, new_data, *new_cluster);
    Ok(())
}

/// Servers of the old cluster must not reach the new one.
fn other_name(old: u128, new: u128) -> Result<(), Failure> {
    if old != new {
        return Ok(());
    }
    let what = format!("the new cluster has the name of the old one: {new:#x}");
    Err(Failure::new(Kind::Arguments, what, "choose another name, best at random"))
}

fn begun(last: raft_core::LogId, data: &Path, cluster: u128) {
    line("begun", format!("{} holds everything through {last}", data.display()));
    line("next", format!("kv serve --cluster {cluster:#x} --data {} --join ...", data.display()));
}

/// A bar for the snapshot, then one for the log.
fn watched() -> impl FnMut(Progress) {
    let mut shown: Option<(&'static str, ProgressBar)> = None;
    move |progress| {
        let (step, done, all) = match progress {
            Progress::Snapshot(done, all) => ("snapshot", done, all),
            Progress::Log(done, all) => ("log", done, all),
        };
        if shown.as_ref().is_none_or(|(before, _)| *before != step) {
            shown = Some((step, bar(step, all)));
        }
        if let Some((_, bar)) = &shown {
            bar.set_position(done);
        }
    }
}
