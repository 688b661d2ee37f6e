//! Recordings of nodes: made in a run, and replayed wherever they were made.
//!
//! * Every life of a server that is recorded has files of its own, and recording changes nothing of the run.
//! * A replay steps the same core, and compares all that comes out with what was recorded. It needs nothing but the file.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use raft_core::host::recording::{
    Ending, MAGIC, RecordedNode, RecorderOptions, RecordingPart, Replay, ReplayError, Replayed,
};
use raft_core::{Config, Instant, Node, NodeId, Recovery, StartError, Status};

use crate::workload::Workload;
use crate::world::{World, panic_text};

/// Where recordings go: which server's, in which of its lives, counted from 0.
pub(crate) type Write<'t> = &'t mut dyn FnMut(NodeId, u32, RecordingPart<'_>);

/// Records the nodes of a run.
pub(crate) struct Recorder<'t> {
    pub(crate) options: RecorderOptions,
    pub(crate) write: Write<'t>,
}

impl Recorder<'_> {
    fn take(&mut self, node: &mut RecordedNode, life: u32, ends: bool) {
        let id = node.config().id;
        let write = |part: RecordingPart<'_>| {
            (self.write)(id, life, part);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = if ends { node.end_recording(write) } else { node.fetch(write) };
    }
}

impl<'t, W: Workload> World<'t, W> {
    /// Every node is recorded.
    pub(crate) fn recorded(mut self, options: RecorderOptions, write: Write<'t>) -> Self {
        self.recorder = Some(Recorder { options, write });
        self
    }

    /// Starts a node, which is recorded if they all are.
    pub(crate) fn start_node(
        &self,
        config: Config,
        recovery: Recovery,
        now: Instant,
    ) -> Result<RecordedNode, StartError> {
        match &self.recorder {
            Some(recorder) => RecordedNode::start(config, recovery, now, recorder.options),
            None => Ok(Node::start(config, recovery, now)?.into()),
        }
    }

    /// Hands out what was recorded so far.
    pub(crate) fn fetch_recordings(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        for server in &mut self.servers {
            let life = server.life();
            server.node_mut().into_iter().for_each(|node| recorder.take(node, life, false));
        }
    }

    /// This life of a server is over.
    pub(crate) fn end_recording(&mut self, at: usize) {
        let Some(recorder) = &mut self.recorder else { return };
        let life = self.servers[at].life();
        self.servers[at].node_mut().into_iter().for_each(|node| recorder.take(node, life, true));
    }

    /// The run is over.
    pub(crate) fn end_recordings(&mut self) {
        (0..self.servers.len()).for_each(|at| self.end_recording(at));
    }
}

/// Whether a file begins as recordings do.
#[must_use]
pub fn is_recording(file: &[u8]) -> bool {
    file.starts_with(&MAGIC)
}

/// What a replay has verified.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verified {
    /// How many steps came before the file's first in the node's life.
    pub steps_before: u64,
    /// How many there are in the file.
    pub steps: u64,
    /// How many actions they caused.
    pub actions: u64,
    /// How the file ends. Unless it is [`Ending::Complete`], nobody knows what the last step should have caused.
    pub ending: Ending,
    /// How the node stands at the end.
    pub status: Status,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps_before, steps, actions, ending, status } = self;
        let Status { id, role, term, last, commit, applied, .. } = status;
        let ending = match ending {
            Ending::Complete => "to the end of the recording".to_owned(),
            Ending::Open => "but the recording was not ended: its last step is not verified".to_owned(),
            Ending::Damaged { offset } => {
                format!("but the rest is cut short or damaged, from byte {offset} on")
            }
        };
        write!(
            f,
            "n{id}: {steps} steps from #{steps_before} on and their {actions} actions are as recorded, {ending}\n\
             n{id}@{term} is {role:?}, last {last}, commit {commit}, applied {applied}"
        )
    }
}

/// Why a recording was not replayed to its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReplayFailure {
    /// It cannot be replayed, or the node does something else.
    #[error(transparent)]
    Replay(ReplayError),
    /// The node panicked, as it may have when it was recorded.
    #[error("{step}\nthe node panics: {what}")]
    Panic {
        /// What the node was told.
        step: String,
        /// What it said.
        what: String,
    },
}

/// Steps through the recording of a node, hands out every step, and verifies all that comes out.
///
/// ```no_run
/// let file = std::fs::read("n2.recording")?;
/// let verified = raft_sim::replay_recording(file.into(), &mut |step| println!("{step}"))?;
/// println!("{verified}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If it is no recording of this release, makes no sense, or the node does not do what it did.
pub fn replay_recording(file: Bytes, sink: &mut dyn FnMut(&Replayed)) -> Result<Verified, ReplayFailure> {
    // A file that was altered on purpose may ask for what no node can be.
    let opened = caught(|| "the beginning".to_owned(), || Replay::open(file, crc32fast::hash))?;
    let mut replay = opened.map_err(|error| ReplayFailure::Replay(error.into()))?;
    let (first, mut actions) = (replay.number(), 0);
    loop {
        // A step that panics takes what it was told with it.
        let before = replay.upcoming();
        let told = || before.unwrap_or_else(|| "the beginning".to_owned());
        let Some(replayed) = caught(told, || replay.next_step())?.map_err(ReplayFailure::Replay)? else {
            break;
        };
        actions += replayed.actions.len() as u64;
        sink(&replayed);
    }
    let ending = replay.ending().unwrap_or(Ending::Open);
    let status = replay.node().status();
    Ok(Verified { steps_before: first, steps: replay.number() - first, actions, ending, status })
}

fn caught<T>(step: impl FnOnce() -> String, call: impl FnOnce() -> T) -> Result<T, ReplayFailure> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|panic| ReplayFailure::Panic { step: step(), what: panic_text(&*panic).to_owned() })
}
