//! How much each peer may have sent that was not yet taken in.
//!
//! * A budget belongs to the peer, the lane and the group, not to the connection: whoever connects again finds what is
//!   left of it. All groups of a peer and lane together have a budget too.
//! * All strangers share one: whoever takes a new name each time gains nothing by it.
//! * What counts are whole frames. Beside them each connection holds a part of one at most, and there are as many
//!   connections as members and [`strangers_max`](crate::tcp::TcpConfig::strangers_max) have.
//! * A budget is remembered for as long as something that was taken from it is not given back, or a connection uses it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use raft_core::NodeId;

use crate::cluster::GroupId;
use crate::tcp::queue::Lane;
use crate::transport::{Budget, Pool, WeakPool};

/// Before there are this many, none is looked at again.
const LOOK_AT_MIN: usize = 64;

/// Whose a budget is: of a member, or of all who are none.
type Owner = Option<NodeId>;

/// The budgets of all peers.
#[derive(Debug)]
pub(crate) struct Budgets {
    group_bytes: usize,
    peer_bytes: usize,
    pools: Mutex<Pools>,
}

#[derive(Debug, Default)]
struct Pools {
    /// Of all groups together, without a group.
    known: HashMap<(Owner, Lane, Option<GroupId>), WeakPool>,
    /// At this number those that are not used are forgotten.
    look_at: usize,
}

impl Budgets {
    /// So much for each group of a peer, so much for all its groups; each for either lane.
    pub(crate) fn new(group_bytes: usize, peer_bytes: usize) -> Self {
        Self { group_bytes, peer_bytes, pools: Mutex::default() }
    }

    pub(crate) fn of(&self, owner: Owner, lane: Lane, group: GroupId) -> Budget {
        // Each use is one change of the map.
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let own = pools.get((owner, lane, Some(group)), self.group_bytes);
        Budget::within(own, pools.get((owner, lane, None), self.peer_bytes))
    }
}

impl Pools {
    fn get(&mut self, key: (Owner, Lane, Option<GroupId>), bytes: usize) -> Pool {
        if let Some(pool) = self.known.get(&key).and_then(WeakPool::upgrade) {
            return pool;
        }
        if self.known.len() >= self.look_at {
            self.known.retain(|_, pool| pool.is_used());
            self.look_at = (2 * self.known.len()).max(LOOK_AT_MIN);
        }
        let pool = Pool::new(bytes);
        self.known.insert(key, pool.downgrade());
        pool
    }
}
