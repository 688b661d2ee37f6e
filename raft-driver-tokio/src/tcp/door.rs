//! Who may begin a handshake: not everybody at once, and nobody who misbehaved lately.
//!
//! * When too many connections are in their handshake, the oldest one of the address that has most of them is closed:
//!   whoever opens many and says nothing takes places from itself, not from others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tcp::penalty::{self, Offence, Penalties};

/// Who is before it.
#[derive(Debug)]
pub(crate) struct Door {
    handshakes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    penalties: Penalties,
    entered: u64,
    /// In the order in which they came.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Door>,
    serial: u64,
    /// Cancelled when another connection needs the place.
    pub(crate) lost: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.inner().waiting.remove(&self.serial);
    }
}

impl Door {
    pub(crate) fn new(handshakes_max: usize, shut_out_max: Duration) -> Self {
        let penalties = Penalties::new(shut_out_max);
        Self { handshakes_max, inner: Mutex::new(Inner { penalties, entered: 0, waiting: BTreeMap::new() }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every use leaves the maps in order at each step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is heard from this address for now.
    pub(crate) fn is_shut_out(&self, address: IpAddr) -> bool {
        self.inner().penalties.is_shut_out(address, Instant::now())
    }

    /// Notes an offence. Says for how long the address is shut out, if it is from now on.
    pub(crate) fn note(&self, address: IpAddr, offence: Offence) -> Option<Duration> {
        self.inner().penalties.note(address, offence, Instant::now())
    }

    /// A place for a handshake, and whether another one was closed for it.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> (Place, bool) {
        let mut inner = self.inner();
        let is_full = inner.waiting.len() >= self.handshakes_max;
        if is_full
            && let Some(serial) = inner.least_deserving()
            && let Some((_, lost)) = inner.waiting.remove(&serial)
        {
            lost.cancel();
        }
        inner.entered += 1;
        let (serial, lost) = (inner.entered, CancellationToken::new());
        inner.waiting.insert(serial, (address, lost.clone()));
        (Place { door: Arc::clone(self), serial, lost }, is_full)
    }
}

impl Inner {
    /// The oldest of the address that has most.
    fn least_deserving(&self) -> Option<u64> {
        let mut counts = BTreeMap::<IpAddr, (usize, u64)>::new();
        for (serial, (address, _)) in &self.waiting {
            counts.entry(penalty::key(*address)).or_insert((0, *serial)).0 += 1;
        }
        counts
            .into_values()
            .max_by_key(|(count, oldest)| (*count, u64::MAX - oldest))
            .map(|(_, oldest)| oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_many_places_loses_its_oldest() {
        let door = Arc::new(Door::new(4, Duration::ZERO));
        let (greedy, modest, late): (IpAddr, IpAddr, IpAddr) =
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        let first = door.enter(modest).0;
        let places: Vec<_> = (0..3).map(|_| door.enter(greedy).0).collect();
        assert!(!first.lost.is_cancelled() && places.iter().all(|place| !place.lost.is_cancelled()));
        let (last, is_full) = door.enter(late);
        let lost =
            |places: &[Place]| places.iter().map(|place| place.lost.is_cancelled()).collect::<Vec<_>>();
        assert!(is_full && !first.lost.is_cancelled() && !last.lost.is_cancelled());
        assert_eq!(lost(&places), [true, false, false]);
        // Its own next connection takes the place of its next.
        let next = door.enter(greedy).0;
        assert_eq!(lost(&places), [true, true, false]);
        drop(places);
        assert!(!door.enter(late).1, "a place is free again");
        assert!(!next.lost.is_cancelled() && !first.lost.is_cancelled());
    }
}
