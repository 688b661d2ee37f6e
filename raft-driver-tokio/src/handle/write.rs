//! Writes.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::StateMachine;
use raft_core::{CommandRef, Commands, LogId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{Raft, until};
use crate::error::{Applied, WriteError};
use crate::forward::FORWARD_LIMIT;
use crate::request::{Answer, Answers, Batch, PendingWrite, Reply, Slot};

/// What the smallest command counts, so that their number is bounded too.
const COMMAND_BYTES_MIN: usize = 256;

impl<S: StateMachine> Raft<S> {
    /// Proposes a command and returns when it is committed and applied here, with the state machine's response.
    ///
    /// Waits while the node has no room for more commands, and as long as no majority can be reached: see
    /// [`within`](Self::within). If the future is dropped, the outcome is unknown.
    ///
    /// # Errors
    /// [`WriteError`] says what is known about the command; one that did not happen comes back in it.
    pub async fn write(&self, command: impl Into<Bytes>) -> Result<Applied<S::Response>, WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.write_one(command.into(), Reply::Applied(Slot::One(sender)), receiver).await
    }

    /// Proposes a command and returns when it is committed: it will survive, and every machine will apply it.
    /// Does not wait for the state machine.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub async fn write_committed(&self, command: impl Into<Bytes>) -> Result<LogId, WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.write_one(command.into(), Reply::Committed(Slot::One(sender)), receiver).await
    }

    /// Proposes many commands at once and returns when all have their outcome: one result for each, in order.
    /// They are not atomic: some may happen and others not.
    pub async fn write_all(&self, commands: Commands) -> Vec<Result<Applied<S::Response>, WriteError>> {
        self.write_many(commands, Reply::Applied).await
    }

    /// As [`write_all`](Self::write_all), without waiting for the state machine.
    pub async fn write_all_committed(&self, commands: Commands) -> Vec<Result<LogId, WriteError>> {
        self.write_many(commands, Reply::Committed).await
    }

    async fn write_one<T>(
        &self,
        command: Bytes,
        reply: Reply<S::Response>,
        receiver: oneshot::Receiver<Answer<T>>,
    ) -> Result<T, WriteError> {
        let _timed = self.shared.times.write();
        let (deadline, forward) = self.deadlines();
        // Waiting is rare, and what it needs is large: in a box it does not lengthen the future of each write.
        let room = match self.room_now(command.len()) {
            Some(room) => room,
            None => match Box::pin(until(deadline, self.room(command.len()))).await {
                Some(Some(room)) => room,
                Some(None) => return Err(WriteError::Stopped { command }),
                None => return Err(WriteError::Busy { command }),
            },
        };
        let inbox = &self.shared.inbox;
        let place = match inbox.try_write_place() {
            Some(place) => place,
            None => match Box::pin(until(deadline, inbox.write_place())).await {
                Some(place) => place,
                None => return Err(WriteError::Busy { command }),
            },
        };
        let Ok(place) = place else { return Err(WriteError::Stopped { command }) };
        let write = PendingWrite { command, reply, forward, room: Some(room) };
        if let Err(Some(PendingWrite { command, .. })) = place.put(Some(write)) {
            return Err(WriteError::Stopped { command });
        }
        let mut following = self.follow(receiver);
        let answer = match deadline {
            None => Some(following.answer().await),
            Some(_) => Box::pin(until(deadline, following.answer())).await,
        };
        match answer {
            Some(Some(answer)) => told(answer),
            Some(None) => Err(WriteError::Unknown),
            // It may have come at the last moment.
            None => following.answered().map_or(Err(WriteError::Unknown), told),
        }
    }

    async fn write_many<T>(
        &self,
        commands: Commands,
        reply: fn(Slot<T>) -> Reply<S::Response>,
    ) -> Vec<Result<T, WriteError>> {
        let count = commands.len();
        if count == 0 {
            return Vec::new();
        }
        let _timed = self.shared.times.write();
        let (deadline, forward) = self.deadlines();
        let all = |error: fn(Bytes) -> WriteError| {
            let failed = |command: CommandRef<'_>| Err(error(command.to_bytes()));
            commands.iter().map(failed).collect()
        };
        let stopped = |command| WriteError::Stopped { command };
        let busy = |command| WriteError::Busy { command };
        let bytes = commands.iter().map(|command| command.len().max(COMMAND_BYTES_MIN)).sum();
        let room = match until(deadline, self.room(bytes)).await {
            Some(Some(room)) => room,
            Some(None) => return all(stopped),
            None => return all(busy),
        };
        let (sender, receiver) = oneshot::channel::<Answers<T>>();
        let batch = Batch::new(count, sender, room);
        match until(deadline, self.shared.inbox.write_place()).await {
            Some(Ok(place)) => {
                if place.put(batch.writes(&commands, reply, forward)).is_err() {
                    return all(stopped);
                }
            }
            Some(Err(_)) => return all(stopped),
            None => return all(busy),
        }
        let mut following = self.follow(receiver);
        let answers = match until(deadline, following.answer()).await {
            Some(answers) => answers,
            // Those that have their outcome keep it.
            None => batch.give_up().or_else(|| following.answered()),
        };
        let Some(answers) = answers else { return (0..count).map(|_| Err(WriteError::Unknown)).collect() };
        answers.into_iter().map(|answer| answer.map_or(Err(WriteError::Unknown), told)).collect()
    }

    /// When the caller gives up, and until when the leader may be asked.
    fn deadlines(&self) -> (Option<Instant>, Option<Instant>) {
        match (self.deadline(), self.forwards) {
            (deadline, false) => (deadline, None),
            (deadline, true) => {
                let deadline = deadline.unwrap_or_else(|| Instant::now() + FORWARD_LIMIT);
                (Some(deadline), Some(deadline))
            }
        }
    }

    /// A share of what may wait, once there is one. `None` if the node has stopped.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.room).acquire_many_owned(self.share(bytes)).await.ok()
    }

    /// The same, if there is one now. Whoever waits comes first: what is given back is theirs.
    fn room_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.room).try_acquire_many_owned(self.share(bytes)).ok()
    }

    fn share(&self, bytes: usize) -> u32 {
        let share = bytes.max(COMMAND_BYTES_MIN).min(self.shared.room_bytes);
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}

fn told<T>(answer: Answer<T>) -> Result<T, WriteError> {
    answer.map_err(|rejected| {
        let (rejection, command) = *rejected;
        WriteError::new(rejection, command)
    })
}
