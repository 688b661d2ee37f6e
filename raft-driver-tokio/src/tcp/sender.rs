//! What a group's node holds of the transport: it chooses whom to send to, and by which of the two connections.
//!
//! * What has a payload takes the bulk lane, everything else the control lane, where no payload is ever ahead of it.
//! * A heartbeat also tells its receiver what should have come before it. While entries or parts of a snapshot of the
//!   same group may be on their way, it follows them, or its receiver would ask for them a second time; unless they have
//!   waited for longer than a heartbeat interval.

use std::sync::Arc;
use std::time::Duration;

use raft_core::host::Transport;
use raft_core::{Body, Config, Membership, Message, NodeId};
use tokio::time::Instant;

use crate::cluster::GroupId;
use crate::tcp::hub::Open;
use crate::tcp::peers::Peer;
use crate::tcp::queue::{Lane, Parcel};

/// The sending half of a [`Tcp`](super::Tcp), or of one group of a [`TcpHub`](super::TcpHub).
#[derive(Debug)]
pub struct TcpSender {
    open: Arc<Open>,
    group: GroupId,
    /// How long entries may wait before a heartbeat overtakes them.
    patience: Duration,
    membership: Arc<Membership>,
    /// Those that were sent to.
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    peer: Arc<Peer>,
    /// When a payload was last sent to it.
    payload_at: Option<Instant>,
}

impl TcpSender {
    pub(crate) fn new(open: Arc<Open>, group: GroupId, node: &Config) -> Self {
        let patience = node.heartbeat_interval;
        Self { open, group, patience, membership: Arc::default(), routes: Vec::new() }
    }

    fn route(&mut self, to: NodeId) -> Option<&mut Route> {
        let at = match self.routes.iter().position(|route| route.peer.id == to) {
            Some(at) if !self.routes[at].peer.is_gone() => at,
            gone => {
                gone.map(|at| self.routes.swap_remove(at));
                let peer = self.open.shared.reach(to)?;
                self.routes.push(Route { peer, payload_at: None });
                self.routes.len() - 1
            }
        };
        self.routes.get_mut(at)
    }

    /// Returns whether there was room for it.
    pub(crate) fn post(&mut self, to: NodeId, parcel: Parcel) -> bool {
        let (group, patience) = (self.group, self.patience);
        let Some(route) = self.route(to) else { return false };
        let lane = route.lane(group, &parcel, patience);
        let peer = Arc::clone(&route.peer);
        peer.outbox(lane).push(group, parcel, &self.open.shared.config, patience)
    }
}

impl Route {
    fn lane(&mut self, group: GroupId, parcel: &Parcel, patience: Duration) -> Lane {
        let Parcel::Message(message) = parcel else { return Lane::Bulk };
        let has_payload = match &message.body {
            Body::AppendEntries { entries, .. } => !entries.is_empty(),
            Body::InstallSnapshot { data, .. } => !data.is_empty(),
            _ => return Lane::Control,
        };
        if has_payload {
            self.payload_at = Some(Instant::now());
            return Lane::Bulk;
        }
        let Some(payload_at) = self.payload_at else { return Lane::Control };
        let now = Instant::now();
        match self.peer.outbox(Lane::Bulk).waited(group, now) {
            Some(waited) if waited > patience => Lane::Control,
            Some(_) => Lane::Bulk,
            // Written, and most likely received by now.
            None if now - payload_at > patience => {
                self.payload_at = None;
                Lane::Control
            }
            None => Lane::Bulk,
        }
    }
}

/// Where a membership says that a node is.
fn address(membership: &Membership, node: NodeId) -> Option<&str> {
    std::str::from_utf8(membership.nodes.get(&node)?).ok()
}

impl Transport for TcpSender {
    fn send(&mut self, message: Message) {
        if !self.post(message.to, Parcel::Message(message)) {
            self.open.shared.counts.messages_dropped.one();
        }
    }

    fn peers(&mut self, membership: &Arc<Membership>) {
        let shared = &self.open.shared;
        let before = std::mem::replace(&mut self.membership, Arc::clone(membership));
        let own = shared.identity.node;
        for (peer, bytes) in membership.nodes.iter().filter(|(peer, _)| **peer != own) {
            match (address(&before, *peer), address(membership, *peer)) {
                (None, Some(at)) => shared.join(*peer, at),
                (Some(from), Some(to)) if from != to => shared.moved(*peer, from, to),
                (Some(_), Some(_)) => {}
                (known, None) => {
                    tracing::error!(%peer, address = ?bytes, "raft.tcp.bad_address");
                    known.inspect(|at| shared.leave(*peer, at));
                }
            }
        }
        for peer in before.nodes.keys().filter(|peer| **peer != own && !membership.nodes.contains_key(peer)) {
            if let Some(at) = address(&before, *peer) {
                shared.leave(*peer, at);
            }
        }
        self.routes.retain(|route| !route.peer.is_gone());
    }
}

impl Drop for TcpSender {
    fn drop(&mut self) {
        let none = Arc::default();
        self.peers(&none);
        self.open.shared.forget_group(self.group);
    }
}
