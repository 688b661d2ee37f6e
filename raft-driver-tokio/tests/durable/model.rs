//! What a log is, told naively, and the store against it under arbitrary writes, reads and restarts.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use raft_core::host::{LogReader, LogStore};
use raft_core::{
    Commands, Entries, EntryRef, HardState, LogId, LogIndex, Membership, NodeId, Term, Write, WriteId,
};
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::storage::{DurableError, DurableLog, DurableReader, Identity};

use crate::disk::{Disk, Loss, after_loss};

pub(crate) const IDENTITY: Identity =
    Identity { cluster: ClusterId::new(0xabcd << 96 | 0x1234), node: NodeId::new(3) };

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    Noop(LogId),
    Command(LogId, Vec<u8>),
    Membership(LogId, Membership),
}

impl Entry {
    pub(crate) fn id(&self) -> LogId {
        match self {
            Self::Noop(id) | Self::Command(id, _) | Self::Membership(id, _) => *id,
        }
    }
}

pub(crate) fn owned(entries: &Entries) -> Vec<Entry> {
    let owned = entries.iter().map(|entry| match entry {
        EntryRef::Noop(id) => Entry::Noop(id),
        EntryRef::Command(id, command) => Entry::Command(id, command.to_vec()),
        EntryRef::Membership(id, membership) => Entry::Membership(id, (**membership).clone()),
    });
    owned.collect()
}

/// A log as a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) hard_state: HardState,
    /// The entry before the log's first.
    pub(crate) base: LogId,
    pub(crate) log: Vec<Entry>,
}

impl Model {
    pub(crate) fn apply(&mut self, write: &Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(base) = write.reset_to {
            self.log.clear();
            self.base = base;
        }
        if let Some(first) = write.entries.first() {
            self.log.retain(|entry| entry.id().index < first.index);
            self.log.extend(owned(&write.entries));
        }
    }

    pub(crate) fn last(&self) -> LogId {
        self.log.last().map_or(self.base, Entry::id)
    }

    /// A store may drop less than it was told: the model follows it to its base, if that is allowed.
    pub(crate) fn compact(&mut self, base: LogId, through: LogIndex) {
        assert!(self.base == base || self.base.index < base.index && base.index <= through);
        if base != self.base {
            assert!(self.log.iter().any(|entry| entry.id() == base), "{base} is no entry");
            self.log.retain(|entry| entry.id().index > base.index);
            self.base = base;
        }
    }

    /// What is stored, as a restarted node sees it, if the recovery fits to the entries.
    pub(crate) fn read<L>(log: &mut L) -> Result<Self, DurableError>
    where
        L: LogStore<Reader = DurableReader, Error = DurableError>,
    {
        let recovery = log.recover()?;
        let log: Vec<Entry> = read_from(&log.reader(), recovery.base.index)?;
        let found = Self { hard_state: recovery.hard_state, base: recovery.base, log };
        let mut terms: Vec<(Term, LogIndex)> =
            found.log.iter().map(|entry| (entry.id().term, entry.id().index)).collect();
        terms.dedup_by_key(|(term, _)| *term);
        let memberships = found.log.iter().filter_map(|entry| match entry {
            Entry::Membership(id, membership) => Some((id.index, Arc::new(membership.clone()))),
            _ => None,
        });
        assert_eq!(recovery.last, found.last());
        assert_eq!(recovery.terms.iter().map(|run| (run.term, run.first)).collect::<Vec<_>>(), terms);
        assert_eq!(recovery.memberships, memberships.collect::<Vec<_>>());
        Ok(found)
    }
}

pub(crate) fn read_all(reader: &DurableReader) -> Result<Vec<Entry>, DurableError> {
    read_from(reader, LogIndex::ZERO)
}

fn read_from(reader: &DurableReader, base: LogIndex) -> Result<Vec<Entry>, DurableError> {
    let mut found: Vec<Entry> = Vec::new();
    assert!(reader.read(base, LogIndex::LIMIT, u64::MAX)?.is_empty(), "compacted entries are gone");
    loop {
        let next = LogIndex::new(base.get() + found.len() as u64 + 1);
        let entries = reader.read(next, LogIndex::LIMIT, 100_000)?;
        if entries.is_empty() {
            return Ok(found);
        }
        assert_eq!(entries.first().map(|id| id.index), Some(next));
        found.extend(owned(&entries));
    }
}

pub(crate) fn write(hard_state: Option<HardState>, entries: Entries) -> Write {
    // Only nodes mint these; a store does not look at them.
    Write { id: serde_json::from_str::<WriteId>("1").unwrap(), hard_state, reset_to: None, entries }
}

