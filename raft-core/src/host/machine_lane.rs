//! The machine lane without its queue: applies entries, and finds for each response who waits for it.
//!
//! * Writers wait here from the moment their command is committed, in log order; responses come in the same order, so
//!   an answer needs no look-up.
//! * Where it runs, and what a panic of the machine means, is the driver's matter. After the first failure the driver
//!   calls [`MachineLane::stop`] and nothing else.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Rejection;
use super::clients::{Committed, Reader, Writer};
use super::frozen::{RestoreError, SnapshotSource};
use super::state_machine::StateMachine;
use crate::entry::{BlockBody, Entries};
use crate::ids::LogId;

/// A read on its way to the machine: a closure and where its result goes, whatever their types.
pub trait Read<M>: Send {
    /// Reads from the machine and answers.
    fn serve(self: Box<Self>, machine: &M);
    /// There is no result.
    fn reject(self: Box<Self>, rejection: Rejection);
    /// Whether nobody listens any more.
    fn is_abandoned(&self) -> bool;
}

impl<M> Reader for Box<dyn Read<M>> {
    fn is_abandoned(&self) -> bool {
        (**self).is_abandoned()
    }

    fn reject(self, rejection: Rejection) {
        Read::reject(self, rejection);
    }
}

/// A state machine, and the writers that wait for its responses.
#[derive(Debug)]
pub struct MachineLane<M: StateMachine, W> {
    machine: M,
    /// In log order.
    waiting: VecDeque<Committed<W>>,
    responses: Vec<M::Response>,
}

/// Why a lane cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError<E> {
    /// The state machine failed.
    #[error(transparent)]
    Machine(E),
    /// The state machine did not return one response for each command.
    #[error("the state machine gave {responses} responses to {commands} commands")]
    Responses {
        /// Commands applied.
        commands: usize,
        /// Responses returned.
        responses: usize,
    },
}

impl<M: StateMachine, W: Writer<Response = M::Response>> MachineLane<M, W> {
    /// A lane for this machine.
    #[must_use]
    pub fn new(machine: M) -> Self {
        Self { machine, waiting: VecDeque::new(), responses: Vec::new() }
    }

    /// The machine as it stands, for reads.
    #[must_use]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Applies `entries` and answers their writers, who are among `committed` or came before.
    ///
    /// # Errors
    /// If the machine fails, or does not give a response for each command.
    pub fn apply(
        &mut self,
        entries: &Entries,
        committed: Vec<Committed<W>>,
    ) -> Result<(), LaneError<M::Error>> {
        self.apply_with(entries, committed, None)
    }

    /// As [`apply`](Self::apply), and hands out the responses that nobody waits for here.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn apply_keeping(
        &mut self,
        entries: &Entries,
        committed: Vec<Committed<W>>,
        mut unclaimed: impl FnMut(LogId, M::Response),
    ) -> Result<(), LaneError<M::Error>> {
        self.apply_with(entries, committed, Some(&mut unclaimed))
    }

    /// Lets a writer wait for an entry that is committed and was not applied here yet.
    pub fn wait(&mut self, writer: Committed<W>) {
        self.enqueue([writer].into());
    }

    /// Gives up those for whom nobody waits any more, or whose limit has passed: their responses are lost.
    pub fn forget(&mut self) {
        if !self.waiting.iter().any(|waiter| waiter.writer.is_abandoned()) {
            return;
        }
        for waiter in core::mem::take(&mut self.waiting) {
            if waiter.writer.is_abandoned() {
                waiter.lose();
            } else {
                self.waiting.push_back(waiter);
            }
        }
    }

    fn apply_with(
        &mut self,
        entries: &Entries,
        committed: Vec<Committed<W>>,
        mut unclaimed: Option<&mut dyn FnMut(LogId, M::Response)>,
    ) -> Result<(), LaneError<M::Error>> {
        self.enqueue(committed);
        self.responses.clear();
        self.machine.apply(entries, &mut self.responses).map_err(LaneError::Machine)?;
        // Block by block: what a block holds is known without looking at its entries.
        let blocks =
            || entries.windows().iter().filter(|block| matches!(block.body(), BlockBody::Commands(_)));
        let commands = blocks().map(|block| block.len()).sum::<u64>() as usize;
        if self.responses.len() != commands {
            return Err(LaneError::Responses { commands, responses: self.responses.len() });
        }
        if self.waiting.is_empty() && unclaimed.is_none() {
            return Ok(());
        }
        let ids = blocks().flat_map(|block| {
            let first = block.first();
            (0..block.len()).map(move |offset| LogId::new(first.term, first.index.plus(offset)))
        });
        for (id, response) in ids.zip(self.responses.drain(..)) {
            // Never by the node's contract: a `Respond` comes before the `Apply` that covers it.
            while let Some(passed) = self.waiting.pop_front_if(|waiter| waiter.id.index < id.index) {
                passed.lose();
            }
            if let Some(waiter) = self.waiting.pop_front_if(|waiter| waiter.id.index == id.index) {
                waiter.writer.applied(id, response);
            } else if let Some(unclaimed) = &mut unclaimed {
                unclaimed(id, response);
            }
        }
        Ok(())
    }

    /// The state as it is now: see [`StateMachine::snapshot`].
    ///
    /// # Errors
    /// If it cannot be frozen. The lane goes on.
    pub fn snapshot(&mut self) -> Result<M::Snapshot, M::Error> {
        self.machine.snapshot()
    }

    /// Replaces the state by a snapshot's. Writers whose entries it replaces get no response: it has only their effect.
    ///
    /// # Errors
    /// If the machine cannot take it.
    pub fn restore(
        &mut self,
        source: &mut SnapshotSource<'_>,
        committed: Vec<Committed<W>>,
    ) -> Result<(), RestoreError<M::Error>> {
        self.enqueue(committed);
        let last = source.last();
        self.machine.restore(source)?;
        while let Some(passed) = self.waiting.pop_front_if(|waiter| waiter.id.index <= last.index) {
            passed.lose();
        }
        Ok(())
    }

    /// Outcomes come in log order, and mostly when nobody waits any more: then they move as they are. A range that came
    /// late would only move further to the front.
    fn enqueue(&mut self, committed: Vec<Committed<W>>) {
        if self.waiting.is_empty() && committed.is_sorted_by_key(|waiter| waiter.id.index) {
            self.waiting = committed.into();
            return;
        }
        for waiter in committed {
            let later = self.waiting.iter().rev().take_while(|other| other.id.index > waiter.id.index);
            let at = self.waiting.len() - later.count();
            self.waiting.insert(at, waiter);
        }
    }

    /// Tells whoever still waits that the response is lost, and returns the machine.
    pub fn stop(self) -> M {
        self.waiting.into_iter().for_each(Committed::lose);
        self.machine
    }
}

