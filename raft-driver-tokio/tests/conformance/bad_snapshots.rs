//! Planted bugs in a store of snapshots: each is found, by the check that is there for it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::host::{SnapshotFault, SnapshotStore, SnapshotWriter, Written};
use raft_core::{LogId, LogIndex, Membership, SnapshotId, SnapshotMeta, wire};
use raft_driver_tokio::testing::{Promise, SimulatedDisk, SimulatedFile, SnapshotCheck};

use crate::found::{Verdict, assert_found, verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The file is renamed before it is synced.
    NoSync,
    /// The renaming is never synced.
    NoNameSync,
    /// One that is given up is finished all the same.
    FinishesAnyway,
    /// The one before is removed before the new one is durable.
    RemovesFirst,
    /// The oldest is taken for the newest.
    Oldest,
    /// The digest is of the first bytes only.
    ShortDigest,
    /// The digest depends on how the bytes came.
    DigestOfPieces,
    /// A part that is not finished can be read.
    ReadsParts,
    /// A read may give one byte too many.
    ReadsTooMuch,
    /// A forgotten one is still there.
    ForgetsNothing,
    /// Forgetting one forgets all that are older or as old.
    ForgetsOthers,
    /// Two that are written at once share a file.
    OneFile,
    /// The membership is not kept.
    LosesMembership,
    /// An unfinished file makes the start fail.
    RefusesParts,
    /// A failed sync is forgotten.
    IgnoresFailedSync,
    /// What a killed process has renamed is not made durable by the next one.
    RecoversFromCache,
}

/// Snapshots that are whole, and what is known of them.
type Complete = Arc<Mutex<BTreeMap<SnapshotId, (Arc<SnapshotMeta>, Bytes)>>>;

struct Files {
    bug: Bug,
    disk: SimulatedDisk,
    complete: Complete,
    parts: Arc<Mutex<BTreeMap<SnapshotId, Bytes>>>,
}

struct Writer {
    bug: Bug,
    disk: SimulatedDisk,
    complete: Complete,
    parts: Arc<Mutex<BTreeMap<SnapshotId, Bytes>>>,
    id: SnapshotId,
    part: String,
    file: SimulatedFile,
    bytes: Vec<u8>,
    pieces: u64,
}

fn name(id: SnapshotId) -> String {
    format!("{:08}-{:08}-{}-{}", id.last.index, id.last.term, id.taken_by, id.seq)
}

fn tail(meta: &SnapshotMeta) -> Vec<u8> {
    let mut tail = Vec::new();
    wire::encode_snapshot_meta(meta, &mut tail);
    let length = tail.len() as u32;
    tail.extend_from_slice(&length.to_le_bytes());
    tail
}

impl Files {
    fn open(bug: Bug, disk: &SimulatedDisk) -> io::Result<Self> {
        Ok(Self { bug, disk: disk.clone(), complete: Arc::default(), parts: Arc::default() })
    }
}

impl SnapshotStore for Files {
    type Writer = Writer;
    type Error = io::Error;

    fn recover(&self, _: LogId) -> io::Result<Option<Arc<SnapshotMeta>>> {
        let mut complete = self.complete.lock().unwrap();
        complete.clear();
        if self.bug != Bug::RecoversFromCache {
            // What a killed process has left is made durable before it counts.
            self.disk.sync_names()?;
        }
        for name in self.disk.names() {
            let is_part = name.ends_with(".part");
            if is_part && self.bug == Bug::RefusesParts {
                return Err(io::Error::other("a part was left"));
            }
            let file = self.disk.open(&name)?;
            file.sync()?;
            let content = file.contents()?;
            let tail = content.len().checked_sub(4).filter(|_| !is_part);
            let meta_bytes = tail.map(|at| u32::from_le_bytes(content[at..].try_into().unwrap()) as usize);
            let meta_at = meta_bytes.and_then(|bytes| tail.unwrap().checked_sub(bytes));
            let meta = meta_at.and_then(|at| wire::decode_snapshot_meta(&content[at..tail.unwrap()]).ok());
            let Some(mut meta) = meta else {
                self.disk.remove(&name)?;
                continue;
            };
            if self.bug == Bug::LosesMembership {
                meta.membership = Arc::default();
            }
            let bytes = Bytes::copy_from_slice(&content[..meta_at.unwrap()]);
            complete.insert(meta.id, (Arc::new(meta), bytes));
        }
        let newest = if self.bug == Bug::Oldest { complete.pop_first() } else { complete.pop_last() };
        for id in complete.keys() {
            self.disk.remove(&name(*id))?;
        }
        complete.clear();
        let meta = newest.as_ref().map(|(_, (meta, _))| Arc::clone(meta));
        complete.extend(newest);
        Ok(meta)
    }

    fn begin(&self, id: SnapshotId) -> io::Result<Writer> {
        let part = match self.bug {
            Bug::OneFile => "any.part".into(),
            _ => format!("{}.part", name(id)),
        };
        let file = match self.disk.open(&part) {
            Ok(file) if self.bug == Bug::OneFile => file,
            _ => self.disk.create(&part)?,
        };
        Ok(Writer {
            bug: self.bug,
            disk: self.disk.clone(),
            complete: Arc::clone(&self.complete),
            parts: Arc::clone(&self.parts),
            id,
            part,
            file,
            bytes: Vec::new(),
            pieces: 0,
        })
    }

