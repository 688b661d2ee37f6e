//! The history: what clients asked, what they were told, and whether that was true.
//!
//! * Every answer is held against the committed log, at once and for the rest of the run: what was answered
//!   `Committed` is committed with the very command, what was answered `Superseded` or refused never is.
//! * A command is committed at most once.
//! * An operation whose outcome is unknown stays open for ever; it is never dropped from the history.
//! * The same calls and answers go to the black box ([`Blackbox`]), which knows nothing of the log.
//!
//! [`Blackbox`]: super::blackbox::Blackbox

use raft_core::{LogId, LogIndex};
use serde::{Deserialize, Serialize};

use super::blackbox::Blackbox;
use super::book::Meta;
use super::linear::Linear;
use super::{Broken, Check, ensure};
use crate::history::CallId;

const CHECKER: &str = "operations";

/// Names an operation: its number in the history, and the value that a put writes.
pub(crate) type OpId = u64;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    Put,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked and not answered, perhaps for ever.
    Open,
    /// Answered.
    Done,
    /// Known not to have happened, and never to happen.
    Never,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    asked: Asked,
    key: u16,
    state: State,
    /// What was known when it began.
    floor: LogIndex,
    /// What the command's bytes are, once they were given.
    hash: u64,
    /// Where the command was first written or sent by a node, if it ever was.
    seen: Option<LogId>,
    committed: Option<LogId>,
    /// In the black box.
    call: CallId,
    /// It was asked by the lease at least once.
    lease: bool,
}

/// All operations of a run.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    all: Vec<Operation>,
    linear: Linear,
    blackbox: Blackbox,
    /// Clocks may break the bound that leases rely on.
    lease_unbound: bool,
    committed: u64,
    reads_served: u64,
}

impl Operations {
    /// A client begins an operation.
    pub(crate) fn begin(&mut self, asked: Asked, key: u16) -> OpId {
        let floor = self.linear.floor(key);
        let op = self.all.len() as u64;
        let call = self.blackbox.begin(asked, key, op);
        let state = State::Open;
        let (seen, committed, lease) = (None, None, false);
        self.all.push(Operation { asked, key, state, floor, hash: 0, seen, committed, call, lease });
        op
    }

    /// A read asks for the lease.
    pub(crate) fn by_lease(&mut self, op: OpId) {
        if let Ok(operation) = self.get(op) {
            operation.lease = true;
        }
    }

    /// Reads by the lease are not held to be linearizable from now on.
    pub(crate) fn lease_unbound(&mut self) {
        self.lease_unbound = true;
    }

    /// The run is over: the whole history is looked at as one. Returns how many keys could not be decided.
    pub(crate) fn finish(&mut self) -> Result<u64, Broken> {
        self.blackbox.finish()
    }

    /// The command of a put.
    pub(crate) fn command(&mut self, op: OpId, command: &[u8]) {
        if let Ok(operation) = self.get(op) {
            operation.hash = Meta::of_command(command).hash;
        }
    }

    /// How many operations were begun.
    pub(crate) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// How many commands are committed.
    pub(crate) fn committed_count(&self) -> u64 {
        self.committed
    }

    /// How many reads were served.
    pub(crate) fn reads_served(&self) -> u64 {
        self.reads_served
    }

    fn get(&mut self, op: OpId) -> Result<&mut Operation, Broken> {
        let at = usize::try_from(op).unwrap_or(usize::MAX);
        self.all
            .get_mut(at)
            .ok_or_else(|| Broken::new(CHECKER, format!("operation {op} was never asked for")))
    }

    /// An entry was written or sent for the first time.
    pub(crate) fn appended(&mut self, id: LogId, meta: Meta) -> Check {
        let Some(op) = meta.op else { return Ok(()) };
        let operation = self.get(op)?;
        ensure!(
            CHECKER,
            operation.asked == Asked::Put && operation.hash == meta.hash,
            "entry {id} holds another command than operation {op} proposed"
        );
        ensure!(
            CHECKER,
            operation.state != State::Never,
            "entry {id} holds operation {op}, which was refused"
        );
        ensure!(
            CHECKER,
            operation.seen.is_none_or(|other| other == id),
            "operation {op} was proposed twice, at {:?} and at {id}",
            operation.seen
        );
        operation.seen = Some(id);
        Ok(())
    }

