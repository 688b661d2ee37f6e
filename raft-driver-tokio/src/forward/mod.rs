//! Writes that a node passes on to the leader, and those that others pass on to it.
//!
//! * A command travels once: it is sent by the node whose client wrote it to the node that it takes for the leader, and
//!   no further. Nothing is ever sent again, so that no fault of the network writes it twice. What is lost, in either
//!   direction, is `Unknown` when the client's limit passes.
//! * The leader answers when the command is committed, and says where. The response is the client's own node's: its state
//!   machine applies the same entry.
//! * Nobody waits for longer than its limit, not for a leader that is silent nor for an entry that does not come.
//! * Both sides are bounded: the asking one by what may wait in its handles, the serving one by a budget for each member.
//! * A letter is a peer's word: one that makes no sense is dropped, and an answer counts only if it comes from the node
//!   that was asked. Commands of a node that is no member are dropped unread. A newcomer is a member here before it hears
//!   of a leader; whoever was removed and has not heard of it learns no outcome, which is `Unknown` to its clients.

mod letter;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::{Committed, Rejection, Writer};
use raft_core::{LogId, Membership, NodeId, WriteRefusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use letter::{Answers, Head, Letter, Outcome, Writes};

/// When a forwarded write is given up whose caller set no limit.
pub(crate) const FORWARD_LIMIT: Duration = Duration::from_secs(10);

/// How late it may be noticed that a limit has passed: for many at once.
const LOOK_LATE: Duration = Duration::from_millis(50);
/// How often those are looked at who wait for the machine lane.
const CLAIMS_LOOK: Duration = Duration::from_millis(200);

/// A letter has no more bytes, unless it is a single command.
const LETTER_BYTES: usize = 256 * 1024;

/// What a network may wrap a letter in.
const ENVELOPE_BYTES: usize = 1024;

/// Bytes of commands that one member may have waiting here.
const MEMBER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Answers that may be on their way out when a command is refused: as many as one member may have waiting here. A letter of
/// empty commands is short, and its answers are not.
const ANSWERS_MAX: usize = MEMBER_BYTES_MAX / COMMAND_BYTES_MIN;

/// What the smallest command counts, so that their number is bounded too.
const COMMAND_BYTES_MIN: usize = 256;

/// What a letter is filled up to, over a network that carries messages of this length: what it is wrapped in there finds room.
fn letter_bytes(message_bytes_max: u64) -> usize {
    usize::try_from(message_bytes_max).unwrap_or(usize::MAX).saturating_sub(ENVELOPE_BYTES).min(LETTER_BYTES)
}

/// A caller of a write as a driver keeps it: one of its own, or another node's.
pub trait Caller: Writer + Send + 'static {
    /// Until when the leader may be asked to write the command, if this node does not lead; `None` if it may not be asked.
    fn forward_until(&self) -> Option<Instant>;

    /// Another node's caller. Nobody passes its command on, and it wants no response: that node has a machine of its own.
    fn served(command: Bytes, by: Served) -> Self;
}

/// Counts a write that may claim a response from the machine lane.
#[derive(Debug)]
pub(crate) struct Kept(Arc<AtomicUsize>);

