//! The table against a model that looks at one command at a time and forgets nothing by itself.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::array::TryFromSliceError;
use core::convert::Infallible;
use proptest::prelude::*;

use super::*;
use crate::entry::Commands;
use crate::host::frozen::tests::meta;
use crate::host::{FrozenState, WholeState};
use crate::ids::{LogIndex, Term};
use crate::snapshot::SnapshotError;

/// Keeps every command with its index; answers with how many it has.
#[derive(Clone, Debug, Default, PartialEq)]
struct Journal {
    commands: Vec<(u64, Bytes)>,
    applied: u64,
    durable: LogId,
    mute: bool,
}

impl StateMachine for Journal {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            assert_eq!(entry.id().index.get(), self.applied + 1, "no index is left out");
            self.applied += 1;
            if let EntryRef::Command(_, command) = entry {
                self.commands.push((self.applied, command.to_bytes()));
                responses.push(self.commands.len() as u64);
            }
        }
        if self.mute {
            responses.clear();
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        let mut bytes = self.applied.to_le_bytes().to_vec();
        for (index, command) in &self.commands {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.push(u8::try_from(command.len()).expect("short"));
            bytes.extend_from_slice(command);
        }
        Ok(WholeState::new(bytes))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let number = |source: &mut SnapshotSource<'_>| {
            let mut bytes = [0; 8];
            source.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        *self = Self { applied: number(source)?, ..Self::default() };
        while source.remaining_bytes() > 0 {
            let (index, mut length) = (number(source)?, [0]);
            source.read_exact(&mut length)?;
            let mut command = vec![0; length[0].into()];
            source.read_exact(&mut command)?;
            self.commands.push((index, command.into()));
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<LogId, Infallible> {
        Ok(self.durable)
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        if command[..] == *b"bad" { Err(Unacceptable::new("bad")) } else { Ok(()) }
    }
}

struct Little;

impl Codec<u64> for Little {
    type Error = TryFromSliceError;

    fn encode(value: &u64) -> Result<Bytes, TryFromSliceError> {
        Ok(Bytes::copy_from_slice(&value.to_le_bytes()))
    }

    fn decode(bytes: Bytes) -> Result<u64, TryFromSliceError> {
        Ok(u64::from_le_bytes(bytes[..].try_into()?))
    }
}

type Machine = Sessions<Journal, Little>;
type Response = SessionResponse<u64>;

fn machine() -> Machine {
    Sessions::new(Journal::default())
}

fn id(index: u64) -> LogId {
    // Three entries a term.
    LogId::new(Term::new(1 + index / 3), LogIndex::new(index))
}

/// Commands from this index on, as one batch; `None` is a no-op.
fn batch(first: u64, commands: &[Option<Bytes>]) -> Entries {
    let parts = (first..).zip(commands).map(|(index, command)| match command {
        Some(command) => Entries::commands(id(index), &Commands::one(command.clone())),
        None => Entries::noop(id(index)),
    });
    Entries::join(parts).unwrap()
}

fn apply(machine: &mut Machine, first: u64, commands: &[Option<Bytes>]) -> Vec<Response> {
    let mut responses = Vec::new();
    machine.apply(&batch(first, commands), &mut responses).unwrap();
    responses
}

fn frozen(machine: &mut Machine) -> Bytes {
    thaw(machine.snapshot().unwrap())
}

fn thaw(mut frozen: FrozenSessions<WholeState, u64, Little>) -> Bytes {
    let mut bytes = Vec::new();
    while let Some(chunk) = frozen.next_chunk().unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes.into()
}

fn restored(bytes: &Bytes) -> Result<Machine, RestoreError<SessionsError<Infallible>>> {
    let meta = meta(id(1), bytes.len() as u64);
    let mut read = |offset: u64, bytes_max: u64| {
        let from = usize::try_from(offset).unwrap();
        // Pieces of odd lengths.
        let end = bytes.len().min(from + usize::try_from(bytes_max).unwrap().min(7));
        Ok::<_, SnapshotError>(bytes.slice(from..end))
    };
    let mut machine = machine();
    apply(&mut machine, 1, &[Some(Envelope::Open(SessionLimits::default()).seal("")), None]);
    machine.restore(&mut SnapshotSource::new(&meta, &mut read))?;
    Ok(machine)
}

// --- the model -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Model {
    applied: Vec<Bytes>,
    opened: u64,
    uses: u64,
    sessions: BTreeMap<u64, Client>,
}

