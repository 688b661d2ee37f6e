//! When a process should end: signals, and the end of standard input.

use std::io::Read;

use tokio::sync::oneshot;

use crate::failure::Failure;

/// Signals that ask the process to stop, from when this was made on.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        #[cfg(unix)]
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error| Failure::other(format!("signals cannot be heard: {error}"));
        Ok(Self {
            #[cfg(unix)]
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            #[cfg(windows)]
            interrupt: tokio::signal::windows::ctrl_c().map_err(failed)?,
        })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
        #[cfg(windows)]
        {
            self.interrupt.recv().await;
            "Ctrl-C"
        }
    }
}

/// Resolves when standard input ends, if that is wanted.
pub(crate) fn stdin_closed(wanted: bool) -> Result<impl Future<Output = ()>, Failure> {
    let (sender, receiver) = oneshot::channel::<()>();
    if wanted {
        // A thread, since a read from a pipe cannot be cancelled; it ends with the process.
        let wait = move || {
            let mut buffer = [0; 256];
            let mut stdin = std::io::stdin().lock();
            while stdin.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
            drop(sender);
        };
        let thread = std::thread::Builder::new().name("kv-stdin".into()).spawn(wait);
        thread.map_err(|error| Failure::other(format!("no thread: {error}")))?;
        return Ok(wait_for(Some(receiver)));
    }
    Ok(wait_for(None))
}

async fn wait_for(closed: Option<oneshot::Receiver<()>>) {
    match closed {
        // Nothing is ever sent: the error is the news.
        Some(closed) => drop(closed.await),
        None => std::future::pending().await,
    }
}
