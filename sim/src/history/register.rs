//! A register whose writes all write different values: what one key of a key-value store is in a test.
//!
//! The calls that write or read one value are its *group*. Since nothing else writes that value, the calls of a group
//! stand together in any order that is possible, and so one group stands wholly before another. Group v must come before
//! group w if one of v's calls was answered before one of w's was made: if `answered(v) < made(w)`, v's first answer and
//! w's last call. From this follows what makes the search fast, and its proofs small:
//!
//! * If each of two groups had to come before the other, those two alone show that the history is wrong. If no two groups
//!   contradict each other so, sorting them by `answered + made` puts every group behind those that it must follow, and
//!   that order is possible, unless a group contradicts itself (a value was read before it was written).
//!   (v before w says `answered(v) < made(w)`, no contradiction says `made(v) <= answered(w)`: add the two.)
//! * So the search tries calls in that order, and never has to go back. If it fails all the same, one group or two are
//!   enough for a search that exhausts everything there is.
//!
//! Nothing here decides: groups only say what to try first, and which calls to look at alone. Leaving out whole groups
//! is always sound, since the others must be linearizable without them.

use std::collections::BTreeMap;
use std::fmt;

use super::search::check_ranked;
use super::{Call, Spec, Verdict, check};

/// A call on a [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes this value.
    Put(u64),
    /// Returned this value; `None` if nothing had been written.
    Read(Option<u64>),
}

/// A register, empty at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

impl Spec for Register {
    type State = Option<u64>;
    type Op = Access;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn apply(&self, state: &Option<u64>, op: &Access) -> Option<Option<u64>> {
        match op {
            Access::Put(value) => Some(Some(*value)),
            Access::Read(value) => (state == value).then_some(*state),
        }
    }

    fn only_reads(&self, op: &Access) -> bool {
        matches!(op, Access::Read(_))
    }
}

/// Names a call of a [`RegisterHistory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(u32);

/// What a history was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Linearizable.
    Right,
    /// Not linearizable. These few calls alone already show it.
    Wrong(Vec<Call<Access>>),
    /// The search grew beyond its bound.
    Undecided,
}

/// What clients did with one register, entered as it happens. No value may be written twice.
#[derive(Clone, Debug, Default)]
pub struct RegisterHistory {
    calls: Vec<Call<Access>>,
    /// Known never to take effect, or to have returned nothing.
    void: Vec<bool>,
}

/// A value, the calls that write and read it, when the first of them was answered, and when the last was made.
struct Group {
    calls: Vec<usize>,
    answered: u64,
    made: u64,
}

impl RegisterHistory {
    fn begin(&mut self, at: u64, op: Access) -> CallId {
        self.calls.push(Call::open(at, op));
        self.void.push(false);
        CallId(u32::try_from(self.calls.len() - 1).expect("fewer than 2^32 calls"))
    }

    /// A client writes a value.
    pub fn put(&mut self, at: u64, value: u64) -> CallId {
        self.begin(at, Access::Put(value))
    }

    /// A client reads.
    pub fn read(&mut self, at: u64) -> CallId {
        let call = self.begin(at, Access::Read(None));
        // Until it returns, it says nothing.
        self.void[call.0 as usize] = true;
        call
    }

    /// A write was answered as done.
    pub fn done(&mut self, call: CallId, at: u64) {
        self.calls[call.0 as usize].returned = Some(at);
    }

    /// A read returned this.
    pub fn saw(&mut self, call: CallId, at: u64, value: Option<u64>) {
        let read = &mut self.calls[call.0 as usize];
        (read.returned, read.op) = (Some(at), Access::Read(value));
        self.void[call.0 as usize] = false;
    }

    /// A call is known never to take effect: it was refused, or withdrawn.
    pub fn never(&mut self, call: CallId) {
        self.void[call.0 as usize] = true;
    }

