//! What of this program is Actix's own: the system, the node's address, and HTTP by actix-web. Everything else is shared
//! with the same program on Tokio.
//!
//! * The first arbiter runs the node, and with `--threads 1` all clients too. More threads are arbiters for clients.
//! * Connections are accepted by the shared code instead of actix-web's `HttpServer`, which knows no limits for clients that
//!   connect and say nothing, and for clients that leave answers unread. Where these do no harm, `HttpServer` is less to write.

mod connections;
mod handle;

use std::sync::Arc;

use actix::{Arbiter, AsyncContext, Context, System};
use raft_core::Config;
use raft_core::host::{LogStore, SnapshotStore};
use raft_driver_actix::Builder;
use raft_driver_tokio::tcp::Tcp;
use raft_driver_tokio::{Recording, Recovered, StartError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use connections::Connections;
pub(crate) use handle::Handle;

use crate::failure::Failure;
use crate::http::Front;
use crate::http::listen::{Limits, accept};
use crate::once::Replicated;

/// Runs a server to its end. Its threads are made as it listens.
pub(crate) fn run(_threads: u16, server: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let system = System::new();
    let ended = system.block_on(server);
    // Dropped, it would wait for a read of a disk that hangs. The process ends anyway.
    std::mem::forget(system);
    ended
}

/// Starts the node.
pub(crate) async fn start<L: LogStore, P: SnapshotStore>(
    config: Config,
    recording: Option<Recording>,
    recovered: Recovered<Replicated, L, P>,
    tcp: Tcp,
) -> Result<Handle, StartError> {
    let watcher = Context::new();
    let mut builder = Builder::new(config).listener(watcher.address().recipient());
    if let Some(recording) = recording {
        builder = builder.record(recording);
    }
    Ok(Handle::new(builder.start_recovered(recovered, tcp)?, watcher).await)
}

/// Serves clients until it is told to stop; ends when they have been served.
pub(crate) fn listen(
    listener: TcpListener,
    front: Arc<Front<Handle>>,
    stop: CancellationToken,
    limits: Limits,
    threads: u16,
) -> std::io::Result<JoinHandle<()>> {
    let serve = |listener, front, stop, limits| async move {
        if let Some(connections) = Connections::new(front).await {
            accept(listener, connections, stop, limits).await;
        }
    };
    let arbiters = u32::from(threads) - 1;
    if arbiters == 0 {
        return Ok(spawn(serve(listener, front, stop, limits)));
    }
    let limits = Limits { connections_max: limits.connections_max.div_ceil(arbiters), ..limits };
    let listener = listener.into_std()?;
    let served = TaskTracker::new();
    for _ in 0..arbiters {
        let (listener, front, stop) = (listener.try_clone()?, Arc::clone(&front), stop.clone());
        let token = served.token();
        Arbiter::new().spawn_fn(move || {
            spawn(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, front, stop, limits).await,
                    Err(error) => tracing::error!(%error, "an arbiter cannot listen"),
                }
                drop(token);
            });
        });
    }
    served.close();
    Ok(spawn(async move { served.wait().await }))
}

/// Runs a task that belongs to a client, on this arbiter.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    actix::spawn(task)
}
