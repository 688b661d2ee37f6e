//! A session's client, whatever becomes of its tries. The cluster is a machine that a command reaches, or not.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::{SessionLimits, SessionResponse, StateMachine};
use raft_core::{Commands, Entries, LogId, LogIndex, NodeId, Term, WriteRefusal};
use raft_driver_tokio::{
    Applied, Certainty, Patience, ProposeError, Route, Session, SessionError, WriteError,
};
use tokio::sync::Semaphore;

use crate::common::within;
use crate::tally::{Once, Plain, Tally, add};

/// What becomes of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Committed; the answer is lost.
    AnswerLost,
    /// Never committed, and nobody knows.
    Lost,
    /// Committed just before the try after the next one.
    Late,
    /// Committed; nothing is ever heard.
    Silent,
    NotLeader,
    Refused,
}

#[derive(Default)]
struct State {
    machine: Option<Once>,
    log: u64,
    fates: VecDeque<Fate>,
    late: VecDeque<(u32, Bytes)>,
    asked: Vec<Option<NodeId>>,
}

impl State {
    fn commit(&mut self, command: Bytes) -> Applied<SessionResponse<u64>> {
        self.log += 1;
        let id = LogId::new(Term::new(1), LogIndex::new(self.log));
        let mut responses = Vec::new();
        let machine = self.machine.get_or_insert_with(|| Once::new(Plain::new(Tally::default())));
        machine.apply(&Entries::commands(id, &Commands::one(command)), &mut responses).expect("sealed");
        Applied { id, response: responses.remove(0) }
    }
}

/// Once its fates are used up, every try is answered.
#[derive(Clone)]
struct Lane {
    state: Arc<Mutex<State>>,
    /// How many tries may go on.
    open: Arc<Semaphore>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { state: Arc::default(), open: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }
}

impl Lane {
    fn expect(&self, fates: &[Fate]) {
        self.state.lock().expect("no panic").fates.extend(fates);
    }

    fn sum(&self) -> u64 {
        let state = self.state.lock().expect("no panic");
        state
            .machine
            .as_ref()
            .and_then(|once| once.machine().application().sums.get("a").copied())
            .unwrap_or(0)
    }

    fn tries(&self) -> usize {
        self.state.lock().expect("no panic").asked.len()
    }

    fn try_once(
        &self,
        command: Bytes,
        leader: Option<NodeId>,
    ) -> Option<Result<Applied<SessionResponse<u64>>, WriteError>> {
        let mut state = self.state.lock().expect("no panic");
        state.asked.push(leader);
        for late in &mut state.late {
            late.0 -= 1;
        }
        while let Some((_, command)) = state.late.pop_front_if(|late| late.0 == 0) {
            state.commit(command);
        }
        match state.fates.pop_front().unwrap_or(Fate::Answered) {
            Fate::Answered => Some(Ok(state.commit(command))),
            Fate::AnswerLost => {
                state.commit(command);
                Some(Err(WriteError::Unknown))
            }
            Fate::Lost => Some(Err(WriteError::Unknown)),
            Fate::Late => {
                state.late.push_back((2, command));
                Some(Err(WriteError::Unknown))
            }
            Fate::Silent => {
                state.commit(command);
                None
            }
            Fate::NotLeader => {
                let leader = Some(NodeId::new(state.asked.len() as u64));
                Some(Err(WriteError::NotLeader { leader, address: None, command }))
            }
            Fate::Refused => {
                let refusal = WriteRefusal::TooLarge { bytes: 9, bytes_max: 8 };
                Some(Err(WriteError::Refused { refusal, command }))
            }
        }
    }
}

impl Route for Lane {
    type Machine = Plain;

    async fn submit(
        &self,
        command: Bytes,
        _: u32,
        leader: Option<NodeId>,
    ) -> Result<Applied<SessionResponse<u64>>, WriteError> {
        let answer = self.try_once(command, leader);
        self.open.acquire().await.expect("never closed").forget();
        match answer {
            Some(answer) => answer,
            None => pending().await,
        }
    }
}

const PATIENCE: Patience =
    Patience { tries_max: 6, try_max: Duration::from_millis(20), pause: Duration::from_micros(10) };

/// As patient as needed: for tries that are held up on purpose.
const PATIENT: Patience = Patience { try_max: crate::common::BOUND, ..PATIENCE };

async fn open(lane: &Lane, patience: Patience) -> Session<Lane> {
    let limits = SessionLimits::new(2, 2);
    within(Session::open(lane.clone(), limits, patience)).await.expect("answered")
}