struct Client {
    used: u64,
    window: u64,
    needed_from: u64,
    responses: BTreeMap<u64, u64>,
}

impl Model {
    fn step(&mut self, envelope: Envelope, command: &Bytes) -> Response {
        self.uses += 1;
        let refused = SessionResponse::Refused;
        match envelope {
            Envelope::Plain => SessionResponse::Applied(self.command(command)),
            Envelope::Open(limits) => {
                while self.sessions.len() as u64 >= limits.sessions_max().into() {
                    let oldest = self.sessions.iter().min_by_key(|(_, client)| client.used).unwrap().0;
                    self.sessions.remove(&oldest.clone());
                }
                self.opened += 1;
                let window = limits.window().into();
                let client = Client { used: self.uses, window, needed_from: 1, responses: BTreeMap::new() };
                self.sessions.insert(self.opened, client);
                SessionResponse::Opened(SessionId::new(self.opened))
            }
            Envelope::Close(session) => match self.sessions.remove(&session.get()) {
                Some(_) => SessionResponse::Closed,
                None => refused(SessionRefusal::Expired),
            },
            Envelope::Once { session, sequence, needed_from } => {
                let Some(client) = self.sessions.get_mut(&session.get()) else {
                    return refused(SessionRefusal::Expired);
                };
                client.used = self.uses;
                client.needed_from = client.needed_from.max(needed_from);
                if sequence < client.needed_from {
                    return refused(SessionRefusal::Acknowledged);
                }
                if sequence >= client.needed_from + client.window {
                    return refused(SessionRefusal::TooFarAhead);
                }
                if let Some(response) = client.responses.get(&sequence) {
                    return SessionResponse::Applied(*response);
                }
                let response = self.command(command);
                let client = self.sessions.get_mut(&session.get()).unwrap();
                client.responses.insert(sequence, response);
                SessionResponse::Applied(response)
            }
        }
    }

    fn command(&mut self, command: &Bytes) -> u64 {
        self.applied.push(command.clone());
        self.applied.len() as u64
    }
}

