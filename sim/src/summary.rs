//! What a run was: its figures if it held, and what broke if it did not.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::FaultCounts;
use crate::marks::Marks;
use crate::rng::fold;
use crate::scenario::Options;
use crate::transcript::Transcript;

/// The figures of one run, or of many added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Runs added up here.
    pub runs: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Events that nodes took in.
    pub events: u64,
    /// Operations that clients began.
    pub operations: u64,
    /// Commands that were committed.
    pub committed: u64,
    /// Reads that were served.
    pub reads_served: u64,
    /// Leaders elected.
    pub elections: u64,
    /// Crashes of a node.
    pub crashes: u64,
    /// What went wrong, by kind.
    pub faults: FaultCounts,
    /// Leaders that were cut off as they handed over.
    pub spites: u64,
    /// Starts that were refused because the disk had rotted.
    pub starts_refused: u64,
    /// Runs in which clocks were further off than leases allow.
    pub beyond_bound: u64,
    /// Messages sent.
    pub messages: u64,
    /// Messages lost.
    pub messages_lost: u64,
    /// Syncs finished.
    pub syncs: u64,
    /// Reads of entries that were no longer in memory.
    pub log_reads: u64,
    /// Requests that were answered `Busy`.
    pub busy: u64,
    /// Changes of the membership that were answered as done.
    pub changes_done: u64,
    /// Changes that were cancelled.
    pub changes_cancelled: u64,
    /// Changes that were refused, or of unknown outcome.
    pub changes_refused: u64,
    /// Changes that were given up because new voters did not catch up.
    pub timed_out: u64,
    /// Joint configurations entered.
    pub joint: u64,
    /// Joint configurations that were taken back.
    pub backed_out: u64,
    /// New servers that were switched on.
    pub joined: u64,
    /// Removed servers that were switched off.
    pub retired: u64,
    /// Snapshots taken.
    pub snapshots: u64,
    /// Chunks of snapshots sent.
    pub chunks: u64,
    /// Snapshots installed from a leader.
    pub installed: u64,
    /// Snapshots restored by a state machine, after a restart too.
    pub restored: u64,
    /// Compactions of a log.
    pub compactions: u64,
    /// Leaderships handed over.
    pub transfers: u64,
    /// Restarts by plan, with a hand-over before.
    pub restarts: u64,
    /// Reads that asked for the lease.
    pub lease_reads: u64,
    /// Reads served by a node that did not lead.
    pub follower_reads: u64,
    /// Writes that were committed, and whose response was in a snapshot.
    pub applied_elsewhere: u64,
    /// Writes whose outcome nobody knew, though nobody gave them up.
    pub unknown: u64,
    /// Keys whose history could not be decided to be linearizable within the bound on the search.
    pub undecided: u64,
    /// Runs in which a majority was healed first, and the rest stayed broken.
    pub majorities: u64,
    /// Runs in which that was excused for a proven reason: see `settle/part.rs`.
    pub excused: u64,
    /// The places in the core's behaviour that were reached, with the number of runs.
    pub marks: Marks,
    /// What happened, as a number: the same seed gives the same. Sums do not depend on the order of the runs.
    pub digest: u64,
}

