//! Letters between nodes that are only their forwards and desks.

use raft_core::host::Unacceptable;
use tokio::sync::oneshot;

use super::*;
use crate::request::{Answer, PendingWrite, Reply, Slot};

type Queue = VecDeque<PendingWrite<()>>;

fn members() -> Membership {
    let address = |id| (NodeId::new(id), Bytes::new());
    Membership::of_voters((1..=3).map(address).collect())
}

fn forwards() -> Forwards<PendingWrite<()>> {
    Forwards::new(Arc::default(), 1024, u64::MAX)
}

fn desk() -> Desk {
    Desk::new(u64::MAX)
}

fn write(queue: &mut Queue, command: &'static str) -> oneshot::Receiver<Answer<LogId>> {
    let (sender, receiver) = oneshot::channel();
    let (reply, forward) = (Reply::Committed(Slot::One(sender)), Some(Instant::now() + FORWARD_LIMIT));
    queue.push_back(PendingWrite { command: command.into(), reply, forward, room: None });
    receiver
}

fn rejected(answer: &mut oneshot::Receiver<Answer<LogId>>) -> Rejection {
    answer.try_recv().expect("answered").expect_err("rejected").0
}

/// What a node sends that passes its queue on to node 1.
fn passed(forwards: &mut Forwards<PendingWrite<()>>, queue: &mut Queue) -> Vec<Bytes> {
    let mut letters = Vec::new();
    forwards.pass(queue, usize::MAX, Some(NodeId::new(1)), &Rejection::Stopped, |to, letter| {
        assert_eq!(to, NodeId::new(1));
        letters.push(letter);
        true
    });
    letters
}

#[test]
fn nobody_passes_on_what_was_passed_on() {
    let (mut asking, mut between, mut desk) = (forwards(), forwards(), desk());
    let mut queue = Queue::new();
    let mut answer = write(&mut queue, "once");
    let letters = passed(&mut asking, &mut queue);
    assert_eq!(letters.len(), 1);
    let take =
        |letter| receive(&mut between, &mut desk, NodeId::new(2), letter, &members(), &mut queue, |_, _| {});
    letters.into_iter().for_each(take);
    assert_eq!(queue.len(), 1);
    // This one does not lead either, and knows who does.
    between.pass(
        &mut queue,
        usize::MAX,
        Some(NodeId::new(3)),
        &Rejection::not_leader(Some(NodeId::new(3)), &members()),
        |_, _| panic!("passed on twice"),
    );
    let mut back = Vec::new();
    desk.send(|to, letter| {
        assert_eq!(to, NodeId::new(2));
        back.push(letter);
        true
    });
    // From another node than the one that was asked, it is no answer.
    for (from, waits) in [(3, 1), (1, 0)] {
        for letter in back.clone() {
            let mut desk = Desk::new(u64::MAX);
            receive(&mut asking, &mut desk, NodeId::new(from), letter, &members(), &mut queue, |_, _| {});
        }
        assert_eq!(asking.len(), waits);
    }
    let leader = Some(NodeId::new(3));
    assert_eq!(rejected(&mut answer), Rejection::NotLeader { leader, address: Some(Bytes::new()) });
}

#[test]
fn what_cannot_leave_did_not_happen() {
    let mut asking = forwards();
    let mut queue = Queue::new();
    let mut answer = write(&mut queue, "nowhere");
    asking.pass(&mut queue, usize::MAX, Some(NodeId::new(1)), &Rejection::Busy, |_, _| false);
    assert_eq!((asking.len(), rejected(&mut answer)), (0, Rejection::Busy));
    let mut answer = write(&mut queue, "nobody");
    asking.pass(&mut queue, usize::MAX, None, &Rejection::Busy, |_, _| panic!("to nobody"));
    assert_eq!(rejected(&mut answer), Rejection::Busy);
}

#[test]
fn a_flood_of_empty_commands_is_not_answered_one_by_one() {
    let (mut asking, mut queue, mut desk) = (forwards(), Queue::new(), desk());
    let commands = vec![Bytes::new(); letter::COMMANDS_MAX];
    for first in (0..).step_by(commands.len()).take(3 * ANSWERS_MAX / commands.len()) {
        let letter = letter::writes(1, first, FORWARD_LIMIT, commands.iter());
        receive(&mut asking, &mut desk, NodeId::new(2), letter, &members(), &mut queue, |_, _| {});
    }
    assert_eq!(queue.len(), MEMBER_BYTES_MAX / COMMAND_BYTES_MIN);
    assert_eq!(desk.outbox.lock().unwrap().len(), ANSWERS_MAX);
}

