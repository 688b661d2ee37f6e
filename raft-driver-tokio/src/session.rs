//! A client whose writes happen once, however often they are tried: [`raft_core::host::Sessions`] from outside.
//!
//! * A command has one number and one form from its first try to its last; whatever becomes of the tries, the machine sees
//!   it at most once.
//! * Tries are bounded in number and in time. Who gives up is told what is known.
//! * A command that was given up cannot happen behind its client's back for ever: commands that are begun when it and all
//!   before it are over say so, and once one of them is applied, the other is refused.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use raft_core::host::{
    Application, ClientSession, Codec, Envelope, SessionId, SessionLimits, SessionRefusal, SessionResponse,
    Sessions, StateMachine, Typed,
};
use tokio::sync::Notify;

use crate::error::{Applied, Certainty, WriteError};
use crate::handle::Raft;
use crate::typed::ProposeError;

/// The response to a sealed command of a machine.
type Response<M> = Applied<SessionResponse<<M as StateMachine>::Response>>;

/// How a client reaches the cluster: one handle, several, or a protocol of one's own.
pub trait Route: Send + Sync {
    /// The machine behind the table of sessions.
    type Machine: StateMachine;

    /// Writes a sealed command once. `attempt` counts the tries from 0; `leader` is who led by the last answer that said so.
    /// May be dropped before it resolves.
    fn submit(
        &self,
        command: Bytes,
        attempt: u32,
        leader: Option<NodeId>,
    ) -> impl Future<Output = Result<Response<Self::Machine>, WriteError>> + Send;
}

/// Always the same node.
impl<S, C> Route for Raft<Sessions<S, C>>
where
    S: StateMachine<Response: Clone + Sync>,
    C: Codec<S::Response>,
{
    type Machine = S;

    async fn submit(
        &self,
        command: Bytes,
        _attempt: u32,
        _leader: Option<NodeId>,
    ) -> Result<Response<S>, WriteError> {
        self.write(command).await
    }
}

/// The leader if it is among these; else one after the other.
///
/// # Panics
/// If there is none.
impl<S, C> Route for Vec<Raft<Sessions<S, C>>>
where
    S: StateMachine<Response: Clone + Sync>,
    C: Codec<S::Response>,
{
    type Machine = S;

    async fn submit(
        &self,
        command: Bytes,
        attempt: u32,
        leader: Option<NodeId>,
    ) -> Result<Response<S>, WriteError> {
        let led = self.iter().find(|raft| Some(raft.id()) == leader);
        let next = || &self[attempt as usize % self.len()];
        led.unwrap_or_else(next).write(command).await
    }
}

/// How long a client tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How many tries at most, at least one.
    pub tries_max: u32,
    /// How long one may take. Then its outcome is unknown, and the next begins.
    pub try_max: Duration,
    /// How long to wait between two at most, and half of that at least, unless an answer said whom to ask instead.
    pub pause: Duration,
}

/// 10 tries of 2 seconds, 50 milliseconds apart.
impl Default for Patience {
    fn default() -> Self {
        Self { tries_max: 10, try_max: Duration::from_secs(2), pause: Duration::from_millis(50) }
    }
}

/// Why a write of a session has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The session is gone: open another one.
    #[error("the session has expired; {}", Known(*certainty))]
    Expired {
        /// What is known about the command.
        certainty: Certainty,
    },
    /// The last of the tries had no result either.
    #[error("given up after {tries} tries; {}", Known(*certainty))]
    GaveUp {
        /// How many there were.
        tries: u32,
        /// What is known about the command. It cannot happen any more once another one of the session is applied that was
        /// begun when this one and all before it were over.
        certainty: Certainty,
        /// What the last one came to; `None` if it took too long.
        last: Option<Box<WriteError>>,
    },
    /// Did not happen, and never can: [`WriteError::Refused`] or [`WriteError::Invalid`].
    #[error(transparent)]
    Refused(Box<WriteError>),
    /// The machine answered what it never answers to a client that alone uses its session.
    #[error("the session is used by somebody else too")]
    Shared,
}

struct Known(Certainty);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Certainty::DidNotHappen => "the command did not happen",
            Certainty::Unknown => "it is unknown whether the command happened",
            Certainty::Happened => "the command happened",
        })
    }
}

/// A session of one client. Writes may be outstanding at the same time, as many as
/// [`SessionLimits::window`]; further ones wait.
///
/// ```
/// # use bytes::Bytes;
/// # use raft_core::host::{Codec, Sessions, StateMachine};
/// use raft_core::host::SessionLimits;
/// use raft_driver_tokio::{Patience, Raft, Session};
///
/// # async fn example<S, C>(raft: Raft<Sessions<S, C>>) -> Result<(), Box<dyn std::error::Error>>
/// # where S: StateMachine<Response: Clone + Sync>, C: Codec<S::Response> {
/// let session = Session::open(raft, SessionLimits::default(), Patience::default()).await?;
/// let applied = session.write("pay 100").await?; // once, even if the first leader died over it
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct Session<W> {
    route: W,
    patience: Patience,
    client: Mutex<ClientSession>,
    /// Told when a number is done.
    room: Notify,
    leader: Mutex<Option<NodeId>>,
}

