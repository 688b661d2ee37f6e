//! What a client's connection is doing: working for it, waiting for it to take an answer, or waiting for it to ask.
//!
//! * A connection on which nobody asks anything ends after a while, whatever else is sent on it (pings, half a head).
//! * Where clients are as many as there may be, one makes room for who comes new: whoever has been quiet for longest, or
//!   else whoever has left an answer or the body of a request waiting for longest, and for too long. Nobody is sent away
//!   whose request is being served, and whoever has been asked to go may end first what came between.
//! * Who does not take an answer in time is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::http::listen::Limits;

/// How long a connection that is to end may take to say so.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// Between two looks at who could go.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long somebody who was asked to make room is waited for before another one is asked.
const ASKED_LIMIT: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    /// It is to take no more requests, and to end.
    leave: CancellationToken,
    /// See [`Limits::crowded`].
    crowded: Duration,
}

#[derive(Debug)]
struct State {
    /// What the client has to do, by when it could begin to: take a part of an answer, or send the body of a request.
    awaited: BTreeSet<(Instant, usize)>,
    /// Requests that are being served, without those whose body is awaited.
    working: usize,
    /// When a request or an answer last came to its end.
    quiet_since: Instant,
    /// When it was asked to make room for somebody else.
    makes_room: Option<Instant>,
}

/// A request that is being served.
#[derive(Debug)]
pub(crate) struct Working(Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.working -= 1;
        state.quiet_since = Instant::now();
    }
}

impl Working {
    /// Waits for the body of the request. `None` if it is not there in time and somebody else waits for the place.
    pub(crate) async fn receive<T>(&self, body: impl Future<Output = T>) -> Option<T> {
        let arriving = Arriving::new(&self.0);
        tokio::select! {
            body = body => Some(body),
            () = self.0.crowded_out(arriving.0.key.0) => None,
        }
    }
}

/// A request whose body is awaited.
struct Arriving(Awaited);

impl Arriving {
    fn new(activity: &Arc<Activity>) -> Self {
        let awaited = activity.awaits();
        activity.state().working -= 1;
        Self(awaited)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.activity.state().working += 1;
    }
}

/// Something that the client has to do; done, or given up, when dropped.
struct Awaited {
    activity: Arc<Activity>,
    key: (Instant, usize),
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.awaited.remove(&self.key);
        state.quiet_since = Instant::now();
    }
}

/// An answer's body. It goes when its last byte has been handed to the operating system, or its connection ends: HTTP
/// libraries are done with an answer as such earlier than that.
struct Held<T> {
    bytes: Bytes,
    _awaited: Awaited,
    _with: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl State {
    /// Whether it can make room: first who is not waited for, and of these who is quiet for longest.
    fn rank(&self, now: Instant, crowded: Duration) -> Option<(bool, Instant)> {
        match (self.working, self.awaited.first()) {
            (0, None) => Some((false, self.quiet_since)),
            (0, Some((since, _))) if *since + crowded <= now => Some((true, *since)),
            _ => None,
        }
    }
}

impl Activity {
    fn new(leave: CancellationToken, crowded: Duration) -> Self {
        let state =
            State { awaited: BTreeSet::new(), working: 0, quiet_since: Instant::now(), makes_room: None };
        Self { state: Mutex::new(state), leave, crowded }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the connection is to end in order: requests in flight are answered, and no more are taken.
    pub(crate) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// A request has come.
    pub(crate) fn begin(self: &Arc<Self>) -> Working {
        self.state().working += 1;
        Working(Arc::clone(self))
    }

    /// An answer's body, or a part of it; `with` is kept until it was sent.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes, with: impl Send + 'static) -> Bytes {
        Bytes::from_owner(Held { bytes, _awaited: self.awaits(), _with: with })
    }

    fn awaits(self: &Arc<Self>) -> Awaited {
        let now = Instant::now();
        let mut state = self.state();
        let number = state.awaited.range((now, 0)..).next_back().map_or(0, |(_, number)| number + 1);
        state.awaited.insert((now, number));
        drop(state);
        Awaited { activity: Arc::clone(self), key: (now, number) }
    }

    /// Resolves when the client was waited for since `since` for long enough, and somebody else waits for its place.
    async fn crowded_out(&self, since: Instant) {
        self.leave.cancelled().await;
        if self.state().makes_room.is_none() {
            // It leaves for another reason, and nobody has to hurry.
            return std::future::pending().await;
        }
        sleep_until(since + self.crowded).await;
    }

    /// Resolves when an answer has waited for longer than `limit`.
    pub(crate) async fn overdue(&self, limit: Duration) {
        loop {
            let oldest = self.state().awaited.first().map(|(since, _)| *since);
            match oldest.map(|oldest| oldest + limit) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => sleep(limit).await,
            }
        }
    }

