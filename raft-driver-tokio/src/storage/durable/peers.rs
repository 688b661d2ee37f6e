//! What a node remembers of its peers' data directories, so that a wiped disk under an old id is noticed.
//!
//! The table is one file, `raft-peers`, replaced as a whole: written aside, synced, renamed, the directory synced.
//!
//! | bytes | little endian |
//! |--:|---|
//! | 0..40 | whose file it is, as in every file of a store |
//! | 8, 16 | of each peer, ascending: node id, the id of its directory |
//! | 4 | CRC-32 of everything before |
//!
//! * A peer's directory is remembered durably before the peer is first admitted, also if a killed process remembered it.
//! * What is remembered is never replaced, only forgotten when an operator says so.
//! * A directory's own id is not stored here, see [`DirectoryId`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::NodeId;

use super::directory::{Marker, sync_directory};
use super::error::OpenError;
use super::file::{Head, IDENTITY_BYTES, Identity};
use crate::DirectoryId;

const FILE: &str = "raft-peers";
const NEW_FILE: &str = "raft-peers.new";
const MAGIC: [u8; 8] = *b"raftpeer";
const PEER_BYTES: usize = 24;

/// How many peers are remembered at most. A cluster has a few; without TLS anybody may claim to be one.
pub const KNOWN_PEERS_MAX: usize = 4096;

/// Which data directories the peers of a node have. Clones are the same memory. The directory of the store stays
/// locked until all of them are dropped.
///
/// A node whose disk was lost and that starts again under its old id has forgotten its votes, and the entries that
/// it had acknowledged: it must not be believed. It has another [`DirectoryId`] then, and everybody who knew it before
/// refuses it. Add it under a new id instead.
#[derive(Clone, Debug)]
pub struct KnownPeers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: DirectoryId,
    known: Mutex<BTreeMap<NodeId, DirectoryId>>,
    disk: Option<Disk>,
}

/// Where the table is kept.
#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    identity: Identity,
    /// Held while the file is replaced: why it cannot be any more.
    failed: Mutex<Option<Arc<io::Error>>>,
    _marker: Arc<Marker>,
}

/// Why a peer is not admitted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerRefused {
    /// It had another data directory before.
    #[error("node {peer} came with {}, but had data directory {known} before: its disk was lost or wiped; remove it from the cluster and add it under a new id", Found(*found))]
    AnotherDirectory {
        /// Who.
        peer: NodeId,
        /// What it had.
        known: DirectoryId,
        /// What it has; `None` if it keeps nothing on a disk.
        found: Option<DirectoryId>,
    },
    /// It is not known, and no more can be remembered.
    #[error(
        "node {peer} is new, and {KNOWN_PEERS_MAX} peers are remembered already; forget those that are gone"
    )]
    TooMany {
        /// Who.
        peer: NodeId,
    },
    /// It is not known, and cannot be remembered.
    #[error(
        "the data directory of node {peer} cannot be remembered: {source}; mend the disk, and if that does not help, reboot or mount its file system anew and start this node again"
    )]
    Failed {
        /// Who.
        peer: NodeId,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
}

struct Found(Option<DirectoryId>);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(directory) => write!(f, "data directory {directory}"),
            None => f.write_str("no data directory"),
        }
    }
}

impl KnownPeers {
    /// A memory that ends with the process.
    #[must_use]
    pub fn in_memory(directory: DirectoryId) -> Self {
        Self(Arc::new(Shared { directory, known: Mutex::default(), disk: None }))
    }

