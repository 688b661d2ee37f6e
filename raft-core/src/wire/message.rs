//! Messages: see the tables in the [module's head](super).

use alloc::vec::Vec;
use bytes::Bytes;

use super::entries::{put_entries, take_entries};
use super::{Fields, VERSION, WireError, put_log_id, put_u16, put_u64};
use crate::message::{Body, Conflict, Message};

const REQUEST_VOTE: u8 = 1;
const REQUEST_VOTE_REPLY: u8 = 2;
const PRE_VOTE: u8 = 3;
const PRE_VOTE_REPLY: u8 = 4;
const APPEND_ENTRIES: u8 = 5;
const APPEND_ENTRIES_REPLY: u8 = 6;

/// No message has more bytes than this beside its entries.
const FIXED_BYTES_MAX: usize = 64;

const fn kind(body: &Body) -> u8 {
    match body {
        Body::RequestVote { .. } => REQUEST_VOTE,
        Body::RequestVoteReply { .. } => REQUEST_VOTE_REPLY,
        Body::PreVote { .. } => PRE_VOTE,
        Body::PreVoteReply { .. } => PRE_VOTE_REPLY,
        Body::AppendEntries { .. } => APPEND_ENTRIES,
        Body::AppendEntriesReply { .. } => APPEND_ENTRIES_REPLY,
    }
}

/// Appends a message to `out`.
///
/// ```
/// use raft_core::wire::{decode_message, encode_message};
/// use raft_core::{Body, LogId, LogIndex, Message, NodeId, Term};
///
/// let message = Message {
///     from: NodeId::new(1),
///     to: NodeId::new(2),
///     term: Term::new(3),
///     body: Body::RequestVote { last: LogId::new(Term::new(2), LogIndex::new(7)) },
/// };
/// let mut bytes = Vec::new();
/// encode_message(&message, &mut bytes);
/// assert_eq!(decode_message(bytes.into()), Ok(message));
/// ```
///
/// # Panics
/// If a block of entries is longer than `u32::MAX` bytes; a node makes none above its configured limits.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    // Taken apart, so that a field added later cannot be forgotten here.
    let Message { from, to, term, body } = message;
    out.reserve(FIXED_BYTES_MAX);
    put_u16(out, VERSION);
    out.push(kind(body));
    put_u64(out, from.get());
    put_u64(out, to.get());
    put_u64(out, term.get());
    match body {
        Body::RequestVote { last } => put_log_id(out, *last),
        Body::RequestVoteReply { granted } => out.push(u8::from(*granted)),
        Body::PreVote { proposed, last } => {
            put_u64(out, proposed.get());
            put_log_id(out, *last);
        }
        Body::PreVoteReply { proposed, granted } => {
            put_u64(out, proposed.get());
            out.push(u8::from(*granted));
        }
        Body::AppendEntries { prev, entries, commit, round } => {
            put_log_id(out, *prev);
            put_u64(out, commit.get());
            put_u64(out, *round);
            put_entries(entries, out);
        }
        Body::AppendEntriesReply { result, round } => {
            put_u64(out, *round);
            out.push(u8::from(result.is_err()));
            match result {
                Ok(matched) => put_u64(out, matched.get()),
                Err(Conflict { prev, hint }) => {
                    put_u64(out, prev.get());
                    put_log_id(out, *hint);
                }
            }
        }
    }
}

/// Reads one message, which must fill `bytes`. Its commands stay slices of `bytes`.
///
/// # Errors
/// If `bytes` is anything but what [`encode_message`] makes of a well-formed message.
pub fn decode_message(bytes: Bytes) -> Result<Message, WireError> {
    let mut fields = Fields(&bytes);
    fields.version()?;
    let kind = fields.u8()?;
    let (from, to, term) = (fields.node()?, fields.node()?, fields.term()?);
    let body = match kind {
        REQUEST_VOTE => Body::RequestVote { last: fields.log_id()? },
        REQUEST_VOTE_REPLY => Body::RequestVoteReply { granted: fields.flag("granted")? },
        PRE_VOTE => Body::PreVote { proposed: fields.term()?, last: fields.log_id()? },
        PRE_VOTE_REPLY => Body::PreVoteReply { proposed: fields.term()?, granted: fields.flag("granted")? },
        APPEND_ENTRIES => {
            let (prev, commit, round) = (fields.log_id()?, fields.index()?, fields.u64()?);
            Body::AppendEntries { prev, entries: take_entries(&bytes, &mut fields)?, commit, round }
        }
        APPEND_ENTRIES_REPLY => {
            let round = fields.u64()?;
            let result = if fields.flag("conflict")? {
                Err(Conflict { prev: fields.index()?, hint: fields.log_id()? })
            } else {
                Ok(fields.index()?)
            };
            Body::AppendEntriesReply { result, round }
        }
        found => return Err(WireError::Unknown { of: "the kind of message", found }),
    };
    fields.finish(Message { from, to, term, body })
}
