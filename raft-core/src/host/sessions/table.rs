//! The sessions that there are, and the responses that they may still ask for (thesis §6.3).
//!
//! * What it holds depends on the commands that it saw and their order alone, never on how they came in batches.
//! * A number of a session is [`Fresh`](Admission::Fresh) at most once, for ever: a name of a session is never given again.
//! * Bounded: as many sessions as the last one opened allowed, each with `window` responses.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;

use super::{SessionId, SessionLimits, SessionRefusal};

/// One client's session. Shared with frozen tables: a change copies it while one is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session<R> {
    /// When it was last used, counted in [`Table::uses`].
    pub(super) used: u64,
    pub(super) window: u32,
    pub(super) needed_from: u64,
    /// By number, ascending, all within `needed_from .. needed_from + window`. `None`: the machine has it to apply.
    pub(super) responses: VecDeque<(u64, Option<R>)>,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Table<R> {
    pub(super) sessions: BTreeMap<SessionId, Arc<Session<R>>>,
    /// The same, by when they were last used.
    by_use: BTreeMap<u64, SessionId>,
    /// How many were ever opened: the name of the newest.
    pub(super) opened: u64,
    /// How often any was used.
    pub(super) uses: u64,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { sessions: BTreeMap::new(), by_use: BTreeMap::new(), opened: 0, uses: 0 }
    }
}

/// What is to be done with a command of a session.
#[derive(Debug, PartialEq)]
pub(super) enum Admission<R> {
    /// It is applied now; its response goes to [`Table::store`].
    Fresh,
    /// It was applied, with this response.
    Known(R),
    /// It is among those being applied.
    Pending,
    /// It is not applied.
    Refused(SessionRefusal),
}

impl<R: Clone> Table<R> {
    /// What was kept. `None` if that is no table: a name never given, or two uses at once.
    pub(super) fn restored(
        opened: u64,
        uses: u64,
        sessions: BTreeMap<SessionId, Arc<Session<R>>>,
    ) -> Option<Self> {
        let by_use: BTreeMap<u64, SessionId> =
            sessions.iter().map(|(id, session)| (session.used, *id)).collect();
        let named = sessions.keys().all(|id| (1..=opened).contains(&id.get()));
        let used = by_use.keys().all(|used| (1..=uses).contains(used));
        (named && used && by_use.len() == sessions.len()).then_some(Self { sessions, by_use, opened, uses })
    }

    /// Opens a session; those that were not used for the longest time make room for it.
    pub(super) fn open(&mut self, limits: SessionLimits) -> SessionId {
        let room = usize::try_from(limits.sessions_max()).unwrap_or(usize::MAX);
        while self.sessions.len() >= room
            && let Some((_, expired)) = self.by_use.pop_first()
        {
            self.sessions.remove(&expired);
        }
        self.opened += 1;
        self.uses += 1;
        let (id, used) = (SessionId::new(self.opened), self.uses);
        let session = Session { used, window: limits.window(), needed_from: 1, responses: VecDeque::new() };
        self.sessions.insert(id, Arc::new(session));
        self.by_use.insert(used, id);
        id
    }

    /// Returns whether there was such a session.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        let closed = self.sessions.remove(&id);
        if let Some(session) = &closed {
            self.by_use.remove(&session.used);
        }
        closed.is_some()
    }

    /// A session's command came.
    pub(super) fn admit(&mut self, id: SessionId, sequence: u64, needed_from: u64) -> Admission<R> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Admission::Refused(SessionRefusal::Expired);
        };
        let session = Arc::make_mut(session);
        self.uses += 1;
        self.by_use.remove(&session.used);
        self.by_use.insert(self.uses, id);
        session.used = self.uses;
        if needed_from > session.needed_from {
            session.needed_from = needed_from;
            while session.responses.pop_front_if(|(number, _)| *number < needed_from).is_some() {}
        }
        if sequence < session.needed_from {
            return Admission::Refused(SessionRefusal::Acknowledged);
        }
        if sequence - session.needed_from >= u64::from(session.window) {
            return Admission::Refused(SessionRefusal::TooFarAhead);
        }
        match session.find(sequence) {
            Ok(at) => session.responses[at].1.clone().map_or(Admission::Pending, Admission::Known),
            Err(at) => {
                session.responses.insert(at, (sequence, None));
                Admission::Fresh
            }
        }
    }

    /// The machine's response to what was [`Fresh`](Admission::Fresh). Dropped if nobody can ask for it any more.
    pub(super) fn store(&mut self, id: SessionId, sequence: u64, response: R) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Ok(at) = session.find(sequence)
        {
            Arc::make_mut(session).responses[at].1 = Some(response);
        }
    }

    /// The response that is kept for a command. No use of the session.
    pub(super) fn stored(&self, id: SessionId, sequence: u64) -> Option<R> {
        let session = self.sessions.get(&id)?;
        session.responses[session.find(sequence).ok()?].1.clone()
    }
}

impl<R> Session<R> {
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        self.responses.binary_search_by_key(&sequence, |(number, _)| *number)
    }
}