    /// Where the operation's command stands, if any node wrote or sent it.
    pub(crate) fn seen(&self, op: OpId) -> Option<LogId> {
        self.all.get(usize::try_from(op).ok()?)?.seen
    }

    /// An entry with this operation's command was committed. Returns its key.
    pub(crate) fn committed(&mut self, op: OpId, id: LogId) -> Result<u16, Broken> {
        self.committed += 1;
        let operation = self.get(op)?;
        if let Some(other) = operation.committed {
            return Err(Broken::new(
                CHECKER,
                format!("operation {op} was committed twice, at {other} and at {id}"),
            ));
        }
        ensure!(
            CHECKER,
            operation.state != State::Never,
            "operation {op} was answered never to happen, and is committed at {id}"
        );
        operation.committed = Some(id);
        let (floor, key) = (operation.floor, operation.key);
        self.linear.write(op, floor, id.index)?;
        Ok(key)
    }

    /// A node answered that the operation is committed at `claimed`, where `truth` is.
    pub(crate) fn answered_committed(&mut self, op: OpId, claimed: LogId, truth: Option<LogId>) -> Check {
        let operation = self.get(op)?;
        ensure!(
            CHECKER,
            truth == Some(claimed) && operation.committed == truth,
            "operation {op} was answered committed at {claimed}; it is committed at {:?}, and {truth:?} stands there",
            operation.committed
        );
        operation.state = State::Done;
        let (key, call) = (operation.key, operation.call);
        self.linear.completed(key, claimed.index);
        self.blackbox.done(key, call)
    }

    /// A node answered that another entry was committed in the operation's place.
    pub(crate) fn superseded(&mut self, op: OpId) -> Check {
        let operation = self.get(op)?;
        ensure!(
            CHECKER,
            operation.committed.is_none(),
            "operation {op} was answered superseded, and is committed at {:?}",
            operation.committed
        );
        operation.state = State::Never;
        let (key, call) = (operation.key, operation.call);
        self.blackbox.never(key, call);
        Ok(())
    }

    /// A node answered that it did not propose the operation: nobody may have seen it.
    pub(crate) fn refused(&mut self, op: OpId) -> Check {
        let operation = self.get(op)?;
        ensure!(
            CHECKER,
            operation.seen.is_none(),
            "operation {op} was answered not proposed, and a node wrote or sent it"
        );
        Ok(())
    }

    /// The client gives up an operation that no node has taken: it can no longer happen.
    pub(crate) fn withdrawn(&mut self, op: OpId) -> Check {
        self.refused(op)?;
        let operation = self.get(op)?;
        operation.state = State::Never;
        let (key, call) = (operation.key, operation.call);
        self.blackbox.never(key, call);
        Ok(())
    }

    /// A read was served with the value of operation `saw`.
    pub(crate) fn served(&mut self, op: OpId, saw: Option<OpId>) -> Check {
        let unbound = self.lease_unbound;
        let (key, floor, call, excused) = {
            let operation = self.get(op)?;
            ensure!(
                CHECKER,
                operation.asked == Asked::Read && operation.state == State::Open,
                "operation {op} was served as a read, and is {operation:?}"
            );
            operation.state = State::Done;
            (operation.key, operation.floor, operation.call, unbound && operation.lease)
        };
        let version = match saw {
            None => LogIndex::ZERO,
            Some(saw) => {
                let put = *self.get(saw)?;
                let Some(id) = put.committed.filter(|_| put.key == key) else {
                    let what = format!("read {op} of key {key} saw operation {saw}: {put:?}");
                    return Err(Broken::new("linear", what));
                };
                id.index
            }
        };
        self.reads_served += 1;
        if excused {
            return Ok(());
        }
        self.linear.read(op, floor, version)?;
        self.linear.completed(key, version);
        self.blackbox.saw(key, call, saw)
    }

