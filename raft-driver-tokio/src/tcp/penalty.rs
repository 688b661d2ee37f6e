//! Who misbehaved lately, and is shut out for a while.
//!
//! An offence adds to the score of the address that it came from, by how surely it was one; a score sinks by
//! [`SINKS_BY`] a second. At [`SCORE_MAX`] the address is shut out, each time twice as long as the time before, and begins again
//! at half of that. What honest nodes do in bad times, to be slow, to be cut off and to come back, is no offence.
//!
//! * The table is bounded: beyond [`ADDRESSES_MAX`], the address with the lowest score is forgotten.
//! * One user of IPv6 has many addresses: the first 64 bits count.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// The score at which an address is shut out.
const SCORE_MAX: f64 = 96.0;
/// What is forgiven each second: more than two nodes do that are refused and connect again, on both connections, and
/// each time that they are connected to.
const SINKS_BY: f64 = 16.0;
/// The first time that an address is shut out.
const FIRST: Duration = Duration::from_secs(1);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 1024;

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offence {
    /// It does not belong here: most likely a mistake in a configuration, repeated until someone mends it.
    Refused,
    /// It sent what no node sends.
    Malformed,
}

impl Offence {
    fn weight(self) -> f64 {
        match self {
            Self::Refused => 1.0,
            Self::Malformed => 24.0,
        }
    }
}

/// Scores by address.
#[derive(Debug)]
pub(crate) struct Penalties {
    longest: Duration,
    offenders: BTreeMap<IpAddr, Offender>,
}

#[derive(Debug)]
struct Offender {
    score: f64,
    /// When the score was that.
    at: Instant,
    /// How long it is shut out when it comes to that.
    next: Duration,
    until: Instant,
}

impl Offender {
    fn score(&self, now: Instant) -> f64 {
        (self.score - SINKS_BY * now.saturating_duration_since(self.at).as_secs_f64()).max(0.0)
    }
}

impl Penalties {
    /// Nobody is shut out for longer than `longest`; for zero, nobody is.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, offenders: BTreeMap::new() }
    }

    /// Whether nothing is heard from this address for now.
    pub(crate) fn is_shut_out(&self, address: IpAddr, now: Instant) -> bool {
        self.offenders.get(&key(address)).is_some_and(|offender| now < offender.until)
    }

    /// Notes an offence. Says for how long the address is shut out, if it is from now on.
    pub(crate) fn note(&mut self, address: IpAddr, offence: Offence, now: Instant) -> Option<Duration> {
        if self.longest.is_zero() {
            return None;
        }
        let key = key(address);
        if self.offenders.len() >= ADDRESSES_MAX && !self.offenders.contains_key(&key) {
            let least = self.offenders.iter().min_by(|(_, one), (_, other)| {
                (one.until.max(now), one.score(now))
                    .partial_cmp(&(other.until.max(now), other.score(now)))
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            let least = least.map(|(address, _)| *address)?;
            self.offenders.remove(&least);
        }
        let new = Offender { score: 0.0, at: now, next: FIRST, until: now };
        let offender = self.offenders.entry(key).or_insert(new);
        let score = offender.score(now);
        if score == 0.0 {
            // Long ago: begins anew.
            offender.next = FIRST;
        }
        (offender.score, offender.at) = (score + offence.weight(), now);
        if offender.score < SCORE_MAX {
            return None;
        }
        let pause = offender.next.min(self.longest);
        offender.next = pause * 2;
        offender.until = now + pause;
        // What sinks while it is shut out was not earned.
        (offender.score, offender.at) = (SCORE_MAX / 2.0, offender.until);
        Some(pause)
    }
}

/// Whom an address belongs to, as far as can be told: in IPv6 one user has a whole network.
pub(super) fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, last, 1, 2, 3, 4).into()
    }

    /// How many offences until the next time it is shut out, and for how long.
    fn until_shut_out(
        penalties: &mut Penalties,
        from: IpAddr,
        offence: Offence,
        now: Instant,
    ) -> (u32, Duration) {
        (1..100).find_map(|count| Some((count, penalties.note(from, offence, now)?))).expect("in the end")
    }

    #[test]
    fn who_goes_on_is_shut_out_ever_longer() {
        let mut now = Instant::now();
        let mut penalties = Penalties::new(Duration::from_secs(3));
        let mut told = Vec::new();
        for _ in 0..4 {
            let (count, pause) = until_shut_out(&mut penalties, address(1), Offence::Malformed, now);
            assert!(penalties.is_shut_out(address(1), now));
            assert!(!penalties.is_shut_out(address(2), now), "nobody else");
            now += pause;
            assert!(!penalties.is_shut_out(address(1), now));
            told.push((count, pause.as_secs()));
        }
        assert_eq!(told, [(4, 1), (2, 2), (2, 3), (2, 3)]);
        // After a long time it is like any other.
        now += Duration::from_secs(60);
        assert_eq!(until_shut_out(&mut penalties, address(1), Offence::Malformed, now).1, FIRST);
    }

    #[test]
    fn a_mistake_that_is_repeated_at_leisure_is_not_shut_out() {
        let mut now = Instant::now();
        let mut penalties = Penalties::new(Duration::from_secs(30));
        for _ in 0..1000 {
            assert_eq!(penalties.note(address(1), Offence::Refused, now), None);
            now += Duration::from_millis(63);
        }
        assert_eq!(until_shut_out(&mut penalties, address(1), Offence::Refused, now).0, 96, "but a flood is");
    }

    #[test]
    fn addresses_of_one_network_are_one_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut penalties = Penalties::new(Duration::from_secs(30));
        until_shut_out(&mut penalties, address(1), Offence::Malformed, now);
        let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, 9);
        assert!(penalties.is_shut_out(neighbour.into(), now));
        for other in 2..3000 {
            penalties.note(address(other), Offence::Malformed, now);
        }
        assert_eq!(penalties.offenders.len(), ADDRESSES_MAX);
        assert!(penalties.is_shut_out(address(1), now), "the worst is remembered");
        // An IPv4 address is the same one within IPv6.
        let four: IpAddr = [192, 0, 2, 1].into();
        until_shut_out(&mut penalties, four, Offence::Malformed, now);
        assert!(penalties.is_shut_out("::ffff:192.0.2.1".parse().unwrap(), now));
    }

    #[test]
    fn for_zero_nobody_is_shut_out() {
        let mut penalties = Penalties::new(Duration::ZERO);
        let now = Instant::now();
        assert!((0..100).all(|_| penalties.note(address(1), Offence::Malformed, now).is_none()));
        assert!(!penalties.is_shut_out(address(1), now));
    }
}
