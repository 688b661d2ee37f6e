//! Writes: every outcome as an answer.

use bytes::Bytes;
use hyper::{StatusCode, Uri};
use raft_core::WriteRefusal;
use raft_driver_tokio::{Applied, WriteError};
use serde::Serialize;

use crate::http::Front;
use crate::http::answer::{Answer, Known, Problem, json};
use crate::http::node::Node;
use crate::machine::Outcome;

/// What a client can do that does not know what became of its write.
pub(super) const READ_IT: &str = "the write may happen or not: read the key to find out";

/// The body of a write's 200.
#[derive(Debug, Serialize)]
struct Done {
    index: u64,
    existed: bool,
}

impl<N: Node> Front<N> {
    /// Proposes a command.
    pub(super) async fn write(&self, command: Bytes, uri: &Uri) -> Answer {
        let error = match self.node.write(command).await {
            Ok(Applied { id, response: Outcome { existed } }) => {
                return json(StatusCode::OK, &Done { index: id.index.get(), existed });
            }
            Err(error) => error,
        };
        let failed = StatusCode::INTERNAL_SERVER_ERROR;
        match error {
            WriteError::NotLeader { leader, .. } => self.elsewhere(leader, uri),
            WriteError::Unknown => Problem::unknown(failed, error, READ_IT).answer(),
            WriteError::ResponseLost { id } => {
                let next = "nothing: the write is done; read the key if you need the answer";
                let problem = Problem::new(failed, "response_lost", error, next).known(Known::Committed);
                Problem { index: Some(id.index.get()), ..problem }.answer()
            }
            WriteError::Refused { refusal: refusal @ WriteRefusal::TooLarge { .. }, .. } => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                let problem = Problem::new(status, "too_large", refusal, "send less");
                problem.known(Known::DidNotHappen).answer()
            }
            WriteError::Refused { refusal: refusal @ WriteRefusal::LogFull, .. } => {
                let next = "nothing helps: this log takes no more entries; move to a new cluster";
                let problem = Problem::new(StatusCode::INSUFFICIENT_STORAGE, "log_full", refusal, next);
                problem.known(Known::DidNotHappen).answer()
            }
            error => Problem::unavailable("not_now", format!("the write did not happen: {error}")).answer(),
        }
    }
}
