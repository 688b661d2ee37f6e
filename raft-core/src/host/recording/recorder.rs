//! A node that writes down its life: see the [module's head](super).
//!
//! * A step is recorded before it is taken.
//! * Memory is bounded: what is not fetched in time is dropped, never more than whole ends of files, and the next file
//!   begins with a checkpoint.
//! * Recording changes nothing of what the node does.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use super::codec::encode_brief;
use super::{Account, Checksum, Frame, put_frame, put_header};
use crate::action::Action;
use crate::config::Config;
use crate::error::{Fatal, StartError};
use crate::event::Event;
use crate::node::Node;
use crate::recovery::Recovery;
use crate::time::Instant;

/// What the buffer may keep once its content was fetched: more than a turn's steps mostly take.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

type Lent<'a> = Frame<&'a Config, &'a Recovery, &'a Node, &'a Event>;

/// How a node is recorded. Start from [`RecorderOptions::new`] and change what you need.
#[derive(Clone, Copy, Debug)]
pub struct RecorderOptions {
    /// Guards the file, and is the digest of actions. `sim replay` expects CRC-32 (`crc32fast::hash`).
    pub checksum: Checksum,
    /// Bytes in one file beside its beginning, except that one step is always written; the beginning is a checkpoint that
    /// holds the tail of the log ([`Config::tail_bytes_max`] and what is not durable) and what else the node has in
    /// memory. A file may also grow until it is twice its beginning. Default 64 MiB.
    pub file_bytes_max: u64,
    /// Bytes of steps that wait for [`RecordedNode::fetch`], except that one step is always kept. At the limit recording
    /// stands still until they are fetched, and then goes on in another file. Default 16 MiB.
    pub buffer_bytes_max: u64,
}

impl RecorderOptions {
    /// The defaults, with this checksum.
    #[must_use]
    pub const fn new(checksum: Checksum) -> Self {
        const MIB: u64 = 1 << 20;
        Self { checksum, file_bytes_max: 64 * MIB, buffer_bytes_max: 16 * MIB }
    }
}

/// Some bytes of a recording, to be written down behind those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingPart<'a> {
    /// Whether a new file begins with them. The one before it is complete, as far as it ever will be.
    pub begins: bool,
    /// Whole frames.
    pub bytes: &'a [u8],
}

/// A [`Node`] that can be recorded: the same calls, and what they did can be [fetched](Self::fetch) as bytes and written
/// down. It [derefs](Deref) to the node for all that changes nothing. Unless it is recorded it is the node, at the price
/// of a branch a call. Recorded, a node takes about twice its time: what comes in is copied, and goes through a checksum.
///
/// The bytes hold payloads as they are: treat them like the log.
///
/// ```
/// use raft_core::host::recording::{RecordedNode, RecorderOptions, Replay};
/// use raft_core::{Config, Event, Instant, LogId, LogRecovery, NodeId, Recovery};
/// # fn checksum(bytes: &[u8]) -> u32 {
/// #     bytes.iter().fold(7, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte)) // yours is CRC-32
/// # }
/// let log = LogRecovery::default();
/// let recovery = Recovery { log, snapshot: None, applied: LogId::ZERO, incarnation: 1 };
/// let config = Config::new(NodeId::new(1));
/// let options = RecorderOptions::new(checksum);
/// let mut node = RecordedNode::start(config, recovery, Instant::ZERO, options)?;
///
/// node.step(node.deadline().unwrap_or(Instant::ZERO), Event::Wake)?;
/// while let Some(action) = node.poll_action() {
///     println!("{action:?}");
/// }
/// let mut file = Vec::new(); // the driver's own: it opens another one whenever a part begins one
/// node.fetch(|part| std::io::Write::write_all(&mut file, part.bytes))?;
///
/// let mut replay = Replay::open(file.into(), checksum)?;
/// while let Some(step) = replay.next_step()? {
///     println!("{} {:?} {:?}", step.number, step.event, step.actions);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RecordedNode {
    node: Node,
    recorder: Option<Box<Recorder>>,
}

