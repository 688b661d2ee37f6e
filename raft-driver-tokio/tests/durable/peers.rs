//! The id of a data directory, and what a node remembers of its peers': wiped and exchanged disks are noticed.

use std::fs;

use raft_core::NodeId;
use raft_driver_tokio::DirectoryId;
use raft_driver_tokio::storage::{DurableLog, Identity, KNOWN_PEERS_MAX, KnownPeers, OpenError, PeerRefused};

use crate::model::IDENTITY;

const PEER: NodeId = NodeId::new(8);

#[test]
fn a_directory_keeps_its_id_and_no_other_has_it() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &tempfile::TempDir| DurableLog::open(dir.path(), IDENTITY).unwrap().directory();
    let ids = [open(&one), open(&two)];
    assert_ne!(ids[0], ids[1]);
    assert_eq!([open(&one), open(&two)], ids);
    // A creation that a crash interrupted before the mark was written ends with the same id.
    fs::write(one.path().join("raft-identity"), b"").unwrap();
    assert_eq!(open(&one), ids[0]);
    // A disk that is wiped has another one, under the same identity.
    fs::remove_file(two.path().join("raft-identity")).unwrap();
    fs::remove_file(two.path().join("raft-log")).unwrap();
    assert_ne!(open(&two), ids[1]);
}

#[test]
fn the_log_of_another_directory_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &two] {
        drop(DurableLog::open(dir.path(), IDENTITY).unwrap());
    }
    fs::copy(one.path().join("raft-log"), two.path().join("raft-log")).unwrap();
    let error = DurableLog::open(two.path(), IDENTITY).unwrap_err();
    assert!(matches!(error, OpenError::ForeignDirectory { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_that_comes_back_with_another_directory_is_refused_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (DirectoryId::random().unwrap(), DirectoryId::random().unwrap());
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    let peers = log.peers();
    assert_eq!(peers.directory(), log.directory());
    peers.admit(PEER, None).await.unwrap();
    assert_eq!(peers.get(PEER), None, "there is nothing to remember");
    peers.admit(PEER, Some(first)).await.unwrap();
    peers.admit(NodeId::new(9), Some(second)).await.unwrap();
    drop((peers, log));
    for _ in 0..2 {
        let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
        let peers = log.peers();
        assert_eq!(peers.get(NodeId::new(9)), Some(second));
        for found in [Some(second), None] {
            let error = peers.admit(PEER, found).await.unwrap_err();
            let expected = (PEER, first, found);
            assert!(
                matches!(error, PeerRefused::AnotherDirectory { peer, known, found }
                    if (peer, known, found) == expected),
                "{error}"
            );
        }
        peers.admit(PEER, Some(first)).await.unwrap();
    }
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    log.peers().forget(PEER).unwrap();
    log.peers().admit(PEER, Some(second)).await.unwrap();
    drop(log);
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    assert_eq!(log.peers().get(PEER), Some(second));
}

#[tokio::test]
async fn the_memory_of_peers_is_bounded_and_checked() {
    let peers = KnownPeers::in_memory(DirectoryId::new(1));
    for peer in 0..KNOWN_PEERS_MAX as u64 {
        peers.admit(NodeId::new(peer + 1), Some(DirectoryId::new(peer.into()))).await.unwrap();
    }
    let one_more = NodeId::new(1 << 40);
    let error = peers.admit(one_more, Some(DirectoryId::new(1))).await.unwrap_err();
    assert!(matches!(error, PeerRefused::TooMany { .. }), "{error}");
    peers.forget(NodeId::new(1)).unwrap();
    peers.admit(one_more, Some(DirectoryId::new(1))).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    log.peers().admit(PEER, Some(DirectoryId::new(5))).await.unwrap();
    drop(log);
    let path = dir.path().join("raft-peers");
    let table = fs::read(&path).unwrap();
    let open = || DurableLog::open(dir.path(), IDENTITY);
    for bit in (0..table.len() * 8).step_by(5) {
        let mut rotten = table.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, rotten).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(error, OpenError::PeersDamaged { .. }), "bit {bit}: {error}");
    }
    for len in [0, 3, 43, table.len() - 1] {
        fs::write(&path, &table[..len]).unwrap();
        assert!(matches!(open(), Err(OpenError::PeersDamaged { .. })), "{len}");
    }
    // Another node's.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = DurableLog::open(elsewhere.path(), Identity { node: NodeId::new(4), ..IDENTITY }).unwrap();
    other.peers().admit(PEER, Some(DirectoryId::new(5))).await.unwrap();
    fs::copy(elsewhere.path().join("raft-peers"), &path).unwrap();
    assert!(matches!(open(), Err(OpenError::ForeignNode { .. })));
    fs::write(&path, &table).unwrap();
    assert_eq!(open().unwrap().peers().get(PEER), Some(DirectoryId::new(5)));
    // Without it they are learned anew.
    fs::remove_file(&path).unwrap();
    assert_eq!(open().unwrap().peers().get(PEER), None);
}

#[tokio::test]
async fn a_peer_is_not_admitted_if_it_cannot_be_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    log.peers().admit(PEER, Some(DirectoryId::new(5))).await.unwrap();
    // Nothing can be created where a directory lies already.
    let obstacle = dir.path().join("raft-peers.new");
    fs::create_dir(&obstacle).unwrap();
    for _ in 0..2 {
        let error = log.peers().admit(NodeId::new(9), Some(DirectoryId::new(6))).await.unwrap_err();
        assert!(matches!(error, PeerRefused::Failed { .. }), "{error}");
        assert_eq!(log.peers().get(NodeId::new(9)), None);
    }
    // Those who are known still are.
    log.peers().admit(PEER, Some(DirectoryId::new(5))).await.unwrap();
    // A disk that has room again is used again, without a restart.
    fs::remove_dir(&obstacle).unwrap();
    log.peers().admit(NodeId::new(9), Some(DirectoryId::new(6))).await.unwrap();
    drop(log);

    // Where it is not known what the disk holds, nobody guesses before the next start.
    let path = dir.path().join("raft-peers");
    let table = fs::read(&path).unwrap();
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let (new, directory) = (NodeId::new(10), Some(DirectoryId::new(7)));
    assert!(matches!(log.peers().admit(new, directory).await, Err(PeerRefused::Failed { .. })));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &table).unwrap();
    assert!(matches!(log.peers().admit(new, directory).await, Err(PeerRefused::Failed { .. })));
    drop(log);
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    assert_eq!(log.peers().get(NodeId::new(9)), Some(DirectoryId::new(6)));
    log.peers().admit(new, directory).await.unwrap();
}
