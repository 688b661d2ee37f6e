//! The loop that reads what one connection brings, and hands it to the groups that it is for.
//!
//! * Each group has a [budget](super::budgets) for what it has not yet taken in from this peer. Where it is used up,
//!   messages without payloads are dropped, so that no group waits for another; entries wait in the socket, and behind
//!   them those of other groups.
//! * What is for a group that this process does not run is dropped before it is decoded.

use std::collections::HashMap;

use bytes::Bytes;
use raft_core::NodeId;

use crate::cluster::GroupId;
use crate::tcp::frame::{Content, FrameError, FrameReader, NoParcel};
use crate::tcp::queue::{Lane, Parcel};
use crate::tcp::shared::{Admitted, Shared};
use crate::tcp::stream::Stream;
use crate::transport::{Closed, Link, TryDeliverError};

/// Why a connection was closed from this side, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Malformed(#[from] NoParcel),
    #[error("a message from {from} to {to}")]
    Misaddressed { from: NodeId, to: NodeId },
}

impl End {
    /// Whether it came by something that no node sends.
    pub(crate) fn is_offence(&self) -> bool {
        matches!(self, Self::Frame(FrameError::Oversized) | Self::Malformed(_) | Self::Misaddressed { .. })
    }
}

/// Reads until something is wrong.
pub(crate) async fn receive(
    shared: &Shared,
    admitted: &Admitted,
    reader: &mut FrameReader<Stream>,
) -> Result<(), End> {
    let mut desk = Desk::new(shared, admitted);
    loop {
        let end = match reader.next().await {
            Ok(frame) => match desk.take(frame).await {
                Ok(()) => continue,
                Err(end) => end,
            },
            Err(error) => error.into(),
        };
        let counts = &shared.counts;
        match &end {
            End::Frame(FrameError::Oversized) => counts.oversized.one(),
            End::Frame(FrameError::Stalled) => counts.stalled.one(),
            End::Malformed(_) => counts.malformed.one(),
            End::Misaddressed { .. } => counts.misaddressed.one(),
            End::Frame(FrameError::Closed | FrameError::Io(_)) => return Err(end),
        }
        tracing::warn!(id = %shared.identity.node, peer = %admitted.peer, error = %end, "raft.tcp.malformed");
        return Err(end);
    }
}

/// Where the frames of one connection are sorted.
struct Desk<'a> {
    shared: &'a Shared,
    admitted: &'a Admitted,
    /// The ways into those groups that were written to, which may have ended meanwhile.
    links: HashMap<GroupId, Link>,
    /// Whether the peer is a member of any group here.
    is_member: bool,
    /// How often any of that had changed when it was looked at.
    changes: u64,
}

impl<'a> Desk<'a> {
    fn new(shared: &'a Shared, admitted: &'a Admitted) -> Self {
        // Before the look: what changes meanwhile is looked at again.
        let changes = shared.registry.changes();
        let is_member = shared.is_member(admitted.peer);
        Self { shared, admitted, links: HashMap::new(), is_member, changes }
    }

    async fn take(&mut self, frame: Bytes) -> Result<(), End> {
        let bytes = frame.len();
        let counts = &self.shared.counts;
        let content = Content::of(frame).ok_or(NoParcel::Short)?;
        let group = content.group;
        let Some(link) = self.link(group) else {
            self.unknown(group);
            return Ok(());
        };
        let link = link.clone();
        let delivered = match content.decode()? {
            Parcel::Message(message) => {
                let (from, to) = (message.from, message.to);
                if from != self.admitted.peer || to != self.shared.identity.node {
                    return Err(End::Misaddressed { from, to });
                }
                counts.messages_received.one();
                counts.bytes_received.add(bytes as u64);
                match self.admitted.lane {
                    Lane::Control => link.try_deliver(message, bytes),
                    Lane::Bulk => link.deliver(message, bytes).await.map_err(TryDeliverError::from),
                }
            }
            Parcel::Letter(letter) => {
                counts.bytes_received.add(bytes as u64);
                let from = self.admitted.peer;
                match self.admitted.lane {
                    Lane::Control => link.try_deliver_letter(from, letter),
                    Lane::Bulk => link.deliver_letter(from, letter).await.map_err(TryDeliverError::from),
                }
            }
        };
        match delivered {
            Ok(()) => {}
            Err(TryDeliverError::Full) => counts.messages_dropped.one(),
            Err(TryDeliverError::Closed(Closed)) => {
                self.links.remove(&group);
                self.unknown(group);
            }
        }
        Ok(())
    }

    /// The way into a group that runs.
    fn link(&mut self, group: GroupId) -> Option<&Link> {
        use std::collections::hash_map::Entry;
        if self.shared.registry.changes() != self.changes {
            // None is kept: the same group may have been started anew, and its old inbox take what nobody reads.
            *self = Self::new(self.shared, self.admitted);
        }
        match self.links.entry(group) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(place) => {
                let inbox = self.shared.registry.inbox(group)?;
                let owner = self.is_member.then_some(self.admitted.peer);
                Some(place.insert(inbox.link(self.shared.budgets.of(owner, self.admitted.lane, group))))
            }
        }
    }

    fn unknown(&self, group: GroupId) {
        self.shared.counts.unknown_group.one();
        tracing::debug!(id = %self.shared.identity.node, peer = %self.admitted.peer, %group, "raft.tcp.unknown_group");
    }
}