fn certainty(result: Result<Applied<u64>, ProposeError<crate::tally::Nothing, SessionError>>) -> Certainty {
    match result {
        Err(ProposeError::Write(
            SessionError::GaveUp { certainty, .. } | SessionError::Expired { certainty },
        )) => certainty,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_happens_once_whatever_becomes_of_three_tries() {
    let fates = [Fate::AnswerLost, Fate::Lost, Fate::Late, Fate::Silent, Fate::NotLeader];
    for first in fates {
        for second in fates {
            for third in fates {
                let lane = Lane::default();
                let session = open(&lane, PATIENCE).await;
                lane.expect(&[first, second, third]);
                let applied = within(session.propose(&add("a", 5))).await.expect("the fourth is answered");
                assert_eq!((applied.response, lane.sum()), (5, 5), "{first:?} {second:?} {third:?}");
                let applied = within(session.propose(&add("a", 3))).await.expect("answered");
                let next = within(session.propose(&add("a", 1))).await.expect("answered");
                assert_eq!((applied.response, next.response, lane.sum()), (8, 9, 9));
            }
        }
    }
}

#[tokio::test]
async fn who_gives_up_is_told_what_is_known() {
    let lane = Lane::default();
    let session = open(&lane, PATIENCE).await;
    lane.expect(&[Fate::NotLeader; 6]);
    let before = lane.tries();
    assert_eq!(certainty(within(session.propose(&add("a", 5))).await), Certainty::DidNotHappen);
    assert_eq!(lane.tries() - before, 6);
    // Whoever was named last was asked next.
    let asked = lane.state.lock().expect("no panic").asked.clone();
    assert_eq!(asked[2..], [2, 3, 4, 5, 6].map(|id| Some(NodeId::new(id))));

    let fates = [Fate::Late, Fate::NotLeader, Fate::NotLeader, Fate::Lost, Fate::Silent, Fate::NotLeader];
    lane.expect(&fates);
    assert_eq!(certainty(within(session.propose(&add("a", 5))).await), Certainty::Unknown);
    assert_eq!(lane.sum(), 5);
    lane.expect(&[Fate::Refused]);
    let refused = within(session.propose(&add("a", 5))).await.expect_err("refused");
    assert!(matches!(refused, ProposeError::Write(SessionError::Refused(_))), "{refused}");
    let rejected = within(session.propose(&add("a", 0))).await.expect_err("rejected");
    assert!(matches!(rejected, ProposeError::Rejected(_)), "{rejected}");
}

#[tokio::test]
async fn what_was_given_up_cannot_happen_after_the_next_command() {
    let lane = Lane::default();
    let session = open(&lane, Patience { tries_max: 1, ..PATIENCE }).await;
    lane.expect(&[Fate::Late]);
    assert_eq!(certainty(within(session.propose(&add("a", 5))).await), Certainty::Unknown);
    let applied = within(session.propose(&add("a", 1))).await.expect("answered");
    // The late one comes with this one, in front of it.
    let last = within(session.propose(&add("a", 1))).await.expect("answered");
    assert_eq!((applied.response, last.response, lane.sum()), (1, 2, 2));
}

#[tokio::test]
async fn an_expired_session_does_nothing_and_says_what_it_knows() {
    let lane = Lane::default();
    let (idle, session) = (open(&lane, PATIENCE).await, open(&lane, PATIENCE).await);
    assert_ne!(idle.id(), session.id());
    let third = open(&lane, PATIENCE).await;
    assert_eq!(certainty(within(idle.propose(&add("a", 5))).await), Certainty::DidNotHappen);
    lane.expect(&[Fate::Lost]);
    assert_eq!(certainty(within(idle.propose(&add("a", 5))).await), Certainty::Unknown);
    within(idle.close()).await.expect("gone is closed");
    within(session.propose(&add("a", 1))).await.expect("two sessions may be there");
    within(session.close()).await.expect("answered");
    within(third.propose(&add("a", 1))).await.expect("two sessions may be there");
    let open = lane.state.lock().expect("no panic").machine.as_ref().map(Once::open_sessions);
    assert_eq!((lane.sum(), open), (2, Some(1)));
}

#[tokio::test]
async fn writes_beyond_the_window_wait_and_a_dropped_one_makes_room() {
    let lane = Lane::default();
    let session = open(&lane, PATIENT).await;
    lane.open.forget_permits(Semaphore::MAX_PERMITS);
    let before = lane.tries();
    let writes = [1, 10, 100].map(|amount| session.propose(&add("a", amount)));
    let [mut first, mut second, mut third] = writes.map(Box::pin);
    for write in [&mut first, &mut second, &mut third] {
        assert!(is_pending(write).await);
    }
    assert_eq!(lane.tries() - before, 2, "the third waits for a number");
    drop(second);
    assert!(is_pending(&mut third).await);
    assert_eq!(lane.tries() - before, 2, "the first's response is needed: the window begins there");
    drop(first);
    assert!(is_pending(&mut third).await);
    assert_eq!(lane.tries() - before, 3);
    lane.open.add_permits(1);
    within(third).await.expect("answered");
    assert_eq!(lane.sum(), 111);
}

/// Polls once, and says whether it waits.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
    })
    .await
}
