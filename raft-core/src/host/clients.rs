//! Who waits for what: turns clients' requests into events, and a node's responses into answers.
//!
//! * One wake's commands become one [`Event::Propose`], packed into one buffer; one wake's reads one [`Event::Read`] for
//!   each run of the same consistency.
//! * Commands are taken in only as far as the node has room for them; the rest stays queued, and so its callers wait.
//! * Reads and writes have tickets of their own ranges: an [`Event::Forget`] names no kind.
//! * A writer keeps its command until the outcome, so that it can go back if it did not happen.
//! * How an answer travels is the driver's matter: see [`Writer`], [`Reader`] and [`Operator`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Rejection, Unacceptable, Waiters};
use crate::action::{AdminOutcome, ReadOutcome, Response, WriteOutcome, WriteRefusal};
use crate::entry::CommandPacker;
use crate::event::{Event, ReadConsistency};
use crate::ids::{LogId, Ticket, Tickets};
use crate::membership::Membership;

/// From this size on a command is kept by reference instead of being copied into the batch.
const BY_REFERENCE_BYTES: usize = 8 * 1024;

/// Tickets of reads begin here, so that they never meet those of writes.
const READS_FROM: u64 = 1 << 63;

/// A caller that waits for what becomes of its command. Each is answered once, by one of the methods that take it.
pub trait Writer: Sized {
    /// What the state machine answers.
    type Response;

    /// The command.
    fn command(&self) -> &Bytes;
    /// Whether it waits for the state machine's response, or for the commit alone.
    fn wants_response(&self) -> bool;
    /// Whether nobody listens any more.
    fn is_abandoned(&self) -> bool;
    /// The command is committed.
    fn committed(self, id: LogId);
    /// The command is committed and applied.
    fn applied(self, id: LogId, response: Self::Response);
    /// There is no result.
    fn reject(self, rejection: Rejection);
}

/// A caller that waits for a read.
pub trait Reader: Sized {
    /// Whether nobody listens any more.
    fn is_abandoned(&self) -> bool;
    /// There is no result.
    fn reject(self, rejection: Rejection);
}

/// A caller that waits for the outcome of an administrative request.
pub trait Operator: Sized {
    /// The request has this outcome. `membership` is the node's, for the leader's address.
    fn answer(self, outcome: AdminOutcome, membership: &Membership);
    /// The node stopped before the request had an outcome.
    fn stopped(self);
}

/// A writer whose command is committed, and that waits for the state machine.
#[derive(Debug)]
pub struct Committed<W> {
    /// Where the command stands in the log.
    pub id: LogId,
    /// Who waits.
    pub writer: W,
}

impl<W: Writer> Committed<W> {
    /// There will be no response.
    pub fn lose(self) {
        self.writer.reject(Rejection::ResponseLost(self.id));
    }
}

/// Everybody who waits for a node.
#[derive(Debug)]
pub struct Clients<W, R, A> {
    writers: Waiters<W>,
    readers: Waiters<R>,
    operators: Waiters<A>,
    /// Waiting for the `Apply` that covers them.
    committed: Vec<Committed<W>>,
    /// The first read that [`reads`](Self::reads) has not told of, and how many follow, of which kind.
    reads_told: Ticket,
    reads_untold: VecDeque<(u32, ReadConsistency)>,
    packer: CommandPacker,
    command_bytes_max: u64,
    check: fn(&Bytes) -> Result<(), Unacceptable>,
}

impl<W: Writer, R: Reader, A: Operator> Clients<W, R, A> {
    /// Nobody waits. `command_bytes_max` is the node's.
    #[must_use]
    pub fn new(command_bytes_max: u64) -> Self {
        Self {
            writers: Waiters::default(),
            readers: Waiters::default(),
            operators: Waiters::default(),
            committed: Vec::new(),
            reads_told: Ticket::default(),
            reads_untold: VecDeque::new(),
            packer: CommandPacker::default(),
            command_bytes_max,
            check: |_| Ok(()),
        }
    }

