//! What a client's connection is doing: working for it, waiting for it to take an answer, or waiting for it to ask.
//!
//! * A connection on which nobody asks anything ends after a while, whatever else is sent on it (pings, half a head).
//! * Where clients are as many as there may be, whoever has been quiet for longest makes room for who comes new. Nobody
//!   is sent away whose request is being served.
//! * Who does not take an answer in time is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long a connection that is to end may take to say so.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// Between two clients that are asked to make room for the same newcomer.
const PATIENCE: Duration = Duration::from_millis(100);

/// One connection.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    /// It is to take no more requests, and to end.
    leave: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// Answers that were not sent yet, by when each was ready.
    unsent: BTreeSet<(Instant, usize)>,
    /// Requests that are being served.
    working: usize,
    /// When a request or an answer last came to its end.
    quiet_since: Instant,
    /// Somebody else waits for its place: what it has not taken by now is not waited for.
    makes_room: bool,
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

/// An answer's body. It goes when its last byte has been handed to the operating system, or its connection ends: HTTP
/// libraries are done with an answer as such earlier than that.
struct Held<T> {
    bytes: Bytes,
    activity: Arc<Activity>,
    key: (Instant, usize),
    _with: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.unsent.remove(&self.key);
        state.quiet_since = Instant::now();
    }
}

impl Activity {
    fn new(leave: CancellationToken) -> Self {
        let state =
            State { unsent: BTreeSet::new(), working: 0, quiet_since: Instant::now(), makes_room: false };
        Self { state: Mutex::new(state), leave }
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
        let now = Instant::now();
        let mut state = self.state();
        let number = state.unsent.range((now, 0)..).next_back().map_or(0, |(_, number)| number + 1);
        state.unsent.insert((now, number));
        drop(state);
        Bytes::from_owner(Held { bytes, activity: Arc::clone(self), key: (now, number), _with: with })
    }

    /// Resolves when an answer has waited for longer than `limit`.
    pub(crate) async fn overdue(&self, limit: Duration) {
        loop {
            let oldest = self.state().unsent.first().map(|(since, _)| *since);
            match oldest.map(|oldest| oldest + limit) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => sleep(limit).await,
            }
        }
    }

    /// Has it leave when it was quiet for `limit`. Resolves when it has had time to, for whatever reason it leaves.
    pub(crate) async fn left(&self, limit: Duration) {
        tokio::select! {
            () = self.quiet(limit) => self.leave.cancel(),
            () = self.leave.cancelled() => {}
        }
        sleep(LEAVE_LIMIT).await;
        self.quiet(Duration::ZERO).await;
    }

    /// Resolves when there has been nothing to do for longer than `limit`.
    async fn quiet(&self, limit: Duration) {
        loop {
            let due = {
                let state = self.state();
                let quiet = state.working == 0 && (state.makes_room || state.unsent.is_empty());
                quiet.then_some(state.quiet_since + limit)
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
    connections_max: u32,
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
    /// So many at a time, until `stop` is cancelled.
    pub(crate) fn new(connections_max: u32, stop: CancellationToken) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(usize::try_from(connections_max).unwrap_or(usize::MAX >> 3)));
        Arc::new(Self { room, connections_max, all: Mutex::default(), stop })
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
        let activity = Arc::new(Activity::new(self.stop.child_token()));
        let mut all = self.all();
        let number = all.last_key_value().map_or(0, |(number, _)| number + 1);
        all.insert(number, Arc::clone(&activity));
        drop(all);
        Place { activity, number, clients: Arc::clone(self), _room: room }
    }

    /// Has whoever has been quiet for longest leave.
    fn make_room(&self) {
        let all = self.all();
        let quiet = all.values().filter(|activity| !activity.leave.is_cancelled()).filter_map(|activity| {
            let state = activity.state();
            (state.working == 0).then_some((state.quiet_since, activity))
        });
        if let Some((_, activity)) = quiet.min_by_key(|(since, _)| *since) {
            tracing::debug!("a quiet client makes room for another one");
            activity.state().makes_room = true;
            activity.leave.cancel();
        }
    }

    /// Resolves when nobody is connected any more.
    pub(crate) async fn gone(&self) {
        // An error: closed, which it never is.
        let _ = self.room.acquire_many(self.connections_max).await;
    }
}