/// A log that begins anew.
pub(crate) fn reset(hard_state: Option<HardState>, base: LogId, entries: Entries) -> Write {
    Write { reset_to: Some(base), ..write(hard_state, entries) }
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

/// Commands whose content tells where and when they were written.
pub(crate) fn commands(first: LogId, count: u64, bytes: usize) -> Entries {
    let command = |at: u64| {
        let mut command = format!("{}/{at}/{bytes}.", first).into_bytes();
        let mut state = first.term.get() << 40 | first.index.get() << 20 | at;
        while command.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            command.push((state >> 56) as u8);
        }
        command.truncate(bytes);
        command
    };
    Entries::commands(first, &(0..count).map(command).collect::<Commands>())
}

pub(crate) fn membership(at: LogId, voters: u64) -> Entries {
    let nodes = (1..=voters).map(|node| (NodeId::new(node), Bytes::from(format!("node-{node}:1"))));
    Entries::membership(at, Arc::new(Membership::of_voters(nodes.collect())))
}

pub(crate) fn vote(term: u64, node: u64) -> Option<HardState> {
    Some(HardState { term: Term::new(term), voted_for: (node > 0).then(|| NodeId::new(node)) })
}

/// An empty log on a disk.
pub(crate) fn created() -> Disk {
    let disk = Disk::default();
    DurableLog::create_on(disk.layer(), IDENTITY).unwrap();
    disk
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes in one batch: how far back from the end they begin, whether in a new term, what they are.
    Write(Vec<(u64, bool, Kind)>),
    Restart(End),
    /// Through so far from the end.
    Compact(u64),
    Read {
        from: u64,
        count: u64,
        bytes_max: u64,
    },
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    InOrder,
    Killed,
    /// With all that was not synced.
    PowerLost,
}

impl End {
    pub(crate) const ALL: [Self; 3] = [Self::InOrder, Self::Killed, Self::PowerLost];

    /// Ends it. `before` is what was on the disk when it was opened; what is returned is there afterwards.
    pub(crate) fn end<T>(self, store: T, disk: &Disk, before: &[u8]) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(1);
        let (killed, lost) = (disk.image(), after_loss(before, &disk.ops(), Loss::All, &mut random));
        drop(store);
        match self {
            Self::InOrder => disk.image(),
            Self::Killed => killed,
            Self::PowerLost => lost,
        }
    }
}

