//! Marks: places in the core's behaviour that a set of runs must have reached.
//!
//! * A campaign that never comes to a place proves nothing about it: one that misses a mark says so, by name.
//! * They are seen from outside, in what nodes say, do and answer; the core knows nothing of them.
//! * A run reaches a mark or not; a campaign counts the runs that did.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the marks: each with its name and what it says.
macro_rules! marks {
    ($($(#[$section:meta])* $mark:ident: $what:literal,)+) => {
        /// A place in the core's behaviour.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Mark {
            $(#[doc = $what] $mark,)+
        }

        impl Mark {
            /// Every mark.
            pub const ALL: [Self; [$($what),+].len()] = [$(Self::$mark),+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$mark => stringify!($mark),)+ }
            }

            /// What the mark says.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$mark => $what,)+ }
            }
        }
    };
}

marks! {
    // Elections and terms.
    SplitVote: "Two candidates ran in one term.",
    CampaignLost: "A candidate was not elected.",
    TwoLeaders: "A leader was elected while an earlier one still took itself for one.",
    DeposedByTerm: "A leader heard of a later term, and stepped down.",
    LostMajority: "A leader that heard no majority stepped down.",
    StalledDisk: "A leader whose disk stood still stepped down.",
    PreVoteRefusedByLog: "A pre-vote was refused because the voter's log is ahead.",
    VoteRefusedByLog: "A vote was refused because the voter's log is ahead.",
    VoteGivenBefore: "A vote was refused because another candidate of that term has it.",
    StickyPreVote: "A pre-vote was refused because a leader is alive.",
    StickyVote: "A request for a vote was ignored because a leader is alive.",
    RestartedVoterWaits: "A voter that had just restarted helped nobody: it may have promised a lease.",
    VoteForTransfer: "A vote went to a candidate that the living leader itself had asked to run.",
    VoteForStranger: "A vote went to a candidate that the voter's own configuration does not know.",
    StrangerObeyed: "A leader was obeyed that the follower's own configuration does not know.",
    EarlierLeaderHeard: "A message of a leader of an earlier term was answered with the later one.",
    LateWakeExcused: "A node that woke late did not campaign before it had read its mail.",
    NonVoterCampaigned: "A node campaigned that does not vote: it was asked by one whose log is older.",
    NonVoterElected: "A leader was elected that does not vote by its own log.",
    TimeoutNowTooLate: "An order to campaign came when it was no good any more.",
    ElectedWhileJoint: "A leader was elected by both majorities of a joint configuration.",

    // The log.
    Figure8: "A leader was elected while an entry of an earlier term was on a majority and not committed.",
    EarlierTermCommitted: "Entries of an earlier term were committed by one of the leader's own term behind them.",
    CommitBeforeOwnDisk: "A leader committed what its own disk did not have yet.",
    SuffixTruncated: "A follower dropped entries that its leader does not have.",
    TruncatedReturned: "An entry that a node had dropped came back to it.",
    ConflictOverTerms: "The search for the last common entry went back over more than one term.",
    LateReport: "A disk reported a write whose entries had been overwritten meanwhile.",
    LateAppend: "An append came that covers only the beginning of what was there.",
    AppendBelowBase: "An append came that begins before the receiver's compacted log.",
    Overflowed: "Entries were dropped because too many were not durable.",
    LogReadForPeer: "A leader read its log for a peer that was behind.",
    LogReadForMachine: "A node read its log for its state machine.",
    LogReadGone: "Entries were asked for and were gone when they were to be read.",
    TornTail: "A crash left a torn record at the end of the log.",
    CutWrite: "A crash left a part of a write.",
    AllDown: "No server was up.",

    // Clients.
    CommittedBySuccessor: "A proposal was answered as committed by a node that no longer led that term.",
    Superseded: "A proposal was answered as superseded.",
    DecidedBySnapshot: "A proposal was decided by a snapshot that was installed.",
    Forgotten: "A proposal or read was given up by its client.",
    BusyUncommitted: "A proposal was refused because too much was not committed.",
    BusyUnapplied: "A proposal was refused because too much was not applied.",
    BusyProposals: "A proposal was refused because too many waited.",
    BusyHandover: "A proposal was refused because the leadership was being handed over.",
    BusyReads: "A read was refused because too many waited at the leader.",
    BusyQuestions: "A read was refused because too many waited at a follower.",
    LeaseRead: "A read was served by the lease.",
    LeaseFallback: "A read that asked for the lease needed a round of messages.",
    FollowerRead: "A read was served by a follower.",
    LearnerRead: "A read was served by a learner.",
    ReadBeforeFirstCommit: "A read was asked of a leader that had committed nothing in its term.",
    QuestionRepeated: "A follower asked its leader again for the index of a read.",
    QuestionRefused: "A question for the index of a read came to a node that does not lead.",

    // Handing over.
    Transferred: "A transfer succeeded.",
    TransferTimedOut: "A transfer was given up after its time.",
    TransferOvertaken: "Another node than a transfer's target was elected.",
    SteppedDown: "A leader that was to stop handed over first.",
    CampaignRefused: "An order to campaign was refused because a leader is alive.",

    // Membership.
    JointLeftBySuccessor: "A joint configuration was left by another leader than the one that entered it.",
    JointBackedOut: "A joint configuration was taken back.",
    JointTruncated: "A joint configuration was truncated, and the one before it was in force again.",
    ConfigurationInherited: "A leader was elected with a configuration in its log that was not committed.",
    LearnerPromoted: "A learner became a voter.",
    VoterDemoted: "A voter became a learner.",
    ReAdded: "A node that had left came back.",
    ChangeTimedOut: "A change was given up because new voters did not catch up.",
    ChangeCancelled: "A change was cancelled.",
    ChangeTooLate: "A change could not be cancelled any more.",
    ChangeLost: "A leader that was asked for a change lost its leadership first.",
    RemovedLeaderHandsOver: "A leader that is no voter any more asked another to campaign.",
    FarewellSent: "A node that had left was told so.",

    // Snapshots.
    SnapshotInstalled: "A snapshot of the leader was installed.",
    SnapshotResentPart: "A part of a snapshot was sent again.",
    SnapshotResumedAfterReconnect: "A snapshot went on where it was after the connection was lost.",
    SnapshotResumedBySuccessor: "A new leader went on with a snapshot where an earlier one had been.",
    SnapshotOvertaken: "A snapshot was abandoned on its way for a later one.",
    SnapshotOfAnother: "A part of a snapshot came to a node that had parts of another one.",
    SnapshotThoughLogIsThere: "A snapshot was sent though the leader still had all entries.",
    SnapshotNotNeeded: "A snapshot came to a node that had all of it.",
    SnapshotReplacesConflict: "A snapshot replaced a log that contradicted it.",
    SnapshotBeyondLog: "A node started with a snapshot that was beyond its log.",
    SnapshotReceiverBusy: "A part of a snapshot came while another was being written.",
    SnapshotNotTaken: "A snapshot could not be taken.",
    SnapshotNotRead: "A part of a snapshot could not be read.",
    SnapshotNotWritten: "A part of a snapshot could not be written.",
    CompactionUndone: "A crash undid a compaction.",

    // Disks and clocks that fail.
    WriteFailed: "A write or a sync failed, and its node was dropped.",
    NoSpaceLeft: "A disk was full, and its node was dropped.",
    RotRefused: "A start was refused because what was synced had changed.",
    RotInTail: "A bit changed in a record that was not synced, and the record was cut off.",
    LostReplaced: "A server that had lost its disk was replaced by another one.",
    ClockSetAhead: "The clock of a running node was set ahead.",
    ClockStoodStill: "The clock of a running node was set back, and stood still.",
}

