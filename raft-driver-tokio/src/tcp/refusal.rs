//! Why two nodes do not talk, as both sides hear it.

/// Why two nodes do not talk. Most are mistakes in a configuration, which do not heal by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no version that both sides speak.
    #[error("there is no version of the protocol that both sides speak")]
    Version,
    /// The two sides belong to different clusters.
    #[error("the other side belongs to another cluster")]
    Cluster,
    /// Another node listens there than the one that was meant.
    #[error("another node was meant: an address belongs to a node of another id")]
    Target,
    /// The side that connects calls itself by the name of the one that it connects to.
    #[error("the node that connects has the id of the node it connects to")]
    OwnId,
    /// The two sides were bootstrapped with different sets of members.
    #[error("the two nodes were bootstrapped with different sets of members")]
    Bootstrap,
    /// Too many peers are connected that are not members.
    #[error("too many connections")]
    Full,
    /// Leases are on, and the two sides do not count the same time by them.
    #[error("the two nodes have different lease or election_timeout_min, while leases are on")]
    Lease,
    /// One side speaks TLS, the other plain text.
    #[error("one of the two sides speaks TLS and the other does not")]
    Tls,
    /// A certificate that none of the trusted authorities has signed.
    #[error("the certificate is not signed by an authority that is trusted here")]
    Untrusted,
    /// A certificate before or after the time that it is good for.
    #[error("the certificate has expired, or is not valid yet: renew it, or set the clock")]
    Expired,
    /// A good certificate of someone else: another node, another cluster, or several nodes, by their names or a wildcard.
    #[error("the certificate is not that of the node which the other side claims to be, and of no other")]
    Name,
    /// There is no certificate, or one that is not made for this use, or that cannot be read.
    #[error("the certificate is missing or not fit for this use")]
    Certificate,
    /// The peer has another data directory than before: its disk was lost, or a copy of it runs.
    #[error("the data directory of this id is another one than before: give an emptied node a new id")]
    Directory,
    /// The peer misbehaved again and again, and is shut out for a while.
    #[error("shut out for a while, because of what it sent before")]
    ShutOut,
    /// The node that refuses cannot remember the other's data directory, see
    /// [`KnownPeers`](crate::storage::KnownPeers). That is mended there: forget peers that are gone, or mend the disk.
    #[error(
        "the node that refuses cannot remember another data directory: its table is full, or its disk failed"
    )]
    Unremembered,
    /// A reason that a newer version has, and this one does not know.
    #[error("the other side refuses for a reason that this version does not know")]
    Unknown,
}

impl Refusal {
    pub(crate) const ALL: [Self; 16] = [
        Self::Version,
        Self::Cluster,
        Self::Target,
        Self::OwnId,
        Self::Bootstrap,
        Self::Full,
        Self::Lease,
        Self::Tls,
        Self::Untrusted,
        Self::Expired,
        Self::Name,
        Self::Certificate,
        Self::Directory,
        Self::ShutOut,
        Self::Unremembered,
        Self::Unknown,
    ];

    /// As it is said in a handshake.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Target => 3,
            Self::OwnId => 4,
            Self::Bootstrap => 5,
            Self::Full => 6,
            Self::Lease => 7,
            Self::Tls => 8,
            Self::Untrusted => 9,
            Self::Expired => 10,
            Self::Name => 11,
            Self::Certificate => 12,
            Self::Directory => 13,
            Self::ShutOut => 14,
            Self::Unremembered => 15,
            Self::Unknown => u8::MAX,
        }
    }

    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code).unwrap_or(Self::Unknown)
    }
}