impl Kept {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Writes of this node's clients that were passed on.
pub(crate) struct Forwards<W> {
    waiting: BTreeMap<u64, Passed<W>>,
    next: u64,
    /// Tells answers to this life of the node from those to an earlier one.
    life: u64,
    keep: Arc<AtomicUsize>,
    /// When a limit passes: the first one, or some time before.
    look_at: Option<Instant>,
    /// The last limit of those that went to the machine lane.
    claimed_until: Option<Instant>,
    command_bytes_max: u64,
    /// A single command may be longer: no node starts whose network would not carry it.
    letter_bytes: usize,
}

struct Passed<W> {
    write: W,
    to: NodeId,
    kept: Option<Kept>,
}

impl<W: Caller> Forwards<W> {
    pub(crate) fn new(keep: Arc<AtomicUsize>, command_bytes_max: u64, message_bytes_max: u64) -> Self {
        let life = fastrand::u64(..);
        Self {
            waiting: BTreeMap::new(),
            next: 0,
            life,
            keep,
            look_at: None,
            claimed_until: None,
            command_bytes_max,
            letter_bytes: letter_bytes(message_bytes_max),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Passes on what may be passed on of the first `writes_max`, and rejects the rest of those, like all if there is no
    /// leader to pass them to.
    pub(crate) fn pass(
        &mut self,
        queue: &mut VecDeque<W>,
        writes_max: usize,
        leader: Option<NodeId>,
        rejection: &Rejection,
        mut send: impl FnMut(NodeId, Bytes) -> bool,
    ) {
        let now = Instant::now();
        let mut writes = Vec::new();
        let mut bytes = letter::WRITES_HEAD_BYTES;
        for write in queue.drain(..queue.len().min(writes_max)) {
            let (length, length_max) = (write.command().len() as u64, self.command_bytes_max);
            match write.forward_until() {
                Some(until) if leader.is_some() && until > now => {}
                _ => {
                    write.reject(rejection.clone());
                    continue;
                }
            }
            if length > length_max {
                let refusal = WriteRefusal::TooLarge { bytes: length, bytes_max: length_max };
                write.reject(Rejection::Refused(refusal));
                continue;
            }
            let more = letter::COMMAND_HEAD_BYTES + write.command().len();
            if bytes + more > self.letter_bytes || writes.len() == letter::COMMANDS_MAX {
                self.post(&mut writes, leader, now, rejection, &mut send);
                bytes = letter::WRITES_HEAD_BYTES;
            }
            bytes += more;
            writes.push(write);
        }
        self.post(&mut writes, leader, now, rejection, &mut send);
    }

    /// One letter, if there is anything to send.
    fn post(
        &mut self,
        writes: &mut Vec<W>,
        leader: Option<NodeId>,
        now: Instant,
        rejection: &Rejection,
        send: &mut impl FnMut(NodeId, Bytes) -> bool,
    ) {
        let Some(to) = leader.filter(|_| !writes.is_empty()) else { return };
        let latest = writes.iter().filter_map(Caller::forward_until).max().unwrap_or(now);
        let commands = writes.iter().map(Writer::command);
        let letter = letter::writes(self.life, self.next, latest.saturating_duration_since(now), commands);
        // Counted before the letter leaves: whatever it causes comes later.
        let kept: Vec<Option<Kept>> =
            writes.iter().map(|write| write.wants_response().then(|| Kept::new(&self.keep))).collect();
        if !send(to, letter) {
            writes.drain(..).for_each(|write| write.reject(rejection.clone()));
            return;
        }
        let first = writes.iter().filter_map(Caller::forward_until).min();
        self.look_at = [self.look_at, first].into_iter().flatten().min();
        for (write, kept) in writes.drain(..).zip(kept) {
            self.waiting.insert(self.next, Passed { write, to, kept });
            self.next += 1;
        }
    }

    /// Passes answers of the leader on. `claim` gets the writers that wait for a response too.
    fn answered(
        &mut self,
        from: NodeId,
        answers: Answers,
        membership: &Membership,
        mut claim: impl FnMut(Committed<W>, Kept),
    ) {
        for (id, outcome) in answers.outcomes {
            if self.waiting.get(&id).is_none_or(|passed| passed.to != from) {
                continue;
            }
            let Some(Passed { write, kept, .. }) = self.waiting.remove(&id) else { continue };
            match (outcome, kept) {
                (Outcome::Committed(id), Some(kept)) => {
                    self.claimed_until = self.claimed_until.max(write.forward_until());
                    claim(Committed { id, writer: write }, kept);
                }
                (Outcome::Committed(id), None) => write.committed(id),
                (Outcome::NotLeader(leader), _) => write.reject(Rejection::not_leader(leader, membership)),
                // That node has stopped, not this one: another will lead.
                (Outcome::Rejected(Rejection::Stopped), _) => {
                    write.reject(Rejection::not_leader(None, membership));
                }
                (Outcome::Rejected(rejection), _) => write.reject(rejection),
            }
        }
    }

    /// Drops those for whom nobody waits any more. Returns whether some may wait for the machine lane.
    pub(crate) fn forget(&mut self) -> bool {
        let now = Instant::now();
        self.waiting.retain(|_, passed| !passed.write.is_abandoned());
        let first = self.waiting.values().filter_map(|passed| passed.write.forward_until()).min();
        let claimed = self.claimed_until.is_some();
        self.claimed_until = self.claimed_until.filter(|until| *until > now);
        let again = self.claimed_until.map(|until| until.min(now + CLAIMS_LOOK));
        self.look_at = [first, again].into_iter().flatten().min();
        claimed
    }

    /// How long [`forget`](Self::forget) may wait.
    pub(crate) fn look_in(&self) -> Option<Duration> {
        self.look_at.map(|at| at.saturating_duration_since(Instant::now()) + LOOK_LATE)
    }

    /// The node is gone: nobody here will hear what became of them.
    pub(crate) fn stop(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().for_each(|passed| passed.write.reject(Rejection::Unknown));
    }
}

/// Answers on their way out.
type Outbox = Arc<Mutex<Vec<(NodeId, u64, u64, Outcome)>>>;

/// Writes of other nodes' clients.
pub(crate) struct Desk {
    outbox: Outbox,
    rooms: BTreeMap<NodeId, Arc<Semaphore>>,
    /// Letters that were dropped unread, or made no sense.
    refused: u64,
    letter_bytes: usize,
}

impl Desk {
    pub(crate) fn new(message_bytes_max: u64) -> Self {
        let letter_bytes = letter_bytes(message_bytes_max);
        Self { outbox: Outbox::default(), rooms: BTreeMap::new(), refused: 0, letter_bytes }
    }

    pub(crate) const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes commands that a member passes on into the queue, as far as it has room here.
    fn take<W: Caller>(
        &mut self,
        from: NodeId,
        writes: Writes,
        membership: &Membership,
        queue: &mut VecDeque<W>,
    ) {
        let deadline = Instant::now() + writes.limit;
        self.rooms.retain(|member, _| membership.nodes.contains_key(member));
        let room = self.rooms.entry(from).or_insert_with(|| Arc::new(Semaphore::new(MEMBER_BYTES_MAX)));
        // In this order: the range is not asked for the number behind the last.
        for (command, id) in writes.commands.into_iter().zip(writes.first..) {
            let share = command.len().clamp(COMMAND_BYTES_MIN, MEMBER_BYTES_MAX);
            let share = u32::try_from(share).unwrap_or(u32::MAX);
            let share = Arc::clone(room).try_acquire_many_owned(share).ok();
            let outbox = Arc::clone(&self.outbox);
            let served =
                Served { outbox, to: from, life: writes.life, id, deadline, open: true, _room: share };
            if served._room.is_some() {
                queue.push_back(W::served(command, served));
            } else {
                served.refuse();
            }
        }
    }

    /// Sends what was answered since the last call.
    pub(crate) fn send(&mut self, mut send: impl FnMut(NodeId, Bytes) -> bool) {
        let mut answers = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut *answers);
        // In letters of one receiver each; an answer that is lost is `Unknown` there.
        answers.sort_by_key(|(to, life, ..)| (*to, *life));
        for same in answers.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)) {
            for part in same.chunks(letter::outcomes_max(self.letter_bytes)) {
                let outcomes = part.iter().map(|(_, _, id, outcome)| (*id, outcome));
                send(part[0].0, letter::answers(part[0].1, outcomes));
            }
        }
    }
}

