//! What names a node's surroundings: its cluster, its group, its data directory, and the digest that shows whether
//! two nodes were bootstrapped with the same set.

use std::collections::BTreeMap;
use std::{fmt, io};

use bytes::Bytes;
use raft_core::NodeId;

/// Names a cluster. Nodes of different clusters refuse each other, and files of one are refused by another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u128);

impl ClusterId {
    /// Wraps a plain number, chosen once for a cluster; best at random.
    #[must_use]
    pub const fn new(id: u128) -> Self {
        Self(id)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one of several Raft groups that share a process: its store and its connections. A node that runs alone
/// is group 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u64);

impl GroupId {
    /// Wraps a plain number.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names a data directory: made at random when the directory is initialised, and never again. A node that comes back
/// with another one under its old id has lost its disk, and with it its votes and its log; peers that remember the
/// former one refuse it, see [`KnownPeers`](crate::storage::KnownPeers).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(u128);

impl DirectoryId {
    /// Wraps a plain number: one that came from a peer.
    #[must_use]
    pub const fn new(id: u128) -> Self {
        Self(id)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }

    /// A name that no other directory has.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(u128::from_le_bytes(bytes)))
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest of the set that a cluster is bootstrapped with: ids and addresses. It finds mistakes, not forgers.
///
/// ```
/// use raft_driver_tokio::BootstrapDigest;
/// use raft_core::NodeId;
///
/// let two = [(NodeId::new(1), "a:1".into()), (NodeId::new(2), "b:1".into())].into();
/// let moved = [(NodeId::new(1), "a:1".into()), (NodeId::new(2), "b:2".into())].into();
/// assert_ne!(BootstrapDigest::of(&two), BootstrapDigest::of(&moved));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootstrapDigest(u64);

impl BootstrapDigest {
    /// The digest of a set: FNV-1a over each id, the length of its address, and the address.
    #[must_use]
    pub fn of(members: &BTreeMap<NodeId, Bytes>) -> Self {
        let mut digest = 0xcbf2_9ce4_8422_2325;
        let mut feed = |bytes: &[u8]| {
            for byte in bytes {
                digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for (id, address) in members {
            feed(&id.get().to_le_bytes());
            feed(&(address.len() as u64).to_le_bytes());
            feed(address);
        }
        Self(digest)
    }

    pub(crate) const fn from_raw(digest: u64) -> Self {
        Self(digest)
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }
}