#[derive(Clone, Debug)]
enum Step {
    Noop,
    Command(Envelope, Bytes),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = || (1..7_u64).prop_map(SessionId::new);
    let command = || prop_oneof![9 => Just(3_usize), 1 => Just(0), 1 => Just(200)];
    let command = move || (any::<u8>(), command()).prop_map(|(byte, length)| Bytes::from(vec![byte; length]));
    let step = prop_oneof![
        1 => Just(Step::Noop),
        2 => command().prop_map(|command| Step::Command(Envelope::Plain, command)),
        3 => (1..4_u32, 1..5_u32).prop_map(|(sessions, window)| {
            Step::Command(Envelope::Open(SessionLimits::new(sessions, window)), Bytes::new())
        }),
        1 => session().prop_map(|session| Step::Command(Envelope::Close(session), Bytes::new())),
        16 => (session(), 0..9_u64, 0..3_u64, command()).prop_map(|(session, sequence, outstanding, command)| {
            let needed_from = sequence.saturating_sub(outstanding);
            Step::Command(Envelope::Once { session, sequence, needed_from }, command)
        }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Applies the steps in batches; at the end of some, the machine is replaced by one restored from its snapshot.
fn run(steps: &[Step], cuts: &[(usize, bool)]) -> (Machine, Vec<Response>) {
    let sealed: Vec<Option<Bytes>> = steps
        .iter()
        .map(|step| match step {
            Step::Noop => None,
            Step::Command(envelope, command) => Some(envelope.seal(command.clone())),
        })
        .collect();
    let (mut machine, mut responses, mut at) = (machine(), Vec::new(), 0);
    let mut cuts = cuts.iter().cycle();
    while at < sealed.len() {
        let (length, restart) = cuts.next().copied().unwrap_or((usize::MAX, false));
        let end = at.saturating_add(length).min(sealed.len());
        responses.extend(apply(&mut machine, at as u64 + 1, &sealed[at..end]));
        if restart {
            machine = restored(&frozen(&mut machine)).unwrap();
        }
        at = end;
    }
    (machine, responses)
}

proptest! {
    #[test]
    fn it_does_what_the_model_does_however_it_is_cut_and_restarted(
        steps in steps(),
        cuts in prop::collection::vec((1..9_usize, any::<bool>()), 0..6),
    ) {
        let (mut cut, responses) = run(&steps, &cuts);
        let mut model = Model::default();
        let expected: Vec<Response> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Noop => None,
                Step::Command(envelope, command) => Some(model.step(*envelope, command)),
            })
            .collect();
        prop_assert_eq!(&responses, &expected);
        let applied = cut.machine().commands.iter().map(|(_, command)| command.clone());
        prop_assert_eq!(applied.collect::<Vec<_>>(), model.applied);
        prop_assert_eq!(cut.open_sessions(), model.sessions.len());

        // A replica that saw it as one batch, and never restarted, has the same bytes.
        let (mut whole, _) = run(&steps, &[]);
        prop_assert_eq!(frozen(&mut cut), frozen(&mut whole));
    }

    /// A client that does as it should, and a network that does what it likes.
    #[test]
    fn every_command_of_a_client_happens_once_in_any_order_of_its_copies(
        window in 1..5_u32,
        moves in prop::collection::vec((0..3_u8, any::<prop::sample::Index>()), 1..120),
    ) {
        let limits = SessionLimits::new(1, window);
        let mut machine = machine();
        let mut log = 1;
        let mut commit = |command: Bytes| {
            log += 1;
            apply(&mut machine, log - 1, &[Some(command)]).remove(0)
        };
        let SessionResponse::Opened(session) = commit(Envelope::Open(limits).seal("")) else { panic!() };
        let mut client = ClientSession::new(session, limits);
        // Every copy ever sent may arrive at any time; the first response of each is the one that counts.
        let mut sent: Vec<(u64, Bytes)> = Vec::new();
        let mut answered: BTreeMap<u64, Response> = BTreeMap::new();
        for (kind, which) in moves {
            if kind == 0 || sent.is_empty() {
                if let Some((sequence, envelope)) = client.begin() {
                    sent.push((sequence, envelope.seal(sequence.to_le_bytes().to_vec())));
                }
                continue;
            }
            let (sequence, command) = which.get(&sent).clone();
            let response = commit(command);
            match answered.get(&sequence) {
                None => {
                    prop_assert!(matches!(response, SessionResponse::Applied(_)), "{:?}", response);
                    answered.insert(sequence, response);
                    client.done(sequence);
                }
                Some(first) => {
                    let late = SessionResponse::Refused(SessionRefusal::Acknowledged);
                    prop_assert!(response == *first || response == late, "{:?}", response);
                }
            }
        }
        let mut applied: Vec<Bytes> = machine.machine().commands.iter().map(|(_, c)| c.clone()).collect();
        applied.sort_by_key(|command| u64::from_le_bytes(command[..].try_into().unwrap()));
        let expected: Vec<Bytes> =
            answered.keys().map(|sequence| Bytes::from(sequence.to_le_bytes().to_vec())).collect();
        prop_assert_eq!(applied, expected);
    }
}

// --- single cases --------------------------------------------------------------------------------------------------

fn once(session: u64, sequence: u64, command: &'static str) -> Option<Bytes> {
    Some(Envelope::Once { session: SessionId::new(session), sequence, needed_from: 1 }.seal(command))
}

fn open(sessions_max: u32, window: u32) -> Option<Bytes> {
    Some(Envelope::Open(SessionLimits::new(sessions_max, window)).seal(""))
}

/// Two sessions with responses.
fn used() -> Machine {
    let mut machine = machine();
    apply(&mut machine, 1, &[open(9, 4), open(9, 4), once(1, 2, "b"), once(2, 1, "x"), once(1, 1, "a")]);
    machine
}

#[test]
fn a_damaged_table_is_refused_whatever_the_damage() {
    let mut machine = used();
    let whole = frozen(&mut machine);
    let of_machine = 8 + 3 * (8 + 1 + 1);
    let table_bytes = whole.len() - of_machine;
    let mut again = restored(&whole).unwrap();
    assert_eq!((frozen(&mut again), again.machine()), (whole.clone(), machine.machine()));
    for length in 0..table_bytes {
        assert!(restored(&whole.slice(..length)).is_err(), "cut to {length} bytes");
        let lost = Bytes::from([&whole[..length], &whole[length + 1..]].concat());
        assert!(restored(&lost).is_err(), "without byte {length}");
        let added = Bytes::from([&whole[..length], b"x", &whole[length..]].concat());
        assert!(restored(&added).is_err(), "one more before byte {length}");
        for bit in 0..8 {
            let mut altered = whole.to_vec();
            altered[length] ^= 1 << bit;
            assert!(restored(&altered.into()).is_err(), "bit {bit} of byte {length}");
        }
    }
}

#[test]
fn a_frozen_table_does_not_see_what_comes_later() {
    let mut machine = used();
    let (now, later) = (frozen(&mut machine), machine.snapshot().unwrap());
    apply(&mut machine, 6, &[once(1, 3, "c"), Some(Envelope::Close(SessionId::new(2)).seal("")), open(1, 1)]);
    assert_eq!(thaw(later), now);
    assert_eq!(machine.open_sessions(), 1);
}

#[test]
fn what_was_used_last_stays() {
    let mut machine = used();
    let expired = SessionResponse::Refused(SessionRefusal::Expired);
    // Session 1 was used after session 2, by a command that was no news.
    let responses = apply(
        &mut machine,
        6,
        &[once(2, 1, "x"), once(1, 1, "a"), open(2, 1), once(2, 1, "x"), once(1, 1, "a")],
    );
    let opened = SessionResponse::Opened(SessionId::new(3));
    let known = SessionResponse::Applied;
    assert_eq!(responses, [known(2), known(3), opened, expired, known(3)]);
    assert_eq!(machine.machine().commands.len(), 3);
}

#[test]
fn a_large_command_is_not_copied() {
    let mut machine = machine();
    let command = Envelope::Plain.seal(vec![7; 100_000]);
    let at = command.as_ptr();
    apply(&mut machine, 1, &[Some(command)]);
    assert_eq!(machine.machine().commands[0].1.as_ptr(), at);
}

#[test]
fn what_cannot_be_right_is_an_error() {
    let mut machine = used();
    let error = machine.apply(&batch(6, &[Some("no envelope".into())]), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SessionsError::NotSealed { at, .. } if at == id(6)), "{error}");