    /// Makes a put with this number and key 0 known, for hand-made histories.
    #[cfg(test)]
    pub(crate) fn invent(&mut self, op: OpId) {
        assert_eq!(self.begin(Asked::Put, 0), op);
        self.command(op, &crate::machine::put(op, 0, &[], 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::put;
    use crate::testing::id;

    fn with_puts(count: u64) -> Operations {
        let mut operations = Operations::default();
        (0..count).for_each(|op| operations.invent(op));
        operations
    }

    #[test]
    fn an_answer_that_is_not_true_is_seen() {
        let mut operations = with_puts(4);
        operations.committed(0, id(2, 1)).unwrap();
        assert_eq!(operations.answered_committed(0, id(2, 1), Some(id(2, 1))), Ok(()));
        assert!(operations.answered_committed(1, id(2, 1), Some(id(2, 1))).is_err());
        assert!(operations.answered_committed(1, id(3, 1), None).is_err());
        assert!(operations.superseded(0).is_err());
        operations.superseded(1).unwrap();
        assert!(operations.committed(1, id(3, 1)).unwrap_err().what.contains("never to happen"));
        assert!(operations.committed(0, id(4, 1)).unwrap_err().what.contains("committed twice"));
    }

    #[test]
    fn a_refused_operation_must_never_be_seen() {
        let meta = |op| Meta::of_command(&put(op, 0, &[], 0));
        let mut operations = with_puts(3);
        assert_eq!(operations.appended(id(2, 1), meta(0)), Ok(()));
        assert!(operations.refused(0).unwrap_err().what.contains("not proposed"));
        operations.refused(1).unwrap();
        assert_eq!(operations.appended(id(3, 1), meta(1)), Ok(()));
        operations.withdrawn(2).unwrap();
        assert!(operations.appended(id(4, 1), meta(2)).unwrap_err().what.contains("which was refused"));
        assert!(operations.appended(id(5, 1), meta(9)).unwrap_err().what.contains("never asked"));
        let altered = Meta { hash: 1, ..meta(0) };
        assert!(operations.appended(id(6, 1), altered).unwrap_err().what.contains("another command"));
    }

    #[test]
    fn a_stale_read_is_seen() {
        let mut operations = with_puts(2);
        operations.committed(0, id(2, 1)).unwrap();
        operations.committed(1, id(3, 1)).unwrap();
        let early = operations.begin(Asked::Read, 0);
        operations.answered_committed(1, id(3, 1), Some(id(3, 1))).unwrap();
        let late = operations.begin(Asked::Read, 0);
        let other = operations.begin(Asked::Read, 0);
        // It began before the second write was answered: either value will do.
        assert_eq!(operations.served(early, Some(0)), Ok(()));
        assert!(operations.served(late, Some(0)).unwrap_err().what.contains("saw index 2"));
        assert_eq!(operations.served(other, Some(1)), Ok(()));
        assert!(operations.served(other, Some(1)).unwrap_err().what.contains("served as a read"));
    }

    #[test]
    fn reads_do_not_go_back_in_time_even_without_answered_writes() {
        let mut operations = with_puts(2);
        operations.committed(0, id(2, 1)).unwrap();
        operations.committed(1, id(3, 1)).unwrap();
        let first = operations.begin(Asked::Read, 0);
        operations.served(first, Some(1)).unwrap();
        let second = operations.begin(Asked::Read, 0);
        assert!(operations.served(second, Some(0)).is_err());
        let third = operations.begin(Asked::Read, 0);
        assert!(operations.served(third, None).is_err());
        // A value of another key, and one that is not committed.
        let elsewhere = operations.begin(Asked::Read, 1);
        assert!(operations.served(elsewhere, Some(1)).unwrap_err().what.contains("of key 1"));
        operations.invent(6);
        let dreamt = operations.begin(Asked::Read, 0);
        assert!(operations.served(dreamt, Some(6)).is_err());
    }

    #[test]
    fn a_write_that_lands_before_what_was_seen_when_it_began_is_seen() {
        let mut operations = with_puts(1);
        operations.committed(0, id(5, 1)).unwrap();
        operations.answered_committed(0, id(5, 1), Some(id(5, 1))).unwrap();
        operations.invent(1);
        assert!(operations.committed(1, id(4, 1)).unwrap_err().what.contains("was seen before it began"));
    }
}
