//! A new cluster from what is left of another: nothing that the survivor held is lost, nobody of the old cluster can
//! decide in the new one, and nothing is made while it is not needed.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::{LogReader, LogStore, Refounding, SnapshotStore, SnapshotWriter};
use raft_core::{
    Config, Entries, EntryRef, HardState, LogId, LogIndex, Membership, MembershipChange, NodeId, SnapshotId,
    SnapshotMeta, SnapshotPolicy, Term, Write, WriteId,
};
use raft_driver_tokio::restore::{Evidence, Progress, RestoreError, Stores, answering, import, rescue};
use raft_driver_tokio::storage::{BackupFile, DurableLog, Identity, SnapshotFileError, SnapshotFiles};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, ClusterId, Raft, Recovered, StartError};

use common::{Journal, config, leader, members, node, within, write};

const OLD: ClusterId = ClusterId::new(1);
const NEW: ClusterId = ClusterId::new(2);

type Files = Stores<DurableLog, SnapshotFiles>;

fn open(dir: &Path, cluster: ClusterId, id: u64) -> Files {
    let identity = Identity { cluster, node: node(id) };
    let log = DurableLog::open(dir, identity).unwrap();
    Stores { log, snapshots: SnapshotFiles::open(dir.join("snapshots"), identity).unwrap() }
}

/// Small snapshots often, so that a log's beginning is gone soon.
fn compacting(id: u64) -> Config {
    let mut config = config(id);
    config.snapshot_policy = SnapshotPolicy::LogsSinceLast(20);
    config.compaction_margin_entries = 5;
    config
}

async fn start(files: Files, id: u64, network: &Channels) -> Raft<Journal> {
    let Stores { log, snapshots } = files;
    let started = Builder::new(compacting(id)).start(log, snapshots, Journal::default(), network.endpoint());
    within(started).await.unwrap()
}

fn text(at: u64) -> Bytes {
    Bytes::from(format!("command {at}"))
}

/// Three nodes on disks under `root`, which have written this many commands and stopped.
async fn veterans(root: &Path, commands: u64) {
    let network = Channels::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(open(&root.join(id.to_string()), OLD, id), id, &network).await);
    }
    within(nodes[0].bootstrap(members(1..=3))).await.unwrap();
    for at in 0..commands {
        write(&nodes, text(at)).await.unwrap();
    }
    // Whoever is to be rescued has all of it.
    let commit = leader(&nodes).await.status().await.unwrap().commit;
    for raft in &nodes {
        let mut metrics = raft.metrics();
        within(metrics.wait_for(|metrics| metrics.status.applied >= commit)).await.unwrap();
    }
    for raft in nodes {
        within(raft.shutdown()).await;
    }
}

fn lost(survivor: u64) -> Evidence {
    Evidence {
        survivor: node(survivor),
        lost: (1..=3).filter(|id| *id != survivor).map(node).collect(),
        others: BTreeMap::new(),
        answering: BTreeSet::new(),
    }
}

async fn commands(raft: &Raft<Journal>) -> Vec<Bytes> {
    within(raft.read(|machine| machine.commands.clone())).await.unwrap()
}

