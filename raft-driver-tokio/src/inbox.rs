//! The way into a node's task, and what has arrived there and was not taken in yet.
//!
//! * One lock guards all of it, held for a few moves at a time and never while anybody is woken or dropped: a turn that
//!   takes in a thousand writes asks for it once.
//! * The task is woken once, by whatever comes first after it has looked; by writes only while it wants them. Without
//!   room in the node they stay here, and so their callers wait.
//! * Writes and requests are bounded, and whoever finds no place waits in turn. Inputs are bounded by those who send them:
//!   see [`driver::Input`](crate::driver::Input).
//! * When the node is gone nothing is taken any more: it comes back, and what had arrived is dropped. Whoever waits for room
//!   is told at once, also for room that others still hold.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use raft_core::host::StateMachine;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use crate::request::{PendingWrite, Request};
use crate::task::Input;
use crate::transport::Closed;

/// What room a buffer keeps that has not been needed for a while.
const KEPT_MAX: usize = 64;

/// The way in.
pub(crate) struct Inbox<S: StateMachine> {
    waiting: Mutex<Waiting<S>>,
    /// Places for writes, and for requests; closed when the node is gone.
    write_places: Semaphore,
    request_places: Semaphore,
    /// Bytes of commands that may wait for their outcome, and local reads that may wait for the state machine; closed too.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) local_reads: Arc<Semaphore>,
}

struct Waiting<S: StateMachine> {
    arrived: Arrived<S>,
    /// How many places the writes hold: a batch has one.
    writes_held: usize,
    /// The task, while it sleeps.
    asleep: Option<Waker>,
    wants_writes: bool,
    closed: bool,
}

/// What has arrived.
pub(crate) struct Arrived<S: StateMachine> {
    pub(crate) inputs: VecDeque<Input>,
    pub(crate) requests: VecDeque<Request<S>>,
    pub(crate) writes: VecDeque<PendingWrite<S::Response>>,
    /// Nobody has a handle any more.
    pub(crate) handles_dropped: bool,
}

impl<S: StateMachine> Default for Arrived<S> {
    fn default() -> Self {
        let (inputs, requests, writes) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { inputs, requests, writes, handles_dropped: false }
    }
}

impl<S: StateMachine> Inbox<S> {
    /// A way in, and its end. So many writes and as many requests may wait, and as many local reads beyond them; of commands
    /// so many bytes until they have their outcome.
    pub(crate) fn new(queue_max: usize, queue_bytes_max: usize) -> (Arc<Self>, Arrivals<S>) {
        let waiting = Waiting {
            arrived: Arrived::default(),
            writes_held: 0,
            asleep: None,
            wants_writes: false,
            closed: false,
        };
        let inbox = Arc::new(Self {
            waiting: Mutex::new(waiting),
            write_places: Semaphore::new(queue_max),
            request_places: Semaphore::new(queue_max),
            room: Arc::new(Semaphore::new(queue_bytes_max)),
            local_reads: Arc::new(Semaphore::new(queue_max)),
        });
        (Arc::clone(&inbox), Arrivals { inbox, writes_held: 0, requests_held: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<S>> {
        // Nothing that is done while it is held can panic halfway.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is neither a request nor a write.
    pub(crate) fn input(&self, input: Input) -> Result<(), Closed> {
        self.put(|arrived| arrived.inputs.push_back(input))
    }

    /// Puts something where it waits. If the node is gone it is dropped, after the lock: arguments outlive what is local.
    fn put(&self, put: impl FnOnce(&mut Arrived<S>)) -> Result<(), Closed> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Closed);
        }
        put(&mut waiting.arrived);
        let asleep = waiting.asleep.take();
        drop(waiting);
        wake(asleep);
        Ok(())
    }

    /// As whoever already has a place finds it when the node closes it.
    #[cfg(test)]
    pub(crate) fn close_behind_places(&self) {
        self.lock().closed = true;
    }

    /// Whoever had a handle is gone.
    pub(crate) fn handles_dropped(&self) {
        let mut waiting = self.lock();
        waiting.arrived.handles_dropped = true;
        let asleep = waiting.asleep.take();
        drop(waiting);
        wake(asleep);
    }

    /// Takes a request, once there is a place for it.
    pub(crate) async fn request(&self, request: Request<S>) -> Result<(), Closed> {
        self.request_places.acquire().await.map_err(|_| Closed)?.forget();
        self.put_request(request)
    }

    /// The same, if there is one now; dropped otherwise.
    pub(crate) fn try_request(&self, request: Request<S>) {
        if let Ok(place) = self.request_places.try_acquire() {
            place.forget();
            // A node that is gone answers nothing.
            let _ = self.put_request(request);
        }
    }

    fn put_request(&self, request: Request<S>) -> Result<(), Closed> {
        self.put(|arrived| arrived.requests.push_back(request))
    }

    /// A place for a write or a batch of them, if there is one; `None` if the caller must [wait](Self::write_place).
    pub(crate) fn try_write_place(&self) -> Option<Result<Place<'_, S>, Closed>> {
        match self.write_places.try_acquire() {
            Ok(place) => Some(Ok(Place { inbox: self, place })),
            Err(TryAcquireError::Closed) => Some(Err(Closed)),
            Err(TryAcquireError::NoPermits) => None,
        }
    }

