//! What the letters say, in bytes. Numbers are little endian.
//!
//! | bytes | field |
//! |--:|---|
//! | 1 | version: 2 |
//! | 1 | kind: 1 for writes, 2 for answers |
//! | 8 | life: chosen by the asking node at its start, echoed in answers |
//!
//! Writes: 4 bytes, after how many milliseconds they are given up; 8 bytes, the first one's id, the others' follow; then
//! for each command its length in 4 bytes, and the command. Answers: for each 8 bytes for the id, 1 for its kind, and what
//! belongs to that. Nodes whose letters differ in their version refuse each other in the transport's handshake: whoever
//! raises it raises that of the protocol there.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use raft_core::host::{Rejection, Unacceptable};
use raft_core::{LogId, LogIndex, NodeId, Term, WriteRefusal};

const VERSION: u8 = 2;
const WRITES: u8 = 1;
const ANSWERS: u8 = 2;
const HEAD_BYTES: usize = 1 + 1 + 8;
/// What is said before the commands, and before each of them.
pub(super) const WRITES_HEAD_BYTES: usize = HEAD_BYTES + 4 + 8;
pub(super) const COMMAND_HEAD_BYTES: usize = 4;

/// Commands of one letter: more of them are a peer's mistake, whatever their size.
pub(super) const COMMANDS_MAX: usize = 4096;

/// The longest outcome: id, kind, why the command is invalid.
const OUTCOME_BYTES_MAX: usize = 8 + 1 + 2 + REASON_BYTES_MAX;

/// A reason that is longer is cut.
const REASON_BYTES_MAX: usize = 256;

const COMMITTED: u8 = 0;
const NOT_LEADER: u8 = 1;
const NO_LEADER: u8 = 2;
const BUSY: u8 = 3;
const SUPERSEDED: u8 = 4;
const TOO_LARGE: u8 = 5;
const LOG_FULL: u8 = 6;
const STOPPED: u8 = 7;
const UNKNOWN: u8 = 8;
const INVALID: u8 = 9;

/// A letter that was understood.
#[derive(Debug, PartialEq)]
pub(super) enum Letter {
    Writes(Writes),
    Answers(Answers),
}

/// Commands for the leader.
#[derive(Debug, PartialEq)]
pub(super) struct Writes {
    pub(super) life: u64,
    pub(super) limit: Duration,
    pub(super) first: u64,
    pub(super) commands: Vec<Bytes>,
}

/// What became of them.
#[derive(Debug, PartialEq)]
pub(super) struct Answers {
    pub(super) life: u64,
    pub(super) outcomes: Vec<(u64, Outcome)>,
}

/// What became of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Committed(LogId),
    NotLeader(Option<NodeId>),
    /// For any other reason.
    Rejected(Rejection),
}

/// A letter with commands.
pub(super) fn writes<'a>(
    life: u64,
    first: u64,
    limit: Duration,
    commands: impl Iterator<Item = &'a Bytes> + Clone,
) -> Bytes {
    let bytes: usize = commands.clone().map(|command| COMMAND_HEAD_BYTES + command.len()).sum();
    let mut out = Vec::with_capacity(WRITES_HEAD_BYTES + bytes);
    head(&mut out, WRITES, life);
    // Rounded up: it must not be given up before its client does.
    out.put_u32_le(u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).saturating_add(1));
    out.put_u64_le(first);
    for command in commands {
        out.put_u32_le(u32::try_from(command.len()).expect("commands have less than 4 GiB"));
        out.put_slice(command);
    }
    out.into()
}

/// How many outcomes fit in a letter of this length, however long they are; one at least.
pub(super) const fn outcomes_max(letter_bytes: usize) -> usize {
    let most = letter_bytes.saturating_sub(HEAD_BYTES) / OUTCOME_BYTES_MAX;
    if most == 0 { 1 } else { most }
}

/// A letter with answers.
pub(super) fn answers<'a>(life: u64, outcomes: impl Iterator<Item = (u64, &'a Outcome)>) -> Bytes {
    let mut out = Vec::new();
    head(&mut out, ANSWERS, life);
    for (id, outcome) in outcomes {
        out.put_u64_le(id);
        put_outcome(&mut out, outcome);
    }
    out.into()
}

