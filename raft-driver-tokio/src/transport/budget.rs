//! How much a node may have received and not yet taken in.

use std::sync::{Arc, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Closed;

/// What the smallest message counts, so that their number is bounded too.
const MESSAGE_BYTES_MIN: usize = 1024;

/// How many bytes may be delivered to a node before it has taken in what came before. Clones are the same budget, and one
/// may be a part of a larger one. What is taken is given back when the node has taken the message in, whatever became
/// of the link that brought it.
#[derive(Clone, Debug)]
pub struct Budget {
    own: Pool,
    /// What it is a part of.
    whole: Option<Pool>,
}

impl Budget {
    /// A budget of its own; at least the kibibyte that the smallest message counts.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { own: Pool::new(bytes), whole: None }
    }

    pub(crate) fn within(own: Pool, whole: Pool) -> Self {
        Self { own, whole: Some(whole) }
    }

    /// Resolves when there is room for a message of about `bytes`.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room, Closed> {
        let take = async |pool: &Pool| {
            Arc::clone(&pool.room).acquire_many_owned(pool.cost(bytes)).await.map_err(|_| Closed)
        };
        // Always in this order: whoever waits for the whole keeps from others of its own part only.
        let own = take(&self.own).await?;
        let whole = match &self.whole {
            Some(whole) => Some(take(whole).await?),
            None => None,
        };
        Ok(Room { _own: own, _whole: whole })
    }

    /// Room for a message of about `bytes`, if there is any.
    pub(super) fn try_room(&self, bytes: usize) -> Option<Room> {
        let take = |pool: &Pool| Arc::clone(&pool.room).try_acquire_many_owned(pool.cost(bytes)).ok();
        let own = take(&self.own)?;
        let whole = match &self.whole {
            Some(whole) => Some(take(whole)?),
            None => None,
        };
        Some(Room { _own: own, _whole: whole })
    }
}

/// A message's share of its link's [`Budget`]; given back when dropped, which a host does once it took the message in.
#[derive(Debug)]
pub struct Room {
    _own: OwnedSemaphorePermit,
    _whole: Option<OwnedSemaphorePermit>,
}

/// Bytes from which many may take.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    room: Arc<Semaphore>,
    bytes: usize,
}

impl Pool {
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(MESSAGE_BYTES_MIN, Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// A way back to it for as long as anybody has it, or something that was taken from it.
    pub(crate) fn downgrade(&self) -> WeakPool {
        WeakPool { room: Arc::downgrade(&self.room), bytes: self.bytes }
    }

    /// A message longer than all of it takes all of it, instead of waiting for ever.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.max(MESSAGE_BYTES_MIN).min(self.bytes)).unwrap_or(u32::MAX)
    }
}

/// See [`Pool::downgrade`].
#[derive(Debug)]
pub(crate) struct WeakPool {
    room: Weak<Semaphore>,
    bytes: usize,
}

impl WeakPool {
    pub(crate) fn upgrade(&self) -> Option<Pool> {
        Some(Pool { room: self.room.upgrade()?, bytes: self.bytes })
    }

    pub(crate) fn is_used(&self) -> bool {
        self.room.strong_count() > 0
    }
}
