//! The checker checked: on histories made wrong by hand, and against trying every permutation.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const STEPS: u64 = 1_000_000;

fn put(value: u64, invoked: u64, returned: u64) -> Call<Access> {
    Call::answered(invoked, returned, Access::Put(value))
}

fn open(value: u64, invoked: u64) -> Call<Access> {
    Call::open(invoked, Access::Put(value))
}

fn read(value: u64, invoked: u64, returned: u64) -> Call<Access> {
    Call::answered(invoked, returned, Access::Read((value > 0).then_some(value)))
}

fn history(calls: &[Call<Access>]) -> RegisterHistory {
    let mut history = RegisterHistory::default();
    for call in calls {
        match (call.op, call.returned) {
            (Access::Put(value), returned) => {
                let id = history.put(call.invoked, value);
                returned.into_iter().for_each(|at| history.done(id, at));
            }
            (Access::Read(value), returned) => {
                let id = history.read(call.invoked);
                returned.into_iter().for_each(|at| history.saw(id, at, value));
            }
        }
    }
    history
}

/// Both ways to look at a history agree that it is right.
#[track_caller]
fn right(calls: &[Call<Access>]) {
    assert!(matches!(check(&Register, calls, STEPS), Verdict::Linearizable(_)), "{calls:?}");
    assert_eq!(history(calls).opinion(STEPS), Opinion::Right);
}

/// Both agree that it is wrong, and these calls show it.
#[track_caller]
fn wrong(calls: &[Call<Access>], shown: &[usize]) {
    assert!(matches!(check(&Register, calls, STEPS), Verdict::Impossible(_)), "{calls:?}");
    let shown: Vec<_> = shown.iter().map(|at| calls[*at]).collect();
    assert_eq!(history(calls).opinion(STEPS), Opinion::Wrong(shown));
}

#[test]
fn histories_that_are_right() {
    right(&[]);
    right(&[read(0, 1, 2), put(1, 3, 4), read(1, 5, 6)]);
    // A write under way may have happened or not, and one read may be ahead of another that began earlier.
    right(&[put(1, 1, 2), put(2, 3, 20), read(1, 4, 5), read(2, 6, 7), read(2, 8, 9)]);
    right(&[put(1, 1, 2), put(2, 3, 20), read(2, 4, 9), read(1, 5, 6)]);
    // One that was never answered may take effect long after, or never.
    right(&[put(1, 1, 2), open(2, 3), read(1, 10, 11), read(2, 20, 21), put(3, 30, 31), read(3, 40, 41)]);
    right(&[open(1, 1), open(2, 1), open(3, 1), read(2, 5, 6), read(3, 7, 8), read(1, 9, 10)]);
    // Two writes at once, and then either value.
    right(&[put(1, 1, 10), put(2, 2, 9), read(1, 11, 12)]);
    right(&[put(1, 1, 10), put(2, 2, 9), read(2, 11, 12)]);
    // What touches in one instant is concurrent.
    right(&[put(1, 1, 5), read(0, 5, 6)]);
}

#[test]
fn a_stale_read_is_seen() {
    wrong(&[put(1, 1, 2), put(2, 3, 4), read(1, 5, 6)], &[0, 1, 2]);
    wrong(&[put(1, 1, 2), read(0, 3, 4)], &[0, 1]);
}

#[test]
fn a_lost_write_is_seen() {
    wrong(&[put(1, 1, 2), put(2, 3, 4), read(2, 5, 6), read(1, 7, 8)], &[0, 1, 3]);
    wrong(&[read(0, 1, 2), put(1, 3, 4), read(1, 5, 6), read(0, 7, 8)], &[1, 3]);
}

#[test]
fn a_read_from_the_future_and_of_what_nobody_wrote_is_seen() {
    wrong(&[read(1, 1, 2), put(1, 3, 4)], &[0, 1]);
    wrong(&[put(1, 1, 2), read(9, 3, 4), read(1, 5, 6)], &[1]);
}