    /// Resolves when it is to leave and has been quiet for as long as it might take to say so.
    #[allow(dead_code, reason = "of drivers whose HTTP does not end what is quiet")]
    pub(crate) async fn dismissed(&self) {
        self.leave.cancelled().await;
        self.quiet(LEAVE_LIMIT).await;
    }

    /// Has it leave when it was quiet for `limit`. Resolves when it has had time to, for whatever reason it leaves.
    pub(crate) async fn left(&self, limit: Duration) {
        tokio::select! {
            () = self.quiet(limit) => self.leave.cancel(),
            () = self.leave.cancelled() => {}
        }
        sleep(LEAVE_LIMIT).await;
        self.quiet(LEAVE_LIMIT).await;
    }

    /// Resolves when there has been nothing to do for longer than `limit`.
    async fn quiet(&self, limit: Duration) {
        loop {
            let due = {
                let state = self.state();
                match (state.working, state.awaited.first()) {
                    (0, None) => Some(state.quiet_since + limit),
                    // A body that is given up by then is answered first.
                    (0, Some((since, _))) => state.makes_room.map(|_| *since + self.crowded + LEAVE_LIMIT),
                    _ => None,
                }
            };
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => sleep(limit.max(PATIENCE)).await,
            }
        }
    }
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Clients {
    room: Arc<Semaphore>,
    limits: Limits,
    all: Mutex<BTreeMap<u64, Arc<Activity>>>,
    stop: CancellationToken,
}

/// The place of one of them.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) activity: Arc<Activity>,
    number: u64,
    clients: Arc<Clients>,
    _room: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.all().remove(&self.number);
    }
}

impl Clients {
    /// None yet, until `stop` is cancelled.
    pub(crate) fn new(limits: Limits, stop: CancellationToken) -> Arc<Self> {
        let places = usize::try_from(limits.connections_max).unwrap_or(usize::MAX >> 3);
        Arc::new(Self { room: Arc::new(Semaphore::new(places)), limits, all: Mutex::default(), stop })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, as soon as there is room.
    pub(crate) async fn enter(self: &Arc<Self>) -> Place {
        let room = loop {
            if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
                break room;
            }
            self.make_room();
            let given = tokio::time::timeout(PATIENCE, Arc::clone(&self.room).acquire_owned());
            if let Ok(Ok(room)) = given.await {
                break room;
            }
        };
        let activity = Arc::new(Activity::new(self.stop.child_token(), self.limits.crowded));
        let mut all = self.all();
        let number = all.last_key_value().map_or(0, |(number, _)| number + 1);
        all.insert(number, Arc::clone(&activity));
        drop(all);
        Place { activity, number, clients: Arc::clone(self), _room: room }
    }

    /// Has somebody leave who can, unless somebody is about to.
    fn make_room(&self) {
        let now = Instant::now();
        let all = self.all();
        let asked = |activity: &Arc<Activity>| activity.state().makes_room;
        if all.values().filter_map(asked).any(|asked| now < asked + ASKED_LIMIT) {
            return;
        }
        let stay = all.values().filter(|activity| !activity.leave.is_cancelled());
        let can = stay.filter_map(|activity| {
            let rank = activity.state().rank(now, self.limits.crowded)?;
            Some((rank, activity))
        });
        if let Some((_, activity)) = can.min_by_key(|(rank, _)| *rank) {
            tracing::debug!("a client makes room for another one");
            activity.state().makes_room = Some(now);
            activity.leave.cancel();
        }
    }

    /// Resolves when nobody is connected any more.
    pub(crate) async fn gone(&self) {
        // An error: closed, which it never is.
        let _ = self.room.acquire_many(self.limits.connections_max).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_is_asked_to_go_and_ends_first_what_came_between() {
        let limits = Limits { connections_max: 3, ..Limits::default() };
        let clients = Clients::new(limits, CancellationToken::new());
        let places = [clients.enter().await, clients.enter().await, clients.enter().await];
        let asked = || places.iter().filter(|place| place.activity.leave.is_cancelled()).count();
        let working = places[0].activity.begin();
        clients.make_room();
        clients.make_room();
        assert_eq!(asked(), 1);
        let first = &places[1].activity;
        assert!(first.leave.is_cancelled(), "of those who are not served, who is quiet for longest");

        // A request that was on its way is answered, and the answer has its time to be taken.
        let late = first.begin();
        let left = |within| tokio::time::timeout(within, first.left(Duration::ZERO));
        left(2 * LEAVE_LIMIT).await.unwrap_err();
        let answer = first.hold(Bytes::from_static(b"answer"), ());
        drop(late);
        left(2 * LEAVE_LIMIT).await.unwrap_err();
        drop(answer);
        left(Duration::from_secs(30)).await.unwrap();

        // It has not gone for so long that another one is asked.
        clients.make_room();
        assert_eq!(asked(), 2);
        drop(working);
    }
}