impl<W: Route> Session<W> {
    /// Opens a session. If the outcome of a try is unknown, another session may be there that nobody uses: it expires
    /// like any other.
    ///
    /// # Errors
    /// If no try had a result.
    pub async fn open(route: W, limits: SessionLimits, patience: Patience) -> Result<Self, SessionError> {
        let leader = Mutex::new(None);
        let opened = persist(&route, patience, &leader, Envelope::Open(limits).seal(Bytes::new())).await?;
        let SessionResponse::Opened(id) = opened.applied.response else { return Err(SessionError::Shared) };
        let client = Mutex::new(ClientSession::new(id, limits));
        Ok(Self { route, patience, client, room: Notify::new(), leader })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.client().id()
    }

    /// Writes a command, again and again if need be, and returns the response of the one time that it was applied. The
    /// place is that of the try which was answered.
    ///
    /// If the future is dropped, the command is given up, as with [`SessionError::GaveUp`].
    ///
    /// # Errors
    /// [`SessionError`] says what is known about the command.
    pub async fn write(
        &self,
        command: impl Into<Bytes>,
    ) -> Result<Applied<<W::Machine as StateMachine>::Response>, SessionError> {
        let (number, envelope) = self.begin().await;
        let sealed = envelope.seal(command);
        let persisted = persist(&self.route, self.patience, &self.leader, sealed).await?;
        drop(number);
        let Applied { id, response } = persisted.applied;
        match response {
            SessionResponse::Applied(response) => Ok(Applied { id, response }),
            SessionResponse::Refused(SessionRefusal::Expired) => {
                Err(SessionError::Expired { certainty: persisted.before })
            }
            SessionResponse::Refused(SessionRefusal::Acknowledged | SessionRefusal::TooFarAhead)
            | SessionResponse::Opened(_)
            | SessionResponse::Closed => Err(SessionError::Shared),
        }
    }

    /// Closes the session. One that is not closed makes room for others some time.
    ///
    /// # Errors
    /// If no try had a result.
    pub async fn close(self) -> Result<(), SessionError> {
        let close = Envelope::Close(self.id()).seal(Bytes::new());
        persist(&self.route, self.patience, &self.leader, close).await.map(drop)
    }

    /// The next number, as soon as there is room for it.
    async fn begin(&self) -> (Number<'_, W>, Envelope) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Before it looks: what is told in between is not missed.
            room.as_mut().enable();
            if let Some((sequence, envelope)) = self.client().begin() {
                return (Number { session: self, sequence }, envelope);
            }
            room.await;
        }
    }

    fn client(&self) -> MutexGuard<'_, ClientSession> {
        // A number is given or taken back in one step: there is nothing half done to be afraid of.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W, A, C, K> Session<W>
where
    W: Route<Machine = Typed<A, C, K>>,
    A: Application,
    C: Codec<A::Command>,
    Typed<A, C, K>: StateMachine<Response = A::Response>,
{
    /// As [`write`](Self::write), of a command that the application has [validated](Application::validate).
    ///
    /// # Errors
    /// If the command is rejected or cannot be encoded, which is found before anything is proposed; else as for `write`.
    pub fn propose<'a>(
        &'a self,
        command: &A::Command,
    ) -> impl Future<Output = Result<Applied<A::Response>, ProposeError<A::Rejection, SessionError>>>
    + Send
    + use<'a, W, A, C, K> {
        let command = Typed::<A, C, K>::command(command);
        async move { self.write(command?).await.map_err(ProposeError::Write) }
    }
}

impl<W> fmt::Debug for Session<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("client", &self.client).finish_non_exhaustive()
    }
}

/// A number in use; dropped, it is done.
struct Number<'a, W: Route> {
    session: &'a Session<W>,
    sequence: u64,
}

impl<W: Route> Drop for Number<'_, W> {
    fn drop(&mut self) {
        self.session.client().done(self.sequence);
        self.session.room.notify_waiters();
    }
}

/// An answer, and what was known before it came.
struct Persisted<M: StateMachine> {
    applied: Response<M>,
    before: Certainty,
}

/// Tries until there is an answer or the patience ends.
async fn persist<W: Route>(
    route: &W,
    patience: Patience,
    leader: &Mutex<Option<NodeId>>,
    command: Bytes,
) -> Result<Persisted<W::Machine>, SessionError> {
    let mut before = Certainty::DidNotHappen;
    let mut last = None;
    for attempt in 0..patience.tries_max.max(1) {
        let asked = *leader.lock().unwrap_or_else(PoisonError::into_inner);
        let answer =
            tokio::time::timeout(patience.try_max, route.submit(command.clone(), attempt, asked)).await;
        let mut known = None;
        match answer {
            Ok(Ok(applied)) => return Ok(Persisted { applied, before }),
            Ok(Err(error @ (WriteError::Refused { .. } | WriteError::Invalid { .. })))
                if before == Certainty::DidNotHappen =>
            {
                return Err(SessionError::Refused(Box::new(error)));
            }
            Ok(Err(error)) => {
                if error.certainty() != Certainty::DidNotHappen {
                    // Committed is not applied: the session may have expired before.
                    before = Certainty::Unknown;
                }
                if let WriteError::NotLeader { leader, .. } = &error {
                    known = *leader;
                }
                last = Some(Box::new(error));
            }
            Err(_) => {
                before = Certainty::Unknown;
                last = None;
            }
        }
        // Whoever was asked in vain is not asked again, unless somebody else names it.
        *leader.lock().unwrap_or_else(PoisonError::into_inner) = known;
        let redirected = known.is_some() && known != asked;
        if !redirected && attempt + 1 < patience.tries_max {
            let nanos = u64::try_from(patience.pause.as_nanos()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_nanos(fastrand::u64(nanos / 2..=nanos))).await;
        }
    }
    Err(SessionError::GaveUp { tries: patience.tries_max.max(1), certainty: before, last })
}
