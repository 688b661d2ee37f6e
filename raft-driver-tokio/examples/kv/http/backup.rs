//! `POST /backup`: the state as of now, sent to a client while the node goes on.
//!
//! * It holds every write that was acknowledged, by any node, before it was asked for.
//! * It is a snapshot that is copied part by part: no memory and no room on the disk beside the snapshot's own.
//! * One at a time: reading and sending a large state takes from everybody else. Nor does a client hold the turn for
//!   as long as it likes: the backup ends, cut, at one that takes less than 1 MiB a second, a minute aside.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Response, StatusCode, Uri};
use raft_core::AdminRefusal;
use raft_driver_tokio::storage::SnapshotFiles;
use raft_driver_tokio::{AdminError, ReadError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::failure::chain;
use crate::http::Front;
use crate::http::activity::{Activity, Working};
use crate::http::answer::{Problem, typed};
use crate::http::content::Content;
use crate::node::Node;

/// How long a snapshot may take before it is sent.
const PREPARE_LIMIT: Duration = Duration::from_secs(600);
/// Between two looks for a snapshot that another one holds up.
const PAUSE: Duration = Duration::from_millis(50);
/// What a client has to take in a second, on average over all that it was waited for beyond [`TAKE_GRACE`].
const TAKE_BYTES_MIN: u64 = 1 << 20;
const TAKE_GRACE: Duration = Duration::from_secs(60);
/// Parts that wait to be sent; each is 64 KiB at most.
const PARTS_MAX: usize = 4;

/// The snapshots that can be copied.
#[derive(Debug)]
pub(crate) struct Backups {
    files: SnapshotFiles,
    turn: Arc<Semaphore>,
}

impl Backups {
    pub(crate) fn new(files: SnapshotFiles) -> Self {
        Self { files, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Copies the newest snapshot on a thread of its own. What has not been read when `to` is gone stays unread.
    fn send(&self, to: mpsc::Sender<io::Result<Bytes>>, turn: OwnedSemaphorePermit) {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || {
            let sent = files.export_to(Parts { to: &to, sent_bytes: 0, waited: Duration::ZERO });
            drop(turn);
            if let Err(error) = sent {
                tracing::warn!(error = chain(&error), "a backup was not sent as a whole");
                // An error: nobody receives it any more.
                let _ = to.blocking_send(Err(io::Error::other(error)));
            }
        });
    }
}

/// Hands parts to whoever sends them.
struct Parts<'a> {
    to: &'a mpsc::Sender<io::Result<Bytes>>,
    sent_bytes: u64,
    /// How long the client has been waited for.
    waited: Duration,
}

impl Write for Parts<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let began = Instant::now();
        let sent = self.to.blocking_send(Ok(Bytes::copy_from_slice(data)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.waited += began.elapsed();
        self.sent_bytes += data.len() as u64;
        if self.waited > TAKE_GRACE + Duration::from_secs(self.sent_bytes / TAKE_BYTES_MIN) {
            let why = "the client takes less than 1 MiB a second, and others may want a backup too";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<N: Node> Front<N> {
    pub(super) async fn backup(
        &self,
        uri: &Uri,
        activity: &Arc<Activity>,
        working: Working,
    ) -> Result<Response<Content>, Problem> {
        let Some(backups) = &self.backups else {
            let next = "ask a node that keeps its snapshots in files";
            return Err(Problem::new(StatusCode::NOT_FOUND, "no_files", "nothing is kept in files", next));
        };
        let Ok(turn) = Arc::clone(&backups.turn).try_acquire_owned() else {
            return Err(Problem::unavailable("busy", "another backup is being sent"));
        };
        let prepared = timeout(PREPARE_LIMIT, self.up_to_date(&backups.files, uri)).await;
        prepared.unwrap_or_else(|_| Err(Problem::unavailable("too_slow", "there is no snapshot in time")))?;
        let (to, from) = mpsc::channel(PARTS_MAX);
        backups.send(to, turn);
        let head = typed(StatusCode::OK, Bytes::new(), "application/octet-stream");
        let activity = Arc::clone(activity);
        Ok(head.map(|_| Content::Parts { from, activity, _working: working }))
    }

    /// Returns when there is a snapshot of all that was acknowledged before.
    async fn up_to_date(&self, files: &SnapshotFiles, uri: &Uri) -> Result<(), Problem> {
        // A read proves that this node has applied it.
        match self.node.get(Vec::new()).await {
            Ok(_) => {}
            Err(ReadError::NotLeader { leader, .. }) => return Err(self.elsewhere(leader, uri)),
            Err(error) => return Err(Problem::unavailable("not_now", error)),
        }
        let stopped = || Problem::unavailable("stopped", "the node has stopped");
        let applied = self.node.observe().await.ok_or_else(stopped)?.status.applied;
        // One that was begun earlier may be finished first.
        while files.newest().is_none_or(|newest| newest.id.last.index < applied) {
            match self.node.snapshot().await {
                Ok(()) => {}
                Err(AdminError::Refused(AdminRefusal::Busy | AdminRefusal::NoSnapshotNeeded)) => {
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(Problem::unavailable("no_snapshot", error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_too_little_is_given_up_and_the_others_are_not() {
        let (to, mut from) = mpsc::channel(PARTS_MAX);
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let mut parts = Parts { to: &to, sent_bytes: 0, waited: minutes(1) / 2 };
        assert_eq!(parts.write(b"abc").unwrap(), 3);
        parts = Parts { to: &to, sent_bytes: 600 * TAKE_BYTES_MIN, waited: minutes(10) };
        assert_eq!(parts.write(b"def").unwrap(), 3);
        parts.waited = minutes(11) + Duration::from_secs(1);
        assert_eq!(parts.write(b"ghi").unwrap_err().kind(), io::ErrorKind::TimedOut);
        from.close();
        parts.waited = Duration::ZERO;
        assert_eq!(parts.write(b"jkl").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
