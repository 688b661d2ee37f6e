//! The handshake: who connects to whom, and whether they belong together.
//!
//! The side that connects says [`Hello`], the other answers with a [`Welcome`]; both are one frame. Numbers are
//! little endian. The first nine bytes keep their meaning in every version, so that versions can refuse each other.
//!
//! | bytes | hello | welcome |
//! |--:|---|---|
//! | 4 | `raft` | `raft` |
//! | 2, 2 | versions of this protocol and of `wire` | the same |
//! | 1 | 0 | verdict: 0, or a [`Refusal`] |
//! | 16 | cluster | cluster |
//! | 1, 8 | whether there is a bootstrap digest, and it | the same |
//! | 8, 1, 4 | shortest election timeout in nanoseconds; whether leases are on, and the bound on drift | the same |
//! | 8 | from | the answering node |
//! | 8 | to | |
//! | 2, … | length, and address of the sender | |

use bytes::{Buf, BufMut, TryGetError};
use raft_core::{Config, Lease, NodeId, wire};

use crate::cluster::{BootstrapDigest, ClusterId};

const MAGIC: [u8; 4] = *b"raft";
const PROTOCOL: u16 = 2;
/// Longest frame of a handshake.
pub(crate) const HELLO_BYTES_MAX: usize = 1024;

/// Why a handshake was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The two sides speak different versions.
    #[error("the other side speaks another version of the protocol")]
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
}

impl Refusal {
    const ALL: [Self; 7] =
        [Self::Version, Self::Cluster, Self::Target, Self::OwnId, Self::Bootstrap, Self::Full, Self::Lease];

    fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Target => 3,
            Self::OwnId => 4,
            Self::Bootstrap => 5,
            Self::Full => 6,
            Self::Lease => 7,
        }
    }
}

/// Bytes that are no handshake: the other side is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAHandshake {
    #[error("not this protocol")]
    Magic,
    #[error("another version of the protocol")]
    Version,
    #[error("cut short")]
    Short,
    #[error("a field is impossible")]
    Field,
}

impl From<TryGetError> for NotAHandshake {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

/// What both sides say of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) bootstrap: Option<BootstrapDigest>,
    pub(crate) timing: Timing,
    pub(crate) node: NodeId,
}

/// What must be the same on all nodes once reads are served by leases (thesis §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    election_timeout_min_ns: u64,
    lease: Option<Lease>,
}

impl Timing {
    pub(crate) fn of(config: &Config) -> Self {
        let nanos = config.election_timeout_min.as_nanos();
        Self { election_timeout_min_ns: u64::try_from(nanos).unwrap_or(u64::MAX), lease: config.lease }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.put_u64_le(self.election_timeout_min_ns);
        out.put_u8(u8::from(self.lease.is_some()));
        out.put_u32_le(self.lease.map_or(0, |lease| lease.clock_drift_ppm_max));
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, NotAHandshake> {
        let election_timeout_min_ns = bytes.try_get_u64_le()?;
        let (on, clock_drift_ppm_max) = (bytes.try_get_u8()?, bytes.try_get_u32_le()?);
        let lease = match on {
            0 => None,
            1 => Some(Lease { clock_drift_ppm_max }),
            _ => return Err(NotAHandshake::Field),
        };
        Ok(Self { election_timeout_min_ns, lease })
    }
}

impl Identity {
    /// Whether a peer belongs to the same cluster, begun with the same set. A side without a digest does not
    /// compare. With leases, both must count the same time.
    pub(crate) fn fits(&self, peer: &Self) -> Result<(), Refusal> {
        if self.cluster != peer.cluster {
            return Err(Refusal::Cluster);
        }
        match (self.bootstrap, peer.bootstrap) {
            (Some(ours), Some(theirs)) if ours != theirs => return Err(Refusal::Bootstrap),
            _ => {}
        }
        let leases = self.timing.lease.is_some() || peer.timing.lease.is_some();
        if leases && self.timing != peer.timing { Err(Refusal::Lease) } else { Ok(()) }
    }

    fn encode(&self, verdict: u8, out: &mut Vec<u8>) {
        out.put_slice(&MAGIC);
        out.put_u16_le(PROTOCOL);
        out.put_u16_le(wire::VERSION);
        out.put_u8(verdict);
        out.put_u128_le(self.cluster.get());
        out.put_u8(u8::from(self.bootstrap.is_some()));
        out.put_u64_le(self.bootstrap.map_or(0, BootstrapDigest::raw));
        self.timing.encode(out);
        out.put_u64_le(self.node.get());
    }

    /// What follows the verdict.
    fn decode(bytes: &mut &[u8]) -> Result<Self, NotAHandshake> {
        let cluster = ClusterId::new(bytes.try_get_u128_le()?);
        let (known, digest) = (bytes.try_get_u8()?, bytes.try_get_u64_le()?);
        let bootstrap = match known {
            0 => None,
            1 => Some(BootstrapDigest::from_raw(digest)),
            _ => return Err(NotAHandshake::Field),
        };
        let timing = Timing::decode(bytes)?;
        Ok(Self { cluster, bootstrap, timing, node: NodeId::new(bytes.try_get_u64_le()?) })
    }
}

/// The part that is the same in every version: returns the verdict.
fn decode_prefix(bytes: &mut &[u8]) -> Result<u8, NotAHandshake> {
    let mut magic = [0; MAGIC.len()];
    bytes.try_copy_to_slice(&mut magic)?;
    if magic != MAGIC {
        return Err(NotAHandshake::Magic);
    }
    let versions = (bytes.try_get_u16_le()?, bytes.try_get_u16_le()?);
    let verdict = bytes.try_get_u8()?;
    if verdict == Refusal::Version.code() || versions == (PROTOCOL, wire::VERSION) {
        Ok(verdict)
    } else {
        Err(NotAHandshake::Version)
    }
}

/// What the side that connects says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) from: Identity,
    pub(crate) to: NodeId,
    /// Where the sender can be reached.
    pub(crate) address: String,
}

