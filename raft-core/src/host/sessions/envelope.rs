//! What is written around a command so that [`Sessions`](super::Sessions) knows whose it is: a trailer of a few bytes.
//!
//! ```text
//! command │ numbers │ tag          tag: 3 bits of kind, 5 bits of the numbers' length in bytes
//! ```
//!
//! * It stands behind the command: whoever builds a command in a buffer with room to spare copies nothing.
//! * Numbers are LEB128 in their shortest form: there is one encoding of everything, and all others are refused.
//! * Every tag has its highest bit set, so that text which somebody forgot to seal is no envelope.

use bytes::{BufMut, Bytes, BytesMut};

use super::{SessionId, SessionLimits};

/// The longest trailer in bytes: room to leave behind a command, and to allow for in limits of commands.
pub const TRAILER_BYTES_MAX: usize = 31;

const PLAIN: u8 = 4;
const OPEN: u8 = 5;
const ONCE: u8 = 6;
const CLOSE: u8 = 7;
const LENGTH_BITS: u8 = 5;

/// What a command given to [`Sessions`](super::Sessions) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A command of no session: it is applied as often as it is in the log.
    Plain,
    /// Opens a session. If there are more than `sessions_max` then, those that were not used for the longest time expire.
    Open(SessionLimits),
    /// A command that is applied once, however often it is in the log.
    Once {
        /// Whose command it is.
        session: SessionId,
        /// Which of the session's commands it is, counted from 1. A command that is tried again keeps its number.
        sequence: u64,
        /// The lowest number whose response the client may still ask for; one above `sequence` counts as `sequence`.
        /// Responses before it are dropped, and commands before it are not applied any more.
        needed_from: u64,
    },
    /// Closes a session.
    Close(SessionId),
}