/// In how many runs each mark was reached. Written down by name, so that a later version can read it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "BTreeMap<String, u32>", from = "BTreeMap<String, u32>")]
pub struct Marks {
    runs: [u32; Mark::ALL.len()],
}

impl Default for Marks {
    fn default() -> Self {
        Self { runs: [0; Mark::ALL.len()] }
    }
}

impl Marks {
    /// This run came there.
    pub(crate) fn hit(&mut self, mark: Mark) {
        self.runs[mark as usize] = 1;
    }

    /// As [`hit`](Self::hit), if the condition holds.
    pub(crate) fn hit_if(&mut self, mark: Mark, holds: bool) {
        if holds {
            self.hit(mark);
        }
    }

    /// How many runs reached this mark.
    #[must_use]
    pub fn runs(&self, mark: Mark) -> u32 {
        self.runs[mark as usize]
    }

    /// The marks that no run has reached.
    pub fn missed(&self) -> impl Iterator<Item = Mark> + '_ {
        Mark::ALL.into_iter().filter(|mark| self.runs(*mark) == 0)
    }

    /// Adds other runs.
    pub(crate) fn add(&mut self, other: &Self) {
        for (runs, more) in self.runs.iter_mut().zip(other.runs) {
            *runs = runs.saturating_add(more);
        }
    }
}

impl From<Marks> for BTreeMap<String, u32> {
    fn from(marks: Marks) -> Self {
        let reached = Mark::ALL.into_iter().filter(|mark| marks.runs(*mark) > 0);
        reached.map(|mark| (mark.name().to_owned(), marks.runs(mark))).collect()
    }
}

impl From<BTreeMap<String, u32>> for Marks {
    fn from(runs: BTreeMap<String, u32>) -> Self {
        let runs = Mark::ALL.map(|mark| runs.get(mark.name()).copied().unwrap_or(0));
        Self { runs }
    }
}

/// The marks that were reached, with the number of runs.
impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                Mark::ALL.iter().filter(|mark| self.runs(**mark) > 0).map(|mark| (mark, self.runs(*mark))),
            )
            .finish()
    }
}

/// A line for each mark, those first that fewest runs reached.
impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut marks = Mark::ALL;
        marks.sort_by_key(|mark| self.runs(*mark));
        marks.iter().try_for_each(|mark| writeln!(f, "{:>9}  {mark:?}: {}", self.runs(*mark), mark.what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_and_what_is_missed_is_named() {
        let mut one = Marks::default();
        one.hit(Mark::Figure8);
        one.hit(Mark::Figure8);
        one.hit_if(Mark::SplitVote, false);
        let mut all = one;
        all.add(&one);
        assert_eq!((all.runs(Mark::Figure8), all.runs(Mark::SplitVote)), (2, 0));
        assert_eq!(all.missed().count(), Mark::ALL.len() - 1);
        assert_eq!(format!("{all:?}"), "{Figure8: 2}");
        assert_eq!(Marks::from(BTreeMap::from(all)), all);
        let last = all.to_string().lines().last().map(str::to_owned);
        assert!(last.is_some_and(|line| line.contains("2  Figure8: A leader was elected while")));
    }

    #[test]
    fn marks_are_many_and_explain_themselves() {
        assert!(Mark::ALL.len() >= 40);
        assert!(Mark::ALL.iter().all(|mark| mark.what().ends_with('.') && mark.what().len() > 15));
        assert!(Mark::ALL.iter().enumerate().all(|(at, mark)| *mark as usize == at));
    }
}