/// With a snapshot and the entries behind it, and with a log that was never compacted.
#[tokio::test]
async fn a_survivor_founds_a_new_cluster_with_all_that_it_held() {
    for written in [7, 57] {
        let root = tempfile::tempdir().unwrap();
        veterans(root.path(), written).await;
        let (old, new) = (root.path().join("2"), root.path().join("new"));
        let mut survivor = open(&old, OLD, 2);
        let held = survivor.inspect().unwrap();
        assert_eq!(held.membership.voters, (1..=3).map(node).collect());
        let mut founder = open(&new, NEW, 2);
        let mut seen = Vec::new();
        let last = rescue(&mut survivor, &mut founder, "n2".into(), &lost(2), |progress| seen.push(progress))
            .unwrap();
        assert_eq!(last, held.last);
        assert!(matches!(seen.last(), Some(Progress::Log(done, all)) if done == all), "{seen:?}");
        assert_eq!(seen.iter().any(|progress| matches!(progress, Progress::Snapshot(..))), written > 20);

        // No configuration of the old cluster is left anywhere.
        drop((survivor, founder));
        let mut founder = open(&new, NEW, 2);
        let found = founder.log.recover().unwrap();
        let snapshot = founder.snapshots.recover(found.base).unwrap();
        let configurations = found.memberships.iter().map(|(_, membership)| membership);
        let configurations: Vec<_> =
            configurations.chain(snapshot.iter().map(|meta| &meta.membership)).collect();
        assert!(!configurations.is_empty());
        assert!(
            configurations.iter().all(|it| it.voters == BTreeSet::from([node(2)]) && it.nodes.len() == 1)
        );
        assert!(found.hard_state.term > held.term && found.hard_state.voted_for.is_none());
        drop(founder);

        let network = Channels::default();
        let first = start(open(&new, NEW, 2), 2, &network).await;
        assert_eq!(first.wait(common::BOUND).leader().await.ok(), Some(node(2)));
        assert_eq!(commands(&first).await, (0..written).map(text).collect::<Vec<_>>());
        // It grows again, by servers whose ids the old one knew too.
        let second = start(open(&root.path().join("new-1"), NEW, 1), 1, &network).await;
        let change = MembershipChange::Update {
            voters: BTreeSet::from([node(1)]),
            learners: BTreeSet::new(),
            remove: BTreeSet::new(),
            addresses: members([1]),
        };
        within(first.change_membership(change)).await.unwrap();
        let nodes = [first, second];
        write(&nodes, text(written)).await.unwrap();
        for raft in &nodes {
            assert_eq!(commands(raft).await, (0..=written).map(text).collect::<Vec<_>>());
        }
        for raft in nodes {
            within(raft.shutdown()).await;
        }
        // The survivor's own files are what they were.
        assert_eq!(open(&old, OLD, 2).inspect().unwrap().last, held.last);
    }
}

#[tokio::test]
async fn nothing_is_rescued_while_it_is_not_needed() {
    let root = tempfile::tempdir().unwrap();
    veterans(root.path(), 3).await;
    let mut survivor = open(&root.path().join("1"), OLD, 1);
    let own = survivor.inspect().unwrap().last;
    let new = root.path().join("new");
    let mut refused = |evidence: &Evidence| {
        let mut founder = open(&new, NEW, 1);
        let error = rescue(&mut survivor, &mut founder, "n1".into(), evidence, |_| ()).unwrap_err();
        // Not a byte was written.
        assert_eq!(founder.log.recover().unwrap().last, LogId::ZERO);
        error
    };
    let set = |ids: &[u64]| ids.iter().copied().map(node).collect::<BTreeSet<NodeId>>();

    let one_lost = Evidence { lost: set(&[2]), others: [(node(3), own)].into(), ..lost(1) };
    let error = refused(&one_lost);
    assert!(matches!(&error, RestoreError::NotNeeded { present } if *present == set(&[1, 3])), "{error}");
    let error = refused(&Evidence { answering: set(&[3]), ..lost(1) });
    assert!(matches!(error, RestoreError::Answers { node } if node == NodeId::new(3)), "{error}");
    let error = refused(&Evidence { lost: set(&[2]), ..lost(1) });
    assert!(matches!(&error, RestoreError::Unaccounted { nodes } if *nodes == set(&[3])), "{error}");
    let error = refused(&lost(4));
    assert!(matches!(error, RestoreError::NoVoter(node) if node == NodeId::new(4)), "{error}");
    drop(survivor);

    // Of five, with two survivors: the one with the longer log.
    let root = tempfile::tempdir().unwrap();
    let network = Channels::default();
    let single = start(open(&root.path().join("1"), OLD, 1), 1, &network).await;
    within(single.bootstrap(members([1]))).await.unwrap();
    write(std::slice::from_ref(&single), text(0)).await.unwrap();
    within(single.shutdown()).await;
    let mut survivor = open(&root.path().join("1"), OLD, 1);
    let mut founder = open(&root.path().join("new"), NEW, 1);
    let evidence = Evidence { lost: BTreeSet::new(), ..lost(1) };
    let error = rescue(&mut survivor, &mut founder, "n1".into(), &evidence, |_| ()).unwrap_err();
    assert!(matches!(error, RestoreError::NotNeeded { .. }), "a cluster of one that is whole: {error}");
}

