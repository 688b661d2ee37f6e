//! A client's side of a session: which number its next command gets, and which responses it still needs.

use alloc::collections::BTreeSet;

use super::{Envelope, SessionId, SessionLimits};

/// Numbers the commands of one session, and knows which of them are outstanding. No IO: whoever sends them seals each
/// with the envelope that it got, once, and sends the same bytes again when the outcome is unknown.
///
/// ```
/// use raft_core::host::{ClientSession, Envelope, SessionId, SessionLimits};
///
/// let id = SessionId::new(3); // from `SessionResponse::Opened`
/// let mut client = ClientSession::new(id, SessionLimits::new(1_000, 2));
/// let (first, envelope) = client.begin().expect("nothing is outstanding");
/// assert_eq!(envelope, Envelope::Once { session: id, sequence: 1, needed_from: 1 });
/// let (second, _) = client.begin().expect("one is outstanding");
/// assert!(client.begin().is_none(), "two are outstanding, which is all that the session allows");
/// client.done(second);
/// assert!(client.begin().is_none(), "the responses from number 1 on are still needed");
/// client.done(first);
/// let (third, envelope) = client.begin().expect("nothing is outstanding");
/// assert_eq!((third, envelope), (3, Envelope::Once { session: id, sequence: 3, needed_from: 3 }));
/// ```
#[derive(Clone, Debug)]
pub struct ClientSession {
    id: SessionId,
    window: u64,
    next: u64,
    outstanding: BTreeSet<u64>,
}

impl ClientSession {
    /// A session just opened with these limits.
    #[must_use]
    pub fn new(id: SessionId, limits: SessionLimits) -> Self {
        Self { id, window: limits.window().into(), next: 1, outstanding: BTreeSet::new() }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The number and the envelope of the next command. `None` if as many are outstanding, from the oldest on, as the
    /// session allows.
    pub fn begin(&mut self) -> Option<(u64, Envelope)> {
        let sequence = self.next;
        let needed_from = self.outstanding.first().copied().unwrap_or(sequence);
        if sequence - needed_from >= self.window {
            return None;
        }
        self.next += 1;
        self.outstanding.insert(sequence);
        Some((sequence, Envelope::Once { session: self.id, sequence, needed_from }))
    }

    /// The response of this command came, or nobody asks for it any more. Later commands say so, and once one of them is
    /// applied, this one cannot be applied any more.
    pub fn done(&mut self, sequence: u64) {
        self.outstanding.remove(&sequence);
    }
}
