//! Libraries that decide and leave the doing to others, on the same work: one thread, messages by function call, log in
//! memory, 256-byte commands committed and handed out on every node.
//!
//! What the others leave out, they do not pay for here:
//!
//! * noraft and raftbare: no durability gating (whatever is in the log counts at once), no pre-vote, no check that a
//!   majority is there, no flow control, no tickets: the user keeps the commands and compares commit indexes.
//! * raft (TiKV's): durability by the order of its `Ready`, synchronously; pre-vote exists and is off.
//! * OmniPaxos: no durability gating; another protocol, whose elections are apart.
//! * This library: durability of every write reported and waited for, pre-vote and check-quorum on, a response for
//!   each range of tickets, limits on everything.

#[path = "../../../cluster/mod.rs"]
mod cluster;
mod omni;
mod raft_rs;
mod small;

pub(crate) use cluster::COMMAND_BYTES;

/// A cluster of a library, with a leader.
pub(crate) trait Library {
    /// `window` proposals are to be outstanding together.
    fn new(nodes: u64, window: usize) -> Self
    where
        Self: Sized;

    /// Commits `window` commands that are outstanding together.
    fn commit(&mut self, window: usize);

    /// Commits `entries` of them, a window at a time.
    fn commit_entries(&mut self, entries: usize, window: usize) {
        (0..entries / window).for_each(|_| self.commit(window));
    }

    /// Bytes of commands that were handed out, all nodes together.
    fn handed_out_bytes(&self) -> u64;
}

impl Library for cluster::Cluster {
    fn new(nodes: u64, _window: usize) -> Self {
        Self::new(nodes)
    }

    fn commit(&mut self, window: usize) {
        self.commit(window);
    }

    fn commit_entries(&mut self, entries: usize, window: usize) {
        self.commit_entries(entries, window);
    }

    fn handed_out_bytes(&self) -> u64 {
        self.applied_bytes()
    }
}

pub(crate) type Make = fn(u64, usize) -> Box<dyn Library>;

fn make<L: Library + 'static>(nodes: u64, window: usize) -> Box<dyn Library> {
    Box::new(L::new(nodes, window))
}

pub(crate) const LIBRARIES: [(&str, Make); 5] = [
    ("raft-core", make::<cluster::Cluster>),
    ("noraft", make::<small::by_noraft::Cluster>),
    ("raftbare", make::<small::by_raftbare::Cluster>),
    ("omnipaxos", make::<omni::Cluster>),
    ("raft-rs", make::<raft_rs::Cluster>),
];

/// Before anything is measured: buffers have grown by then.
const ENTRIES_BEFORE: usize = 34_000;

/// Commits about so many entries, and makes sure that they were handed out on every node. The last window of a follower
/// may wait for the leader's next message.
pub(crate) fn commit(library: &mut dyn Library, nodes: u64, window: usize, entries: usize) {
    let before = library.handed_out_bytes();
    library.commit_entries(entries, window);
    let handed_out = library.handed_out_bytes() - before;
    let least = nodes * ((entries / window - 1) * window * COMMAND_BYTES) as u64;
    assert!(handed_out >= least, "every node hands out every command");
}

/// A cluster that has run for a while.
pub(crate) fn steady(make: Make, nodes: u64, window: usize) -> Box<dyn Library> {
    let mut library = make(nodes, window);
    commit(library.as_mut(), nodes, window, ENTRIES_BEFORE);
    library
}
