//! The network of a run: where servers listen, and where others find them.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::process::Command;

use crate::cluster::without_file_size_signal;
use crate::disk;
use crate::links::{Id, Links};
use crate::namespaces::Namespaces;
use crate::owner::Owners;
use crate::proxy::{self, From};

/// Below the range that systems take the ports of outgoing connections from: nobody takes the port of a server that
/// is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 1000;

/// Where a server listens, and where others reach it.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) raft_listen: String,
    pub(crate) http_listen: String,
    pub(crate) raft: String,
    pub(crate) http: String,
}

/// How servers and clients are connected.
pub(crate) struct Network {
    pub(crate) links: Arc<Links>,
    owners: Arc<Owners>,
    /// One of the many addresses of loopback: nobody else takes its ports.
    loopback: Ipv4Addr,
    namespaces: Option<Namespaces>,
}

impl Network {
    /// On loopback, through a proxy.
    pub(crate) fn of_proxies() -> Self {
        Self::new(Arc::new(Links::new()), None)
    }

    /// In namespaces. This process must be in one of its own already.
    pub(crate) async fn of_namespaces() -> io::Result<Self> {
        let links = Arc::new(Links::new());
        let namespaces = Some(Namespaces::new(Arc::clone(&links)).await?);
        Ok(Self::new(links, namespaces))
    }

    fn new(links: Arc<Links>, namespaces: Option<Namespaces>) -> Self {
        let loopback = Ipv4Addr::new(127, fastrand::u8(1..255), fastrand::u8(..), fastrand::u8(1..255));
        Self { links, owners: Arc::default(), loopback, namespaces }
    }

    pub(crate) fn owners(&self) -> Arc<Owners> {
        Arc::clone(&self.owners)
    }

    /// Makes a place for a server.
    pub(crate) async fn join(&self, id: Id) -> io::Result<Addresses> {
        if let Some(namespaces) = &self.namespaces {
            return namespaces.join(id).await;
        }
        // All are held until all are found, so that none is found twice.
        let mut free = BTreeMap::new();
        for _ in 0..TRIES {
            if let Ok(listener) = TcpListener::bind((self.loopback, fastrand::u16(PORTS))).await {
                free.insert(listener.local_addr()?, listener);
            }
            if free.len() == 4 {
                break;
            }
        }
        let mut take = || free.pop_first().ok_or(io::ErrorKind::AddrInUse);
        // The first two are the server's, and let go.
        let (raft_listen, http_listen) = (take()?.0, take()?.0);
        let servers = From::Servers(self.owners());
        let raft = self.open(take()?, servers, id, raft_listen);
        let http = self.open(take()?, From::Clients, id, http_listen);
        let text = |address: SocketAddr| address.to_string();
        Ok(Addresses {
            raft_listen: text(raft_listen),
            http_listen: text(http_listen),
            raft: text(raft),
            http: text(http),
        })
    }

    fn open(
        &self,
        (address, listener): (SocketAddr, TcpListener),
        from: From,
        to: Id,
        target: SocketAddr,
    ) -> SocketAddr {
        tokio::spawn(proxy::serve(Arc::clone(&self.links), listener, from, to, target));
        address
    }

    /// Begins the command that runs `program` as this server.
    pub(crate) fn command(&self, id: Id, program: &Path, disks: disk::Kind) -> Command {
        match (&self.namespaces, disks) {
            (Some(namespaces), _) => namespaces.command(id, program),
            (None, disk::Kind::Limit) => without_file_size_signal(program),
            (None, disk::Kind::Tmpfs) => Command::new(program),
        }
    }

    /// Whether links carry packets, which can be lost; else they carry connections, which can be slow and break.
    pub(crate) fn has_packets(&self) -> bool {
        self.namespaces.is_some()
    }
}
