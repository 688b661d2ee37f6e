//! No protocol: three tasks with channels between them. The first keeps what clients send, passes it on a batch at a time,
//! and answers once one of the others says that it has it. What a driver with the same hops could not beat.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::drivers::on_one_thread;
use crate::load::{Work, client, load};

/// Events that a task takes in a turn.
const BATCH: usize = 1024;

enum Event {
    Write(Bytes, oneshot::Sender<u64>),
    /// So many are kept there.
    Kept(u64),
}

async fn lead(mut inbox: mpsc::UnboundedReceiver<Event>, followers: Vec<mpsc::UnboundedSender<Vec<Bytes>>>) {
    let mut log = Vec::new();
    let (mut answered, mut waiting) = (0_u64, std::collections::VecDeque::new());
    let mut events = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut events, BATCH).await > 0 {
        let before = log.len();
        for event in events.drain(..) {
            match event {
                Event::Write(command, answer) => {
                    log.push(command);
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
        if log.len() > before {
            for follower in &followers {
                // An error: the run is over.
                let _ = follower.send(log[before..].to_vec());
            }
        }
    }
}

async fn follow(mut inbox: mpsc::UnboundedReceiver<Vec<Bytes>>, leader: mpsc::WeakUnboundedSender<Event>) {
    let (mut log, mut batches) = (Vec::new(), Vec::with_capacity(BATCH));
    while inbox.recv_many(&mut batches, BATCH).await > 0 {
        batches.drain(..).for_each(|batch| log.extend(batch));
        let Some(leader) = leader.upgrade() else { return };
        // An error: the run is over.
        let _ = leader.send(Event::Kept(log.len() as u64));
    }
}

/// Writes a second with so many clients.
pub(super) fn measure(clients: usize, work: Work) -> f64 {
    on_one_thread(async {
        let (leader, inbox) = mpsc::unbounded_channel();
        let mut followers = Vec::new();
        for _ in 0..2 {
            let (follower, batches) = mpsc::unbounded_channel();
            tokio::spawn(follow(batches, leader.downgrade()));
            followers.push(follower);
        }
        tokio::spawn(lead(inbox, followers));
        load(clients, work, |written, enough| {
            let leader = leader.clone();
            let write = async move |command: Bytes| {
                let (answer, answered) = oneshot::channel();
                leader.send(Event::Write(command, answer)).is_ok() && answered.await.is_ok()
            };
            tokio::spawn(client(write, written, enough))
        })
        .await
    })
}