    assert!(Machine::check(&"no envelope".into()).is_err());
    assert_eq!(Machine::check(&Envelope::Plain.seal("good")), Ok(()));
    assert_eq!(Machine::check(&Envelope::Plain.seal("bad")), Err(Unacceptable::new("bad")));
    assert_eq!(Machine::check(&Envelope::Close(SessionId::new(1)).seal("bad")), Ok(()));

    let mut mute: Machine = Sessions::new(Journal { mute: true, ..Journal::default() });
    let error = mute.apply(&batch(1, &[Some(Envelope::Plain.seal("a"))]), &mut Vec::new());
    assert_eq!(error, Err(SessionsError::Responses { commands: 1, responses: 0 }));

    let mut durable: Machine = Sessions::new(Journal { durable: id(3), ..Journal::default() });
    assert_eq!(durable.recover(), Err(SessionsError::Durable));
    assert_eq!(machine.recover(), Ok(LogId::ZERO));
}

/// The highest numbers are numbers like others: what the table takes in, its snapshot gives back.
#[test]
fn a_table_with_the_highest_number_survives_its_snapshot() {
    for needed_from in [u64::MAX, u64::MAX - 1] {
        let mut machine = machine();
        let opened = apply(&mut machine, 1, &[open(2, 4)]);
        let [Response::Opened(session)] = opened[..] else { panic!("{opened:?}") };
        let last = Envelope::Once { session, sequence: u64::MAX, needed_from };
        let said = apply(&mut machine, 2, &[Some(last.seal("1"))]);
        let mut again = restored(&frozen(&mut machine)).expect("what was written is read");
        assert_eq!(apply(&mut again, 3, &[Some(last.seal("1"))]), said);
    }
}
