//! Linearizability once more, from outside: what clients asked and were told, key by key, and nothing else.
//!
//! * Where [`Linear`](super::linear::Linear) takes the order of the writes from the committed log, this searches for
//!   one ([`history`](crate::history)): a log that everybody agrees on, and that contradicts what clients saw, is found
//!   by it even if all that looks at logs were wrong.
//! * A key's history is looked at whenever it has doubled, and at the end: the run ends soon after it went wrong, and
//!   all looks together cost no more than two at the end would.
//! * A search that grows beyond its bound leaves its key undecided: that is counted, and shown.

use super::{Asked, Broken, Check, OpId};
use crate::history::{CallId, Opinion, RegisterHistory};

const CHECKER: &str = "history";

/// How often a search may try to put a call next. A history of a hundred thousand calls, a hundred of them open at a time,
/// is decided well below it.
const STEPS_MAX: u64 = 50_000_000;

/// The first look at a key.
const LOOK_FIRST: usize = 256;

#[derive(Debug)]
struct Key {
    history: RegisterHistory,
    look_at: usize,
}

/// The history of every key.
#[derive(Debug, Default)]
pub(crate) struct Blackbox {
    keys: Vec<Key>,
    /// Calls and answers so far: the clock of all histories.
    now: u64,
}

impl Blackbox {
    fn key(&mut self, key: u16) -> &mut RegisterHistory {
        let at = usize::from(key);
        while self.keys.len() <= at {
            self.keys.push(Key { history: RegisterHistory::default(), look_at: LOOK_FIRST });
        }
        &mut self.keys[at].history
    }

    /// A client begins an operation. The value of a put is its number.
    pub(crate) fn begin(&mut self, asked: Asked, key: u16, op: OpId) -> CallId {
        self.now += 1;
        let now = self.now;
        match asked {
            Asked::Put => self.key(key).put(now, op),
            Asked::Read => self.key(key).read(now),
        }
    }

    /// A put is done.
    pub(crate) fn done(&mut self, key: u16, call: CallId) -> Check {
        self.now += 1;
        let now = self.now;
        self.key(key).done(call, now);
        self.grown(key)
    }

    /// A read returned this.
    pub(crate) fn saw(&mut self, key: u16, call: CallId, value: Option<OpId>) -> Check {
        self.now += 1;
        let now = self.now;
        self.key(key).saw(call, now, value);
        self.grown(key)
    }

    /// An operation did not happen, and never will.
    pub(crate) fn never(&mut self, key: u16, call: CallId) {
        self.key(key).never(call);
    }

    /// Looks at a key again if it has doubled.
    fn grown(&mut self, key: u16) -> Check {
        let at = &mut self.keys[usize::from(key)];
        if at.history.len() < at.look_at {
            return Ok(());
        }
        at.look_at = at.history.len() * 2;
        // A look that does not decide is not the last one.
        look(key, &at.history, STEPS_MAX).map(|_| ())
    }

    /// The last look at every key. Returns how many could not be decided.
    pub(crate) fn finish(&self) -> Result<u64, Broken> {
        let mut undecided = 0;
        for (key, at) in (0..).zip(&self.keys) {
            undecided += u64::from(!look(key, &at.history, STEPS_MAX)?);
        }
        Ok(undecided)
    }
}

/// Whether a key's history was decided to be right.
fn look(key: u16, history: &RegisterHistory, steps_max: u64) -> Result<bool, Broken> {
    match history.opinion(steps_max) {
        Opinion::Right => Ok(true),
        Opinion::Undecided => Ok(false),
        Opinion::Wrong(calls) => {
            let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
            Err(Broken::new(
                CHECKER,
                format!("no order of these calls on key {key} is possible: {}", calls.join(", ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts operation 0, and then 1, each answered.
    fn two_puts() -> Blackbox {
        let mut blackbox = Blackbox::default();
        for op in 0..2 {
            let call = blackbox.begin(Asked::Put, 3, op);
            blackbox.done(3, call).unwrap();
        }
        blackbox
    }

    fn read(blackbox: &mut Blackbox, value: Option<OpId>) {
        let call = blackbox.begin(Asked::Read, 3, 99);
        blackbox.saw(3, call, value).unwrap();
    }

    #[test]
    fn a_stale_read_is_seen_without_the_log() {
        let mut blackbox = two_puts();
        read(&mut blackbox, Some(1));
        assert_eq!(blackbox.finish(), Ok(0));
        read(&mut blackbox, Some(0));
        let broken = blackbox.finish().unwrap_err();
        assert_eq!(
            broken.what,
            "no order of these calls on key 3 is possible: put 0 [1, 2], put 1 [3, 4], read 0 [7, 8]"
        );
    }

    #[test]
    fn keys_do_not_disturb_each_other_and_a_refused_write_must_not_be_seen() {
        let mut blackbox = two_puts();
        let other = blackbox.begin(Asked::Read, 4, 99);
        blackbox.saw(4, other, None).unwrap();
        let refused = blackbox.begin(Asked::Put, 3, 7);
        blackbox.never(3, refused);
        assert_eq!(blackbox.finish(), Ok(0));
        read(&mut blackbox, Some(7));
        assert!(blackbox.finish().is_err());
    }

    #[test]
    fn a_history_that_doubles_is_looked_at_before_the_end() {
        let mut blackbox = two_puts();
        read(&mut blackbox, Some(0));
        let broken = (2..).find_map(|op| {
            let call = blackbox.begin(Asked::Put, 3, op);
            blackbox.done(3, call).err().map(|broken| (op, broken))
        });
        let (op, broken) = broken.expect("a look at the latest when it has doubled");
        assert!(op <= LOOK_FIRST as u64 && broken.checker == CHECKER, "{op}: {broken}");
    }

    #[test]
    fn a_search_without_steps_is_undecided_and_not_passed() {
        assert_eq!(look(3, &two_puts().keys[3].history, 1), Ok(false));
    }
}
