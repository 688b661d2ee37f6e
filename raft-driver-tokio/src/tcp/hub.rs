//! One set of connections for all groups of a process.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Config, NodeId};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use crate::cluster::GroupId;
use crate::tcp::Refused;
use crate::tcp::handshake::Timing;
use crate::tcp::queue::Parcel;
use crate::tcp::sender::TcpSender;
use crate::tcp::shared::Shared;
use crate::transport::{Inbox, Network, Started, TransportStats};

/// A listening socket and the connections of a process, shared by all of its groups. Made by
/// [`Tcp::into_hub`](super::Tcp::into_hub). Clones are the same; the sockets are closed by [`stop`](Self::stop), or once
/// the last clone and the last group are gone.
#[derive(Clone, Debug)]
pub struct TcpHub {
    open: Arc<Open>,
}

/// What runs for as long as anybody uses it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) shared: Arc<Shared>,
    local: SocketAddr,
    refusals: watch::Sender<Option<Refused>>,
    _stop: DropGuard,
}

/// A group of this name runs in this process already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("group {0} runs in this process already")]
pub struct GroupTaken(pub GroupId);

impl TcpHub {
    pub(crate) fn new(
        shared: Arc<Shared>,
        local: SocketAddr,
        refusals: watch::Sender<Option<Refused>>,
    ) -> Self {
        let stop = shared.stop.clone().drop_guard();
        Self { open: Arc::new(Open { shared, local, refusals, _stop: stop }) }
    }

    /// The network of one group, for one start of its node. The name is taken until that node has stopped.
    ///
    /// # Errors
    /// If it is taken.
    pub fn group(&self, group: GroupId) -> Result<TcpGroup, GroupTaken> {
        if !self.open.shared.registry.reserve(group) {
            return Err(GroupTaken(group));
        }
        Ok(TcpGroup { open: Arc::clone(&self.open), group, started: false })
    }

    /// This process's name, in all groups.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.open.shared.identity.node
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.open.local
    }

    /// The last handshake that was refused, by this process or a peer, as it changes.
    #[must_use]
    pub fn refusals(&self) -> watch::Receiver<Option<Refused>> {
        self.open.refusals.subscribe()
    }

    /// What was counted until now, for all groups.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        self.open.shared.counts.snapshot()
    }

    /// Closes everything, whoever uses it; resolves when all tasks have ended and all sockets are closed.
    pub async fn stop(&self) {
        let shared = &self.open.shared;
        shared.stop.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
    }
}

/// The network of one group of a process.
#[derive(Debug)]
pub struct TcpGroup {
    open: Arc<Open>,
    group: GroupId,
    /// From then on the name is given back by the node's transport.
    started: bool,
}

impl Drop for TcpGroup {
    fn drop(&mut self) {
        if !self.started {
            self.open.shared.registry.remove(self.group);
        }
    }
}

impl Network for TcpGroup {
    type Transport = TcpSender;

    fn message_bytes_max(&self) -> u64 {
        self.open.shared.config.message_bytes_max()
    }

    fn check(&self, node: &Config) -> Result<(), &'static str> {
        let identity = &self.open.shared.identity;
        if identity.node != node.id {
            return Err("all nodes of a process have the same id");
        }
        if identity.timing != Timing::of(node) {
            return Err("all nodes of a process have the same lease and election_timeout_min");
        }
        Ok(())
    }

    fn send_letter(transport: &mut TcpSender, to: NodeId, letter: Bytes) -> bool {
        transport.post(to, Parcel::Letter(letter))
    }

    fn start(mut self, node: &Config, inbox: Inbox) -> Started<TcpSender> {
        self.started = true;
        let shared = &self.open.shared;
        shared.registry.start(self.group, inbox);
        let counts = Arc::clone(&shared.counts);
        Started {
            transport: TcpSender::new(Arc::clone(&self.open), self.group, node),
            stats: Arc::new(move || counts.snapshot()),
            // Dropping the transport does it all.
            stop: Box::pin(std::future::ready(())),
        }
    }
}