/// For drivers: a place in the node for another node's client. Dropped without an answer, it says that the outcome is
/// unknown.
#[derive(Debug)]
pub struct Served {
    outbox: Outbox,
    to: NodeId,
    life: u64,
    id: u64,
    /// When its client gives up.
    deadline: Instant,
    open: bool,
    _room: Option<OwnedSemaphorePermit>,
}

impl Served {
    /// Whether its client has given up.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Tells it where the command stands, or why it does not.
    pub fn answer(mut self, answer: Result<LogId, Rejection>) {
        self.open = false;
        self.post(match answer {
            Ok(id) => Outcome::Committed(id),
            Err(Rejection::NotLeader { leader, .. }) => Outcome::NotLeader(leader),
            // Committed all the same: whoever waits for a response has a machine of its own.
            Err(Rejection::ResponseLost(id)) => Outcome::Committed(id),
            Err(rejection) => Outcome::Rejected(rejection),
        });
    }

    /// There is no room for it. Whoever asks for more than can be told in one turn is told nothing: to its client the
    /// outcome stays unknown.
    fn refuse(mut self) {
        let waiting = self.outbox.lock().unwrap_or_else(PoisonError::into_inner).len();
        if waiting < ANSWERS_MAX {
            return self.answer(Err(Rejection::Busy));
        }
        self.open = false;
    }

    fn post(&self, outcome: Outcome) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.push((self.to, self.life, self.id, outcome));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.open {
            self.post(Outcome::Rejected(Rejection::Unknown));
        }
    }
}

/// Takes a letter in.
pub(crate) fn receive<W: Caller>(
    forwards: &mut Forwards<W>,
    desk: &mut Desk,
    from: NodeId,
    letter: Bytes,
    membership: &Membership,
    queue: &mut VecDeque<W>,
    claim: impl FnMut(Committed<W>, Kept),
) {
    let read = letter::read(letter, |head| match head {
        Head::Writes => membership.nodes.contains_key(&from),
        // Whoever was asked may have left meanwhile, and its answer is true all the same.
        Head::Answers(life) => life == forwards.life,
    });
    match read {
        Some(Letter::Writes(writes)) => desk.take(from, writes, membership, queue),
        Some(Letter::Answers(answers)) => forwards.answered(from, answers, membership, claim),
        None => {
            desk.refused += 1;
            tracing::debug!(%from, "raft.letter_refused");
        }
    }
}