impl RecordedNode {
    /// Starts a node as [`Node::start`] does, and records it from its beginning.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start(
        config: Config,
        recovery: Recovery,
        now: Instant,
        options: RecorderOptions,
    ) -> Result<Self, StartError> {
        let mut recorder = Box::new(Recorder::new(options));
        recorder.begin(&Frame::Start(&config, &recovery, now));
        Ok(Self { node: Node::start(config, recovery, now)?, recorder: Some(recorder) })
    }

    /// Records from here on: a new file begins with a checkpoint. Good at any moment, also in the midst of an incident.
    /// What was recorded before and was not fetched is dropped.
    pub fn record(&mut self, options: RecorderOptions) {
        let mut recorder = Box::new(Recorder::new(options));
        recorder.begin(&Frame::Checkpoint(0, &self.node));
        self.recorder = Some(recorder);
    }

    /// Ends the recording. Whether the last step's actions are as they should be can then be verified too.
    ///
    /// # Errors
    /// As `write`, which gets the rest: see [`fetch`](Self::fetch).
    pub fn end_recording<E>(
        &mut self,
        write: impl FnMut(RecordingPart<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(recorder) = &mut self.recorder {
            recorder.end();
        }
        let result = self.fetch(write);
        self.recorder = None;
        result
    }

    /// Whether it is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recorder.is_some()
    }

    /// How many steps are on no record, because those before them were not fetched in time.
    #[must_use]
    pub fn steps_missed(&self) -> u64 {
        self.recorder.as_ref().map_or(0, |recorder| recorder.missed)
    }

    /// As [`Node::step`]. If it panics, the event is on record all the same: [`fetch`](Self::fetch) is what may still be
    /// called.
    ///
    /// # Errors
    /// As [`Node::step`].
    pub fn step(&mut self, now: Instant, event: Event) -> Result<(), Fatal> {
        let Some(recorder) = &mut self.recorder else { return self.node.step(now, event) };
        recorder.stepping(&self.node, now, &event);
        self.node.step(now, event).inspect_err(|fatal| encode_brief(fatal, &mut recorder.taken))
    }

    /// As [`Node::poll_action`].
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.node.poll_action();
        if let Some(recorder) = &mut self.recorder {
            recorder.polled(action.as_ref());
        }
        action
    }

    /// Hands all that was recorded since the last call to `write`, in order, at most one part for each file. Call it once
    /// a turn, or after many.
    ///
    /// # Errors
    /// As `write`, which is not called again by this call. What it did not take is dropped, and another file begins.
    pub fn fetch<E>(&mut self, write: impl FnMut(RecordingPart<'_>) -> Result<(), E>) -> Result<(), E> {
        match &mut self.recorder {
            Some(recorder) => recorder.fetch(write),
            None => Ok(()),
        }
    }

    /// The node, which nobody records any more.
    #[must_use]
    pub fn into_node(self) -> Node {
        self.node
    }
}

impl From<Node> for RecordedNode {
    /// A node that is not recorded yet.
    fn from(node: Node) -> Self {
        Self { node, recorder: None }
    }
}

impl Deref for RecordedNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl fmt::Debug for RecordedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedNode")
            .field("node", &self.node)
            .field("recorded", &self.is_recorded())
            .finish_non_exhaustive()
    }
}

struct Recorder {
    options: RecorderOptions,
    /// What waits to be fetched.
    buffer: Vec<u8>,
    /// Where files begin in it.
    begins: Vec<usize>,
    /// How much of it steps take.
    waiting_bytes: u64,
    /// What the current file's beginning takes, and all behind it.
    beginning_bytes: u64,
    file_bytes: u64,
    /// Nothing more goes into the current file.
    ended: bool,
    /// Steps that there were.
    steps: u64,
    missed: u64,
    /// What came out since the last step: its digest covers these bytes.
    taken: Vec<u8>,
    account: Account,
}

impl Recorder {
    fn new(options: RecorderOptions) -> Self {
        Self {
            options,
            buffer: Vec::new(),
            begins: Vec::new(),
            waiting_bytes: 0,
            beginning_bytes: 0,
            file_bytes: 0,
            ended: false,
            steps: 0,
            missed: 0,
            taken: Vec::new(),
            account: Account::default(),
        }
    }

    /// Begins a file.
    fn begin(&mut self, frame: &Lent<'_>) {
        let start = self.buffer.len();
        self.begins.push(start);
        put_header(&mut self.buffer);
        put_frame(frame, self.options.checksum, &mut self.buffer);
        self.beginning_bytes = (self.buffer.len() - start) as u64;
        (self.file_bytes, self.ended) = (0, false);
        self.taken.clear();
        self.account = Account::default();
    }

    /// Goes on with the file.
    fn put(&mut self, frame: &Lent<'_>) {
        let start = self.buffer.len();
        put_frame(frame, self.options.checksum, &mut self.buffer);
        let bytes = (self.buffer.len() - start) as u64;
        self.file_bytes += bytes;
        self.waiting_bytes += bytes;
    }

    fn polled(&mut self, action: Option<&Action>) {
        match action {
            _ if self.ended => {}
            Some(action) => {
                encode_brief(action, &mut self.taken);
                self.account.actions += 1;
            }
            None => self.account.drained = true,
        }
    }

    /// What came out since the last step.
    fn close(&mut self) -> Account {
        let digest = (self.options.checksum)(&self.taken);
        self.taken.clear();
        Account { digest, ..core::mem::take(&mut self.account) }
    }

    /// Before `node` takes a step.
    fn stepping(&mut self, node: &Node, now: Instant, event: &Event) {
        let RecorderOptions { file_bytes_max, buffer_bytes_max, .. } = self.options;
        let behind = self.waiting_bytes >= buffer_bytes_max;
        if behind || self.file_bytes >= file_bytes_max.max(self.beginning_bytes) {
            self.end();
        }
        self.steps += 1;
        if behind {
            self.missed += 1;
            return;
        }
        if self.ended {
            self.begin(&Frame::Checkpoint(self.steps - 1, node));
        }
        let account = self.close();
        self.put(&Frame::Step(account, now, event));
    }

    /// Ends the file.
    fn end(&mut self) {
        if !self.ended {
            let account = self.close();
            self.put(&Frame::End(account));
            self.ended = true;
        }
    }

    fn fetch<E>(&mut self, mut write: impl FnMut(RecordingPart<'_>) -> Result<(), E>) -> Result<(), E> {
        let (mut start, mut begins, mut result) = (0, false, Ok(()));
        for end in self.begins.drain(..).chain([self.buffer.len()]) {
            if start < end && result.is_ok() {
                result = write(RecordingPart { begins, bytes: &self.buffer[start..end] });
            }
            (start, begins) = (end, true);
        }
        self.ended |= result.is_err();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.waiting_bytes = 0;
        result
    }
}