    fn read(&self, id: SnapshotId, offset: u64, bytes_max: u64) -> Result<Bytes, SnapshotFault<io::Error>> {
        let parts = self.parts.lock().unwrap();
        let complete = self.complete.lock().unwrap();
        let part = parts.get(&id).filter(|_| self.bug == Bug::ReadsParts);
        let whole = complete.get(&id).map(|(_, bytes)| bytes).or(part).ok_or(SnapshotFault::Missing)?;
        let place = |at: u64| whole.len().min(usize::try_from(at).unwrap_or(usize::MAX));
        let more = u64::from(self.bug == Bug::ReadsTooMuch);
        Ok(whole.slice(place(offset)..place(offset.saturating_add(bytes_max).saturating_add(more))))
    }

    fn forget(&self, id: SnapshotId) -> io::Result<()> {
        if self.bug == Bug::ForgetsNothing {
            return Ok(());
        }
        let mut complete = self.complete.lock().unwrap();
        let others: Vec<_> =
            complete.keys().copied().filter(|other| other.last.term >= id.last.term).collect();
        let others = if self.bug == Bug::ForgetsOthers { others } else { Vec::new() };
        for id in others.into_iter().chain([id]) {
            if complete.remove(&id).is_some() {
                self.disk.remove(&name(id))?;
            }
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.bug == Bug::FinishesAnyway && self.disk.open(&self.part).is_ok() {
            let Written { size_bytes, digest } = self.written();
            let nodes = [(self.id.taken_by, Bytes::new())].into();
            let meta = SnapshotMeta {
                id: self.id,
                membership: Arc::new(Membership::of_voters(nodes)),
                membership_index: LogIndex::FIRST,
                size_bytes,
                digest,
                terms: Arc::new([]),
            };
            let _ = self.file.append(&tail(&meta)).and_then(|()| self.file.sync());
            let _ = self.disk.rename(&self.part, &name(self.id)).and_then(|()| self.disk.sync_names());
        }
        self.parts.lock().unwrap().remove(&self.id);
        let _ = self.disk.remove(&self.part);
    }
}

impl SnapshotWriter for Writer {
    type Error = io::Error;

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.append(data)?;
        self.bytes.extend_from_slice(data);
        self.pieces += 1;
        self.parts.lock().unwrap().insert(self.id, self.bytes.clone().into());
        Ok(())
    }

    fn written(&self) -> Written {
        let covered = match self.bug {
            Bug::ShortDigest => &self.bytes[..self.bytes.len().min(4)],
            _ => &self.bytes[..],
        };
        let digest = u64::from(crc32fast::hash(covered));
        let digest = if self.bug == Bug::DigestOfPieces { digest ^ self.pieces } else { digest };
        Written { size_bytes: self.bytes.len() as u64, digest }
    }

    fn finish(self, meta: &SnapshotMeta) -> io::Result<()> {
        let tail = tail(meta);
        if self.bug == Bug::RemovesFirst {
            let old: Vec<_> = self.complete.lock().unwrap().keys().copied().collect();
            old.into_iter().try_for_each(|id| self.disk.remove(&name(id)))?;
            self.disk.sync_names()?;
        }
        self.file.append(&tail)?;
        match self.bug {
            Bug::NoSync => {}
            Bug::IgnoresFailedSync => drop(self.file.sync()),
            _ => self.file.sync()?,
        }
        self.disk.rename(&self.part, &name(self.id))?;
        if self.bug != Bug::NoNameSync {
            self.disk.sync_names()?;
        }
        let bytes = match self.bug {
            Bug::OneFile => {
                let mut bytes = self.file.contents()?;
                bytes.truncate(bytes.len() - tail.len());
                bytes
            }
            _ => self.bytes.clone(),
        };
        self.complete.lock().unwrap().insert(self.id, (Arc::new(meta.clone()), bytes.into()));
        Ok(())
    }
}

fn verdict_of(bug: Bug) -> Verdict {
    let check = SnapshotCheck::new().seeds(0..30).bytes_max(5_000);
    verdict(bug, check.run(|disk: &SimulatedDisk| Files::open(bug, disk)))
}

#[test]
fn a_store_without_bugs_passes() {
    assert_eq!(verdict_of(Bug::None), None);
}

#[test]
fn each_bug_is_found_by_the_check_that_is_there_for_it() {
    let expected = [
        (Bug::NoSync, Promise::SnapshotDurable),
        (Bug::NoNameSync, Promise::SnapshotDurable),
        (Bug::FinishesAnyway, Promise::SnapshotComplete),
        (Bug::RemovesFirst, Promise::SnapshotDurable),
        (Bug::Oldest, Promise::SnapshotNewest),
        (Bug::ShortDigest, Promise::SnapshotDigest),
        (Bug::DigestOfPieces, Promise::SnapshotDigest),
        (Bug::ReadsParts, Promise::SnapshotMissing),
        (Bug::ReadsTooMuch, Promise::SnapshotReadBounds),
        (Bug::ForgetsNothing, Promise::SnapshotForgotten),
        (Bug::ForgetsOthers, Promise::SnapshotsApart),
        (Bug::OneFile, Promise::AcceptsWhatIsLegal),
        (Bug::LosesMembership, Promise::SnapshotMetaKept),
        (Bug::RefusesParts, Promise::SnapshotsOpen),
        (Bug::IgnoresFailedSync, Promise::SnapshotDurable),
        (Bug::RecoversFromCache, Promise::RecoveredSnapshotIsDurable),
    ];
    assert_found(&expected, |_| 10, |bug, _| verdict_of(bug));
}