#[tokio::test]
async fn of_two_survivors_the_one_with_the_longer_log_is_rescued_and_only_into_empty_stores() {
    let root = tempfile::tempdir().unwrap();
    let network = Channels::default();
    let mut nodes = Vec::new();
    for id in 1..=4 {
        nodes.push(start(open(&root.path().join(id.to_string()), OLD, id), id, &network).await);
    }
    within(nodes[0].bootstrap(members(1..=4))).await.unwrap();
    write(&nodes, text(0)).await.unwrap();
    for raft in nodes {
        within(raft.shutdown()).await;
    }
    let mut survivor = open(&root.path().join("1"), OLD, 1);
    let own = survivor.inspect().unwrap().last;
    let longer = LogId::new(Term::new(own.term.get() + 1), LogIndex::new(1));
    let evidence = |other| Evidence {
        survivor: node(1),
        lost: [node(3), node(4)].into(),
        others: [(node(2), other)].into(),
        answering: [node(2)].into(),
    };
    let new = root.path().join("new");
    let mut founder = open(&new, NEW, 1);
    let error = rescue(&mut survivor, &mut founder, "n1".into(), &evidence(longer), |_| ()).unwrap_err();
    assert!(
        matches!(error, RestoreError::Behind { node, last, .. } if node == NodeId::new(2) && last == longer)
    );
    rescue(&mut survivor, &mut founder, "n1".into(), &evidence(own), |_| ()).unwrap();
    drop(founder);
    let mut founder = open(&new, NEW, 1);
    let again = rescue(&mut survivor, &mut founder, "n1".into(), &evidence(own), |_| ()).unwrap_err();
    assert!(matches!(again, RestoreError::NotEmpty), "{again}");
}

#[tokio::test]
async fn whoever_listens_answers() {
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address =
        |listener: &tokio::net::TcpListener| Bytes::from(listener.local_addr().unwrap().to_string());
    let nodes = BTreeMap::from([
        (node(1), address(&listening)),
        (node(2), address(&closed)),
        (node(3), Bytes::from_static(b"\xff no text")),
    ]);
    drop(closed);
    assert_eq!(answering(&nodes, Duration::from_secs(5)).await, BTreeSet::from([node(1)]));
}