    /// A place for a write or a batch of them, once there is one.
    pub(crate) async fn write_place(&self) -> Result<Place<'_, S>, Closed> {
        let place = self.write_places.acquire().await.map_err(|_| Closed)?;
        Ok(Place { inbox: self, place })
    }
}

fn wake(asleep: Option<Waker>) {
    if let Some(task) = asleep {
        task.wake();
    }
}

/// A place for a write or a batch of them. Unless it is used it is given back when it is dropped.
pub(crate) struct Place<'a, S: StateMachine> {
    inbox: &'a Inbox<S>,
    place: SemaphorePermit<'a>,
}

impl<S: StateMachine> Place<'_, S> {
    /// Takes these.
    ///
    /// # Errors
    /// The node is gone: they come back.
    pub(crate) fn put<I>(self, writes: I) -> Result<(), I>
    where
        I: IntoIterator<Item = PendingWrite<S::Response>>,
    {
        let mut waiting = self.inbox.lock();
        if waiting.closed {
            return Err(writes);
        }
        waiting.arrived.writes.extend(writes);
        self.place.forget();
        waiting.writes_held += 1;
        let asleep = if waiting.wants_writes { waiting.asleep.take() } else { None };
        drop(waiting);
        wake(asleep);
        Ok(())
    }
}

/// The task's end: dropped, it closes the inbox.
pub(crate) struct Arrivals<S: StateMachine> {
    inbox: Arc<Inbox<S>>,
    /// Places of what was taken, and is not done yet.
    writes_held: usize,
    requests_held: usize,
}

