//! The groups of one process: who receives what is sent to each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use raft_core::NodeId;

use crate::cluster::GroupId;
use crate::transport::Inbox;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Nobody receives for a name that is taken, until its group is started.
    groups: Mutex<HashMap<GroupId, Option<Inbox>>>,
    /// How often a group ended, or a peer became a member or ceased to be one: whoever keeps a way into a group looks
    /// again then.
    changes: AtomicU64,
}

impl Registry {
    fn groups(&self) -> MutexGuard<'_, HashMap<GroupId, Option<Inbox>>> {
        // Each use is one change: after a panic it is done or not done, never half.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name; `false` if it is taken.
    pub(crate) fn reserve(&self, group: GroupId) -> bool {
        let mut groups = self.groups();
        let is_free = !groups.contains_key(&group);
        if is_free {
            groups.insert(group, None);
        }
        is_free
    }

    pub(crate) fn start(&self, group: GroupId, inbox: Inbox) {
        self.groups().insert(group, Some(inbox));
    }

    pub(crate) fn remove(&self, group: GroupId) {
        self.groups().remove(&group);
        self.changed();
    }

    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn inbox(&self, group: GroupId) -> Option<Inbox> {
        self.groups().get(&group)?.clone()
    }

    /// Tells all groups that a connection to a peer was lost, or is there again.
    pub(crate) fn unreachable(&self, peer: NodeId) {
        let told: Vec<_> = self.groups().values().flatten().cloned().collect();
        told.iter().for_each(|inbox| inbox.unreachable(peer));
    }
}
