//! Commands that happen once, however often they are tried (thesis §6.3): a wrapper around any state machine.
//!
//! A client whose write was lost with its leader does not know whether it happened. It opens a *session*, numbers its
//! commands, and proposes a command again under the same number: the table in front of the machine finds that it was
//! applied, and answers with the response that it had.
//!
//! * A command of a session reaches the machine at most once for each number, in every order of retries, across crashes,
//!   new leaders and snapshots: the table is part of the replicated state.
//! * Nothing expires by a clock. A session is gone when it is closed, or when others make it the one that was not used for
//!   the longest time; its commands are refused from then on, never applied a second time.
//! * Limits travel in the command that opens a session: servers that are configured differently hold the same table.
//! * The machine within sees every index: an entry that is not for it comes as a no-op.

mod client;
mod envelope;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::marker::PhantomData;

use super::codec::Codec;
use super::frozen::{RestoreError, SnapshotSource};
use super::state_machine::{StateMachine, Unacceptable};
use crate::entry::{CommandPacker, Entries, EntryRef};
use crate::ids::LogId;
use table::{Admission, Table};

pub use client::ClientSession;
pub use envelope::{Envelope, NotSealed, TRAILER_BYTES_MAX};
pub use snapshot::{FrozenSessions, FrozenSessionsError};

/// The name of a session, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SessionId(u64);

impl SessionId {
    /// Wraps a plain number: one that [`SessionResponse::Opened`] had.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much the table may hold: at most `sessions_max × window` responses, whatever their length.
///
/// A response is kept, in memory and in every snapshot, until its client says with a later command that it needs it no
/// more, or its session is gone. So a machine whose responses are long should have limits whose product times that length
/// fits in memory, or answer with something short that the client reads the rest by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    sessions_max: u32,
    window: u32,
}

impl SessionLimits {
    /// The highest number of sessions.
    pub const SESSIONS_MAX: u32 = 1 << 20;
    /// The widest window.
    pub const WINDOW_MAX: u32 = 1 << 16;

    /// As many sessions as `sessions_max`, each of which has at most `window` commands from the oldest outstanding one on.
    ///
    /// # Panics
    /// If one of them is 0, or above [`SESSIONS_MAX`](Self::SESSIONS_MAX) or [`WINDOW_MAX`](Self::WINDOW_MAX).
    #[must_use]
    pub const fn new(sessions_max: u32, window: u32) -> Self {
        Self::checked(sessions_max, window).expect("limits within their bounds")
    }

    const fn checked(sessions_max: u32, window: u32) -> Option<Self> {
        let sessions = sessions_max > 0 && sessions_max <= Self::SESSIONS_MAX;
        let window_fits = window > 0 && window <= Self::WINDOW_MAX;
        if sessions && window_fits { Some(Self { sessions_max, window }) } else { None }
    }

    /// How many sessions there may be.
    #[must_use]
    pub const fn sessions_max(self) -> u32 {
        self.sessions_max
    }

    /// How far beyond the oldest response that is needed a session's commands may be.
    #[must_use]
    pub const fn window(self) -> u32 {
        self.window
    }
}

/// 10,000 sessions of 64 commands each.
impl Default for SessionLimits {
    fn default() -> Self {
        Self::new(10_000, 64)
    }
}

/// What became of a command given to [`Sessions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionResponse<R> {
    /// It was applied, now or when it first came; this is the response it had then.
    Applied(R),
    /// A session was opened.
    Opened(SessionId),
    /// The session is closed.
    Closed,
    /// Nothing was done.
    Refused(SessionRefusal),
}

/// Why a command of a session was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SessionRefusal {
    /// There is no such session: it was closed, or made room for others, or never opened. Whether an earlier try of the
    /// command was applied is not known any more.
    #[error("the session has expired")]
    Expired,
    /// A later command of the session said that the response to this one is not needed any more. An earlier try may have
    /// been applied; this one was not, and no later one will be.
    #[error("the response to this command was given up")]
    Acknowledged,
    /// It is `window` or more beyond the oldest response that is needed: say first that those are not.
    #[error("too many commands of the session are outstanding")]
    TooFarAhead,
}

/// Why [`Sessions`] cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionsError<E> {
    /// A command in the log was never sealed, or by a newer program.
    #[error("the command at {at} is {error}")]
    NotSealed {
        /// Where it stands.
        at: LogId,
        /// What is wrong with it.
        error: NotSealed,
    },
    /// The machine did not return one response for each command.
    #[error("the state machine gave {responses} responses to {commands} commands")]
    Responses {
        /// Commands applied.
        commands: usize,
        /// Responses returned.
        responses: usize,
    },
    /// The machine holds its state durably, but the table lives in snapshot and log: after a restart it would not know of
    /// commands that the machine has.
    #[error("a state machine that is durable itself cannot be given sessions")]
    Durable,
    /// The machine failed.
    #[error(transparent)]
    Machine(E),
}

