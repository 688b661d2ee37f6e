//! No protocol: three tasks with channels between them. The first keeps what clients send, passes it on a batch at a time,
//! and answers once one of the others says that it has it. What a driver with the same hops could not beat.
//!
//! * What is kept is dropped at times, as a log is behind a snapshot.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Events that a task takes in a turn.
const BATCH: usize = 1024;
/// Commands that a task keeps at most: as many of 256 bytes as a log has by default before a snapshot is taken.
const KEPT_MAX: usize = 1 << 18;

enum Event {
    Write(Bytes, oneshot::Sender<u64>),
    /// So many have been kept there.
    Kept(u64),
}

/// The way to the first of the tasks. They end when nobody has one any more.
#[derive(Clone)]
pub(crate) struct Hops(mpsc::UnboundedSender<Event>);

impl Hops {
    /// Starts the tasks, on the runtime that this is called on.
    pub(crate) fn start() -> Self {
        let (leader, inbox) = mpsc::unbounded_channel();
        let mut followers = Vec::new();
        for _ in 0..2 {
            let (follower, batches) = mpsc::unbounded_channel();
            tokio::spawn(follow(batches, leader.downgrade()));
            followers.push(follower);
        }
        tokio::spawn(lead(inbox, followers));
        Self(leader)
    }

    /// Whether it was answered: it is, as long as the runtime runs.
    pub(crate) async fn write(&self, command: Bytes) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(Event::Write(command, answer)).is_ok() && answered.await.is_ok()
    }
}

fn keep(log: &mut Vec<Bytes>, batch: &[Bytes]) {
    if log.len() + batch.len() > KEPT_MAX {
        log.clear();
    }
    log.extend_from_slice(batch);
}

async fn lead(mut inbox: mpsc::UnboundedReceiver<Event>, followers: Vec<mpsc::UnboundedSender<Vec<Bytes>>>) {
    let mut log = Vec::new();
    let (mut answered, mut waiting) = (0_u64, VecDeque::new());
    let mut events = Vec::with_capacity(BATCH);
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut events, BATCH).await > 0 {
        for event in events.drain(..) {
            match event {
                Event::Write(command, answer) => {
                    batch.push(command);
                    waiting.push_back(answer);
                }
                Event::Kept(kept) => {
                    while answered < kept {
                        let answer: oneshot::Sender<u64> =
                            waiting.pop_front().expect("kept after it was sent");
                        answered += 1;
                        // An error: the client is gone.
                        let _ = answer.send(answered);
                    }
                }
            }
        }
        if !batch.is_empty() {
            keep(&mut log, &batch);
            for follower in &followers {
                // An error: the run is over.
                let _ = follower.send(batch.clone());
            }
            batch.clear();
        }
    }
}

async fn follow(mut inbox: mpsc::UnboundedReceiver<Vec<Bytes>>, leader: mpsc::WeakUnboundedSender<Event>) {
    let (mut log, mut kept) = (Vec::new(), 0);
    let mut batches = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut batches, BATCH).await > 0 {
        for batch in batches.drain(..) {
            keep(&mut log, &batch);
            kept += batch.len() as u64;
        }
        let Some(leader) = leader.upgrade() else { return };
        // An error: the run is over.
        let _ = leader.send(Event::Kept(kept));
    }
}
