//! The processes that this one sends to, whatever the number of groups that they share: one [`Peer`] each, with a
//! connection for each [`Lane`].
//!
//! * A peer is reached for as long as it is a member of any group here; one that is none, for as long as it speaks (§6),
//!   where it last said that it is.
//! * Groups may know different addresses of it, one of which is out of date: all are tried, the latest told first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::NodeId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::tcp::queue::{Lane, Outbox};

/// A process that this one sends to.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    addresses: Mutex<Vec<Address>>,
    control: Outbox,
    bulk: Outbox,
    /// It was seen: whoever pauses before connecting to it tries now.
    kicks: [Notify; 2],
    /// Cancelled when it is no longer sent to.
    pub(crate) stop: CancellationToken,
}

/// Where a peer is reached, as some groups know.
#[derive(Debug)]
struct Address {
    at: Arc<str>,
    /// How many groups say so; none, if the peer itself did.
    groups: usize,
    /// Cancelled when nobody says so any more.
    stale: CancellationToken,
}

impl Peer {
    pub(crate) fn new(id: NodeId, stop: CancellationToken) -> Self {
        Self {
            id,
            addresses: Mutex::default(),
            control: Outbox::default(),
            bulk: Outbox::default(),
            kicks: [Notify::new(), Notify::new()],
            stop,
        }
    }

    fn addresses(&self) -> MutexGuard<'_, Vec<Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn outbox(&self, lane: Lane) -> &Outbox {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }

    pub(crate) fn kick(&self, lane: Lane) -> &Notify {
        match lane {
            Lane::Control => &self.kicks[0],
            Lane::Bulk => &self.kicks[1],
        }
    }

    /// Whether it is no longer sent to.
    pub(crate) fn is_gone(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The address to try at this attempt, and the end of its being one. There is always one.
    pub(crate) fn address(&self, attempt: usize) -> Option<(Arc<str>, CancellationToken)> {
        let addresses = self.addresses();
        let address = addresses.get(attempt % addresses.len().max(1))?;
        Some((Arc::clone(&address.at), address.stale.clone()))
    }

    /// A group says that it is reached there; `None`: the peer itself does. Returns whether that is news.
    fn add_address(&self, at: &str, groups: usize) -> bool {
        let mut addresses = self.addresses();
        if let Some(known) = addresses.iter_mut().find(|address| &*address.at == at) {
            known.groups += groups;
            return false;
        }
        addresses.insert(0, Address { at: at.into(), groups, stale: CancellationToken::new() });
        // Where the peer said to be itself counts only as long as nobody knows better.
        if groups > 0 {
            addresses.retain(|address| {
                let kept = address.groups > 0;
                if !kept {
                    address.stale.cancel();
                }
                kept
            });
        }
        true
    }

    /// It is reached there and nowhere else, as it says itself.
    fn only_address(&self, at: &str) {
        self.add_address(at, 0);
        self.addresses().retain(|address| {
            let kept = &*address.at == at;
            if !kept {
                address.stale.cancel();
            }
            kept
        });
    }

    fn remove_address(&self, at: &str) {
        let mut addresses = self.addresses();
        if let Some(place) = addresses.iter().position(|address| &*address.at == at) {
            addresses[place].groups = addresses[place].groups.saturating_sub(1);
            if addresses[place].groups == 0 {
                addresses.remove(place).stale.cancel();
            }
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    peers: BTreeMap<NodeId, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    /// How many groups it is a member of.
    groups: usize,
}

impl Book {
    pub(crate) fn get(&self, id: NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(&id).map(|entry| &entry.peer)
    }

    pub(crate) fn is_member(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(|entry| entry.groups > 0)
    }

    /// How many are members of no group.
    pub(crate) fn strangers(&self) -> usize {
        self.peers.values().filter(|entry| entry.groups == 0).count()
    }

    /// A group has it as a member, at this address. Returns a peer that is new.
    pub(crate) fn join(&mut self, id: NodeId, at: &str, stop: &CancellationToken) -> Option<Arc<Peer>> {
        let mut new = None;
        let entry = self.peers.entry(id).or_insert_with(|| {
            let peer = Arc::new(Peer::new(id, stop.child_token()));
            new = Some(Arc::clone(&peer));
            Entry { peer, groups: 0 }
        });
        entry.groups += 1;
        if entry.peer.add_address(at, 1) {
            Lane::ALL.iter().for_each(|lane| entry.peer.kick(*lane).notify_one());
        }
        new
    }

    /// A group knows a new address of its member.
    pub(crate) fn moved(&mut self, id: NodeId, from: &str, to: &str) {
        if let Some(entry) = self.peers.get(&id) {
            entry.peer.add_address(to, 1);
            entry.peer.remove_address(from);
            Lane::ALL.iter().for_each(|lane| entry.peer.kick(*lane).notify_one());
        }
    }

    /// A group no longer has it as a member. One that is a member of none is no longer reached.
    pub(crate) fn leave(&mut self, id: NodeId, at: &str) {
        let Some(entry) = self.peers.get_mut(&id) else { return };
        entry.groups = entry.groups.saturating_sub(1);
        if entry.groups == 0 {
            self.remove(id);
        } else {
            entry.peer.remove_address(at);
        }
    }

    /// Somebody who is no member of any group is to be answered, where it says that it is.
    pub(crate) fn answer(&mut self, id: NodeId, at: &str, stop: &CancellationToken) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(id, stop.child_token()));
        peer.add_address(at, 0);
        self.peers.insert(id, Entry { peer: Arc::clone(&peer), groups: 0 });
        peer
    }

    /// Somebody says where it is reached, which counts as long as it is a member of no group.
    pub(crate) fn spoke(&self, id: NodeId, at: &str) {
        if let Some(entry) = self.peers.get(&id).filter(|entry| entry.groups == 0) {
            entry.peer.only_address(at);
        }
    }

    pub(crate) fn remove(&mut self, id: NodeId) {
        if let Some(entry) = self.peers.remove(&id) {
            entry.peer.stop.cancel();
        }
    }

    /// A group has ended.
    pub(crate) fn forget_group(&self, group: crate::cluster::GroupId) {
        for entry in self.peers.values() {
            Lane::ALL.iter().for_each(|lane| entry.peer.outbox(*lane).remove(group));
        }
    }
}