#[cfg(test)]
mod tests {
    use super::super::clients::tests::{Probe, Told, id};
    use super::*;
    use crate::entry::{Commands, EntryRef};
    use crate::host::{FrozenState, Rejection, WholeState};
    use alloc::rc::Rc;
    use core::convert::Infallible;

    /// Answers with the sum of all lengths, and forgets every answer from its `mute`-th command on.
    #[derive(Debug)]
    struct Total {
        total: u64,
        mute: usize,
    }

    impl StateMachine for Total {
        type Response = u64;
        type Snapshot = WholeState;
        type Error = Infallible;

        fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
            for entry in entries.iter() {
                if let EntryRef::Command(_, command) = entry {
                    self.total += command.len() as u64;
                    responses.push(self.total);
                }
            }
            responses.truncate(self.mute);
            Ok(())
        }

        fn snapshot(&mut self) -> Result<WholeState, Infallible> {
            Ok(WholeState::new(self.total.to_le_bytes().to_vec()))
        }

        fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
            let mut total = [0; 8];
            source.read_exact(&mut total)?;
            self.total = u64::from_le_bytes(total);
            Ok(())
        }
    }

    fn entries(first: u64, count: u8) -> Entries {
        let commands = (0..count).map(|at| [at; 4]).collect::<Commands>();
        Entries::commands(id(first), &commands)
    }

    #[test]
    fn each_response_finds_its_writer() {
        let told = Rc::default();
        let mut lane = MachineLane::new(Total { total: 0, mute: usize::MAX });
        let waiter = |index: u8| Committed { id: id(index.into()), writer: Probe::new(index, &told) };
        let noop = Entries::noop(id(4));
        let with_noop = Entries::join([entries(1, 3), noop, entries(5, 2)]).unwrap();
        // Late ones move to the front, and index 9 is applied only later.
        lane.apply(&with_noop, [waiter(5), waiter(9), waiter(2)].into()).unwrap();
        assert_eq!(*told.borrow(), [(2, Told::Applied(2, 8)), (5, Told::Applied(5, 16))]);
        lane.apply(&entries(7, 4), Vec::new()).unwrap();
        assert_eq!(told.borrow_mut().pop(), Some((9, Told::Applied(9, 32))));
        assert_eq!(lane.machine().total, 36);
    }

    #[test]
    fn a_restore_tells_the_writers_that_it_skips() {
        let told = Rc::default();
        let mut lane = MachineLane::new(Total { total: 3, mute: usize::MAX });
        let mut frozen = lane.snapshot().unwrap();
        let bytes = frozen.next_chunk().unwrap().unwrap();
        assert_eq!(frozen.next_chunk(), Ok(None));
        let waiter = |index: u8| Committed { id: id(index.into()), writer: Probe::new(index, &told) };
        lane.apply(&entries(1, 2), [waiter(4)].into()).unwrap();
        let meta = crate::host::frozen::tests::meta(id(5), bytes.len() as u64);
        let mut read = |offset: u64, _| Ok(bytes.slice(usize::try_from(offset).unwrap()..));
        let mut source = SnapshotSource::new(&meta, &mut read);
        lane.restore(&mut source, [waiter(3), waiter(6)].into()).unwrap();
        let lost = |index| Told::Rejected(Rejection::ResponseLost(id(index)));
        assert_eq!(*told.borrow(), [(3, lost(3)), (4, lost(4))]);
        assert_eq!(lane.machine().total, 3);
        lane.apply(&entries(6, 1), Vec::new()).unwrap();
        assert_eq!(told.borrow_mut().pop(), Some((6, Told::Applied(6, 7))));
    }

    #[test]
    fn a_missing_response_is_an_error_and_nobody_is_left_waiting() {
        let told = Rc::default();
        let mut lane = MachineLane::new(Total { total: 0, mute: 1 });
        let waiter = Committed { id: id(2), writer: Probe::new(2, &told) };
        let failed = lane.apply(&entries(1, 2), [waiter].into());
        assert_eq!(failed, Err(LaneError::Responses { commands: 2, responses: 1 }));
        assert!(told.borrow().is_empty());
        lane.stop();
        assert_eq!(*told.borrow(), [(2, Told::Rejected(Rejection::ResponseLost(id(2))))]);
    }
}