    /// The same, proposing no command that this check refuses: the machine's
    /// [`check`](super::StateMachine::check).
    #[must_use]
    pub fn checking(mut self, check: fn(&Bytes) -> Result<(), Unacceptable>) -> Self {
        self.check = check;
        self
    }

    /// How many writes and reads wait for the node.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        (self.writers.len(), self.readers.len())
    }

    /// Takes writers from the front of `queue`, about `room_bytes` of commands and `writers_max` of them at most, and returns
    /// what to step. A command that could never be accepted is refused here, so that it spoils no batch.
    pub fn propose(&mut self, queue: &mut VecDeque<W>, room_bytes: u64, writers_max: usize) -> Option<Event> {
        let (mut count, mut bytes) = (0, 0_usize);
        for writer in queue.iter().take(writers_max) {
            if bytes as u64 >= room_bytes {
                break;
            }
            count += 1;
            bytes = bytes.saturating_add(writer.command().len() + size_of::<u32>());
        }
        self.packer.reserve(count, bytes);
        let first = self.writers.next();
        for writer in queue.drain(..count) {
            if writer.is_abandoned() {
                continue;
            }
            let (bytes, bytes_max) = (writer.command().len() as u64, self.command_bytes_max);
            if bytes > bytes_max {
                writer.reject(Rejection::Refused(WriteRefusal::TooLarge { bytes, bytes_max }));
                continue;
            }
            if let Err(why) = (self.check)(writer.command()) {
                writer.reject(Rejection::Invalid(why));
                continue;
            }
            if writer.command().len() < BY_REFERENCE_BYTES {
                self.packer.push(writer.command());
            } else {
                self.packer.push_bytes(writer.command().clone());
            }
            self.writers.push(writer);
        }
        (!self.packer.is_empty()).then(|| Event::Propose { first, commands: self.packer.finish() })
    }

    /// Lets a read wait.
    pub fn read(&mut self, reader: R, consistency: ReadConsistency) {
        self.readers.push(reader);
        self.read_untold(consistency);
    }

    /// A linearizable read for nobody, by which a node asks its leader what is committed. Returns the ticket that the node
    /// will serve or refuse, among those of [`reads`](Self::reads).
    pub fn question(&mut self) -> Ticket {
        let ticket = self.readers.skip();
        self.read_untold(ReadConsistency::Linearizable);
        to_node(ticket)
    }

    fn read_untold(&mut self, consistency: ReadConsistency) {
        match self.reads_untold.back_mut() {
            Some((count, last)) if *last == consistency && *count < u32::MAX => *count += 1,
            _ => self.reads_untold.push_back((1, consistency)),
        }
    }

    /// What to step for the reads since the last call; to be called until there is nothing more.
    pub fn reads(&mut self) -> Option<Event> {
        let (count, consistency) = self.reads_untold.pop_front()?;
        let first = self.reads_told;
        self.reads_told = Ticket::new(first.get() + u64::from(count));
        Some(Event::Read { tickets: Tickets::new(to_node(first), count), consistency })
    }

    /// Lets an administrative request wait, under this ticket.
    pub fn admin(&mut self, operator: A) -> Ticket {
        self.operators.push(operator)
    }

    /// Passes an outcome on. `membership` is the node's, for the leader's address.
    pub fn respond(&mut self, response: Response, membership: &Membership) {
        match response {
            Response::Write { tickets, outcome } => self.written(tickets, outcome, membership),
            Response::Read { tickets, outcome } => {
                let rejection = match outcome {
                    ReadOutcome::NotLeader { leader } => Rejection::not_leader(leader, membership),
                    ReadOutcome::Busy => Rejection::Busy,
                    ReadOutcome::Unknown => Rejection::Unknown,
                };
                let readers = self.readers.take_all(from_node(tickets));
                readers.for_each(|(_, reader)| reader.reject(rejection.clone()));
            }
            Response::Admin { ticket, outcome } => {
                if let Some(operator) = self.operators.take(ticket) {
                    operator.answer(outcome, membership);
                }
            }
        }
    }

    fn written(&mut self, tickets: Tickets, outcome: WriteOutcome, membership: &Membership) {
        let rejection = match outcome {
            WriteOutcome::Committed { first, applied_here } => {
                self.committed.reserve((tickets.count as usize).min(self.writers.len()));
                for (offset, writer) in self.writers.take_all(tickets) {
                    let id = LogId::new(first.term, first.index.plus(offset));
                    match (writer.wants_response(), applied_here) {
                        (false, _) => writer.committed(id),
                        (true, true) => self.committed.push(Committed { id, writer }),
                        (true, false) => Committed { id, writer }.lose(),
                    }
                }
                return;
            }
            WriteOutcome::Superseded => Rejection::Superseded,
            WriteOutcome::NotLeader { leader } => Rejection::not_leader(leader, membership),
            WriteOutcome::Busy => Rejection::Busy,
            WriteOutcome::Unknown => Rejection::Unknown,
            WriteOutcome::Refused(refusal) => Rejection::Refused(refusal),
        };
        self.writers.take_all(tickets).for_each(|(_, writer)| writer.reject(rejection.clone()));
    }

    /// Everybody whose response the next [`MachineTask::Apply`](crate::MachineTask::Apply) brings nearer, or whose entry
    /// the next [`MachineTask::Restore`](crate::MachineTask::Restore) may skip.
    pub fn committed(&mut self) -> Vec<Committed<W>> {
        core::mem::take(&mut self.committed)
    }

    /// Those whose reads are to be served: see [`MachineTask::Serve`](crate::MachineTask::Serve).
    pub fn served(&mut self, tickets: Tickets) -> Vec<R> {
        self.readers.take_all(from_node(tickets)).map(|(_, reader)| reader).collect()
    }

    /// What to step so that the node forgets whom nobody waits for any more.
    #[must_use]
    pub fn abandoned(&self) -> Vec<Event> {
        let writers = self.writers.iter().filter(|(_, writer)| writer.is_abandoned());
        let readers = self.readers.iter().filter(|(_, reader)| reader.is_abandoned());
        let tickets = writers.map(|(ticket, _)| ticket).chain(readers.map(|(ticket, _)| to_node(ticket)));
        let mut ranges: Vec<Tickets> = Vec::new();
        for ticket in tickets {
            match ranges.last_mut() {
                Some(last) if last.range().end == ticket.get() && last.count < u32::MAX => last.count += 1,
                _ => ranges.push(Tickets::one(ticket)),
            }
        }
        ranges.into_iter().map(|tickets| Event::Forget { tickets }).collect()
    }

    /// The node is gone: answers everybody. What was proposed may still be committed by other nodes.
    pub fn stop(&mut self) {
        self.writers.drain().for_each(|writer| writer.reject(Rejection::Unknown));
        self.readers.drain().for_each(|reader| reader.reject(Rejection::Stopped));
        self.committed.drain(..).for_each(Committed::lose);
        self.operators.drain().for_each(Operator::stopped);
    }
}