#[tokio::test]
async fn a_backup_is_taken_beside_a_running_node_and_begins_a_new_cluster() {
    let root = tempfile::tempdir().unwrap();
    let network = Channels::default();
    let files = open(&root.path().join("1"), OLD, 1);
    let snapshots = files.snapshots.clone();
    let file = root.path().join("backup");
    let error = snapshots.export(&file).unwrap_err();
    assert!(matches!(error, SnapshotFileError::Nothing { .. }), "{error}");
    let old = start(files, 1, &network).await;
    within(old.bootstrap(members([1]))).await.unwrap();
    for at in 0..9 {
        write(std::slice::from_ref(&old), text(at)).await.unwrap();
    }
    within(old.snapshot()).await.unwrap();
    write(std::slice::from_ref(&old), text(9)).await.unwrap();
    let store = snapshots.clone();
    let target = file.clone();
    let meta = tokio::task::spawn_blocking(move || store.export(target)).await.unwrap().unwrap();
    let error = snapshots.export(&file).unwrap_err();
    assert!(matches!(error, SnapshotFileError::Exists { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name != "backup.part"), "{left:?}");
    let store = snapshots.clone();
    let (streamed, cut) = tokio::task::spawn_blocking(move || {
        let (mut streamed, mut room) = (Vec::new(), [0; 60]);
        assert_eq!(*store.export_to(&mut streamed).unwrap(), *store.newest().unwrap());
        (streamed, store.export_to(&mut room[..]).unwrap_err())
    })
    .await
    .unwrap();
    assert_eq!(streamed, fs::read(&file).unwrap(), "through a stream, it is the same");
    assert!(cut.to_string().contains("cannot write to a stream"), "{cut}");
    within(old.shutdown()).await;

    // A byte that changed is noticed wherever it is.
    let bytes = fs::read(&file).unwrap();
    let damaged = root.path().join("damaged");
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, &bytes).unwrap();
        assert!(BackupFile::open(&damaged).is_err(), "byte {at} of {}", bytes.len());
    }
    fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    assert!(BackupFile::open(&damaged).is_err(), "one byte short");

    let backup = BackupFile::open(&file).unwrap();
    assert_eq!((backup.meta(), backup.origin().cluster), (&*meta, OLD));
    let network = Channels::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut files = open(&root.path().join(format!("new-{id}")), NEW, id);
        let last = import(&backup, &mut files, members(1..=3), |_| ()).unwrap();
        assert_eq!(last, meta.id.last);
        let again = import(&backup, &mut files, members(1..=3), |_| ()).unwrap_err();
        assert!(matches!(again, RestoreError::NotEmpty), "{again}");
        drop(files);
        nodes.push(start(open(&root.path().join(format!("new-{id}")), NEW, id), id, &network).await);
    }
    write(&nodes, text(100)).await.unwrap();
    let expected: Vec<Bytes> = (0..9).chain([100]).map(text).collect();
    for raft in &nodes {
        assert_eq!(commands(raft).await, expected);
    }
    for raft in nodes {
        within(raft.shutdown()).await;
    }
    let mut files = open(&root.path().join("new-1"), NEW, 1);
    let found = files.log.recover().unwrap();
    let entries = files.log.reader().read(found.base.index.next(), found.last.index, u64::MAX).unwrap();
    let configurations = entries.iter().filter(|entry| matches!(entry, EntryRef::Membership(..))).count();
    assert_eq!(configurations, 0, "the new members are in the snapshot already");
}