    /// Reads the table in `dir`, if there is one.
    pub(super) fn open(dir: &Path, head: Head, marker: Arc<Marker>) -> Result<Self, OpenError> {
        let Head { identity, directory } = head;
        let path = dir.join(FILE);
        let known = match fs::read(&path) {
            Ok(table) => {
                // Whoever renamed it may have been killed before the name was durable.
                sync_directory(dir)?;
                decode(identity, &table, &path)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        let disk = Disk { dir: dir.to_owned(), identity, failed: Mutex::default(), _marker: marker };
        Ok(Self(Arc::new(Shared { directory, known: Mutex::new(known), disk: Some(disk) })))
    }

    /// The id of this node's own data directory: what its peers are told.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.0.directory
    }

    /// What is remembered of a peer.
    #[must_use]
    pub fn get(&self, peer: NodeId) -> Option<DirectoryId> {
        self.0.known().get(&peer).copied()
    }

    /// To be asked when a peer has shown who it is, before anything it says is believed. The first time the peer is
    /// remembered, durably; later it must come with the same directory. One that has none (its log lives in memory)
    /// is admitted as long as it never had one.
    ///
    /// # Errors
    /// If it must not be listened to.
    ///
    /// # Panics
    /// Outside a Tokio runtime, for a peer that is new.
    pub async fn admit(&self, peer: NodeId, directory: Option<DirectoryId>) -> Result<(), PeerRefused> {
        match (self.get(peer), directory) {
            (Some(known), found) if found != Some(known) => {
                Err(PeerRefused::AnotherDirectory { peer, known, found })
            }
            (Some(_), _) | (None, None) => Ok(()),
            (None, Some(directory)) => {
                let shared = Arc::clone(&self.0);
                // Not cancelled with the caller: whoever comes next finds it done.
                let remembered = tokio::task::spawn_blocking(move || shared.remember(peer, directory));
                remembered.await.unwrap_or_else(|error| {
                    Err(PeerRefused::Failed { peer, source: Arc::new(io::Error::other(error)) })
                })
            }
        }
    }

    /// Forgets a peer, durably: it may come back with another directory. For a node that was removed from the
    /// cluster *before* its disk was lost; never for a member. Blocks.
    ///
    /// # Errors
    /// If that cannot be made durable.
    pub fn forget(&self, peer: NodeId) -> Result<(), PeerRefused> {
        self.0.change(peer, |known| {
            known.remove(&peer);
            Ok(())
        })
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, DirectoryId>> {
        // Each use is one call on the map.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, peer: NodeId, directory: DirectoryId) -> Result<(), PeerRefused> {
        self.change(peer, |known| {
            // Another connection may have been faster.
            if known.len() >= KNOWN_PEERS_MAX && !known.contains_key(&peer) {
                return Err(PeerRefused::TooMany { peer });
            }
            let known = *known.entry(peer).or_insert(directory);
            if known == directory {
                return Ok(());
            }
            Err(PeerRefused::AnotherDirectory { peer, known, found: Some(directory) })
        })
    }

    /// Changes the table on the disk first, then in memory.
    fn change(
        &self,
        peer: NodeId,
        change: impl FnOnce(&mut BTreeMap<NodeId, DirectoryId>) -> Result<(), PeerRefused>,
    ) -> Result<(), PeerRefused> {
        let Some(disk) = &self.disk else { return change(&mut self.known()) };
        let mut failed = disk.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = &*failed {
            return Err(PeerRefused::Failed { peer, source: Arc::clone(source) });
        }
        let before = self.known().clone();
        let mut next = before.clone();
        change(&mut next)?;
        if next == before {
            return Ok(());
        }
        // Nothing has changed under the file's own name: a disk that has room again is tried again, with a new file.
        disk.write_aside(&next).map_err(|error| PeerRefused::Failed { peer, source: Arc::new(error) })?;
        if let Err(error) = disk.replace() {
            // What the disk holds now is unknown, and is found out by the next start.
            let source = Arc::clone(failed.insert(Arc::new(error)));
            return Err(PeerRefused::Failed { peer, source });
        }
        *self.known() = next;
        Ok(())
    }
}

impl Disk {
    fn write_aside(&self, known: &BTreeMap<NodeId, DirectoryId>) -> io::Result<()> {
        let new_path = self.dir.join(NEW_FILE);
        match fs::remove_file(&new_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::create_new(&new_path)?;
        let written = file.write_all(&encode(self.identity, known)).and_then(|()| file.sync_all());
        if written.is_err() {
            // It takes room that others may need; an error: the next attempt removes it.
            let _ = fs::remove_file(&new_path);
        }
        written
    }

    fn replace(&self) -> io::Result<()> {
        fs::rename(self.dir.join(NEW_FILE), self.dir.join(FILE))?;
        sync_directory(&self.dir).map_err(io::Error::other)
    }
}

fn encode(identity: Identity, known: &BTreeMap<NodeId, DirectoryId>) -> Vec<u8> {
    let mut out = Vec::with_capacity(IDENTITY_BYTES + known.len() * PEER_BYTES + 4);
    out.extend_from_slice(&identity.encode(MAGIC));
    for (peer, directory) in known {
        out.extend_from_slice(&peer.get().to_le_bytes());
        out.extend_from_slice(&directory.get().to_le_bytes());
    }
    let sum = crc32fast::hash(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn decode(identity: Identity, table: &[u8], path: &Path) -> Result<BTreeMap<NodeId, DirectoryId>, OpenError> {
    let damaged = || OpenError::PeersDamaged { path: path.to_owned() };
    let (covered, sum) = table.split_last_chunk::<4>().ok_or_else(damaged)?;
    let peers = covered.get(IDENTITY_BYTES..).filter(|peers| peers.len().is_multiple_of(PEER_BYTES));
    let peers = peers.filter(|_| crc32fast::hash(covered).to_le_bytes() == *sum).ok_or_else(damaged)?;
    identity.check(MAGIC, table, path)?;
    let peers = peers.chunks_exact(PEER_BYTES).map(|peer| {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, byte| id << 8 | u128::from(*byte));
        let (node, directory) = peer.split_at(8);
        (NodeId::new(number(node) as u64), DirectoryId::new(number(directory)))
    });
    Ok(peers.collect())
}
