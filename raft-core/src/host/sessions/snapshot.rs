//! The table of sessions as a part of the snapshot: it comes first, then the machine's own bytes.
//!
//! ```text
//! head      magic 8 │ version 4 │ opened 8 │ uses 8 │ sessions 8 │ digest 8
//! session   length 4 │ digest 8 │ id 8 │ used 8 │ needed from 8 │ window 4 │ responses 4 │ (number 8 │ length 4 │ response)*
//! ```
//!
//! * Numbers are little endian; sessions ascend by id, responses by number. Equal tables are equal bytes.
//! * Any byte altered, lost or added is noticed, and refused. Memory grows with the bytes that are there, not with what
//!   they claim.

use alloc::collections::{BTreeMap, VecDeque, btree_map};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use core::fmt;
use core::marker::PhantomData;

use super::table::{Session, Table};
use super::{SessionId, SessionLimits};
use crate::host::codec::Codec;
use crate::host::frozen::{FrozenState, RestoreError, SnapshotSource};

const MAGIC: [u8; 8] = *b"sessions";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 44;
const DIGEST_BYTES: usize = 8;
/// What stands before a session's body.
const FRAME_BYTES: usize = 12;
/// Sessions are gathered into pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// A table at one point, and the machine's state at the same point.
pub struct FrozenSessions<F, R, C> {
    /// Not yet handed out.
    head: Option<Bytes>,
    sessions: btree_map::IntoIter<SessionId, Arc<Session<R>>>,
    machine: F,
    codec: PhantomData<fn() -> C>,
}

/// Why a frozen table with its machine cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrozenSessionsError<F, C> {
    /// A response has no bytes.
    #[error("a response cannot be kept: {0}")]
    Response(#[source] C),
    /// A session's responses are longer than 4 GiB.
    #[error("the responses of a session are longer than 4 GiB")]
    TooLong,
    /// The machine's state cannot be read.
    #[error(transparent)]
    Machine(F),
}

impl<F, R: Clone, C> FrozenSessions<F, R, C> {
    pub(super) fn new(table: &Table<R>, machine: F) -> Self {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.put_slice(&MAGIC);
        head.put_u32_le(VERSION);
        head.put_u64_le(table.opened);
        head.put_u64_le(table.uses);
        head.put_u64_le(table.sessions.len() as u64);
        head.put_u64_le(digest(&head));
        // One reference count a session.
        let sessions = table.sessions.clone().into_iter();
        Self { head: Some(head.into()), sessions, machine, codec: PhantomData }
    }
}

impl<F, R, C> FrozenState for FrozenSessions<F, R, C>
where
    F: FrozenState,
    R: Send + Sync + 'static,
    C: Codec<R>,
{
    type Error = FrozenSessionsError<F::Error, C::Error>;

    fn next_chunk(&mut self) -> Result<Option<Bytes>, Self::Error> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES
            && let Some((id, session)) = self.sessions.next()
        {
            put_session::<R, C>(&mut piece, id, &session)
                .map_err(|error| error.map_or(FrozenSessionsError::TooLong, FrozenSessionsError::Response))?;
        }
        if piece.is_empty() {
            self.machine.next_chunk().map_err(FrozenSessionsError::Machine)
        } else {
            Ok(Some(piece.into()))
        }
    }
}

impl<F, R, C> fmt::Debug for FrozenSessions<F, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenSessions").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

/// `Err(None)`: it is too long.
fn put_session<R, C: Codec<R>>(
    out: &mut Vec<u8>,
    id: SessionId,
    session: &Session<R>,
) -> Result<(), Option<C::Error>> {
    let frame = out.len();
    out.put_bytes(0, FRAME_BYTES);
    let body = out.len();
    out.put_u64_le(id.get());
    out.put_u64_le(session.used);
    out.put_u64_le(session.needed_from);
    out.put_u32_le(session.window);
    out.put_u32_le(u32::try_from(session.responses.len()).map_err(|_| None)?);
    for (number, response) in &session.responses {
        let response = response.as_ref().expect("between two batches, every response is there");
        let response = C::encode(response).map_err(Some)?;
        out.put_u64_le(*number);
        out.put_u32_le(u32::try_from(response.len()).map_err(|_| None)?);
        out.put_slice(&response);
    }
    let (length, digest) = (u32::try_from(out.len() - body).map_err(|_| None)?, digest(&out[body..]));
    out[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
    out[frame + 4..body].copy_from_slice(&digest.to_le_bytes());
    Ok(())
}

/// Takes the table from the beginning of a snapshot.
pub(super) fn read_table<R: Clone, C: Codec<R>, E>(
    source: &mut SnapshotSource<'_>,
) -> Result<Table<R>, RestoreError<E>> {
    let mut head = [0; HEAD_BYTES];
    source.read_exact(&mut head)?;
    let (fields, mut expected) = head.split_at(HEAD_BYTES - DIGEST_BYTES);
    let mut rest =
        fields.strip_prefix(&MAGIC).ok_or(RestoreError::Malformed("it has no table of sessions"))?;
    if digest(fields) != expected.get_u64_le() {
        return Err(RestoreError::Malformed("the head of its table of sessions is damaged"));
    }
    if rest.get_u32_le() != VERSION {
        return Err(RestoreError::Malformed("its table of sessions is of another version"));
    }
    let (opened, uses, count) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
    let mut sessions = BTreeMap::new();
    for _ in 0..count {
        let mut frame = [0; FRAME_BYTES];
        source.read_exact(&mut frame)?;
        let mut frame = &frame[..];
        let (length, expected) = (frame.get_u32_le(), frame.get_u64_le());
        if u64::from(length) > source.remaining_bytes() {
            return Err(RestoreError::Malformed("a session is cut short"));
        }
        let mut body = vec![0; length as usize];
        source.read_exact(&mut body)?;
        if digest(&body) != expected {
            return Err(RestoreError::Malformed("a session is damaged"));
        }
        let (id, session) =
            take_session::<R, C>(body.into()).ok_or(RestoreError::Malformed("a session is none"))?;
        if sessions.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return Err(RestoreError::Malformed("its sessions are out of order"));
        }
        sessions.insert(id, Arc::new(session));
    }
    Table::restored(opened, uses, sessions).ok_or(RestoreError::Malformed("its sessions contradict its head"))
}

fn take_session<R, C: Codec<R>>(mut body: Bytes) -> Option<(SessionId, Session<R>)> {
    let id = SessionId::new(body.try_get_u64_le().ok()?);
    let (used, needed_from) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    let (window, count) = (body.try_get_u32_le().ok()?, body.try_get_u32_le().ok()?);
    SessionLimits::checked(1, window)?;
    let mut responses = VecDeque::new();
    // As `Table::admit` counts: the highest number of all is one too.
    let mut next = Some(needed_from);
    for _ in 0..count {
        let (number, length) = (body.try_get_u64_le().ok()?, body.try_get_u32_le().ok()? as usize);
        let fits = next.is_some_and(|next| number >= next) && number - needed_from < u64::from(window);
        if !fits || length > body.remaining() {
            return None;
        }
        next = number.checked_add(1);
        // What is kept must not hold the whole session's bytes.
        let response = Bytes::copy_from_slice(&body.split_to(length));
        responses.push_back((number, Some(C::decode(response).ok()?)));
    }
    body.is_empty().then_some((id, Session { used, window, needed_from, responses }))
}

/// FNV-1a in 64 bits: each step can be undone, so that no single altered byte goes unnoticed.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
