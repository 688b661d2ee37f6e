//! Writes.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::StateMachine;
use raft_core::{CommandRef, Commands, LogId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{Raft, until};
use crate::error::{Applied, WriteError};
use crate::forward::FORWARD_LIMIT;
use crate::inbox::Place;
use crate::request::{Answer, Answers, Batch, PendingWrite, Reply, Slot};
use crate::transport::Closed;

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
        self.write_one(command.into(), Reply::Applied).await
    }

    /// Proposes a command and returns when it is committed: it will survive, and every machine will apply it.
    /// Does not wait for the state machine.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub async fn write_committed(&self, command: impl Into<Bytes>) -> Result<LogId, WriteError> {
        self.write_one(command.into(), Reply::Committed).await
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

    /// Hands a write over, and returns what waits for its answer. Not an `async fn`: each caller that waits keeps all that
    /// such a future was given or has had, and that is what tens of thousands of them must fetch from memory.
    fn write_one<T>(
        &self,
        command: Bytes,
        reply: fn(Slot<T>) -> Reply<S::Response>,
    ) -> impl Future<Output = Result<T, WriteError>> {
        let timed = self.shared.times.write();
        let (deadline, forward) = self.deadlines();
        let (sender, receiver) = oneshot::channel();
        let write = PendingWrite { command, reply: reply(Slot::One(sender)), forward, room: None };
        // Waiting is rare, and what it needs is large.
        let waits = self.hand_over_now(write).err().map(|write| Box::pin(self.hand_over(write, deadline)));
        async move {
            let _until_the_end = &timed;
            if let Some(waits) = waits {
                waits.await?;
            }
            let mut following = self.follow(receiver);
            let answer = match deadline {
                None => Some((&mut following).await),
                Some(_) => Box::pin(until(deadline, &mut following)).await,
            };
            match answer {
                Some(Some(answer)) => told(answer),
                Some(None) => Err(WriteError::Unknown),
                // It may have come at the last moment.
                None => following.answered().map_or(Err(WriteError::Unknown), told),
            }
        }
    }

    /// Hands a write over if there is room for it now; else it comes back, without any.
    fn hand_over_now(&self, mut write: PendingWrite<S::Response>) -> Result<(), PendingWrite<S::Response>> {
        let room = Arc::clone(&self.shared.inbox.room);
        // Whoever waits comes first: what is given back is theirs.
        let Ok(room) = room.try_acquire_many_owned(self.share(write.command.len())) else {
            return Err(write);
        };
        let Some(Ok(place)) = self.shared.inbox.try_write_place() else { return Err(write) };
        write.room = Some(room);
        // The room goes back first: who waits for room must not wait for its own.
        place.put([write]).map_err(|[write]| PendingWrite { room: None, ..write })
    }

    /// Hands a write over once there is room for it.
    async fn hand_over(
        &self,
        mut write: PendingWrite<S::Response>,
        deadline: Option<Instant>,
    ) -> Result<(), WriteError> {
        match until(deadline, self.admission(write.command.len())).await {
            Some(Ok((room, place))) => {
                write.room = Some(room);
                place.put([write]).map_err(|[PendingWrite { command, .. }]| WriteError::Stopped { command })
            }
            Some(Err(Closed)) => Err(WriteError::Stopped { command: write.command }),
            None => Err(WriteError::Busy { command: write.command }),
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
        let (room, place) = match until(deadline, self.admission(bytes)).await {
            Some(Ok(admitted)) => admitted,
            Some(Err(Closed)) => return all(stopped),
            None => return all(busy),
        };
        let (sender, receiver) = oneshot::channel::<Answers<T>>();
        let batch = Batch::new(count, sender, room);
        if place.put(batch.writes(&commands, reply, forward)).is_err() {
            return all(stopped);
        }
        let mut following = self.follow(receiver);
        let answers = match until(deadline, &mut following).await {
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

    /// A share of what may wait and a place in the inbox, once there are both.
    async fn admission(&self, bytes: usize) -> Result<(OwnedSemaphorePermit, Place<'_, S>), Closed> {
        let room = Arc::clone(&self.shared.inbox.room).acquire_many_owned(self.share(bytes)).await;
        let room = room.map_err(|_| Closed)?;
        Ok((room, self.shared.inbox.write_place().await?))
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use raft_core::{Config, NodeId};

    use super::*;
    use crate::Builder;
    use crate::inbox::tests::Deaf;
    use crate::storage::{MemoryLog, MemorySnapshots};
    use crate::transport::Channels;

    #[tokio::test]
    async fn a_write_that_meets_the_end_does_not_wait_for_its_own_room() {
        const ROOM: usize = 1000;
        let (log, snapshots, network) =
            (MemoryLog::default(), MemorySnapshots::default(), Channels::default());
        let builder = Builder::new(Config::new(NodeId::new(1))).queue_bytes_max(ROOM);
        let raft = builder.start(log, snapshots, Deaf, network.endpoint()).await.unwrap();
        raft.shared.inbox.close_behind_places();
        let mut context = Context::from_waker(Waker::noop());
        // There is room for one of them at a time.
        let command = Bytes::from(vec![7; ROOM / 2 + 1]);
        let one = pin!(raft.write(command.clone())).poll(&mut context);
        let stopped = Err(WriteError::Stopped { command: command.clone() });
        assert_eq!(one, Poll::Ready(stopped.clone()));
        let many = pin!(raft.write_all([command].into_iter().collect())).poll(&mut context);
        assert_eq!(many, Poll::Ready(vec![stopped]));
        assert_eq!(raft.shared.inbox.room.available_permits(), ROOM);
    }
}
