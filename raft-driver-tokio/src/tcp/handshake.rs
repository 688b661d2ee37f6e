//! The handshake: who connects to whom, and whether they belong together.
//!
//! The side that connects says [`Hello`], the other answers with a [`Welcome`]; both are one frame. Numbers are
//! little endian.
//!
//! | bytes | hello | welcome |
//! |--:|---|---|
//! | 4 | `raft` | `raft` |
//! | 2, 2 | oldest and newest version of this protocol that the sender speaks | the same |
//! | 2, 2 | oldest and newest version of `wire` | the same |
//! | 1 | 0 | verdict: 0, or the code of a [`Refusal`] |
//! | 16 | cluster | cluster; from here on only if the verdict is 0 |
//! | 1, 8 | whether there is a bootstrap digest, and it | the same |
//! | 8, 1, 4 | shortest election timeout in nanoseconds; whether leases are on, and the bound on drift | the same |
//! | 1, 16 | whether the data directory has an id, and it | the same |
//! | 8 | from | the answering node |
//! | 8 | to | |
//! | 1 | which of the two connections it is: 0 without payloads, 1 with | |
//! | 2, … | length, and address of the sender; an unspecified one is that of the connection, with the port named | |
//!
//! Both sides take the highest version that both speak; if there is none, they part. So that releases can be rolled
//! out one node after the other, the first thirteen bytes keep their meaning in every version, and a later version
//! only appends to what follows them: who does not know the rest ignores it.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut, TryGetError};
use raft_core::{Config, Lease, NodeId, wire};

use crate::cluster::{BootstrapDigest, ClusterId, DirectoryId};
use crate::tcp::queue::Lane;
use crate::tcp::refusal::Refusal;

const MAGIC: [u8; 4] = *b"raft";
/// The versions of this protocol that are spoken here: frames, and the letters of drivers.
const PROTOCOL: Range = Range { min: 3, max: 3 };
/// The versions of the messages.
const WIRE: Range = Range { min: wire::VERSION, max: wire::VERSION };
/// Longest frame of a handshake.
pub(crate) const HELLO_BYTES_MAX: usize = 1024;

/// Versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u16,
    pub(crate) max: u16,
}

impl Range {
    /// The highest version in both.
    fn highest_common(self, other: Self) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.put_u16_le(self.min);
        out.put_u16_le(self.max);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, TryGetError> {
        Ok(Self { min: bytes.try_get_u16_le()?, max: bytes.try_get_u16_le()? })
    }
}

/// Which versions a side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) protocol: Range,
    pub(crate) wire: Range,
}

impl Versions {
    pub(crate) const OURS: Self = Self { protocol: PROTOCOL, wire: WIRE };

    /// What the two sides speak with each other.
    pub(crate) fn agree(&self, peer: &Self) -> Option<Agreed> {
        Some(Agreed {
            protocol: self.protocol.highest_common(peer.protocol)?,
            wire: self.wire.highest_common(peer.wire)?,
        })
    }

    /// What it means that the rest cannot be read of someone who speaks these.
    fn explain(&self, error: NotAHandshake) -> NotAHandshake {
        if Self::OURS.agree(self).is_none() { NotAHandshake::Version } else { error }
    }
}

/// The versions that both sides of a connection speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) protocol: u16,
    pub(crate) wire: u16,
}

