//! The canonical form of nodes and messages: see [`Frame`].

use alloc::vec::Vec;

use super::Node;
use crate::canonical::{Form, Name, Place, Walk, put};
use crate::entry::Entries;
use crate::event::Event;
use crate::ids::NodeId;
use crate::message::Message;
use crate::time::nanos;

/// What the canonical forms of one cluster's nodes and messages have in common. Two states of a cluster that behave
/// alike from now on have the same canonical form, whenever they were reached and by however many rounds of messages
/// and writes: so a state space that is explored by it closes, as far as terms and logs are bounded.
///
/// Times are relative to each node's own `now`, and as good as equal beyond every timeout. Rounds and the ids that
/// nodes mint are relative to the others there are. Counters for operators, the configuration and the state of the
/// jitter are left out: an explorer sets `election_timeout_max` a nanosecond above the minimum, so that there is none.
///
/// ```
/// # use raft_core::{Config, Event, Frame, Instant, LogId, LogRecovery, Node, NodeId, Recovery, Ticket};
/// let start = |at: u64| {
///     let log = LogRecovery::default();
///     let recovery = Recovery { log, snapshot: None, applied: LogId::ZERO, incarnation: at };
///     Node::start(Config::new(NodeId::new(1)), recovery, Instant::from_nanos(at))
/// };
/// let canonical = |node: &Node| {
///     let mut out = Vec::new();
///     Frame::new([node], []).node(node, &mut out);
///     out
/// };
/// let (early, mut late) = (start(1)?, start(77)?);
/// assert_eq!(canonical(&early), canonical(&late));
///
/// let members = [(NodeId::new(1), "here".into())].into();
/// late.step(Instant::from_nanos(77), Event::Bootstrap { ticket: Ticket::new(1), members })?;
/// assert_ne!(canonical(&early), canonical(&late));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Frame {
    /// Rising.
    names: Vec<Name>,
}

impl Frame {
    /// The frame of a cluster: all of its nodes, and all messages on their way. What is not among them must not be
    /// asked for.
    pub fn new<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        messages: impl IntoIterator<Item = &'a Message>,
    ) -> Self {
        let mut form = Form::default();
        for node in nodes {
            form.add_node(node);
        }
        for message in messages {
            form.add(message.from, message);
        }
        let mut names = form.names;
        names.sort_unstable();
        names.dedup();
        Self { names }
    }

    /// Appends the canonical form of a node of this cluster.
    pub fn node(&self, node: &Node, out: &mut Vec<u8>) {
        out.extend_from_slice(&node.shared.id().get().to_le_bytes());
        let mut form = Form::default();
        form.add_node(node);
        self.form(&form, out);
    }

    /// Appends the canonical form of a message of this cluster.
    pub fn message(&self, message: &Message, out: &mut Vec<u8>) {
        self.part(message.from, message, out);
    }

    /// Appends the canonical form of a report that has not reached this node yet: [`Event::Persisted`] and the like.
    /// It is relative to what the node waits for.
    pub fn report(&self, to: NodeId, event: &Event, out: &mut Vec<u8>) {
        self.part(to, event, out);
    }

    fn part(&self, of: NodeId, part: &impl serde::Serialize, out: &mut Vec<u8>) {
        let mut form = Form::default();
        form.add(of, part);
        self.form(&form, out);
    }

    /// The bytes say how many names there are, and what they mean.
    fn form(&self, form: &Form, out: &mut Vec<u8>) {
        out.extend_from_slice(&form.bytes);
        for name in &form.names {
            put(name.place(&self.names), out);
        }
    }
}

impl Form {
    /// Adds a node.
    pub fn add_node(&mut self, node: &Node) {
        Walk::over(node, node.place(), self);
    }
}

impl Node {
    /// Appends the canonical form of this node alone: a [`Frame`] without others.
    pub fn canonical(&self, out: &mut Vec<u8>) {
        Frame::new([self], []).node(self, out);
    }

    /// The end of the log that is in memory: everything that is not durable is in it.
    #[must_use]
    pub fn tail(&self) -> Entries {
        let log = &self.shared.log;
        let all = log.slice(log.tail_first(), log.last_index(), u64::MAX, u64::MAX);
        all.expect("what begins where the tail begins is in the tail")
    }

    fn place(&self) -> Place {
        let config = &self.shared.config;
        let timeout_max = config.election_timeout_max.max(config.catch_up_timeout);
        Place {
            node: self.shared.id().get(),
            term: self.shared.term().get(),
            now: self.shared.now.as_nanos(),
            timeout_max: nanos(timeout_max),
        }
    }
}