fn entry(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

fn voters(count: u64) -> Arc<Membership> {
    Arc::new(Membership::of_voters(members(1..=count)))
}

/// A snapshot of a cluster that never changed its members.
fn take(snapshots: &SnapshotFiles, last: LogId, members: u64, text: &str) {
    let id = SnapshotId { last, taken_by: node(1), seq: last.index.get() };
    let mut writer = snapshots.begin(id).unwrap();
    writer.write(text.as_bytes()).unwrap();
    let written = writer.written();
    let meta = SnapshotMeta {
        id,
        membership: voters(members),
        membership_index: LogIndex::FIRST,
        size_bytes: written.size_bytes,
        digest: written.digest,
        terms: Arc::new([]),
    };
    writer.finish(&meta).unwrap();
}

/// What a crash leaves between the last chunk of a snapshot and the log's reset: a log whose end nobody committed.
#[tokio::test]
async fn a_configuration_that_the_snapshot_replaces_is_not_in_force() {
    let root = tempfile::tempdir().unwrap();
    let mut stores = open(root.path(), OLD, 1);
    let configurations = [(entry(1, 1), voters(3)), (entry(1, 2), voters(4))];
    let entries = configurations.map(|(at, membership)| Entries::membership(at, membership));
    let hard_state = Some(HardState { term: Term::new(3), voted_for: None });
    let entries = Entries::join(entries).unwrap();
    // Only nodes mint these; a store does not look at them.
    let id = serde_json::from_str::<WriteId>("1").unwrap();
    stores.log.write(&[Write { id, hard_state, reset_to: None, entries }]).unwrap();
    let in_force = |stores: &mut Files| stores.inspect().unwrap().membership.voters.len();
    assert_eq!(in_force(&mut stores), 4);
    take(&stores.snapshots, entry(3, 9), 3, "");
    assert_eq!(in_force(&mut stores), 3);
    let Stores { log, snapshots } = stores;
    let recovered = Recovered::ask(log, snapshots, Journal::default()).await.unwrap();
    assert_eq!(recovered.membership(), Some(&voters(3)));
}

/// What a crash leaves of a rescue is no cluster that lacks entries: it is none.
#[tokio::test]
async fn a_rescue_that_was_cut_short_cannot_be_started() {
    let root = tempfile::tempdir().unwrap();
    veterans(root.path(), 7).await;
    let mut survivor = open(&root.path().join("1"), OLD, 1);
    let mut founder = open(&root.path().join("new"), NEW, 1);
    let found = survivor.log.recover().unwrap();
    let mut refounding = Refounding::plan(&found, None, members([1])).unwrap();
    let (from, _) = refounding.rest().unwrap();
    let part = survivor.log.reader().read(from, LogIndex::new(3), u64::MAX).unwrap();
    founder.log.write(&[refounding.copy(&part).unwrap()]).unwrap();
    drop(founder);
    let Stores { log, snapshots } = open(&root.path().join("new"), NEW, 1);
    let network = Channels::default();
    let started = Builder::new(config(1)).start(log, snapshots, Journal::default(), network.endpoint());
    let error = within(started).await.unwrap_err();
    assert!(matches!(error, StartError::Node(raft_core::StartError::HardStateBehindLog { .. })), "{error}");
}

/// Nor is what a crash leaves of an import while the snapshot is copied, which takes the longest.
#[tokio::test]
async fn an_import_that_was_cut_short_cannot_be_started() {
    let root = tempfile::tempdir().unwrap();
    let old = open(&root.path().join("1"), OLD, 1);
    take(&old.snapshots, entry(3, 9), 1, "all that the old cluster held");
    let file = root.path().join("backup");
    old.snapshots.export(&file).unwrap();
    let backup = BackupFile::open(&file).unwrap();
    let mut founder = open(&root.path().join("new"), NEW, 1);
    let killed =
        catch_unwind(AssertUnwindSafe(|| import(&backup, &mut founder, members([1]), |_| panic!("killed"))));
    assert!(killed.is_err());
    drop(founder);
    let mut founder = open(&root.path().join("new"), NEW, 1);
    let again = import(&backup, &mut founder, members([1]), |_| ());
    assert!(matches!(again, Err(RestoreError::NotEmpty)), "{again:?}");
    let Stores { log, snapshots } = founder;
    let network = Channels::default();
    let started = Builder::new(config(1)).start(log, snapshots, Journal::default(), network.endpoint());
    let error = within(started).await.unwrap_err();
    assert!(matches!(error, StartError::Snapshots { .. }), "{error}");
}

/// A crash between naming a backup and removing its other name leaves two names of one file.
#[test]
fn a_backup_is_not_written_over_by_the_name_that_a_crash_left() {
    let root = tempfile::tempdir().unwrap();
    let identity = Identity { cluster: OLD, node: node(1) };
    let snapshots = SnapshotFiles::open(root.path().join("snapshots"), identity).unwrap();
    take(&snapshots, entry(1, 5), 1, "first");
    let (file, kept) = (root.path().join("backup"), root.path().join("backup.1"));
    snapshots.export(&file).unwrap();
    fs::hard_link(&file, root.path().join("backup.part")).unwrap();
    fs::rename(&file, &kept).unwrap();
    take(&snapshots, entry(1, 9), 1, "second");
    snapshots.export(&file).unwrap();
    let held = |path: &Path| BackupFile::open(path).unwrap().read(0, 100).unwrap();
    assert_eq!((held(&kept), held(&file)), (Bytes::from("first"), Bytes::from("second")));
}