#[test]
fn two_reads_that_disagree_on_the_order_are_seen() {
    // Writes at once: the first two reads say that 2 came last, the others that 1 did.
    let calls = [put(1, 1, 10), put(2, 2, 10), read(1, 11, 12), put(3, 13, 30), read(2, 14, 15)];
    wrong(&calls, &[0, 1, 2, 4]);
    // The same while one write is still open, and the other never answered.
    wrong(&[put(1, 1, 90), open(2, 1), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7)], &[0, 1, 2, 3, 4]);
}

#[test]
fn an_open_write_that_took_effect_must_not_be_undone() {
    wrong(&[put(1, 1, 2), open(2, 3), read(2, 10, 11), read(1, 12, 13)], &[0, 1, 2, 3]);
    // Never before it was made, either.
    wrong(&[put(1, 1, 2), read(2, 3, 4), open(2, 5)], &[1, 2]);
}

#[test]
fn a_write_between_two_reads_of_what_was_before_it_is_seen() {
    wrong(&[put(1, 1, 2), read(1, 3, 4), put(2, 5, 6), open(3, 1), read(1, 7, 8)], &[0, 2, 4]);
}

#[test]
fn a_value_that_was_refused_must_not_be_seen() {
    let mut history = RegisterHistory::default();
    let (first, refused) = (history.put(1, 1), history.put(2, 2));
    history.done(first, 3);
    history.never(refused);
    assert_eq!(history.opinion(STEPS), Opinion::Right);
    let saw = history.read(4);
    assert_eq!(history.opinion(STEPS), Opinion::Right);
    history.saw(saw, 5, Some(2));
    assert_eq!(history.opinion(STEPS), Opinion::Wrong(vec![read(2, 4, 5)]));
    assert_eq!((history.len(), history.is_empty()), (3, false));
}

#[test]
fn a_search_that_grows_beyond_its_bound_says_so() {
    // All of them at once, and an impossible read behind them: any order of the writes is tried.
    let mut calls: Vec<_> = (1..=30).map(|value| put(value, 1, 100)).collect();
    calls.extend([read(7, 101, 102), read(8, 103, 104)]);
    assert_eq!(check(&Register, &calls, 10_000), Verdict::Undecided);
    // Values that are told apart leave nothing to try.
    let shown = [calls[6], calls[7], calls[30], calls[31]];
    let Opinion::Wrong(found) = history(&calls).opinion(10_000) else { panic!("not decided") };
    assert!(found.len() <= shown.len() && found.iter().all(|call| shown.contains(call)), "{found:?}");
}

#[test]
fn thousands_of_calls_at_once_are_decided_in_a_few_steps_each() {
    // Writes that overlap by the hundred, every third of unknown outcome, half of them read.
    let mut calls = Vec::new();
    for value in 1..=2_000_u64 {
        let at = value * 10;
        calls.push(if value % 3 == 0 { open(value, at) } else { put(value, at, at + 1_000) });
        if value % 2 == 0 {
            calls.push(read(value, at + 3, at + 7));
        }
    }
    assert_eq!(history(&calls).opinion(4_000_000), Opinion::Right);
    calls.push(read(500, 30_000, 30_001));
    assert!(matches!(history(&calls).opinion(4_000_000), Opinion::Wrong(few) if few.len() <= 4));
}

#[test]
fn counterexamples_read_well() {
    let lines: Vec<String> =
        [put(3, 10, 20), open(4, 11), read(0, 1, 2)].iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["put 3 [10, 20]", "put 4 [11, …]", "read nothing [1, 2]"]);
}

/// Whether some permutation of some of the calls, all answered ones among them, agrees with real time and the rules.
fn naive<S: Spec>(spec: &S, calls: &[Call<S::Op>], placed: u32, state: &S::State) -> bool {
    let left = || (0..calls.len()).filter(|at| (placed >> at) & 1 == 0);
    if left().all(|at| calls[at].returned.is_none()) {
        return true;
    }
    left().any(|at| {
        let first =
            left().all(|other| calls[other].returned.is_none_or(|returned| returned >= calls[at].invoked));
        let after = spec.apply(state, &calls[at].op);
        first && after.is_some_and(|after| naive(spec, calls, placed | 1 << at, &after))
    })
}