fn head(out: &mut Vec<u8>, kind: u8, life: u64) {
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u64_le(life);
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Committed(id) => {
            out.put_u8(COMMITTED);
            out.put_u64_le(id.term.get());
            out.put_u64_le(id.index.get());
        }
        Outcome::NotLeader(Some(leader)) => {
            out.put_u8(NOT_LEADER);
            out.put_u64_le(leader.get());
        }
        Outcome::NotLeader(None) => out.put_u8(NO_LEADER),
        Outcome::Rejected(rejection) => put_rejection(out, rejection),
    }
}

fn put_rejection(out: &mut Vec<u8>, rejection: &Rejection) {
    match rejection {
        Rejection::Busy => out.put_u8(BUSY),
        Rejection::Superseded => out.put_u8(SUPERSEDED),
        Rejection::Refused(WriteRefusal::TooLarge { bytes, bytes_max }) => {
            out.put_u8(TOO_LARGE);
            out.put_u64_le(*bytes);
            out.put_u64_le(*bytes_max);
        }
        Rejection::Refused(WriteRefusal::LogFull) => out.put_u8(LOG_FULL),
        Rejection::Invalid(why) => {
            let why = why.to_string();
            let why = &why[..why.floor_char_boundary(REASON_BYTES_MAX)];
            out.put_u8(INVALID);
            out.put_u16_le(u16::try_from(why.len()).expect("it was cut"));
            out.put_slice(why.as_bytes());
        }
        Rejection::Stopped => out.put_u8(STOPPED),
        Rejection::NotLeader { .. } => out.put_u8(NO_LEADER),
        Rejection::Unknown | Rejection::ResponseLost(_) => out.put_u8(UNKNOWN),
    }
}

/// What is known of a letter before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Writes,
    /// To letters of this life.
    Answers(u64),
}

/// What a letter says. `None` if it makes no sense, or nobody wants it, which costs no more than a look at its beginning.
pub(super) fn read(mut letter: Bytes, is_wanted: impl FnOnce(Head) -> bool) -> Option<Letter> {
    let (version, kind) = (letter.try_get_u8().ok()?, letter.try_get_u8().ok()?);
    let life = letter.try_get_u64_le().ok()?;
    let head = match (version, kind) {
        (VERSION, WRITES) => Head::Writes,
        (VERSION, ANSWERS) => Head::Answers(life),
        _ => return None,
    };
    if !is_wanted(head) {
        return None;
    }
    Some(match head {
        Head::Writes => {
            let limit = Duration::from_millis(letter.try_get_u32_le().ok()?.into());
            let first = letter.try_get_u64_le().ok()?;
            let (mut commands, whole) = (Vec::new(), letter.len());
            while letter.has_remaining() {
                let length = usize::try_from(letter.try_get_u32_le().ok()?).ok()?;
                if length > letter.len() || commands.len() == COMMANDS_MAX {
                    return None;
                }
                let command = letter.split_to(length);
                // One that is a small part of the letter would keep all of it, which no limit counts.
                let small = length < whole / 8;
                commands.push(if small { Bytes::copy_from_slice(&command) } else { command });
            }
            first.checked_add(commands.len() as u64)?;
            Letter::Writes(Writes { life, limit, first, commands })
        }
        Head::Answers(life) => {
            let mut outcomes = Vec::new();
            while letter.has_remaining() {
                outcomes.push((letter.try_get_u64_le().ok()?, get_outcome(&mut letter)?));
            }
            Letter::Answers(Answers { life, outcomes })
        }
    })
}

