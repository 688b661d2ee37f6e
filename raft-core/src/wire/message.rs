//! Messages: see the tables in the [module's head](super).

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use super::entries::{put_entries, take_entries};
use super::snapshot::{put_snapshot_id, take_snapshot_id, take_snapshot_meta};
use super::{
    Fields, VERSION, WireError, encode_snapshot_meta, put_log_id, put_u16, put_u64, put_with_length,
};
use crate::message::{Body, Conflict, InstallProgress, Message, QuestionId};

const REQUEST_VOTE: u8 = 1;
const REQUEST_VOTE_REPLY: u8 = 2;
const PRE_VOTE: u8 = 3;
const PRE_VOTE_REPLY: u8 = 4;
const APPEND_ENTRIES: u8 = 5;
const APPEND_ENTRIES_REPLY: u8 = 6;
const INSTALL_SNAPSHOT: u8 = 7;
const INSTALL_SNAPSHOT_REPLY: u8 = 8;
const TIMEOUT_NOW: u8 = 9;
const READ_INDEX: u8 = 10;
const READ_INDEX_REPLY: u8 = 11;

const WANTS: u8 = 0;
const BUSY: u8 = 1;
const INSTALLED: u8 = 2;
const REFUSED: u8 = 3;

/// No message has more bytes than this beside its entries, or its chunk and snapshot.
const FIXED_BYTES_MAX: usize = 80;

const fn kind(body: &Body) -> u8 {
    match body {
        Body::RequestVote { .. } => REQUEST_VOTE,
        Body::RequestVoteReply { .. } => REQUEST_VOTE_REPLY,
        Body::PreVote { .. } => PRE_VOTE,
        Body::PreVoteReply { .. } => PRE_VOTE_REPLY,
        Body::AppendEntries { .. } => APPEND_ENTRIES,
        Body::AppendEntriesReply { .. } => APPEND_ENTRIES_REPLY,
        Body::InstallSnapshot { .. } => INSTALL_SNAPSHOT,
        Body::InstallSnapshotReply { .. } => INSTALL_SNAPSHOT_REPLY,
        Body::TimeoutNow => TIMEOUT_NOW,
        Body::ReadIndex { .. } => READ_INDEX,
        Body::ReadIndexReply { .. } => READ_INDEX_REPLY,
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
///     body: Body::RequestVote { last: LogId::new(Term::new(2), LogIndex::new(7)), transfer: false },
/// };
/// let mut bytes = Vec::new();
/// encode_message(&message, &mut bytes);
/// assert_eq!(decode_message(bytes.into()), Ok(message));
/// ```
///
/// # Panics
/// If a block of entries or a chunk is longer than `u32::MAX` bytes; a node makes none above its configured limits.
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
        Body::RequestVote { last, transfer } => {
            put_log_id(out, *last);
            out.push(u8::from(*transfer));
        }
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
        Body::InstallSnapshot { meta, offset, data, done, round } => {
            put_u64(out, *offset);
            out.push(u8::from(*done));
            put_u64(out, *round);
            put_with_length(out, |out| out.extend_from_slice(data));
            encode_snapshot_meta(meta, out);
        }
        Body::InstallSnapshotReply { id, progress, round } => {
            put_snapshot_id(out, *id);
            put_u64(out, *round);
            match progress {
                InstallProgress::Wants(offset) => {
                    out.push(WANTS);
                    put_u64(out, *offset);
                }
                InstallProgress::Busy => out.push(BUSY),
                InstallProgress::Refused => out.push(REFUSED),
                InstallProgress::Installed(index) => {
                    out.push(INSTALLED);
                    put_u64(out, index.get());
                }
            }
        }
        Body::TimeoutNow => {}
        Body::ReadIndex { id } => put_question(out, *id),
        Body::ReadIndexReply { id, index } => {
            put_question(out, *id);
            out.push(u8::from(index.is_some()));
            if let Some(index) = index {
                put_u64(out, index.get());
            }
        }
    }
}

/// Reads one message, which must fill `bytes`. Its commands, or its chunk of a snapshot, stay slices of `bytes`.
///
/// # Errors
/// If `bytes` is anything but what [`encode_message`] makes of a well-formed message.
pub fn decode_message(bytes: Bytes) -> Result<Message, WireError> {
    let mut fields = Fields(&bytes);
    fields.version(VERSION)?;
    let kind = fields.u8()?;
    let (from, to, term) = (fields.node()?, fields.node()?, fields.term()?);
    let body = match kind {
        REQUEST_VOTE => Body::RequestVote { last: fields.log_id()?, transfer: fields.flag("transfer")? },
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
        INSTALL_SNAPSHOT => {
            let (offset, done, round) = (fields.u64()?, fields.flag("done")?, fields.u64()?);
            let length = fields.u32()?;
            let data = bytes.slice_ref(fields.slice(length)?);
            let meta = Arc::new(take_snapshot_meta(&mut fields)?);
            Body::InstallSnapshot { meta, offset, data, done, round }
        }
        INSTALL_SNAPSHOT_REPLY => {
            let (id, round) = (take_snapshot_id(&mut fields)?, fields.u64()?);
            let progress = match fields.u8()? {
                WANTS => InstallProgress::Wants(fields.u64()?),
                BUSY => InstallProgress::Busy,
                REFUSED => InstallProgress::Refused,
                INSTALLED => InstallProgress::Installed(fields.index()?),
                found => return Err(WireError::Unknown { of: "progress", found }),
            };
            Body::InstallSnapshotReply { id, progress, round }
        }
        TIMEOUT_NOW => Body::TimeoutNow,
        READ_INDEX => Body::ReadIndex { id: take_question(&mut fields)? },
        READ_INDEX_REPLY => {
            let id = take_question(&mut fields)?;
            let index = if fields.flag("answered")? { Some(fields.index()?) } else { None };
            Body::ReadIndexReply { id, index }
        }
        found => return Err(WireError::Unknown { of: "the kind of message", found }),
    };
    fields.finish(Message { from, to, term, body })
}

fn put_question(out: &mut Vec<u8>, id: QuestionId) {
    let QuestionId { incarnation, seq } = id;
    put_u64(out, incarnation);
    put_u64(out, seq);
}

fn take_question(fields: &mut Fields<'_>) -> Result<QuestionId, WireError> {
    Ok(QuestionId { incarnation: fields.u64()?, seq: fields.u64()? })
}
