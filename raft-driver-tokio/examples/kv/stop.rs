//! When a process should end: signals, and the end of standard input.

use std::io::Read;

use tokio::sync::oneshot;

use crate::failure::Failure;

/// Resolves with the signal's name when the process is asked to stop.
pub(crate) fn asked_to_stop() -> Result<impl Future<Output = &'static str>, Failure> {
    let failed = |error| Failure::other(format!("signals cannot be heard: {error}"));
    #[cfg(unix)]
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
    #[cfg(unix)]
    let mut interrupt =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(failed)?;
    #[cfg(windows)]
    let mut interrupt = tokio::signal::windows::ctrl_c().map_err(failed)?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
        }
        #[cfg(windows)]
        {
            interrupt.recv().await;
            "Ctrl-C"
        }
    })
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