#[derive(Clone, Debug)]
enum Kind {
    HardState,
    Noop,
    Commands {
        count: u64,
        bytes: usize,
        votes: bool,
    },
    Membership(u64),
    NoopAndCommands(u64),
    /// Everything is dropped; so far behind the log's end, or before it; what follows.
    Reset {
        ahead: i64,
        count: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![4 => 0..400usize, 1 => 3_000..20_000usize];
    let kind = prop_oneof![
        2 => Just(Kind::HardState),
        1 => Just(Kind::Noop),
        8 => (1..70u64, size, any::<bool>())
            .prop_map(|(count, bytes, votes)| Kind::Commands { count, bytes, votes }),
        1 => (1..5u64).prop_map(Kind::Membership),
        2 => (1..30u64).prop_map(Kind::NoopAndCommands),
        1 => (-50..50i64, 0..20u64).prop_map(|(ahead, count)| Kind::Reset { ahead, count }),
    ];
    let back = prop_oneof![6 => Just(0), 2 => 0..10u64, 1 => 0..300u64];
    let one = (back, any::<bool>(), kind);
    let bytes_max = prop_oneof![Just(0), Just(u64::MAX), 0..50_000u64];
    vec(
        prop_oneof![
            6 => vec(one, 1..4).prop_map(Step::Write),
            1 => select(&End::ALL[..]).prop_map(Step::Restart),
            2 => (0..300u64).prop_map(Step::Compact),
            2 => (0..400u64, 0..200u64, bytes_max)
                .prop_map(|(from, count, bytes_max)| Step::Read { from, count, bytes_max }),
        ],
        1..25,
    )
}

/// A write that a node could hand out in this state.
fn build(model: &Model, back: u64, new_term: bool, kind: &Kind) -> Write {
    let term = model.hard_state.term.get().max(model.base.term.get()).max(1) + u64::from(new_term);
    let lowest = model.base.index.get() + 1;
    let first = id(term, (model.last().index.get() + 1).saturating_sub(back).max(lowest));
    let hard_state = vote(term, if new_term { 2 } else { 0 });
    match *kind {
        Kind::HardState => write(hard_state, Entries::empty()),
        Kind::Noop => write(hard_state, Entries::noop(first)),
        Kind::Membership(voters) => write(hard_state, membership(first, voters)),
        Kind::Commands { count, bytes, votes } => {
            write(hard_state.filter(|_| votes || new_term), commands(first, count, bytes))
        }
        Kind::Reset { ahead, count } => {
            let base = id(term, model.last().index.get().saturating_add_signed(ahead).max(1));
            let entries = match count {
                0 => Entries::empty(),
                _ => commands(id(term, base.index.get() + 1), count, 40),
            };
            reset(hard_state, base, entries)
        }
        Kind::NoopAndCommands(count) => {
            let more = commands(id(term, first.index.get() + 1), count, 30);
            write(hard_state, Entries::join([Entries::noop(first), more]).unwrap())
        }
    }
}

fn run(steps: &[Step]) {
    let mut before = created().image();
    let mut disk = Disk::of(before.clone());
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let mut model = Model::default();
    let mut incarnation = 1;
    for step in steps {
        match step {
            Step::Write(writes) => {
                let mut batch = Vec::new();
                for (back, new_term, kind) in writes {
                    let write = build(&model, *back, *new_term, kind);
                    model.apply(&write);
                    batch.push(write);
                }
                log.write(&batch).unwrap();
            }
            Step::Restart(end) => {
                before = end.end(log, &disk, &before);
                disk = Disk::of(before.clone());
                log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
                incarnation += 1;
                assert_eq!(log.incarnation(), incarnation);
                assert_eq!(Model::read(&mut log).unwrap(), model);
            }
            Step::Compact(back) => {
                let last = model.last();
                let through = LogIndex::new(last.index.get().saturating_sub(*back));
                let through = model.log.iter().find(|entry| entry.id().index == through);
                let through = through.map_or(model.base, Entry::id);
                log.compact(through).unwrap();
                model.compact(log.recover().unwrap().base, through.index);
            }
            Step::Read { from, count, bytes_max } => {
                let (from, through) = (LogIndex::new(*from), LogIndex::new(from + count));
                let found = log.reader().read(from, through, *bytes_max).unwrap();
                let expected: Vec<Entry> = model
                    .log
                    .iter()
                    .filter(|entry| from > model.base.index && (from..=through).contains(&entry.id().index))
                    .cloned()
                    .collect();
                assert!(owned(&found).len() <= expected.len());
                assert_eq!(owned(&found)[..], expected[..owned(&found).len()]);
                assert!(found.len() <= 1 || found.size_bytes() <= *bytes_max);
                assert!(!found.is_empty() || expected.is_empty(), "one entry at least");
                if *bytes_max == u64::MAX {
                    assert_eq!(owned(&found), expected);
                }
            }
        }
    }
    assert_eq!(Model::read(&mut log).unwrap(), model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_the_model(steps in steps()) {
        run(&steps);
    }
}

#[test]
fn readers_go_on_beside_writes_and_need_no_writer() {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let reader = log.reader();
    assert!(reader.read(LogIndex::FIRST, LogIndex::LIMIT, u64::MAX).unwrap().is_empty());
    log.write(&[write(vote(1, 1), commands(id(1, 1), 100, 256))]).unwrap();
    let writer = std::thread::spawn(move || {
        for at in 1..50 {
            log.write(&[write(None, commands(id(1, 1 + at * 100), 100, 256))]).unwrap();
        }
    });
    let mut last = 0;
    while last < 5000 {
        let found = read_all(&reader).unwrap();
        assert!(found.len() >= last && found.len().is_multiple_of(100), "whole batches only, and none twice");
        last = found.len();
    }
    writer.join().unwrap();
    assert_eq!(read_all(&reader.clone()).unwrap().len(), 5000);
}

/// So that no write waits for long, and that a log does not grow which is written without a pause.
#[test]
fn a_long_compaction_is_spread_over_the_writes_that_follow() {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    log.write(&[write(vote(1, 1), Entries::empty())]).unwrap();
    // A block each.
    let put = |log: &mut DurableLog, entries: Entries| {
        log.write(&[write(None, entries)]).unwrap();
        // Nothing is asked for, but redb gets what is in the journal.
        log.compact(id(0, 0)).unwrap();
    };
    for at in 1..=700 {
        put(&mut log, commands(id(1, at), 1, 10));
    }
    let base = |log: &mut DurableLog| log.recover().unwrap().base.index.get();
    log.compact(id(1, 690)).unwrap();
    let mut dropped = base(&mut log);
    assert!((1..=64).contains(&dropped), "{dropped} at once");
    for at in 701..705 {
        put(&mut log, commands(id(1, at), 1, 10));
        let now = base(&mut log);
        assert!((1..=64).contains(&(now - dropped)), "{} at once", now - dropped);
        dropped = now;
    }
    // Of about as many blocks as entries.
    log.write(&[write(None, commands(id(1, 705), 100, 100_000))]).unwrap();
    let many = base(&mut log) - dropped;
    assert!(many > 100, "{many} dropped beside a write of many");
    for at in 805..815 {
        put(&mut log, commands(id(1, at), 1, 10));
    }
    assert_eq!(base(&mut log), 690, "all that was asked for");
}
