//! What of this program is Tokio's own: the runtime, the node's handle, and HTTP by hyper. Everything else is shared
//! with the same program on Actix.

mod connections;
mod handle;

use std::sync::Arc;

use raft_core::Config;
use raft_core::host::{LogStore, SnapshotStore};
use raft_driver_tokio::tcp::Tcp;
use raft_driver_tokio::{Builder, Recording, Recovered, StartError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use connections::Connections;
pub(crate) use handle::Handle;

use crate::failure::Failure;
use crate::http::Front;
use crate::http::listen::{Limits, accept};
use crate::once::Replicated;

/// Runs a server to its end, on so many threads.
pub(crate) fn run(threads: u16, server: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads.into()).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(server);
    // A read of a disk that hangs must not keep the process.
    runtime.shutdown_background();
    ended
}

/// Starts the node.
pub(crate) async fn start<L: LogStore, P: SnapshotStore>(
    config: Config,
    recording: Option<Recording>,
    recovered: Recovered<Replicated, L, P>,
    tcp: Tcp,
) -> Result<Handle, StartError> {
    let mut builder = Builder::new(config);
    if let Some(recording) = recording {
        builder = builder.record(recording);
    }
    Ok(Handle::new(builder.start_recovered(recovered, tcp)?))
}

/// Serves clients until it is told to stop; ends when they have been served.
pub(crate) fn listen(
    listener: TcpListener,
    front: Arc<Front<Handle>>,
    stop: CancellationToken,
    limits: Limits,
    _threads: u16,
) -> std::io::Result<JoinHandle<()>> {
    Ok(spawn(accept(listener, Connections::new(front), stop, limits)))
}

/// Runs a task that belongs to a client.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}