fn get_outcome(letter: &mut Bytes) -> Option<Outcome> {
    Some(match letter.try_get_u8().ok()? {
        COMMITTED => {
            let (term, index) = (letter.try_get_u64_le().ok()?, letter.try_get_u64_le().ok()?);
            Outcome::Committed(LogId::new(Term::new(term), LogIndex::new(index)))
        }
        NOT_LEADER => Outcome::NotLeader(Some(NodeId::new(letter.try_get_u64_le().ok()?))),
        NO_LEADER => Outcome::NotLeader(None),
        BUSY => Outcome::Rejected(Rejection::Busy),
        SUPERSEDED => Outcome::Rejected(Rejection::Superseded),
        TOO_LARGE => {
            let (bytes, bytes_max) = (letter.try_get_u64_le().ok()?, letter.try_get_u64_le().ok()?);
            Outcome::Rejected(Rejection::Refused(WriteRefusal::TooLarge { bytes, bytes_max }))
        }
        LOG_FULL => Outcome::Rejected(Rejection::Refused(WriteRefusal::LogFull)),
        INVALID => {
            let length = usize::from(letter.try_get_u16_le().ok()?);
            if length > REASON_BYTES_MAX.min(letter.len()) {
                return None;
            }
            let why = letter.split_to(length);
            Outcome::Rejected(Rejection::Invalid(Unacceptable::new(std::str::from_utf8(&why).ok()?)))
        }
        STOPPED => Outcome::Rejected(Rejection::Stopped),
        UNKNOWN => Outcome::Rejected(Rejection::Unknown),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(letter: Bytes) -> Option<Letter> {
        super::read(letter, |_| true)
    }

    fn outcomes() -> Vec<(u64, Outcome)> {
        let too_large = WriteRefusal::TooLarge { bytes: 9, bytes_max: 8 };
        let rejections = [
            Rejection::Busy,
            Rejection::Superseded,
            Rejection::Refused(too_large),
            Rejection::Refused(WriteRefusal::LogFull),
            Rejection::Invalid(Unacceptable::new("a name has no slash")),
            Rejection::Invalid(Unacceptable::new("")),
            Rejection::Stopped,
            Rejection::Unknown,
        ];
        let mut outcomes = vec![
            Outcome::Committed(LogId::new(Term::new(3), LogIndex::new(70))),
            Outcome::NotLeader(Some(NodeId::new(4))),
            Outcome::NotLeader(None),
        ];
        outcomes.extend(rejections.map(Outcome::Rejected));
        (5..).zip(outcomes).collect()
    }

    #[test]
    fn letters_say_the_same_when_read() {
        let commands = [Bytes::from("one"), Bytes::new(), Bytes::from("three")];
        let letter = writes(7, 9, Duration::from_millis(20), commands.iter());
        let limit = Duration::from_millis(21);
        let expected = Writes { life: 7, limit, first: 9, commands: commands.to_vec() };
        assert_eq!(read(letter), Some(Letter::Writes(expected)));

        let outcomes = outcomes();
        let letter = answers(7, outcomes.iter().map(|(id, outcome)| (*id, outcome)));
        assert_eq!(read(letter), Some(Letter::Answers(Answers { life: 7, outcomes })));
    }

    #[test]
    fn a_reason_is_cut_where_a_character_ends() {
        let rejected = |why: &str| Outcome::Rejected(Rejection::Invalid(Unacceptable::new(why)));
        let long = format!("a{}", "\u{e9}".repeat(REASON_BYTES_MAX));
        let letter = answers(7, [(1, &rejected(&long))].into_iter());
        let outcomes = vec![(1, rejected(&long[..REASON_BYTES_MAX - 1]))];
        assert_eq!(read(letter), Some(Letter::Answers(Answers { life: 7, outcomes })));
    }

    #[test]
    fn cut_and_altered_letters_end_in_nothing_worse_than_other_letters() {
        let commands = [Bytes::from("one"), Bytes::from("three")];
        let outcomes = outcomes();
        let letters = [
            writes(7, 9, Duration::from_secs(1), commands.iter()),
            answers(7, outcomes.iter().map(|(id, outcome)| (*id, outcome))),
        ];
        for letter in letters {
            let whole = read(letter.clone()).expect("just written");
            for cut in 0..letter.len() {
                assert_ne!(read(letter.slice(..cut)).as_ref(), Some(&whole));
                for value in [0, 1, 2, 0x7f, 0xff] {
                    let mut altered = letter.to_vec();
                    altered[cut] = value;
                    // What it says now is of no interest, only that reading it ends.
                    let _ = read(altered.into());
                }
            }
        }
        assert_eq!(read(Bytes::from_static(&[3, 1, 0, 0, 0, 0, 0, 0, 0, 0])), None, "another version");
    }
}