/// What is no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no envelope: {0}")]
pub struct NotSealed(&'static str);

impl Envelope {
    /// The command in this envelope, as it is proposed. [`Open`](Self::Open) and [`Close`](Self::Close) have none: it is left
    /// out. Copies it only if its buffer is shared or has no room for [`TRAILER_BYTES_MAX`] more.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use raft_core::host::{Envelope, SessionId};
    ///
    /// let once = Envelope::Once { session: SessionId::new(3), sequence: 1, needed_from: 1 };
    /// let sealed = once.seal("pay 100");
    /// assert_eq!(sealed.len(), 7 + 4);
    /// assert_eq!(Envelope::open(&sealed)?, (once, 7));
    /// # Ok::<(), raft_core::host::NotSealed>(())
    /// ```
    #[must_use]
    pub fn seal(self, command: impl Into<Bytes>) -> Bytes {
        let command = match self {
            Self::Plain | Self::Once { .. } => command.into(),
            Self::Open(_) | Self::Close(_) => Bytes::new(),
        };
        let mut out = command.try_into_mut().unwrap_or_else(|shared| {
            let mut copy = BytesMut::with_capacity(shared.len() + TRAILER_BYTES_MAX);
            copy.put_slice(&shared);
            copy
        });
        let start = out.len();
        let kind = match self {
            Self::Plain => PLAIN,
            Self::Open(limits) => {
                put_number(&mut out, limits.sessions_max().into());
                put_number(&mut out, limits.window().into());
                OPEN
            }
            Self::Once { session, sequence, needed_from } => {
                put_number(&mut out, session.get());
                put_number(&mut out, sequence);
                put_number(&mut out, sequence.saturating_sub(needed_from));
                ONCE
            }
            Self::Close(session) => {
                put_number(&mut out, session.get());
                CLOSE
            }
        };
        let length = u8::try_from(out.len() - start).expect("at most three numbers of 10 bytes");
        out.put_u8(kind << LENGTH_BITS | length);
        out.freeze()
    }

    /// What is written around a sealed command, and the length of the command itself, which comes first.
    ///
    /// # Errors
    /// If this is no sealed command.
    pub fn open(sealed: &[u8]) -> Result<(Self, usize), NotSealed> {
        let (tag, rest) = sealed.split_last().ok_or(NotSealed("nothing is there"))?;
        let length = usize::from(tag & ((1 << LENGTH_BITS) - 1));
        let command_bytes = rest.len().checked_sub(length).ok_or(NotSealed("it is cut short"))?;
        let mut numbers = &rest[command_bytes..];
        let mut number = || take_number(&mut numbers).ok_or(NotSealed("a number is none"));
        let envelope = match tag >> LENGTH_BITS {
            PLAIN => Self::Plain,
            OPEN => {
                let (sessions_max, window) = (number()?, number()?);
                let limits = u32::try_from(sessions_max).ok().zip(u32::try_from(window).ok());
                let limits = limits.and_then(|(sessions, window)| SessionLimits::checked(sessions, window));
                Self::Open(limits.ok_or(NotSealed("its limits are out of bounds"))?)
            }
            ONCE => {
                let (session, sequence, outstanding) = (SessionId::new(number()?), number()?, number()?);
                let needed_from = sequence.checked_sub(outstanding);
                let needed_from = needed_from.ok_or(NotSealed("its numbers contradict each other"))?;
                Self::Once { session, sequence, needed_from }
            }
            CLOSE => Self::Close(SessionId::new(number()?)),
            _ => return Err(NotSealed("its kind is unknown")),
        };
        if !numbers.is_empty() {
            return Err(NotSealed("it has numbers too many"));
        }
        if command_bytes > 0 && matches!(envelope, Self::Open(_) | Self::Close(_)) {
            return Err(NotSealed("a command where none belongs"));
        }
        Ok((envelope, command_bytes))
    }
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// The first number of `bytes`, which are shortened. `None` if it does not end, is too large, or could be shorter.
fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part.leading_zeros() < shift {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return (part > 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
    }

    fn envelopes() -> impl Strategy<Value = Envelope> {
        prop_oneof![
            Just(Envelope::Plain),
            (1..=SessionLimits::SESSIONS_MAX, 1..=SessionLimits::WINDOW_MAX)
                .prop_map(|(sessions, window)| Envelope::Open(SessionLimits::new(sessions, window))),
            number().prop_map(|id| Envelope::Close(SessionId::new(id))),
            (number(), number(), number()).prop_map(|(id, one, other)| Envelope::Once {
                session: SessionId::new(id),
                sequence: one.max(other),
                needed_from: one.min(other),
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_out_again(envelope in envelopes(), command: Vec<u8>) {
            let sealed = envelope.seal(command.clone());
            let takes = matches!(envelope, Envelope::Plain | Envelope::Once { .. });
            let command = if takes { command } else { Vec::new() };
            prop_assert!(sealed.len() - command.len() <= TRAILER_BYTES_MAX);
            prop_assert_eq!(Envelope::open(&sealed), Ok((envelope, command.len())));
            prop_assert_eq!(&sealed[..command.len()], &command[..]);
        }

        #[test]
        fn whatever_opens_is_sealed_to_the_same_bytes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..34),
            kind in PLAIN..=CLOSE,
            length in 0..32_u8,
        ) {
            bytes.push(kind << LENGTH_BITS | length);
            if let Ok((envelope, command_bytes)) = Envelope::open(&bytes) {
                let command = Bytes::copy_from_slice(&bytes[..command_bytes]);
                prop_assert_eq!(envelope.seal(command), bytes);
            }
        }
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let tag = |kind: u8, length: u8| kind << LENGTH_BITS | length;
        for bytes in [
            &b""[..],
            b"a text",
            &[tag(ONCE, 3), tag(ONCE, 3)],
            &[7, 5, 0x80, 0, tag(ONCE, 4)],
            &[7, 3, 4, tag(ONCE, 3)],
            &[7, 3, 1, 1, tag(ONCE, 4)],
            &[9, 7, tag(CLOSE, 1)],
            &[0, 1, tag(OPEN, 2)],
            &[1, 0, tag(OPEN, 2)],
            &[0xff; 11],
        ] {
            assert!(Envelope::open(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_buffer_with_room_is_not_copied() {
        let mut buffer = BytesMut::with_capacity(4 + TRAILER_BYTES_MAX);
        buffer.put_slice(b"1234");
        let at = buffer.as_ptr();
        let most = u64::MAX;
        let once = Envelope::Once { session: SessionId::new(most), sequence: most, needed_from: 0 };
        let sealed = once.seal(buffer);
        assert_eq!(sealed.len(), 4 + TRAILER_BYTES_MAX);
        assert_eq!(sealed.as_ptr(), at);
    }
}
