//! What has arrived at a node and was not taken in yet.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::Message;
use raft_core::host::{Operator, Read, Rejection, StateMachine, Writer};
use raft_core::{AdminRefusal, ReadConsistency};
use raft_driver_tokio::StopReason;
use raft_driver_tokio::driver::{AdminRequest, Fresh, Freshness, Input, Proof, refuse_read};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::actor::NodeEngine;
use crate::admin::AdminReply;
use crate::messages::{PendingWrite, ReadFreshness, Reply};

/// What reaches the node beside requests, past the mailbox's capacity: see [`Input`]. It names the life of the node that
/// it is for, as a supervised one may have several.
pub(crate) struct Arrival {
    pub(crate) life: u64,
    pub(crate) input: Input,
}

impl Message for Arrival {
    type Result = ();
}

/// Makes a read, from what it proves and its share of what may wait.
type MakeRead<S> = Box<dyn FnOnce(Option<Proof>, Option<OwnedSemaphorePermit>) -> Box<dyn Read<S>>>;

/// What callers ask for.
pub(crate) enum Request<S: StateMachine> {
    Write(PendingWrite<S::Response>),
    Read(ReadFreshness, MakeRead<S>),
    Admin(AdminRequest, AdminReply),
    Shutdown { at_once: bool, reply: Reply<StopReason> },
}

/// What has arrived and was not taken in yet. Between turns it holds less than a turn takes in.
pub(crate) struct Inbox<S: StateMachine> {
    pub(crate) inputs: VecDeque<Input>,
    pub(crate) requests: VecDeque<Request<S>>,
    /// Who waits for the end.
    pub(crate) shutdowns: Vec<Reply<StopReason>>,
}

impl<S: StateMachine> Inbox<S> {
    pub(crate) fn ask(&mut self, request: Request<S>) {
        self.requests.push_back(request);
    }

    /// The node does not run: answers whatever is here. One that `returns` will take it, if it is asked again.
    pub(crate) fn reject(&mut self, returns: bool) {
        self.inputs.clear();
        let why = if returns { Rejection::Busy } else { Rejection::Stopped };
        for request in self.requests.drain(..) {
            match request {
                Request::Write(write) => write.reject(why.clone()),
                Request::Read(_, read) => match returns {
                    true => read(None, None).reject(Rejection::Busy),
                    false => refuse_read(read(None, None)),
                },
                Request::Admin(_, reply) if returns => reply.tell(Err(AdminRefusal::Busy.into())),
                Request::Admin(_, reply) => reply.stopped(),
                Request::Shutdown { reply, .. } => self.shutdowns.push(reply),
            }
        }
    }
}

impl<S: StateMachine> Default for Inbox<S> {
    fn default() -> Self {
        Self { inputs: VecDeque::new(), requests: VecDeque::new(), shutdowns: Vec::new() }
    }
}

/// Reads from a state that is as fresh as the read must have it.
pub(crate) fn read_fresh<S: StateMachine>(
    engine: &mut NodeEngine<S>,
    freshness: &Arc<Freshness>,
    local_reads: &Arc<Semaphore>,
    how: ReadFreshness,
    read: MakeRead<S>,
) {
    let bound = match how {
        // A lease proves as much as the clocks are worth: stale reads do not rely on it.
        ReadFreshness::Proved(ReadConsistency::Lease) => {
            return engine.read(read(None, None), ReadConsistency::Lease);
        }
        ReadFreshness::Proved(consistency) => {
            return engine.read(read(Some(freshness.ask()), None), consistency);
        }
        ReadFreshness::Stale(bound) => bound,
    };
    match freshness.judge(bound) {
        Fresh::Enough => {}
        Fresh::Aging => {
            if let Some(question) = freshness.question() {
                engine.read(question, ReadConsistency::Linearizable);
            }
        }
        Fresh::Unproved => {
            return engine.read(read(Some(freshness.ask()), None), ReadConsistency::Linearizable);
        }
    }
    match Arc::clone(local_reads).try_acquire_owned() {
        Ok(room) => engine.read_local(read(None, Some(room))),
        Err(_) => read(None, None).reject(Rejection::Busy),
    }
}