impl Hello {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.from.encode(0, out);
        out.put_u64_le(self.to.get());
        let length = u16::try_from(self.address.len()).expect("the configuration limits the address");
        out.put_u16_le(length);
        out.put_slice(self.address.as_bytes());
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, NotAHandshake> {
        if decode_prefix(&mut bytes)? != 0 {
            return Err(NotAHandshake::Field);
        }
        let from = Identity::decode(&mut bytes)?;
        let to = NodeId::new(bytes.try_get_u64_le()?);
        let length = usize::from(bytes.try_get_u16_le()?);
        if bytes.len() != length {
            return Err(NotAHandshake::Field);
        }
        let address = std::str::from_utf8(bytes).map_err(|_| NotAHandshake::Field)?.to_owned();
        Ok(Self { from, to, address })
    }
}

/// What the other side answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) verdict: Result<(), Refusal>,
    pub(crate) by: Identity,
}

impl Welcome {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.by.encode(self.verdict.err().map_or(0, Refusal::code), out);
    }

    /// The verdict and, where it is not [`Refusal::Version`], who gave it.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Result<Identity, Refusal>, NotAHandshake> {
        let verdict = decode_prefix(&mut bytes)?;
        if verdict != 0 {
            let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.code() == verdict);
            return refusal.map(Err).ok_or(NotAHandshake::Field);
        }
        let by = Identity::decode(&mut bytes)?;
        if bytes.is_empty() { Ok(Ok(by)) } else { Err(NotAHandshake::Field) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(election_timeout_min_ns: u64, drift: Option<u32>) -> Timing {
        let lease = drift.map(|clock_drift_ppm_max| Lease { clock_drift_ppm_max });
        Timing { election_timeout_min_ns, lease }
    }

    fn identity(bootstrap: Option<u64>) -> Identity {
        Identity {
            cluster: ClusterId::new(7 << 100),
            bootstrap: bootstrap.map(BootstrapDigest::from_raw),
            timing: timing(300, bootstrap.map(|_| 100)),
            node: NodeId::new(3),
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        for bootstrap in [None, Some(0), Some(u64::MAX)] {
            let hello = Hello { from: identity(bootstrap), to: NodeId::new(9), address: "host:1".to_owned() };
            let mut bytes = Vec::new();
            hello.encode(&mut bytes);
            assert_eq!(Hello::decode(&bytes), Ok(hello));
            for short in 0..bytes.len() {
                assert!(Hello::decode(&bytes[..short]).is_err(), "{short} bytes of a hello");
            }
            let mut bytes = Vec::new();
            Welcome { verdict: Ok(()), by: identity(bootstrap) }.encode(&mut bytes);
            assert_eq!(Welcome::decode(&bytes), Ok(Ok(identity(bootstrap))));
            for refusal in Refusal::ALL {
                let mut bytes = Vec::new();
                Welcome { verdict: Err(refusal), by: identity(bootstrap) }.encode(&mut bytes);
                assert_eq!(Welcome::decode(&bytes), Ok(Err(refusal)));
            }
        }
    }

    #[test]
    fn other_versions_are_told_apart_from_other_protocols() {
        let mut bytes = Vec::new();
        Hello { from: identity(None), to: NodeId::new(9), address: String::new() }.encode(&mut bytes);
        bytes[4] += 1;
        assert_eq!(Hello::decode(&bytes), Err(NotAHandshake::Version));
        bytes[0] = b'R';
        assert_eq!(Hello::decode(&bytes), Err(NotAHandshake::Magic));
        // A refusal for the version is understood whatever version says so.
        let mut bytes = Vec::new();
        Welcome { verdict: Err(Refusal::Version), by: identity(None) }.encode(&mut bytes);
        bytes[4] += 1;
        assert_eq!(Welcome::decode(&bytes[..9]), Ok(Err(Refusal::Version)));
    }

    #[test]
    fn a_side_without_a_digest_does_not_compare() {
        let same = timing(300, None);
        let digest = |bootstrap| Identity { timing: same, ..identity(bootstrap) };
        let (none, one, two) = (digest(None), digest(Some(1)), digest(Some(2)));
        assert_eq!(one.fits(&two), Err(Refusal::Bootstrap));
        assert_eq!(one.fits(&none), Ok(()));
        assert_eq!(none.fits(&one), Ok(()));
        let stranger = Identity { cluster: ClusterId::new(8), ..one };
        assert_eq!(one.fits(&stranger), Err(Refusal::Cluster));
    }

    #[test]
    fn with_leases_both_sides_count_the_same_time() {
        let with = |timing| Identity { timing, ..identity(None) };
        let fits = |ours, theirs| with(ours).fits(&with(theirs));
        assert_eq!(fits(timing(300, None), timing(400, None)), Ok(()), "clocks are not relied on");
        assert_eq!(fits(timing(300, Some(100)), timing(300, Some(100))), Ok(()));
        for other in [timing(400, Some(100)), timing(300, Some(200)), timing(300, None)] {
            assert_eq!(fits(timing(300, Some(100)), other), Err(Refusal::Lease));
            assert_eq!(fits(other, timing(300, Some(100))), Err(Refusal::Lease));
        }
    }
}
