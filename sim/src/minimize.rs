//! The shortest schedule that still fails: takes out of a failing run whatever it fails without.
//!
//! * A candidate counts if it fails by the *same checker*: another failure is another finding.
//! * First everything that came after the failure, then what the scenario adds everywhere (loss, late polls, small limits),
//!   then faults, then the operator's acts, then requests, then servers; again, until a whole round takes nothing out.
//! * Decisions are taken out in halves, quarters, and so on down to one by one (delta debugging).
//! * A failure is often a race that a change elsewhere undoes by chance: where much would be won, a candidate is given
//!   several chances, each with other reactions (delays, losses, what a crash spares).
//! * Nothing is searched without a bound: the caller says how many runs it may take.

use raft_core::Config;

use crate::Simulation;
use crate::clients::Wanted;
use crate::clock::MILLISECOND;
use crate::scenario::Scenario;
use crate::summary::Failure;
use crate::transcript::{Decision, Transcript};
use crate::workload::Workload;
use crate::world::World;

/// How far a search has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Runs so far.
    pub runs: u64,
    /// Faults, operator's acts and requests that are left.
    pub left: (usize, usize, usize),
    /// Servers that are left.
    pub servers: usize,
    /// What is being tried.
    pub doing: &'static str,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The shortest schedule that was found to fail.
    pub transcript: Transcript,
    /// How it fails.
    pub failure: Box<Failure>,
    /// Runs that it took.
    pub runs: u64,
    /// Whether the search came to its end, rather than to its bound.
    pub complete: bool,
}

/// The transcript does not fail any more: there is nothing to be made shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this run holds: there is no failure to be made shorter")]
pub struct Holds;

impl<W: Workload> Simulation<W> {
    /// Makes a failing run as short as it can in at most `runs_max` further runs. `progress` is told after each.
    ///
    /// # Errors
    /// If the run does not fail.
    pub fn shrink(
        &self,
        transcript: &Transcript,
        runs_max: u64,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Shrunk, Holds> {
        let failure = self.replay(transcript).err().ok_or(Holds)?;
        let best = failure.transcript.clone();
        let mut search = Search { simulation: self, best, failure, runs: 0, runs_max, progress, doing: "" };
        search.end_early();
        while search.round() {}
        let complete = search.runs < runs_max;
        let Search { failure, runs, .. } = search;
        Ok(Shrunk { transcript: failure.transcript.clone(), failure, runs, complete })
    }
}

/// How many chances a candidate gets by which much would be won.
const CHANCES: u64 = 6;

/// A search, and the shortest failing run so far.
struct Search<'s, W> {
    simulation: &'s Simulation<W>,
    best: Transcript,
    failure: Box<Failure>,
    runs: u64,
    runs_max: u64,
    progress: &'s mut dyn FnMut(&Progress),
    doing: &'static str,
}

