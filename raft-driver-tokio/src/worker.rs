//! Threads beside the node's task.
//!
//! A worker thread says when it is about to end, after it has dropped all that it owned, so that waiting for it
//! blocks nobody.

use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::error::StartError;

/// A thread that can be awaited.
#[derive(Debug)]
pub(crate) struct Worker {
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Runs `work` on a thread of its own. Everything that `work` owns is dropped before [`ended`](Self::ended)
    /// resolves.
    pub(crate) fn spawn(
        part: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, StartError> {
        let (at_end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(part.into())
            .spawn(move || {
                work();
                // Nobody waits if the runtime was shut down.
                let _ = at_end.send(());
            })
            .map_err(|error| StartError::Thread { part, error })?;
        Ok(Self { ended, thread })
    }

    /// Resolves when the thread has ended.
    pub(crate) async fn ended(self) {
        // An error means that `work` panicked while unwinding, or in a drop: it has ended all the same.
        let _ = self.ended.await;
        if self.thread.join().is_err() {
            tracing::error!("a thread of the node panicked while it ended");
        }
    }
}