#[test]
fn strangers_are_told_nothing_and_members_that_send_too_much_are_told_so() {
    let (mut asking, mut queue, mut desk) = (forwards(), Queue::new(), desk());
    let command = Bytes::from(vec![0; MEMBER_BYTES_MAX / 2]);
    let letter = letter::writes(1, 0, FORWARD_LIMIT, [&command, &command, &command].into_iter());
    let told = |desk: &mut Desk| {
        let mut letters = Vec::new();
        desk.send(|_, letter| {
            letters.push(letter::read(letter, |_| true));
            true
        });
        letters
    };
    let busy = |ids: &[u64]| {
        let outcomes = ids.iter().map(|id| (*id, Outcome::Rejected(Rejection::Busy))).collect();
        vec![Some(Letter::Answers(Answers { life: 1, outcomes }))]
    };
    receive(&mut asking, &mut desk, NodeId::new(9), letter.clone(), &members(), &mut queue, |_, _| {});
    assert_eq!((queue.len(), told(&mut desk), desk.refused(), desk.rooms.len()), (0, vec![], 1, 0));
    // Nor is there anything to be told to whoever makes no sense, or answers what was never asked.
    let answer = letter::answers(1, [(0, &Outcome::NotLeader(None))].into_iter());
    for nonsense in [Bytes::from_static(b"what?"), answer] {
        receive(&mut asking, &mut desk, NodeId::new(2), nonsense, &members(), &mut queue, |_, _| {});
    }
    assert_eq!((queue.len(), told(&mut desk), desk.refused()), (0, vec![], 3));
    receive(&mut asking, &mut desk, NodeId::new(2), letter.clone(), &members(), &mut queue, |_, _| {});
    assert_eq!((queue.len(), told(&mut desk)), (2, busy(&[2])));
    // Another member has room of its own, and what was dropped gives its room back, with an answer.
    receive(&mut asking, &mut desk, NodeId::new(3), letter.clone(), &members(), &mut queue, |_, _| {});
    assert_eq!(queue.len(), 4);
    queue.clear();
    assert_eq!(told(&mut desk).len(), 2);
    receive(&mut asking, &mut desk, NodeId::new(2), letter, &members(), &mut queue, |_, _| {});
    assert_eq!(queue.len(), 2);
}

#[test]
fn ids_at_the_end_of_their_range_are_ids() {
    // So many commands from there on: taken as far as there are numbers for all of them and one more.
    for (first, count, taken) in [(0, 0, 0), (1, 0, 0), (1, 1, 1), (1, 2, 0), (3, 3, 3), (3, 4, 0)] {
        let (mut asking, mut queue, mut desk) = (forwards(), Queue::new(), desk());
        let (first, commands) = (u64::MAX - first, vec![Bytes::from_static(b"command"); count]);
        let letter = letter::writes(1, first, FORWARD_LIMIT, commands.iter());
        receive(&mut asking, &mut desk, NodeId::new(2), letter, &members(), &mut queue, |_, _| {});
        assert_eq!((queue.len(), desk.refused()), (taken, u64::from(taken < count)), "{count} from {first}");
        queue.clear();
        let mut ids = Vec::new();
        desk.send(|_, letter| {
            let Some(Letter::Answers(answers)) = letter::read(letter, |_| true) else { panic!("answers") };
            ids.extend(answers.outcomes.into_iter().map(|(id, _)| id));
            true
        });
        assert!(ids.into_iter().eq((0..taken as u64).map(|at| first + at)), "{count} from {first}");
    }
}

/// What a network carries whose nodes have short commands, appends and chunks.
const SHORT: u64 = 100 * 1024;

#[test]
fn many_writes_of_one_turn_leave_in_letters_that_the_network_carries() {
    let mut asking = Forwards::new(Arc::default(), 32 * 1024, SHORT);
    let mut queue = Queue::new();
    let commands: [&'static str; 2] = [1024, 32 * 1024].map(|bytes| &*"x".repeat(bytes).leak());
    let mut answers: Vec<_> = (0..200).map(|at| write(&mut queue, commands[at % 8 / 7])).collect();
    let letters = passed(&mut asking, &mut queue);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "none is rejected");
    assert!(letters.iter().all(|letter| letter.len() as u64 <= SHORT), "none is too long");
    // Nor are there more of them than it takes: the next command would not have fitted into any.
    let (bytes, least) = (letters.iter().map(Bytes::len).sum::<usize>(), SHORT as usize - commands[1].len());
    assert!(letters.len() <= bytes / least + 1, "{} letters for {bytes} bytes", letters.len());
}

#[test]
fn many_long_answers_of_one_turn_leave_in_letters_that_the_network_carries() {
    let (mut asking, mut queue, mut desk) = (forwards(), Queue::new(), Desk::new(SHORT));
    let mut answers: Vec<_> = (0..2000).map(|_| write(&mut queue, "")).collect();
    for letter in passed(&mut asking, &mut queue) {
        receive(&mut forwards(), &mut desk, NodeId::new(2), letter, &members(), &mut queue, |_, _| {});
    }
    let why = Unacceptable::new("why ".repeat(1024));
    queue.drain(..).for_each(|write| write.reject(Rejection::Invalid(why.clone())));
    let mut letters = Vec::new();
    desk.send(|_, letter| {
        letters.push(letter);
        true
    });
    assert!(letters.iter().all(|letter| letter.len() as u64 <= SHORT), "none is too long");
    for letter in letters {
        receive(&mut asking, &mut desk, NodeId::new(1), letter, &members(), &mut queue, |_, _| {});
    }
    let invalid = |answer| matches!(rejected(answer), Rejection::Invalid(_));
    assert!(answers.iter_mut().all(invalid), "each is answered");
}
