//! `POST /backup`: the state as of now, sent to a client while the node goes on.
//!
//! * It holds every write that was acknowledged, by any node, before it was asked for.
//! * It is a snapshot that is copied part by part: no memory and no room on the disk beside the snapshot's own.
//! * One at a time: reading and sending a large state takes from everybody else.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode, Uri};
use raft_core::AdminRefusal;
use raft_driver_tokio::storage::SnapshotFiles;
use raft_driver_tokio::{AdminError, ReadError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::http::Front;
use crate::http::activity::{Activity, Working};
use crate::http::answer::{Problem, typed};
use crate::http::content::Content;
use crate::node::Node;

/// How long a snapshot may take before it is sent.
const PREPARE_LIMIT: Duration = Duration::from_secs(600);
/// Between two looks for a snapshot that another one holds up.
const PAUSE: Duration = Duration::from_millis(50);
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
            let _turn = turn;
            if let Err(error) = files.export_to(Parts(&to)) {
                tracing::warn!(%error, "a backup was not sent as a whole");
                // An error: nobody receives it any more.
                let _ = to.blocking_send(Err(io::Error::other(error)));
            }
        });
    }
}

/// Hands parts to whoever sends them.
struct Parts<'a>(&'a mpsc::Sender<io::Result<Bytes>>);

impl Write for Parts<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(data)));
        sent.map(|()| data.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
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