/// A read's ticket as the node knows it.
fn to_node(ticket: Ticket) -> Ticket {
    Ticket::new(ticket.get() + READS_FROM)
}

/// Reads' tickets as they are counted here.
fn from_node(tickets: Tickets) -> Tickets {
    Tickets::new(Ticket::new(tickets.first.get().saturating_sub(READS_FROM)), tickets.count)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::{LogIndex, NodeId, Term};
    use alloc::rc::Rc;
    use core::cell::RefCell;

    pub(crate) fn id(index: u64) -> LogId {
        LogId::new(Term::new(2), LogIndex::new(index))
    }

    #[derive(Clone, Debug, PartialEq)]
    pub(crate) enum Told {
        Committed(u64),
        Applied(u64, u64),
        Rejected(Rejection),
        Admin(AdminOutcome),
    }

    /// Waits for anything, and writes down under its name what it was told.
    #[derive(Debug)]
    pub(crate) struct Probe {
        pub(crate) name: u8,
        pub(crate) command: Bytes,
        pub(crate) wants_response: bool,
        pub(crate) gone: bool,
        pub(crate) told: Rc<RefCell<Vec<(u8, Told)>>>,
    }

    impl Probe {
        pub(crate) fn new(name: u8, told: &Rc<RefCell<Vec<(u8, Told)>>>) -> Self {
            let command = Bytes::copy_from_slice(&[name; 4]);
            Self { name, command, wants_response: true, gone: false, told: Rc::clone(told) }
        }

        fn tell(self, told: Told) {
            self.told.borrow_mut().push((self.name, told));
        }
    }

    impl Writer for Probe {
        type Response = u64;

        fn command(&self) -> &Bytes {
            &self.command
        }
        fn wants_response(&self) -> bool {
            self.wants_response
        }
        fn is_abandoned(&self) -> bool {
            self.gone
        }
        fn committed(self, id: LogId) {
            self.tell(Told::Committed(id.index.get()));
        }
        fn applied(self, id: LogId, response: u64) {
            self.tell(Told::Applied(id.index.get(), response));
        }
        fn reject(self, rejection: Rejection) {
            self.tell(Told::Rejected(rejection));
        }
    }

    impl Reader for Probe {
        fn is_abandoned(&self) -> bool {
            self.gone
        }
        fn reject(self, rejection: Rejection) {
            self.tell(Told::Rejected(rejection));
        }
    }

    impl Operator for Probe {
        fn answer(self, outcome: AdminOutcome, _: &Membership) {
            self.tell(Told::Admin(outcome));
        }
        fn stopped(self) {
            self.tell(Told::Rejected(Rejection::Stopped));
        }
    }

    type Probes = Clients<Probe, Probe, Probe>;

    fn proposed(event: Option<Event>) -> (Ticket, Vec<Vec<u8>>) {
        let Some(Event::Propose { first, commands }) = event else { panic!("no proposal: {event:?}") };
        (first, commands.iter().map(|command| command.to_vec()).collect())
    }

    #[test]
    fn commands_are_taken_as_far_as_there_is_room_and_too_large_ones_spoil_no_batch() {
        let told = Rc::default();
        let mut clients = Probes::new(4);
        let mut queue: VecDeque<Probe> = (0..5).map(|name| Probe::new(name, &told)).collect();
        queue[0].gone = true;
        queue[1].command = Bytes::from_static(b"large");
        assert_eq!(clients.propose(&mut queue, 0, usize::MAX), None);
        let (first, commands) = proposed(clients.propose(&mut queue, 26, usize::MAX));
        assert_eq!((first, commands), (Ticket::new(0), [[2; 4].to_vec(), [3; 4].to_vec()].to_vec()));
        assert_eq!(queue.len(), 1);
        let refusal = WriteRefusal::TooLarge { bytes: 5, bytes_max: 4 };
        assert_eq!(*told.borrow(), [(1, Told::Rejected(Rejection::Refused(refusal)))]);
        assert_eq!(proposed(clients.propose(&mut queue, 1, usize::MAX)).0, Ticket::new(2));
    }

    #[test]
    fn what_the_machine_could_only_fail_on_is_never_proposed() {
        let told = Rc::default();
        let check = |command: &Bytes| if command[0] == 1 { Err(Unacceptable::new("one")) } else { Ok(()) };
        let mut clients = Probes::new(4).checking(check);
        let mut queue: VecDeque<Probe> = (0..3).map(|name| Probe::new(name, &told)).collect();
        let (_, commands) = proposed(clients.propose(&mut queue, u64::MAX, usize::MAX));
        assert_eq!(commands, [[0; 4].to_vec(), [2; 4].to_vec()]);
        let invalid = Rejection::Invalid(Unacceptable::new("one"));
        assert_eq!(*told.borrow(), [(1, Told::Rejected(invalid))]);
    }

    #[test]
    fn outcomes_reach_whom_they_concern() {
        let told = Rc::default();
        let mut clients = Probes::new(1 << 20);
        let mut queue: VecDeque<Probe> = (0..4).map(|name| Probe::new(name, &told)).collect();
        queue[1].wants_response = false;
        clients.propose(&mut queue, u64::MAX, usize::MAX);
        let mut membership = Membership::default();
        let leader = NodeId::new(7);
        membership.nodes.insert(leader, Bytes::from_static(b"there"));

        let outcome = WriteOutcome::Committed { first: id(9), applied_here: true };
        clients.respond(Response::Write { tickets: Tickets::new(Ticket::new(0), 2), outcome }, &membership);
        let outcome = WriteOutcome::NotLeader { leader: Some(leader) };
        clients.respond(Response::Write { tickets: Tickets::one(Ticket::new(2)), outcome }, &membership);
        let waiting = clients.committed();
        assert_eq!(
            waiting.iter().map(|waiter| (waiter.writer.name, waiter.id)).collect::<Vec<_>>(),
            [(0, id(9))]
        );
        assert_eq!(clients.committed().len(), 0);
        let address = Some(Bytes::from_static(b"there"));
        let not_leader = Rejection::NotLeader { leader: Some(leader), address };
        assert_eq!(*told.borrow(), [(1, Told::Committed(10)), (2, Told::Rejected(not_leader))]);

        told.borrow_mut().clear();
        let ticket = clients.admin(Probe::new(9, &told));
        clients.admin(Probe::new(8, &told));
        clients.respond(Response::Admin { ticket, outcome: AdminOutcome::Done }, &membership);
        clients.stop();
        assert_eq!(
            *told.borrow(),
            [
                (9, Told::Admin(AdminOutcome::Done)),
                (3, Told::Rejected(Rejection::Unknown)),
                (8, Told::Rejected(Rejection::Stopped))
            ]
        );
    }

    #[test]
    fn reads_of_one_wake_are_one_event_with_tickets_of_their_own() {
        let told = Rc::default();
        let mut clients = Probes::new(1 << 20);
        assert_eq!(clients.reads(), None);
        for name in 0..3 {
            let mut reader = Probe::new(name, &told);
            reader.gone = name == 2;
            clients.read(reader, ReadConsistency::Linearizable);
        }
        let Some(Event::Read { tickets, .. }) = clients.reads() else { panic!("three reads wait") };
        assert_eq!((tickets.count, clients.reads(), clients.pending().1), (3, None, 3));
        assert!(tickets.first.get() >= READS_FROM);
        let third = Tickets::one(tickets.iter().last().unwrap());
        assert_eq!(clients.abandoned(), [Event::Forget { tickets: third }]);
        let first = Tickets::one(tickets.first);
        assert_eq!(clients.served(first).iter().map(|reader| reader.name).collect::<Vec<_>>(), [0]);
        let response = Response::Read { tickets, outcome: ReadOutcome::Busy };
        clients.respond(response, &Membership::default());
        let busy = Told::Rejected(Rejection::Busy);
        assert_eq!(*told.borrow(), [(1, busy.clone()), (2, busy)]);
        assert_eq!(clients.pending(), (0, 0));

        for consistency in [ReadConsistency::Lease, ReadConsistency::Lease, ReadConsistency::Linearizable] {
            clients.read(Probe::new(9, &told), consistency);
        }
        assert_eq!(
            clients.question(),
            Ticket::new(READS_FROM + 6),
            "in its order, that others can be looked up"
        );
        let events: Vec<Event> = core::iter::from_fn(|| clients.reads()).collect();
        let event = |first, count, consistency| {
            let tickets = Tickets::new(Ticket::new(READS_FROM + first), count);
            Event::Read { tickets, consistency }
        };
        assert_eq!(events, [event(3, 2, ReadConsistency::Lease), event(5, 2, ReadConsistency::Linearizable)]);
    }
}
