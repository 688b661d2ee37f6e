//! A network that is an actor: routes by target, as bytes, and cuts nodes off.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;
use raft_core::NodeId;
use raft_core::host::Codec;
use raft_driver_actix::messages::RaftMessage;
use raft_driver_tokio::Postcard;

/// Routes by target, as bytes, and cuts nodes off.
#[derive(Default)]
pub(crate) struct Router {
    nodes: BTreeMap<NodeId, Recipient<RaftMessage>>,
    isolated: BTreeSet<NodeId>,
    /// Hears only letters.
    letters_only: Option<NodeId>,
    heard: BTreeMap<NodeId, u64>,
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(4096);
    }
}

impl Handler<RaftMessage> for Router {
    type Result = ();

    fn handle(&mut self, message: RaftMessage, _: &mut Self::Context) {
        let (from, to) = (message.sender(), message.target());
        *self.heard.entry(from).or_default() += 1;
        if self.isolated.contains(&from) || self.isolated.contains(&to) {
            return;
        }
        if self.letters_only == Some(to) && matches!(message, RaftMessage::Protocol(_)) {
            return;
        }
        let bytes = Postcard::encode(&message).unwrap();
        let received: RaftMessage = Postcard::decode(bytes).unwrap();
        assert_eq!(received, message);
        if let Some(node) = self.nodes.get(&to) {
            // A message that finds no room is lost, as on any network.
            let _ = node.try_send(received);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum Route {
    Join(NodeId, Recipient<RaftMessage>),
    Leave(NodeId),
    Isolate(NodeId),
    LettersOnly(NodeId),
    Heal,
}

impl Handler<Route> for Router {
    type Result = ();

    fn handle(&mut self, route: Route, _: &mut Self::Context) {
        match route {
            Route::Join(id, node) => drop(self.nodes.insert(id, node)),
            Route::Leave(id) => drop(self.nodes.remove(&id)),
            Route::Isolate(id) => drop(self.isolated.insert(id)),
            Route::LettersOnly(id) => self.letters_only = Some(id),
            Route::Heal => (self.isolated, self.letters_only) = Default::default(),
        }
    }
}

/// How many messages a node has sent.
#[derive(Message)]
#[rtype(result = "u64")]
pub(crate) struct HeardOf(pub(crate) NodeId);

impl Handler<HeardOf> for Router {
    type Result = u64;

    fn handle(&mut self, HeardOf(id): HeardOf, _: &mut Self::Context) -> u64 {
        self.heard.get(&id).copied().unwrap_or(0)
    }
}