impl<W: Workload> Search<'_, W> {
    /// Tries everything once. Whether something could be taken out.
    fn round(&mut self) -> bool {
        let before = self.size();
        self.doing = "a shorter run";
        self.later_start();
        self.doing = "calmer";
        self.calm();
        self.doing = "fewer faults";
        self.remove(|decision| matches!(decision, Decision::Fault(_)));
        self.doing = "fewer acts of the operator";
        self.remove(|decision| matches!(decision, Decision::Move(_)));
        self.doing = "fewer requests";
        self.remove(|decision| matches!(decision, Decision::Request(_)));
        self.doing = "smaller requests";
        self.simplify();
        self.doing = "fewer servers";
        self.fewer_servers();
        self.size() < before && self.runs < self.runs_max
    }

    fn size(&self) -> usize {
        self.best.decisions.len() + self.best.scenario.configs.len()
    }

    /// Runs a candidate up to `chances` times, each with other reactions, and keeps it if it fails in the same way.
    fn attempt_often(&mut self, mut candidate: Transcript, chances: u64) -> bool {
        let seed = candidate.seed;
        (0..chances).any(|chance| {
            candidate.seed = seed.wrapping_add(chance);
            self.attempt(candidate.clone())
        })
    }

    /// Runs a candidate, and keeps it if it fails in the same way.
    fn attempt(&mut self, candidate: Transcript) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        // If it was broken while the faults went on, what comes after them need not be run.
        let mut world = World::given(&self.simulation.workload, &candidate, None);
        world.stop_when_over = self.failed_early();
        let (result, transcript) = world.run(&self.simulation.options);
        let kept = match result {
            Err(failure) if failure.checker == self.failure.checker => {
                // What came after the failure was never decided, and what was decided is all that is left.
                self.best = Transcript { ends_at: candidate.ends_at, ..transcript };
                self.failure = failure;
                self.failure.transcript = self.best.clone();
                self.end_early();
                true
            }
            _ => false,
        };
        let (left, servers) = (self.best.decisions(), self.best.servers().1);
        (self.progress)(&Progress { runs: self.runs, left, servers, doing: self.doing });
        kept
    }

    fn failed_early(&self) -> bool {
        u64::try_from(self.failure.at.as_nanos()).is_ok_and(|at| at < self.best.ends_at)
    }

    /// The faults need not go on much longer than until the failure.
    fn end_early(&mut self) {
        if self.failed_early() {
            let at = u64::try_from(self.failure.at.as_nanos()).unwrap_or(u64::MAX);
            self.best.ends_at = at.saturating_add(MILLISECOND).min(self.best.ends_at);
            self.failure.transcript.ends_at = self.best.ends_at;
        }
    }

    /// Leaves the first half of the run out, or a quarter, or less: what is left comes earlier.
    fn later_start(&mut self) {
        for parts in [2, 4, 8, 16] {
            let mut cut = self.best.ends_at / parts;
            while cut > 0 {
                let mut candidate = self.best.clone();
                candidate.decisions.retain(|decided| decided.at >= cut);
                candidate.decisions.iter_mut().for_each(|decided| decided.at -= cut);
                candidate.ends_at -= cut;
                // The same again as long as it goes.
                cut = if self.attempt_often(candidate, CHANCES) { self.best.ends_at / parts } else { 0 };
            }
        }
    }

    /// Takes out what the scenario adds everywhere: all at once if that goes, else one by one.
    fn calm(&mut self) {
        let mut all = self.best.clone();
        CALMER.iter().for_each(|calmer| calmer(&mut all.scenario));
        if self.attempt_often(all, CHANCES) {
            return;
        }
        for calmer in CALMER {
            let mut candidate = self.best.clone();
            calmer(&mut candidate.scenario);
            if !same(&candidate.scenario, &self.best.scenario) {
                self.attempt(candidate);
            }
        }
    }

    /// Takes out decisions of a kind: every other one, then parts that follow each other, ever smaller ones.
    fn remove(&mut self, kind: fn(&Decision) -> bool) {
        let of = |best: &Transcript| -> Vec<usize> {
            let numbered = best.decisions.iter().enumerate();
            numbered.filter(|(_, decided)| kind(&decided.decision)).map(|(at, _)| at).collect()
        };
        let without = |best: &Transcript, chosen: &[usize]| {
            let mut candidate = best.clone();
            let mut at = 0;
            candidate.decisions.retain(|_| {
                at += 1;
                chosen.binary_search(&(at - 1)).is_err()
            });
            candidate
        };
        // Many races need so much to be going on, and not just this.
        loop {
            let odd: Vec<usize> = of(&self.best).into_iter().skip(1).step_by(2).collect();
            if odd.is_empty() || !self.attempt_often(without(&self.best, &odd), CHANCES) {
                break;
            }
        }
        let mut part = of(&self.best).len();
        while part > 0 && self.runs < self.runs_max {
            // From the end: what comes late is less likely to matter for what comes later still.
            let mut end = of(&self.best).len();
            while end > 0 {
                let places = of(&self.best);
                end = end.min(places.len());
                let chosen = &places[end.saturating_sub(part)..end];
                let chances = if part * 8 >= places.len() { CHANCES } else { 1 };
                self.attempt_often(without(&self.best, chosen), chances);
                end = end.saturating_sub(part);
            }
            part /= 2;
        }
    }

    /// One operation for each request, and none longer than it needs to be: everywhere, or in halves, and so on.
    fn simplify(&mut self) {
        let simple = |decision: &Decision| match decision {
            Decision::Request(request) => request.wanted.len() == 1 && request.wanted[0].padding == 0,
            _ => true,
        };
        let mut part = self.best.decisions.len();
        while part > 0 && self.runs < self.runs_max {
            let mut end = self.best.decisions.len();
            while end > 0 {
                end = end.min(self.best.decisions.len());
                let range = end.saturating_sub(part)..end;
                let mut candidate = self.best.clone();
                let mut changed = false;
                for decided in &mut candidate.decisions[range] {
                    if simple(&decided.decision) {
                        continue;
                    }
                    if let Decision::Request(request) = &mut decided.decision {
                        request.wanted.truncate(1);
                        request
                            .wanted
                            .iter_mut()
                            .for_each(|wanted| *wanted = Wanted { padding: 0, ..*wanted });
                        changed = true;
                    }
                }
                if changed {
                    self.attempt(candidate);
                }
                end = end.saturating_sub(part);
            }
            part /= 2;
        }
    }

    /// The smallest cluster that still fails, without the decisions that name others.
    fn fewer_servers(&mut self) {
        for servers in 1..self.best.scenario.configs.len() {
            let mut candidate = self.best.clone();
            let scenario = &mut candidate.scenario;
            scenario.configs.truncate(servers);
            scenario.nodes = scenario.nodes.min(servers);
            scenario.bootstrap_only = scenario.bootstrap_only.filter(|only| *only < servers);
            let clients = scenario.clients.clients;
            candidate.decisions.retain(|decided| decided.decision.is_within(servers, clients));
            if self.attempt_often(candidate, CHANCES) {
                return;
            }
        }
    }
}

