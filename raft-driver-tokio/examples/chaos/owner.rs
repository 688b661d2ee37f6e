//! Whose a connection is: asked of the system, since a server does not say who it is until it is understood, and
//! with TLS not even then.
//!
//! * Linux only: `/proc/net/tcp` names the socket of an address, `/proc/PID/fd` the sockets of a process.
//! * Only processes that were entered here are looked at.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::links::Id;

/// The processes that run, and which server each one is.
#[derive(Default)]
pub(crate) struct Owners(Mutex<BTreeMap<u32, Id>>);

impl Owners {
    fn processes(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Id>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, process: u32, server: Id) {
        self.processes().insert(process, server);
    }

    pub(crate) fn remove(&self, process: u32) {
        self.processes().remove(&process);
    }

    /// The server whose socket connects `local` with `remote`. `None` if it is nobody's, or gone.
    pub(crate) async fn of_connection(self: Arc<Self>, local: SocketAddr, remote: SocketAddr) -> Option<Id> {
        // Files of the system: quick, but not for the thread that carries bytes.
        let look = tokio::task::spawn_blocking(move || {
            let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
            let socket = format!("socket:[{}]", socket_of(&table, local, remote)?);
            let processes = self.processes().clone();
            processes.into_iter().find_map(|(process, id)| has(process, &socket).then_some(id))
        });
        look.await.ok().flatten()
    }
}

/// Whether a process has this socket open.
fn has(process: u32, socket: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let is = |link: std::path::PathBuf| link == Path::new(socket);
    open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(is))
}

/// The number of the socket with these addresses in a table as `/proc/net/tcp` prints it.
fn socket_of(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (hexadecimal(local)?, hexadecimal(remote)?);
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let wanted = fields.next() == Some(&local) && fields.next() == Some(&remote);
        // State, queues, timer, retransmissions, owner and time-out stand between.
        let socket = fields.nth(6)?.parse().ok()?;
        (wanted && socket != 0).then_some(socket)
    })
}

/// An address as that table writes it: in the byte order of the machine.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_belongs_to_the_process_that_made_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let owners = Arc::new(Owners::default());
        assert_eq!(Arc::clone(&owners).of_connection(local, remote).await, None);
        owners.enter(std::process::id(), 3);
        assert_eq!(Arc::clone(&owners).of_connection(local, remote).await, Some(3));
        owners.remove(std::process::id());
        assert_eq!(owners.of_connection(local, remote).await, None);
    }
}
