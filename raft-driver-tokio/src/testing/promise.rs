//! The promises that are checked, each in the words of the trait that makes it.

use std::fmt;

macro_rules! promises {
    ($($(#[$doc:meta])* $name:ident: $of:literal, $words:literal;)*) => {
        /// A promise that a store or a state machine makes by implementing a trait.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Promise {
            $($(#[$doc])* $name,)*
        }

        impl Promise {
            /// The trait's method, or the type, whose documentation makes it.
            #[must_use]
            pub const fn of(self) -> &'static str {
                match self { $(Self::$name => $of,)* }
            }

            /// What is promised.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

promises! {
    /// A method panicked.
    NeverPanics: "every method", "errors are returned; a panic ends the node";
    /// Something that is legal was refused.
    AcceptsWhatIsLegal: "every method", "an error is returned only if the call cannot be done";
    /// A second opener got in.
    OneOpener: "opening", "one process at a time: a second opener is refused";

    /// A reported write is gone after a crash.
    DurableOnReturn: "LogStore::write", "returns when all are durable: after one fsync for the whole batch";
    /// Term or vote went back.
    HardStateKept: "Write::hard_state", "replaces the stored one; what must survive a crash beside the log";
    /// A crash left a mixture.
    PartsInOrder: "Write", "a crash may keep any prefix of the writes not yet reported, the last one cut within its parts, in that order";
    /// Entries that were overwritten are back.
    OverwriteTruncates: "Write::entries", "replace the log from their first index onward";
    /// Something of before a reset is there after it.
    ResetDropsAll: "Write::reset_to", "drop every entry, whatever its index: the next one has the index after this one's";
    /// Entries that nobody wrote.
    NothingInvented: "LogStore::recover", "what survived; an error if what is stored is damaged anywhere but in a tail that was never reported durable";
    /// An error where a crash left nothing illegal.
    OpensAfterCrash: "LogStore::recover", "what survived: whatever a crash left of unreported writes is no damage";
    /// What a start found was not durable yet.
    RecoveredIsDurable: "LogStore::recover", "all that it returns is durable, also what a killed process had left in caches";
    /// Its first or last entry is not that of the log.
    RecoverTellsEnds: "LogRecovery::base, last", "the entry before the first one stored; the last entry stored, equal to base if there is none";
    /// Its terms are not those of the entries.
    RecoverTellsTerms: "LogRecovery::terms", "the runs of equal terms from base.index + 1 through last";
    /// Its configurations are not those of the entries.
    RecoverTellsMemberships: "LogRecovery::memberships", "every configuration in the log, by index";
    /// More is gone than was to be dropped.
    CompactsNoMore: "LogStore::compact", "drops entries through `through` at most; the log then begins behind what was dropped";
    /// What was dropped is back.
    CompactionStays: "LogStore::compact", "need not be durable when it returns, but becomes so before any later write";
    /// An entry of the log is not returned, or another one in its place.
    ReadsWhatIsThere: "LogReader::read", "entries from `from` on: as many as fit into `bytes_max`, one at least";
    /// Entries are returned that were not asked for, or are not in the log.
    ReadsNothingElse: "LogReader::read", "through `through` at most; empty if `from` is not in the log";
    /// More bytes than asked for.
    ReadsKeepToBytes: "LogReader::read", "as many as fit into `bytes_max`, one at least";
    /// A read beside a write fails, or returns something wrong.
    ReadsBesideWrites: "LogStore::reader", "reads beside the writes: a reader does not queue behind write";

    /// A finished snapshot is gone.
    SnapshotDurable: "SnapshotWriter::finish", "returns when the snapshot is complete, and durable: after fsync";
    /// A snapshot is found that was never finished.
    SnapshotComplete: "SnapshotStore::recover", "the newest complete snapshot; incomplete ones are dropped";
    /// The one that a start found was not durable yet.
    RecoveredSnapshotIsDurable: "SnapshotStore::recover", "the newest complete snapshot is durable, also what a killed process had left in caches";
    /// An older one is found.
    SnapshotNewest: "SnapshotStore::recover", "the newest complete snapshot; older ones are dropped";
    /// An error where a crash left nothing illegal.
    SnapshotsOpen: "SnapshotStore::recover", "what survived: what a crash left of a snapshot that was not finished is no damage";
    /// What is known of the snapshot changed.
    SnapshotMetaKept: "SnapshotStore::recover", "the meta that finish was given";
    /// Other bytes than were written.
    SnapshotBytesKept: "SnapshotStore::read", "bytes of a complete snapshot";
    /// Too many or too few bytes.
    SnapshotReadBounds: "SnapshotStore::read", "`bytes_max` of them except at its end";
    /// Something is read that is not there.
    SnapshotMissing: "SnapshotStore::read", "an error if it is not there; an incomplete one is not there";
    /// Length or digest are wrong, or do not depend on the bytes alone.
    SnapshotDigest: "SnapshotWriter::written", "length and digest of what was written";
    /// A forgotten one is still read.
    SnapshotForgotten: "SnapshotStore::forget", "drops a snapshot, complete or not, if it is there";
    /// Forgetting, or writing another one, did harm.
    SnapshotsApart: "SnapshotStore", "a failed or abandoned call harms nothing but its own snapshot; a local one and an incoming one may be written at the same time, while others are read";

    /// Two machines differ after the same entries.
    Deterministic: "StateMachine", "deterministic: what it does depends on the entries alone";
    /// Too few or too many responses.
    OneResponse: "StateMachine::apply", "one response for each command among them, none for other entries";
    /// A command that cannot be decoded was skipped.
    RefusesBadCommands: "StateMachine::apply", "an error if a command cannot be decoded; never skip one";
    /// A command that must not be in the log gets there, or one that may is kept out.
    ChecksCommands: "StateMachine::check", "an error if `apply` could only fail on the command, before it is in the log";
    /// A snapshot changed the state.
    SnapshotHarmless: "StateMachine::snapshot", "freezes the state; the machine itself goes on as it was";
    /// A snapshot is not the state of its point.
    SnapshotIsThePoint: "StateMachine::snapshot", "what was applied until now, and nothing that is applied later";
    /// A restored machine is another one.
    RestoreReplaces: "StateMachine::restore", "replaces the state by that of a snapshot";
    /// A snapshot that cannot be read was taken for a whole one.
    RestoreReportsErrors: "StateMachine::restore", "an error if the snapshot cannot be read, or is none of this machine's";
    /// More is claimed than is there.
    RecoverClaims: "StateMachine::recover", "the last entry whose effect is durable in the machine itself";
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({}: \"{}\")", self.of(), self.words())
    }
}