impl Summary {
    /// Adds another run's figures.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.simulated += other.simulated;
        self.events += other.events;
        self.operations += other.operations;
        self.committed += other.committed;
        self.reads_served += other.reads_served;
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.faults.add(&other.faults);
        self.spites += other.spites;
        self.starts_refused += other.starts_refused;
        self.beyond_bound += other.beyond_bound;
        self.messages += other.messages;
        self.messages_lost += other.messages_lost;
        self.syncs += other.syncs;
        self.log_reads += other.log_reads;
        self.busy += other.busy;
        self.changes_done += other.changes_done;
        self.changes_cancelled += other.changes_cancelled;
        self.changes_refused += other.changes_refused;
        self.timed_out += other.timed_out;
        self.joint += other.joint;
        self.backed_out += other.backed_out;
        self.joined += other.joined;
        self.retired += other.retired;
        self.snapshots += other.snapshots;
        self.chunks += other.chunks;
        self.installed += other.installed;
        self.restored += other.restored;
        self.compactions += other.compactions;
        self.transfers += other.transfers;
        self.restarts += other.restarts;
        self.lease_reads += other.lease_reads;
        self.follower_reads += other.follower_reads;
        self.applied_elsewhere += other.applied_elsewhere;
        self.unknown += other.unknown;
        self.undecided += other.undecided;
        self.majorities += other.majorities;
        self.excused += other.excused;
        self.marks.add(&other.marks);
        self.digest = self.digest.wrapping_add(fold(1, other.digest));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "simulated    {:.1} s in {} runs", self.simulated.as_secs_f64(), self.runs)?;
        writeln!(
            f,
            "clients      {} operations, {} writes committed, {} reads served, {} times busy",
            self.operations, self.committed, self.reads_served, self.busy
        )?;
        writeln!(
            f,
            "cluster      {} events, {} elections, {} messages ({} lost), {} syncs, {} log reads",
            self.events, self.elections, self.messages, self.messages_lost, self.syncs, self.log_reads
        )?;
        writeln!(f, "faults       {} crashes of a node in all; by kind: {}", self.crashes, self.faults)?;
        writeln!(
            f,
            "             {} leaders cut off as they hand over, {} starts refused, {} runs with clocks beyond the bound",
            self.spites, self.starts_refused, self.beyond_bound
        )?;
        writeln!(
            f,
            "membership   {} changes done, {} cancelled, {} refused, {} timed out; {} joint phases, {} taken back; {} \
             servers joined, {} retired",
            self.changes_done,
            self.changes_cancelled,
            self.changes_refused,
            self.timed_out,
            self.joint,
            self.backed_out,
            self.joined,
            self.retired
        )?;
        writeln!(
            f,
            "snapshots    {} taken, {} chunks sent, {} installed, {} restored; {} compactions",
            self.snapshots, self.chunks, self.installed, self.restored, self.compactions
        )?;
        writeln!(
            f,
            "leadership   {} transfers, {} restarts by plan; {} lease reads asked for, {} reads served by others",
            self.transfers, self.restarts, self.lease_reads, self.follower_reads
        )?;
        writeln!(
            f,
            "outcomes     {} writes applied elsewhere only, {} unknown; {} histories undecided",
            self.applied_elsewhere, self.unknown, self.undecided
        )?;
        writeln!(
            f,
            "liveness     {} runs with a part that stayed broken, {} excused",
            self.majorities, self.excused
        )?;
        write!(f, "digest       {:016x}", self.digest)
    }
}

/// A run in which a rule was broken.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Failure {
    /// What the caller had fixed.
    pub options: Options,
    /// When, in simulated time.
    pub at: Duration,
    /// Which checker saw it.
    pub checker: &'static str,
    /// What it saw.
    pub what: String,
    /// Everything that was decided until then: the run again, to be kept, shrunk and looked at.
    pub transcript: Transcript,
}

impl Failure {
    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.transcript.seed()
    }

    /// The one command that shows the run again, as protocol lines, if this program has the simulator's command line.
    #[must_use]
    pub fn command(&self) -> String {
        format!("{} run --seed {}{} --trace", program(), self.seed(), self.options)
    }
}

/// This program as it was called, without its directory: another one has another workload.
pub(crate) fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    Path::new(&called).file_name().unwrap_or(OsStr::new("sim")).to_string_lossy().into_owned()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, seconds) = (self.seed(), self.at.as_secs_f64());
        writeln!(f, "seed {seed} at {seconds:.6} s: checker `{}`", self.checker)?;
        writeln!(f, "  {}", self.what)?;
        write!(f, "reproduce: {}", self.command())
    }
}
