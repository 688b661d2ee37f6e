//! What may happen to a cluster, one thing at a time.

use proptest::prelude::*;

/// Those that the cluster begins with.
pub(crate) const FOUNDERS: u64 = 3;
pub(crate) const SERVERS: u64 = 5;
/// In place of a server: one that leads, if there is one.
pub(crate) const ANY_LEADER: u64 = 0;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The message at this place of those that wait arrives.
    Deliver(usize),
    DeliverMany(u8),
    Duplicate(usize),
    Lose(usize),
    /// A message of any time before arrives once more.
    Replay(usize),
    /// A message of any time before arrives, changed.
    Forge(usize, u16, u64),
    /// A report of the driver that answers nothing.
    Stray(u64, u8, u64),
    Pass(u16),
    TimeOut(u64),
    Propose(u64, u8),
    Read(u64, bool),
    Campaign(u64),
    Unreachable(u64, u64),
    Forget(u64, u64),
    /// Voters and learners by their bits.
    Change(u64, u8, u8),
    /// Voters, learners and those to leave by their bits.
    Update(u64, u8, u8, u8),
    Cancel(u64),
    SetAddress(u64, u64),
    Transfer(u64, Option<u64>),
    StepDown(u64),
    Bootstrap(u64, u8),
    TakeSnapshot(u64),
    Cut(u64),
    Heal,
    SlowDisk(u64),
    SyncOne(u64),
    FastDisks,
    SlowMachine(u64),
    FastMachines,
    SlowReads(u64),
    FastReads,
    SlowChunks(u64),
    Chunk(u64),
    FailChunk(u64),
    FastChunks,
    SlowSnapshots(u64),
    FailSnapshot(u64),
    FastSnapshots,
    Restart(u64),
}

impl Op {
    pub(crate) fn is_forgery(&self) -> bool {
        matches!(self, Self::Forge(..) | Self::Stray(..))
    }
}

fn server() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..=FOUNDERS, 1 => FOUNDERS + 1..=SERVERS]
}

fn client() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(ANY_LEADER), 1 => server()]
}

fn place() -> impl Strategy<Value = usize> {
    any::<u16>().prop_map(usize::from)
}

fn traffic() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => place().prop_map(Op::Deliver),
        20 => (1u8..40).prop_map(Op::DeliverMany),
        4 => place().prop_map(Op::Duplicate),
        4 => place().prop_map(Op::Lose),
        6 => place().prop_map(Op::Replay),
        4 => (0u16..500).prop_map(Op::Pass),
        12 => server().prop_map(Op::TimeOut),
        2 => (server(), server()).prop_map(|(server, peer)| Op::Unreachable(server, peer)),
        2 => server().prop_map(Op::Cut),
        3 => Just(Op::Heal),
        2 => server().prop_map(Op::Restart),
    ]
}

fn requests() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (client(), 1u8..4).prop_map(|(server, count)| Op::Propose(server, count)),
        4 => (client(), any::<bool>()).prop_map(|(server, lease)| Op::Read(server, lease)),
        2 => (server(), any::<bool>()).prop_map(|(server, lease)| Op::Read(server, lease)),
        2 => server().prop_map(Op::Campaign),
        1 => (server(), 1u64..40).prop_map(|(server, ticket)| Op::Forget(server, ticket)),
        2 => (client(), 0u8..32, 0u8..32).prop_map(|(server, voters, learners)| {
            Op::Change(server, voters, learners & !voters)
        }),
        2 => (client(), 0u8..32, 0u8..32, 0u8..32)
            .prop_map(|(server, voters, learners, left)| Op::Update(server, voters, learners, left)),
        1 => client().prop_map(Op::Cancel),
        1 => (client(), server()).prop_map(|(server, node)| Op::SetAddress(server, node)),
        2 => (client(), proptest::option::of(server())).prop_map(|(server, to)| Op::Transfer(server, to)),
        1 => client().prop_map(Op::StepDown),
        1 => (server(), 0u8..32).prop_map(|(server, members)| Op::Bootstrap(server, members)),
        3 => server().prop_map(Op::TakeSnapshot),
    ]
}

fn devices() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => server().prop_map(Op::SlowDisk),
        4 => server().prop_map(Op::SyncOne),
        2 => Just(Op::FastDisks),
        1 => server().prop_map(Op::SlowMachine),
        1 => Just(Op::FastMachines),
        1 => server().prop_map(Op::SlowReads),
        1 => Just(Op::FastReads),
        1 => server().prop_map(Op::SlowChunks),
        2 => server().prop_map(Op::Chunk),
        1 => server().prop_map(Op::FailChunk),
        1 => Just(Op::FastChunks),
        1 => server().prop_map(Op::SlowSnapshots),
        1 => server().prop_map(Op::FailSnapshot),
        1 => Just(Op::FastSnapshots),
    ]
}

/// Changes of the membership in which leaders are lost.
pub(crate) fn change() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => place().prop_map(Op::Deliver),
        6 => (1u8..40).prop_map(Op::DeliverMany),
        4 => place().prop_map(Op::Lose),
        2 => place().prop_map(Op::Replay),
        4 => (0u16..500).prop_map(Op::Pass),
        12 => server().prop_map(Op::TimeOut),
        3 => server().prop_map(Op::Cut),
        2 => Just(Op::Heal),
        2 => server().prop_map(Op::Restart),
        1 => server().prop_map(Op::Campaign),
        2 => (client(), 1u8..4).prop_map(|(server, count)| Op::Propose(server, count)),
        6 => (Just(ANY_LEADER), 0u8..32, 0u8..32).prop_map(|(server, voters, learners)| {
            Op::Change(server, voters, learners & !voters)
        }),
        1 => client().prop_map(Op::Cancel),
        2 => devices(),
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![8 => traffic(), 3 => requests(), 2 => devices()]
}

pub(crate) fn op_or_forgery() -> impl Strategy<Value = Op> {
    let forged = (any::<u16>(), any::<u16>(), any::<u64>());
    let stray = (server(), any::<u8>(), any::<u64>());
    prop_oneof![
        9 => op(),
        3 => forged.prop_map(|(at, how, by)| Op::Forge(at.into(), how, by)),
        1 => stray.prop_map(|(server, how, by)| Op::Stray(server, how, by)),
    ]
}