/// Bytes that are no handshake: the other side is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAHandshake {
    #[error("not this protocol")]
    Magic,
    #[error("no common version of the protocol")]
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
    pub(crate) versions: Versions,
    pub(crate) cluster: ClusterId,
    pub(crate) bootstrap: Option<BootstrapDigest>,
    pub(crate) timing: Timing,
    pub(crate) directory: Option<DirectoryId>,
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
    /// compare. With leases, both must count the same time. Says in which versions to talk.
    pub(crate) fn fits(&self, peer: &Self) -> Result<Agreed, Refusal> {
        let agreed = self.versions.agree(&peer.versions).ok_or(Refusal::Version)?;
        if self.cluster != peer.cluster {
            return Err(Refusal::Cluster);
        }
        match (self.bootstrap, peer.bootstrap) {
            (Some(ours), Some(theirs)) if ours != theirs => return Err(Refusal::Bootstrap),
            _ => {}
        }
        let leases = self.timing.lease.is_some() || peer.timing.lease.is_some();
        if leases && self.timing != peer.timing { Err(Refusal::Lease) } else { Ok(agreed) }
    }

    fn encode_prefix(&self, verdict: u8, out: &mut Vec<u8>) {
        out.put_slice(&MAGIC);
        self.versions.protocol.encode(out);
        self.versions.wire.encode(out);
        out.put_u8(verdict);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.encode_prefix(0, out);
        out.put_u128_le(self.cluster.get());
        out.put_u8(u8::from(self.bootstrap.is_some()));
        out.put_u64_le(self.bootstrap.map_or(0, BootstrapDigest::raw));
        self.timing.encode(out);
        out.put_u8(u8::from(self.directory.is_some()));
        out.put_u128_le(self.directory.map_or(0, DirectoryId::get));
        out.put_u64_le(self.node.get());
    }

    /// What follows the verdict.
    fn decode(versions: Versions, bytes: &mut &[u8]) -> Result<Self, NotAHandshake> {
        let cluster = ClusterId::new(bytes.try_get_u128_le()?);
        let (known, digest) = (bytes.try_get_u8()?, bytes.try_get_u64_le()?);
        let bootstrap = match known {
            0 => None,
            1 => Some(BootstrapDigest::from_raw(digest)),
            _ => return Err(NotAHandshake::Field),
        };
        let timing = Timing::decode(bytes)?;
        let (known, directory) = (bytes.try_get_u8()?, bytes.try_get_u128_le()?);
        let directory = match known {
            0 => None,
            1 => Some(DirectoryId::new(directory)),
            _ => return Err(NotAHandshake::Field),
        };
        let node = NodeId::new(bytes.try_get_u64_le()?);
        Ok(Self { versions, cluster, bootstrap, timing, directory, node })
    }
}

/// The part that is the same in every version: what the sender speaks, and the verdict.
fn decode_prefix(bytes: &mut &[u8]) -> Result<(Versions, u8), NotAHandshake> {
    let mut magic = [0; MAGIC.len()];
    bytes.try_copy_to_slice(&mut magic)?;
    if magic != MAGIC {
        return Err(NotAHandshake::Magic);
    }
    let versions = Versions { protocol: Range::decode(bytes)?, wire: Range::decode(bytes)? };
    Ok((versions, bytes.try_get_u8()?))
}

/// What the side that connects says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) from: Identity,
    pub(crate) to: NodeId,
    pub(crate) lane: Lane,
    /// Where the sender can be reached.
    pub(crate) address: String,
}

impl Hello {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.from.encode(out);
        out.put_u64_le(self.to.get());
        out.put_u8(match self.lane {
            Lane::Control => 0,
            Lane::Bulk => 1,
        });
        let length = u16::try_from(self.address.len()).expect("the configuration limits the address");
        out.put_u16_le(length);
        out.put_slice(self.address.as_bytes());
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, NotAHandshake> {
        let (versions, verdict) = decode_prefix(&mut bytes)?;
        if verdict != 0 {
            return Err(NotAHandshake::Field);
        }
        Self::decode_body(versions, bytes).map_err(|error| versions.explain(error))
    }

    /// Where the sender can be reached by whoever sees it at `seen`. Who listens on all addresses of its host may name
    /// none of them (`0.0.0.0:7101`): then it is the one that it connects from.
    pub(crate) fn address_seen_from(&self, seen: IpAddr) -> String {
        match self.address.parse::<SocketAddr>() {
            Ok(said) if said.ip().to_canonical().is_unspecified() => {
                SocketAddr::new(seen.to_canonical(), said.port()).to_string()
            }
            _ => self.address.clone(),
        }
    }