/// A state machine `S` behind a table of sessions. `C` is how its responses are kept in snapshots.
///
/// Every command must be [sealed](Envelope::seal), those without a session as [`Envelope::Plain`]; drivers propose no other
/// ([`StateMachine::check`]), and one in the log stops the node.
///
/// ```
/// use bytes::Bytes;
/// use raft_core::host::{Envelope, Raw, Sessions, SessionLimits, SessionRefusal, SessionResponse, StateMachine};
/// use raft_core::{Commands, Entries, LogId, LogIndex, Term};
/// # use raft_core::EntryRef;
/// # use raft_core::host::{RestoreError, SnapshotSource, WholeState};
/// # #[derive(Default)]
/// # struct Lines(Vec<Bytes>);
/// # impl StateMachine for Lines {
/// #     type Response = Bytes;
/// #     type Snapshot = WholeState;
/// #     type Error = std::convert::Infallible;
/// #     fn apply(&mut self, entries: &Entries, responses: &mut Vec<Bytes>) -> Result<(), Self::Error> {
/// #         for entry in entries.iter() {
/// #             if let EntryRef::Command(_, command) = entry {
/// #                 self.0.push(command.to_bytes());
/// #                 responses.push(format!("line {}", self.0.len()).into());
/// #             }
/// #         }
/// #         Ok(())
/// #     }
/// #     fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
/// #         Ok(WholeState::new(self.0.concat()))
/// #     }
/// #     fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
/// #         Ok(())
/// #     }
/// # }
///
/// // `Lines` answers each command with its number, as bytes.
/// let mut machine: Sessions<Lines, Raw> = Sessions::new(Lines::default());
/// let mut responses = Vec::new();
/// let mut log = LogIndex::FIRST;
/// let mut commit = |machine: &mut Sessions<Lines, Raw>, command: Bytes| {
///     let entries = Entries::commands(LogId::new(Term::new(1), log), &Commands::one(command));
///     log = log.next();
///     responses.clear();
///     machine.apply(&entries, &mut responses).expect("it is sealed");
///     responses.pop().expect("one for each command")
/// };
///
/// let opened = commit(&mut machine, Envelope::Open(SessionLimits::default()).seal(""));
/// let SessionResponse::Opened(session) = opened else { panic!("{opened:?}") };
/// let pay = Envelope::Once { session, sequence: 1, needed_from: 1 }.seal("pay 100");
/// let first = commit(&mut machine, pay.clone());
/// assert_eq!(first, SessionResponse::Applied("line 1".into()));
/// // The answer was lost, and the client tries again.
/// assert_eq!(commit(&mut machine, pay.clone()), first);
/// assert_eq!(machine.machine().0.len(), 1);
///
/// assert_eq!(commit(&mut machine, Envelope::Close(session).seal("")), SessionResponse::Closed);
/// assert_eq!(commit(&mut machine, pay), SessionResponse::Refused(SessionRefusal::Expired));
/// ```
pub struct Sessions<S: StateMachine, C> {
    machine: S,
    table: Table<S::Response>,
    run: Run<S::Response>,
    /// The machine's, kept for its capacity.
    answers: Vec<S::Response>,
    codec: PhantomData<fn() -> C>,
}

/// What is to be given to the machine at once, and who gets which answer.
#[derive(Debug)]
struct Run<R> {
    parts: Vec<Entries>,
    /// Commands that follow each other, from `first` on, in one term.
    packer: CommandPacker,
    first: LogId,
    steps: Vec<Step<R>>,
}

/// Where the answer to a command comes from.
#[derive(Debug)]
enum Step<R> {
    /// The machine; kept under this number of this session, if there is one.
    Machine(Option<(SessionId, u64)>),
    Known(SessionResponse<R>),
}

impl<S: StateMachine, C> Sessions<S, C> {
    /// Puts a table without sessions in front of a machine.
    #[must_use]
    pub fn new(machine: S) -> Self {
        let run = Run {
            parts: Vec::new(),
            packer: CommandPacker::default(),
            first: LogId::ZERO,
            steps: Vec::new(),
        };
        Self { machine, table: Table::default(), run, answers: Vec::new(), codec: PhantomData }
    }

    /// The machine, for reads.
    #[must_use]
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// How many sessions are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.table.sessions.len()
    }
}