/// An order that was found is one: it agrees with real time and the rules, and leaves out no answered call.
fn holds<S: Spec>(spec: &S, calls: &[Call<S::Op>], order: &[usize]) -> bool {
    let mut state = spec.initial();
    let legal = order.iter().all(|at| match spec.apply(&state, &calls[*at].op) {
        Some(after) => {
            state = after;
            true
        }
        None => false,
    });
    let place = |at: &usize| order.iter().position(|other| other == at);
    let in_time = (0..calls.len()).all(|a| {
        (0..calls.len()).all(|b| {
            let before = calls[a].returned.is_some_and(|returned| returned < calls[b].invoked);
            !before || place(&b).is_none() || place(&a) < place(&b)
        })
    });
    let complete = (0..calls.len()).all(|at| calls[at].returned.is_none() || place(&at).is_some());
    legal && in_time && complete
}

/// Up to eight calls within a short time. Reads see any of the values, so that about half of the histories are wrong.
fn calls() -> impl Strategy<Value = Vec<Call<Access>>> {
    let call = (0..20_u64, 0..12_u64, any::<bool>(), any::<Index>(), 0..6_u8);
    prop::collection::vec(call, 1..9).prop_map(|drawn| {
        let calls = drawn.iter().enumerate().map(|(at, (invoked, length, reads, saw, answered))| {
            let op = match reads {
                true => Access::Read(Some(saw.index(drawn.len() + 1) as u64).filter(|value| *value > 0)),
                false => Access::Put(at as u64 + 1),
            };
            let returned = (*reads || *answered > 0).then_some(invoked + length);
            Call { invoked: *invoked, returned, op }
        });
        calls.collect()
    })
}

/// A register whose values are written again and again, with compare-and-swap: no group says anything about it.
struct Swapping;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swap {
    Put(u8),
    Read(u8),
    Swapped(u8, u8),
}

impl Spec for Swapping {
    type State = u8;
    type Op = Swap;

    fn initial(&self) -> u8 {
        0
    }

    fn apply(&self, state: &u8, op: &Swap) -> Option<u8> {
        match *op {
            Swap::Put(value) => Some(value),
            Swap::Read(value) => (value == *state).then_some(value),
            Swap::Swapped(from, to) => (from == *state).then_some(to),
        }
    }

    fn only_reads(&self, op: &Swap) -> bool {
        matches!(op, Swap::Read(_))
    }
}

fn swaps() -> impl Strategy<Value = Vec<Call<Swap>>> {
    let op = prop_oneof![
        (0..3_u8).prop_map(Swap::Put),
        (0..3_u8).prop_map(Swap::Read),
        (0..3_u8, 0..3_u8).prop_map(|(from, to)| Swap::Swapped(from, to)),
    ];
    let call = (0..20_u64, 0..12_u64, 0..6_u8, op);
    let call = call.prop_map(|(invoked, length, answered, op)| Call {
        invoked,
        returned: (answered > 0).then_some(invoked + length),
        op,
    });
    prop::collection::vec(call, 1..9)
}

fn agrees<S: Spec>(spec: &S, calls: &[Call<S::Op>]) -> Result<(), TestCaseError> {
    match check(spec, calls, STEPS) {
        Verdict::Linearizable(order) => prop_assert!(holds(spec, calls, &order), "no such order: {order:?}"),
        Verdict::Impossible(_) => prop_assert!(!naive(spec, calls, 0, &spec.initial()), "there is an order"),
        Verdict::Undecided => prop_assert!(false, "not decided"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_search_agrees_with_trying_every_permutation(calls in calls()) {
        agrees(&Register, &calls)?;
    }

    #[test]
    fn the_search_agrees_where_values_repeat(calls in swaps()) {
        agrees(&Swapping, &calls)?;
    }

    #[test]
    fn a_register_is_always_decided_and_what_shows_it_wrong_is_wrong(calls in calls()) {
        let possible = naive(&Register, &calls, 0, &None);
        match history(&calls).opinion(STEPS) {
            Opinion::Right => prop_assert!(possible),
            Opinion::Wrong(few) => {
                prop_assert!(!possible && few.len() <= 5, "{few:?}");
                prop_assert!(!naive(&Register, &few, 0, &None), "{few:?}");
            }
            Opinion::Undecided => prop_assert!(false, "not decided"),
        }
    }
}
