//! The map behind its sessions: a write that a client repeats, because its answer was lost, happens once.
//!
//! * Commands without a session are as before: applied as often as they are in the log.
//! * What a session remembers of a write is one byte: whether the key had a value.

use bytes::Bytes;
use raft_core::host::{Codec, Sessions};

use crate::machine::{Glance, Machine, Outcome};

/// The machine that is replicated.
pub(crate) type Replicated = Sessions<Machine, OutcomeCodec>;

/// An empty one, and a look at the map within.
pub(crate) fn replicated() -> (Replicated, Glance) {
    let machine = Machine::default();
    let glance = machine.glance();
    (Sessions::new(machine), glance)
}

/// How the answer to a write is kept.
pub(crate) struct OutcomeCodec;

/// Bytes in a snapshot that no answer was written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer is one byte, 0 or 1")]
pub(crate) struct NoOutcome;

impl Codec<Outcome> for OutcomeCodec {
    type Error = NoOutcome;

    fn encode(outcome: &Outcome) -> Result<Bytes, NoOutcome> {
        Ok(Bytes::from_static(if outcome.existed { &[1] } else { &[0] }))
    }

    fn decode(bytes: Bytes) -> Result<Outcome, NoOutcome> {
        match bytes[..] {
            [existed @ 0..=1] => Ok(Outcome { existed: existed == 1 }),
            _ => Err(NoOutcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_core::host::{Envelope, SessionLimits, SessionResponse, StateMachine};
    use raft_core::{Commands, Entries, LogId, LogIndex, Term};

    use super::*;
    use crate::machine::begin_put;

    #[test]
    fn an_outcome_is_one_byte() {
        for existed in [false, true] {
            let outcome = Outcome { existed };
            assert_eq!(OutcomeCodec::decode(OutcomeCodec::encode(&outcome).unwrap()), Ok(outcome));
        }
        for bad in [&b""[..], b"\x02", b"\x00\x00"] {
            assert_eq!(OutcomeCodec::decode(Bytes::copy_from_slice(bad)), Err(NoOutcome));
        }
    }

    #[test]
    fn a_write_of_a_session_that_is_repeated_happens_once() {
        let (mut machine, glance) = replicated();
        let mut index = LogIndex::FIRST;
        let mut commit = |command: Bytes| {
            let entries = Entries::commands(LogId::new(Term::new(1), index), &Commands::one(command));
            index = index.next();
            let mut responses = Vec::new();
            machine.apply(&entries, &mut responses).unwrap();
            responses.pop().unwrap()
        };
        let opened = commit(Envelope::Open(SessionLimits::default()).seal(Bytes::new()));
        let SessionResponse::Opened(session) = opened else { panic!("{opened:?}") };
        let put = |sequence, value: &[u8]| {
            let mut command = begin_put(b"k", value.len());
            command.extend_from_slice(value);
            Envelope::Once { session, sequence, needed_from: sequence }.seal(command.freeze())
        };
        let outcome = |existed| SessionResponse::Applied(Outcome { existed });
        assert_eq!(commit(put(1, b"one")), outcome(false));
        // By somebody else, without a session.
        let mut other = begin_put(b"k", 5);
        other.extend_from_slice(b"other");
        assert_eq!(commit(Envelope::Plain.seal(other.freeze())), outcome(true));
        let digest = glance.get().digest;
        assert_eq!(commit(put(1, b"one")), outcome(false), "the answer that it had");
        assert_eq!(glance.get().digest, digest, "and nothing was overwritten");
        assert_eq!(commit(put(2, b"two")), outcome(true));
        assert_ne!(glance.get().digest, digest);
    }
}
