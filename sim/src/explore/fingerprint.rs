//! Which states are one: a hash of 128 bits of the canonical form.
//!
//! * Names (rounds, questions, snapshots) become their places among all names of the state; what is on its way has no order.
//! * Two different states are taken for one with a probability of n² / 2^129 for n states: about 10^-24 for ten million.

use std::hash::{BuildHasherDefault, Hasher};

use raft_core::Name;
use twox_hash::XxHash3_128;

use super::state::{SERVERS_MAX, State};
use super::tables::{Hashes, Tables};

/// A name as a number, in the same order. Names of different kinds never meet.
pub(super) fn pack(name: Name) -> u64 {
    let (kind, high, low, low_bits) = match name {
        Name::Round { term, round } => (0, term, round, 40),
        Name::Question { incarnation, seq } => (1, incarnation, seq, 40),
        Name::Snapshot { seq } => (2, seq >> 32, seq & u64::from(u32::MAX), 32),
        Name::Write { .. } | Name::Read { .. } => unreachable!("compared at home"),
    };
    assert!(high < 1 << 20 && low < 1 << low_bits, "models are small");
    kind << 62 | high << low_bits | low
}

/// Computes fingerprints; keeps its buffers.
#[derive(Default)]
pub(super) struct Fingerprints {
    names: Vec<u64>,
    bytes: Vec<u8>,
    mail: Vec<u8>,
}

impl Fingerprints {
    /// The fingerprint of a state: the least under all callings of its servers that put their shapes in order. States that
    /// differ in what servers are called have the same shapes, and so the same least one.
    pub(super) fn of(&mut self, state: &State, tables: &Tables<'_>) -> u128 {
        self.names.clear();
        for server in state.servers() {
            self.names.extend_from_slice(&tables.known(*server).forms[0].names);
        }
        for mail in &state.wire {
            self.names.extend_from_slice(&tables.mail(*mail).forms[0].names);
        }
        self.names.sort_unstable();
        self.names.dedup();
        let mut least: Option<u128> = None;
        for calling in 0..tables.callings.len() {
            let places = places(calling, state, tables);
            let shapes = places[tables.model.fixed()..state.servers().len()].iter();
            if !shapes.is_sorted_by_key(|server| tables.known(*server).shape) {
                continue;
            }
            let found = self.under(calling, &places[..state.servers().len()], state, tables);
            least = Some(least.map_or(found, |least| least.min(found)));
        }
        least.expect("some order is the right one")
    }

    fn under(&mut self, calling: usize, servers: &[u32], state: &State, tables: &Tables<'_>) -> u128 {
        let mut mails: u128 = 0;
        for mail in &state.wire {
            let Hashes { form, names } = &tables.mail(*mail).forms[calling];
            let hash = if names.is_empty() {
                *form
            } else {
                self.mail.clear();
                self.mail.extend_from_slice(&form.to_le_bytes());
                put_places(names, &self.names, &mut self.mail);
                XxHash3_128::oneshot(&self.mail)
            };
            // What is on its way has no order.
            mails = mails.wrapping_add(hash);
        }
        let bytes = &mut self.bytes;
        bytes.clear();
        bytes.extend_from_slice(&mails.to_le_bytes());
        bytes.extend_from_slice(&tables.pasts[state.history as usize].forms[calling].to_le_bytes());
        bytes.extend(state.left.parts().map(|(_, count)| count));
        for server in servers {
            let Hashes { form, names } = &tables.known(*server).forms[calling];
            bytes.extend_from_slice(&form.to_le_bytes());
            put_places(names, &self.names, bytes);
        }
        XxHash3_128::oneshot(bytes)
    }
}

/// Each server in the place of whom it is called.
fn places(calling: usize, state: &State, tables: &Tables<'_>) -> [u32; SERVERS_MAX] {
    let mut places = [0; SERVERS_MAX];
    for (server, called) in state.servers().iter().zip(&tables.callings[calling]) {
        places[usize::try_from(called.get() - 1).expect("servers are few")] = *server;
    }
    places
}

fn put_places(names: &[u64], all: &[u64], out: &mut Vec<u8>) {
    for name in names {
        let place = all.iter().position(|other| other == name).expect("it is one of them");
        out.push(u8::try_from(place).expect("models are small"));
    }
}

/// Hashes what is a hash, or as good as one, already.
#[derive(Default)]
pub(super) struct Mix(u64);

/// For tables whose keys are fingerprints, or pairs of numbers.
pub(super) type Hashed = BuildHasherDefault<Mix>;

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers");
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_names_keep_their_order() {
        let round = |term, round| pack(Name::Round { term, round });
        assert!(round(2, 9) < round(3, 1) && round(3, 1) < round(3, 2));
        let question = |incarnation, seq| pack(Name::Question { incarnation, seq });
        assert!(question(1, 5) < question(2, 1));
        let snapshot = |seq| pack(Name::Snapshot { seq });
        assert!(snapshot(2) < snapshot(1 | 1 << 32));
    }
}