impl<S: StateMachine> Arrivals<S> {
    /// Takes what has arrived: whatever of `arrived` is empty is filled. Writes only if they are wanted. Ready if there is
    /// anything; else the task is woken when there is.
    pub(crate) fn poll_take(
        &mut self,
        task: &Context<'_>,
        arrived: &mut Arrived<S>,
        wants_writes: bool,
    ) -> Poll<()> {
        let mut waiting = self.inbox.lock();
        let Waiting { arrived: new, .. } = &mut *waiting;
        if arrived.inputs.is_empty() && !new.inputs.is_empty() {
            std::mem::swap(&mut arrived.inputs, &mut new.inputs);
        }
        if arrived.requests.is_empty() && !new.requests.is_empty() {
            std::mem::swap(&mut arrived.requests, &mut new.requests);
            self.requests_held += arrived.requests.len();
        }
        arrived.handles_dropped |= new.handles_dropped;
        if wants_writes && arrived.writes.is_empty() && !new.writes.is_empty() {
            std::mem::swap(&mut arrived.writes, &mut new.writes);
            self.writes_held += std::mem::take(&mut waiting.writes_held);
        }
        let ready = !arrived.is_empty();
        let same = waiting.asleep.as_ref().is_some_and(|asleep| asleep.will_wake(task.waker()));
        let mut stale = None;
        if ready {
            stale = waiting.asleep.take();
        } else {
            waiting.wants_writes = wants_writes;
            if !same {
                stale = waiting.asleep.replace(task.waker().clone());
            }
        }
        drop(waiting);
        drop(stale);
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives back the places of what is done: of requests if none is left in `arrived`; of writes as many as are more than
    /// the writes left there and with the caller, since each place has a write at least.
    pub(crate) fn give_back(&mut self, arrived: &Arrived<S>, writes_left: usize) {
        let left = self.writes_held.min(arrived.writes.len() + writes_left);
        if self.writes_held > left {
            self.inbox.write_places.add_permits(self.writes_held - left);
            self.writes_held = left;
        }
        if self.requests_held > 0 && arrived.requests.is_empty() {
            self.inbox.request_places.add_permits(std::mem::take(&mut self.requests_held));
        }
    }

    /// Nothing is taken from now on. What has arrived is handed out, the last of it.
    pub(crate) fn close(&self) -> Arrived<S> {
        self.inbox.write_places.close();
        self.inbox.request_places.close();
        self.inbox.room.close();
        self.inbox.local_reads.close();
        let mut waiting = self.inbox.lock();
        waiting.closed = true;
        let (rest, asleep) = (std::mem::take(&mut waiting.arrived), waiting.asleep.take());
        drop(waiting);
        drop(asleep);
        rest
    }

    /// To be called now and then: buffers that were large once need not stay so.
    pub(crate) fn shrink(&self, arrived: &mut Arrived<S>) {
        arrived.shrink();
        self.inbox.lock().arrived.shrink();
    }
}

impl<S: StateMachine> Drop for Arrivals<S> {
    fn drop(&mut self) {
        // Users' closures may be among it: dropped without the lock.
        drop(self.close());
    }
}

impl<S: StateMachine> Arrived<S> {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { inputs, requests, writes, handles_dropped } = self;
        inputs.is_empty() && requests.is_empty() && writes.is_empty() && !handles_dropped
    }