impl<S, C> Sessions<S, C>
where
    S: StateMachine<Response: Clone>,
{
    /// What a command comes to.
    fn step(
        &mut self,
        envelope: Envelope,
        responses: &mut Vec<SessionResponse<S::Response>>,
    ) -> Result<Step<S::Response>, SessionsError<S::Error>> {
        Ok(Step::Known(match envelope {
            Envelope::Plain => return Ok(Step::Machine(None)),
            Envelope::Open(limits) => SessionResponse::Opened(self.table.open(limits)),
            Envelope::Close(session) if self.table.close(session) => SessionResponse::Closed,
            Envelope::Close(_) => SessionResponse::Refused(SessionRefusal::Expired),
            Envelope::Once { session, sequence, needed_from } => {
                match self.table.admit(session, sequence, needed_from) {
                    Admission::Fresh => return Ok(Step::Machine(Some((session, sequence)))),
                    Admission::Known(response) => SessionResponse::Applied(response),
                    Admission::Pending => {
                        // The same command came before in this very batch.
                        self.flush(responses)?;
                        let response = self.table.stored(session, sequence);
                        SessionResponse::Applied(response.expect("the machine has just applied it"))
                    }
                    Admission::Refused(refusal) => SessionResponse::Refused(refusal),
                }
            }
        }))
    }

    /// Has the machine apply what was gathered, and answers all that came until now.
    fn flush(
        &mut self,
        responses: &mut Vec<SessionResponse<S::Response>>,
    ) -> Result<(), SessionsError<S::Error>> {
        let entries = self.run.take();
        if entries.is_empty() {
            return Ok(());
        }
        self.answers.clear();
        self.machine.apply(&entries, &mut self.answers).map_err(SessionsError::Machine)?;
        let commands = self.run.steps.iter().filter(|step| matches!(step, Step::Machine(_))).count();
        if self.answers.len() != commands {
            return Err(SessionsError::Responses { commands, responses: self.answers.len() });
        }
        let mut answers = self.answers.drain(..);
        for step in self.run.steps.drain(..) {
            responses.push(match step {
                Step::Known(response) => response,
                Step::Machine(whose) => {
                    let response = answers.next().expect("they were counted");
                    if let Some((session, sequence)) = whose {
                        self.table.store(session, sequence, response.clone());
                    }
                    SessionResponse::Applied(response)
                }
            });
        }
        Ok(())
    }
}

impl<R> Run<R> {
    fn command(&mut self, at: LogId, command: Bytes) {
        if !self.packer.is_empty() && self.first.term != at.term {
            self.seal();
        }
        if self.packer.is_empty() {
            self.first = at;
        }
        self.packer.push_bytes(command);
    }

    /// An entry without a command for the machine.
    fn other(&mut self, entry: Entries) {
        self.seal();
        self.parts.push(entry);
    }

    fn seal(&mut self) {
        if !self.packer.is_empty() {
            self.parts.push(Entries::commands(self.first, &self.packer.finish()));
        }
    }

    fn take(&mut self) -> Entries {
        self.seal();
        Entries::join(self.parts.drain(..)).expect("one entry for each that came, and those were consecutive")
    }
}

impl<S, C> StateMachine for Sessions<S, C>
where
    S: StateMachine<Response: Clone + Sync>,
    C: Codec<S::Response>,
{
    type Response = SessionResponse<S::Response>;
    type Snapshot = FrozenSessions<S::Snapshot, S::Response, C>;
    type Error = SessionsError<S::Error>;

    const MAY_BLOCK: bool = S::MAY_BLOCK;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> Result<(), Self::Error> {
        for entry in entries.iter() {
            let (at, sealed) = match entry {
                EntryRef::Noop(at) => {
                    self.run.other(Entries::noop(at));
                    continue;
                }
                EntryRef::Membership(at, membership) => {
                    self.run.other(Entries::membership(at, Arc::clone(membership)));
                    continue;
                }
                EntryRef::Command(at, sealed) => (at, sealed),
            };
            let (envelope, command_bytes) =
                Envelope::open(&sealed).map_err(|error| SessionsError::NotSealed { at, error })?;
            let step = self.step(envelope, responses)?;
            match &step {
                Step::Machine(_) => self.run.command(at, sealed.to_bytes().slice(..command_bytes)),
                Step::Known(_) => self.run.other(Entries::noop(at)),
            }
            self.run.steps.push(step);
        }
        self.flush(responses)
    }

    fn snapshot(&mut self) -> Result<Self::Snapshot, Self::Error> {
        let machine = self.machine.snapshot().map_err(SessionsError::Machine)?;
        Ok(FrozenSessions::new(&self.table, machine))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        let table = snapshot::read_table::<_, C, _>(source)?;
        let restored = self.machine.restore(source);
        restored.map_err(|error| error.map_machine(SessionsError::Machine))?;
        self.table = table;
        Ok(())
    }

    fn recover(&mut self) -> Result<LogId, Self::Error> {
        match self.machine.recover().map_err(SessionsError::Machine)? {
            LogId::ZERO => Ok(LogId::ZERO),
            _ => Err(SessionsError::Durable),
        }
    }

    fn response_bytes(response: &Self::Response) -> usize {
        let within = match response {
            SessionResponse::Applied(response) => S::response_bytes(response),
            SessionResponse::Opened(_) | SessionResponse::Closed | SessionResponse::Refused(_) => 0,
        };
        size_of_val(response) + within
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        let (envelope, command_bytes) = Envelope::open(command).map_err(Unacceptable::new)?;
        match envelope {
            Envelope::Plain | Envelope::Once { .. } => S::check(&command.slice(..command_bytes)),
            Envelope::Open(_) | Envelope::Close(_) => Ok(()),
        }
    }
}

impl<S: StateMachine + fmt::Debug, C> fmt::Debug for Sessions<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("machine", &self.machine)
            .field("open_sessions", &self.open_sessions())
            .finish_non_exhaustive()
    }
}