    fn decode_body(versions: Versions, mut bytes: &[u8]) -> Result<Self, NotAHandshake> {
        let from = Identity::decode(versions, &mut bytes)?;
        let to = NodeId::new(bytes.try_get_u64_le()?);
        let lane = match bytes.try_get_u8()? {
            0 => Lane::Control,
            1 => Lane::Bulk,
            _ => return Err(NotAHandshake::Field),
        };
        let length = usize::from(bytes.try_get_u16_le()?);
        let address = bytes.get(..length).ok_or(NotAHandshake::Short)?;
        let address = std::str::from_utf8(address).map_err(|_| NotAHandshake::Field)?.to_owned();
        Ok(Self { from, to, lane, address })
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
        match self.verdict {
            Ok(()) => self.by.encode(out),
            // Who does not belong here learns no more than that.
            Err(refusal) => self.by.encode_prefix(refusal.code(), out),
        }
    }

    /// The verdict and, where it is not a refusal, who gave it.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Result<Identity, Refusal>, NotAHandshake> {
        let (versions, verdict) = decode_prefix(&mut bytes)?;
        if verdict != 0 {
            return Ok(Err(Refusal::from_code(verdict)));
        }
        let by = Identity::decode(versions, &mut bytes).map_err(|error| versions.explain(error))?;
        Ok(Ok(by))
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
            versions: Versions::OURS,
            cluster: ClusterId::new(7 << 100),
            bootstrap: bootstrap.map(BootstrapDigest::from_raw),
            timing: timing(300, bootstrap.map(|_| 100)),
            directory: bootstrap.map(|digest| DirectoryId::new(u128::from(digest) << 64)),
            node: NodeId::new(3),
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        for bootstrap in [None, Some(0), Some(u64::MAX)] {
            let hello = Hello {
                from: identity(bootstrap),
                to: NodeId::new(9),
                lane: Lane::Bulk,
                address: "host:1".to_owned(),
            };
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
    fn who_listens_everywhere_is_reached_where_it_connects_from() {
        let said = |address: &str, seen: &str| {
            let (from, address) = (identity(None), address.to_owned());
            let hello = Hello { from, to: NodeId::new(9), lane: Lane::Control, address };
            hello.address_seen_from(seen.parse().unwrap())
        };
        assert_eq!(said("0.0.0.0:7101", "192.0.2.7"), "192.0.2.7:7101");
        assert_eq!(said("[::ffff:0.0.0.0]:7101", "192.0.2.7"), "192.0.2.7:7101");
        assert_eq!(said("[::]:7101", "2001:db8::7"), "[2001:db8::7]:7101");
        assert_eq!(said("[::]:7101", "::ffff:192.0.2.7"), "192.0.2.7:7101", "IPv4 to a socket of both kinds");
        for named in ["192.0.2.1:7101", "[2001:db8::1]:7101", "node-3.example:7101", "", "nonsense"] {
            assert_eq!(said(named, "192.0.2.7"), named);
        }
    }

    fn speaking(protocol: (u16, u16), wire: (u16, u16)) -> Versions {
        let range = |(min, max)| Range { min, max };
        Versions { protocol: range(protocol), wire: range(wire) }
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        let agree = |one: Versions, other: Versions| {
            assert_eq!(one.agree(&other), other.agree(&one), "both sides find the same");
            one.agree(&other).map(|agreed| (agreed.protocol, agreed.wire))
        };
        let old = speaking((2, 2), (2, 2));
        let new = speaking((2, 3), (2, 4));
        let newest = speaking((3, 5), (4, 4));
        assert_eq!(agree(old, old), Some((2, 2)));
        assert_eq!(agree(old, new), Some((2, 2)));
        assert_eq!(agree(new, new), Some((3, 4)));
        assert_eq!(agree(new, newest), Some((3, 4)));
        assert_eq!(agree(old, newest), None);
        assert_eq!(agree(new, speaking((2, 3), (5, 6))), None, "one of the two is not enough");
        assert_eq!(agree(new, speaking((3, 2), (2, 2))), None, "nothing lies between 3 and 2");
    }

    #[test]
    fn what_a_newer_version_appends_is_ignored() {
        let from = Identity { versions: speaking((2, 9), (2, 9)), ..identity(Some(1)) };
        let hello = Hello { from, to: NodeId::new(9), lane: Lane::Bulk, address: "host:1".to_owned() };
        let (mut said, mut answered) = (Vec::new(), Vec::new());
        hello.encode(&mut said);
        Welcome { verdict: Ok(()), by: from }.encode(&mut answered);
        for bytes in [&mut said, &mut answered] {
            bytes.extend_from_slice(b"what is to come");
        }
        assert_eq!(Hello::decode(&said), Ok(hello));
        assert_eq!(Welcome::decode(&answered), Ok(Ok(from)));
        let highest = Agreed { protocol: PROTOCOL.max, wire: WIRE.max };
        assert_eq!(identity(Some(1)).fits(&from), Ok(highest));
    }

    #[test]
    fn other_versions_are_told_apart_from_other_protocols() {
        let from = Identity { versions: speaking((100, 101), (2, 2)), ..identity(None) };
        let mut bytes = Vec::new();
        Hello { from, to: NodeId::new(9), lane: Lane::Control, address: String::new() }.encode(&mut bytes);
        let said = Hello::decode(&bytes).expect("as it is now");
        assert_eq!(identity(None).fits(&said.from), Err(Refusal::Version));
        // Whatever the rest has become.
        assert_eq!(Hello::decode(&bytes[..13]), Err(NotAHandshake::Version));
        assert_eq!(Welcome::decode(&bytes[..13]), Err(NotAHandshake::Version));
        bytes[0] = b'R';
        assert_eq!(Hello::decode(&bytes), Err(NotAHandshake::Magic));
        // A refusal is understood whatever version says so, and one that is not known is a refusal too.
        let mut bytes = Vec::new();
        Welcome { verdict: Err(Refusal::Version), by: from }.encode(&mut bytes);
        assert_eq!(bytes.len(), 13, "and tells nothing else");
        assert_eq!(Welcome::decode(&bytes), Ok(Err(Refusal::Version)));
        bytes[12] = 200;
        assert_eq!(Welcome::decode(&bytes), Ok(Err(Refusal::Unknown)));
    }

    #[test]
    fn a_side_without_a_digest_does_not_compare() {
        let same = timing(300, None);
        let digest = |bootstrap| Identity { timing: same, ..identity(bootstrap) };
        let (none, one, two) = (digest(None), digest(Some(1)), digest(Some(2)));
        assert_eq!(one.fits(&two), Err(Refusal::Bootstrap));
        assert!(one.fits(&none).is_ok());
        assert!(none.fits(&one).is_ok());
        let stranger = Identity { cluster: ClusterId::new(8), ..one };
        assert_eq!(one.fits(&stranger), Err(Refusal::Cluster));
    }

    #[test]
    fn with_leases_both_sides_count_the_same_time() {
        let with = |timing| Identity { timing, ..identity(None) };
        let fits = |ours, theirs| with(ours).fits(&with(theirs));
        assert!(fits(timing(300, None), timing(400, None)).is_ok(), "clocks are not relied on");
        assert!(fits(timing(300, Some(100)), timing(300, Some(100))).is_ok());
        for other in [timing(400, Some(100)), timing(300, Some(200)), timing(300, None)] {
            assert_eq!(fits(timing(300, Some(100)), other), Err(Refusal::Lease));
            assert_eq!(fits(other, timing(300, Some(100))), Err(Refusal::Lease));
        }
    }
}