    /// How many calls there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether the history, as far as it has come, is linearizable. No search tries more than `steps_max` times to put a
    /// call next; one that succeeds needs a few for each call.
    #[must_use]
    pub fn opinion(&self, steps_max: u64) -> Opinion {
        let mut groups = self.groups();
        groups.sort_by_key(|group| u128::from(group.answered) + u128::from(group.made));
        let calls: Vec<Call<Access>> = groups.iter().flat_map(|group| self.of(group)).collect();
        let order: Vec<usize> = (0..calls.len()).collect();
        if let Verdict::Linearizable(_) = check_ranked(&Register, &calls, &order, steps_max) {
            return Opinion::Right;
        }
        let wrong =
            |calls: &[Call<Access>]| matches!(check(&Register, calls, steps_max), Verdict::Impossible(_));
        let alone = groups.iter().map(|group| self.of(group).collect());
        let together =
            contradiction(&groups).map(|pair| pair.iter().flat_map(|group| self.of(group)).collect());
        let suspects = alone.chain(together).find(|calls: &Vec<Call<Access>>| wrong(calls));
        let Some(mut calls) = suspects else { return Opinion::Undecided };
        // A call without which they are still wrong explains nothing, except what a read saw.
        for at in (0..calls.len()).rev() {
            let call = calls.remove(at);
            let seen = |value| calls.iter().any(|other| other.op == Access::Read(Some(value)));
            let explains = matches!(call.op, Access::Put(value) if seen(value));
            if explains || !wrong(&calls) {
                calls.insert(at, call);
            }
        }
        calls.sort_by_key(|call| (call.invoked, call.returned.unwrap_or(u64::MAX)));
        Opinion::Wrong(calls)
    }

    /// The calls of a group: the write, and then what saw it.
    fn of<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = Call<Access>> + 'a {
        group.calls.iter().map(|at| self.calls[*at])
    }

    /// The groups whose value was written or read for certain: a write without an answer that nobody saw may never
    /// have happened, and says nothing.
    fn groups(&self) -> Vec<Group> {
        let mut groups: BTreeMap<Option<u64>, Group> = BTreeMap::new();
        for (at, call) in self.calls.iter().enumerate().filter(|(at, _)| !self.void[*at]) {
            let (value, writes) = match call.op {
                Access::Put(value) => (Some(value), true),
                Access::Read(value) => (value, false),
            };
            // The register was empty before any call was made: instants count from one.
            let answered = if value.is_none() { 0 } else { u64::MAX };
            let group = groups.entry(value).or_insert(Group { calls: Vec::new(), answered, made: 0 });
            group.calls.insert(if writes { 0 } else { group.calls.len() }, at);
            group.answered = group.answered.min(call.returned.map_or(u64::MAX, |at| at.saturating_add(1)));
            group.made = group.made.max(call.invoked.saturating_add(1));
        }
        groups.into_values().filter(|group| group.answered < u64::MAX).collect()
    }
}

/// Two groups each of which must come before the other, if there are such.
fn contradiction(groups: &[Group]) -> Option<[&Group; 2]> {
    let mut by_answer: Vec<&Group> = groups.iter().collect();
    by_answer.sort_by_key(|group| group.answered);
    let mut by_made: Vec<&Group> = groups.iter().collect();
    by_made.sort_by_key(|group| group.made);
    let mut before = by_answer.into_iter().peekable();
    // Of the groups that must come before this one, the two with the latest calls: one of them may be itself.
    let mut latest: [Option<&Group>; 2] = [None; 2];
    for group in by_made {
        while let Some(earlier) = before.next_if(|earlier| earlier.answered < group.made) {
            if latest[0].is_none_or(|known| known.made <= earlier.made) {
                latest = [Some(earlier), latest[0]];
            } else if latest[1].is_none_or(|known| known.made <= earlier.made) {
                latest[1] = Some(earlier);
            }
        }
        let other = latest.into_iter().flatten().find(|other| !std::ptr::eq(*other, group));
        if let Some(other) = other.filter(|other| group.answered < other.made) {
            return Some([other, group]);
        }
    }
    None
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(value) => write!(f, "put {value}"),
            Self::Read(Some(value)) => write!(f, "read {value}"),
            Self::Read(None) => f.write_str("read nothing"),
        }
    }
}

/// As `put 3 [10, 20]`, or `put 3 [10, …]` if it was never answered.
impl fmt::Display for Call<Access> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}, ", self.op, self.invoked)?;
        match self.returned {
            Some(returned) => write!(f, "{returned}]"),
            None => f.write_str("…]"),
        }
    }
}