    fn shrink(&mut self) {
        self.inputs.shrink_to(KEPT_MAX);
        self.requests.shrink_to(KEPT_MAX);
        self.writes.shrink_to(KEPT_MAX);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use bytes::Bytes;
    use raft_core::Entries;
    use raft_core::host::{RestoreError, SnapshotSource, WholeState};
    use tokio::sync::oneshot;

    use super::*;
    use crate::request::{Reply, Slot};

    /// Takes in everything, and remembers nothing.
    pub(crate) struct Deaf;

    impl StateMachine for Deaf {
        type Response = ();
        type Snapshot = WholeState;
        type Error = Infallible;

        fn apply(&mut self, _: &Entries, _: &mut Vec<()>) -> Result<(), Infallible> {
            Ok(())
        }
        fn snapshot(&mut self) -> Result<WholeState, Infallible> {
            Ok(WholeState::new(""))
        }
        fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(name: &'static str) -> Option<PendingWrite<()>> {
        let reply = Reply::Committed(Slot::One(oneshot::channel().0));
        Some(PendingWrite { command: Bytes::from(name), reply, forward: None, room: None })
    }

    /// An inbox, its task that wakes are counted of, and what it has taken.
    struct Task {
        inbox: Arc<Inbox<Deaf>>,
        arrivals: Arrivals<Deaf>,
        arrived: Arrived<Deaf>,
        wakes: Arc<Wakes>,
    }

    impl Task {
        fn new(queue_max: usize) -> Self {
            let (inbox, arrivals) = Inbox::new(queue_max, 1);
            Self { inbox, arrivals, arrived: Arrived::default(), wakes: Arc::default() }
        }

        /// Whether there was anything, and how many inputs, requests and writes.
        fn take(&mut self, wants_writes: bool) -> (bool, [usize; 3]) {
            let waker = Waker::from(Arc::clone(&self.wakes));
            let Self { arrivals, arrived, .. } = self;
            arrivals.give_back(arrived, 0);
            let poll = arrivals.poll_take(&Context::from_waker(&waker), arrived, wants_writes);
            let Arrived { inputs, requests, writes, .. } = arrived;
            let taken = [inputs.drain(..).count(), requests.drain(..).count(), writes.drain(..).count()];
            (poll.is_ready(), taken)
        }

        /// Whether there was a place for it.
        fn put(&self, name: &'static str) -> bool {
            self.inbox.try_write_place().is_some_and(|place| place.unwrap().put(write(name)).is_ok())
        }

        fn woken(&self) -> usize {
            self.wakes.0.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn whatever_a_sleeping_task_wants_wakes_it_once() {
        type Arrive = fn(&Task);
        let kinds: [(Arrive, [usize; 3]); 4] = [
            (|task| task.inbox.input(Input::Abandoned).unwrap(), [1, 0, 0]),
            (|task| task.inbox.try_request(Request::Publish), [0, 1, 0]),
            (|task| assert!(task.put("a write")), [0, 0, 1]),
            (|task| task.inbox.handles_dropped(), [0; 3]),
        ];
        for (arrive, one) in kinds {
            for wants_writes in [false, true] {
                let is_wanted = wants_writes || one != [0, 0, 1];
                let mut task = Task::new(4);
                // Awake, it looks before it sleeps.
                arrive(&task);
                assert_eq!(task.woken(), 0);
                let first = task.take(wants_writes);
                assert_eq!(first, (is_wanted, if is_wanted { one } else { [0; 3] }));
                if task.arrived.handles_dropped {
                    continue;
                }
                // Asleep, it is woken, once for all that comes before it looks again.
                assert_eq!(task.take(wants_writes), (false, [0; 3]));
                arrive(&task);
                arrive(&task);
                assert_eq!(task.woken(), usize::from(is_wanted));
                let rest = task.take(true);
                let left = if is_wanted { 2 } else { 3 };
                assert_eq!(rest, (true, one.map(|count| count * left)));
            }
        }
    }

    #[test]
    fn places_are_bounded_and_nobody_is_left_behind_when_the_node_is_gone() {
        let mut task = Task::new(2);
        assert!(task.put("first"));
        drop(task.inbox.try_write_place().unwrap());
        assert!(task.put("second"), "a place that was not used is given back");
        assert!(!task.put("its caller waits for a place"));
        assert_eq!((task.take(false), task.put("there is none yet")), ((false, [0; 3]), false));
        assert_eq!((task.take(true), task.put("not before they are done")), ((true, [0, 0, 2]), false));
        task.arrivals.give_back(&task.arrived, 2);
        assert!(!task.put("nor are they"));
        task.arrivals.give_back(&task.arrived, 1);
        assert_eq!((task.put("one of them is"), task.put("and only one")), (true, false));
        task.arrivals.give_back(&task.arrived, 0);

        let inbox = Arc::clone(&task.inbox);
        let place = inbox.try_write_place().expect("there is one").unwrap();
        assert_eq!(task.arrivals.close().writes.len(), 1);
        let late = place.put(write("late")).unwrap_err();
        assert_eq!(late.unwrap().command, "late");
        assert!(matches!(inbox.try_write_place(), Some(Err(Closed))));
        assert_eq!(inbox.input(Input::Stop), Err(Closed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_goes_in_comes_out_whoever_runs_when() {
        const EACH: usize = 2_000;
        let (inbox, mut arrivals) = Inbox::<Deaf>::new(3, 1);
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let inbox = Arc::clone(&inbox);
            senders.spawn(async move {
                for _ in 0..EACH {
                    inbox.write_place().await.unwrap().put(write("one")).unwrap_or_else(|_| panic!("open"));
                    inbox.request(Request::Publish).await.unwrap();
                    inbox.input(Input::Abandoned).unwrap();
                }
            });
        }
        let taker = async {
            let (mut arrived, mut counts, mut turns) = (Arrived::default(), [0; 3], 0_usize);
            while counts != [4 * EACH; 3] {
                // Now and then it has no room for writes, and does not wait for it.
                let wants_writes = turns % 3 > 0;
                std::future::poll_fn(|cx| match arrivals.poll_take(cx, &mut arrived, wants_writes) {
                    Poll::Pending if wants_writes => Poll::Pending,
                    _ => Poll::Ready(()),
                })
                .await;
                assert!(arrived.requests.len() <= 3 && arrived.writes.len() <= 3);
                counts[0] += arrived.inputs.drain(..).count();
                counts[1] += arrived.requests.drain(..).count();
                counts[2] += arrived.writes.drain(..).count();
                arrivals.give_back(&arrived, 0);
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), taker).await.expect("no wake is lost");
        senders.join_all().await;
    }
}