fn same(one: &Scenario, other: &Scenario) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

/// What a scenario can do without.
const CALMER: &[fn(&mut Scenario)] = &[
    |scenario| scenario.network.loss = 0,
    |scenario| scenario.network.duplication = 0,
    |scenario| scenario.network.straggle = 0,
    |scenario| scenario.network.ordered = true,
    |scenario| scenario.network.abrupt = false,
    |scenario| scenario.network.encoded = 0,
    |scenario| scenario.disk.stall = 0,
    |scenario| scenario.disk.late_report = 0,
    |scenario| scenario.disk.wreck = 0,
    |scenario| scenario.disk.cut_writes = 0,
    |scenario| scenario.disk.whole_records = false,
    |scenario| scenario.disk.snapshot_fails = 0,
    |scenario| scenario.machine.save = 0,
    |scenario| scenario.machine.late_report = 0,
    |scenario| scenario.machine.ballast_bytes = 0,
    |scenario| scenario.driver.late_poll = 0,
    |scenario| scenario.driver.late_wake = 0,
    |scenario| scenario.driver.spurious_wake = 0,
    |scenario| scenario.driver.drift_ppm_max = 0,
    |scenario| scenario.clients.stray = 0,
    |scenario| scenario.clients.near = 0,
    |scenario| scenario.clients.lease_reads = 0,
    |scenario| scenario.faults.spite = 0,
    |scenario| scenario.bootstrap_only = None,
    |scenario| scenario.configs.iter_mut().for_each(usual),
];

/// The limits as they are by default; the timing and the snapshots stay.
fn usual(config: &mut Config) {
    *config = Config {
        seed: config.seed,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        heartbeat_interval: config.heartbeat_interval,
        catch_up_timeout: config.catch_up_timeout,
        lease: config.lease,
        snapshot_policy: config.snapshot_policy,
        compaction_margin_entries: config.compaction_margin_entries,
        snapshot_chunk_bytes: config.snapshot_chunk_bytes,
        ..Config::new(config.id)
    };
}
