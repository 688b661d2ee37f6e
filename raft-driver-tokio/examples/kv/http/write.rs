//! Writes: every outcome as an answer.

use bytes::Bytes;
use hyper::{StatusCode, Uri};
use raft_core::WriteRefusal;
use raft_core::host::{Envelope, SessionLimits, SessionRefusal, SessionResponse};
use raft_driver_tokio::{Applied, WriteError};
use serde::Serialize;
use serde_json::json;

use crate::http::Front;
use crate::http::answer::{Answer, Known, Problem, json};
use crate::machine::Outcome;
use crate::node::Node;

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
    pub(super) async fn write(&self, envelope: Envelope, command: Bytes, uri: &Uri) -> Answer {
        let error = match self.node.write(envelope.seal(command)).await {
            Ok(applied) => return answered(envelope, &applied),
            Err(error) => error,
        };
        let failed = StatusCode::INTERNAL_SERVER_ERROR;
        match error {
            WriteError::NotLeader { leader, .. } => self.elsewhere(leader, uri).answer(),
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
            WriteError::Invalid { why, .. } => {
                Problem::bad_request("invalid", why, "send what this server understands")
                    .known(Known::DidNotHappen)
                    .answer()
            }
            error => Problem::unavailable("not_now", format!("the write did not happen: {error}")).answer(),
        }
    }
}

/// What the machine said.
fn answered(envelope: Envelope, applied: &Applied<SessionResponse<Outcome>>) -> Answer {
    let index = applied.id.index.get();
    let refusal = match applied.response {
        SessionResponse::Applied(Outcome { existed }) => {
            return json(StatusCode::OK, &Done { index, existed });
        }
        SessionResponse::Opened(session) => {
            let window = SessionLimits::default().window();
            return json(StatusCode::OK, &json!({ "session": session.get(), "window": window }));
        }
        SessionResponse::Closed => return json(StatusCode::OK, &json!({ "closed": true })),
        SessionResponse::Refused(refusal) => refusal,
    };
    let (status, error, next) = match refusal {
        // Gone is what it was to be.
        SessionRefusal::Expired if matches!(envelope, Envelope::Close(_)) => {
            return json(StatusCode::OK, &json!({ "closed": true }));
        }
        SessionRefusal::Expired => (
            StatusCode::GONE,
            "session_expired",
            "POST /sessions for another; if this was a repetition, read the key to find out what became of the write",
        ),
        SessionRefusal::Acknowledged => {
            (StatusCode::CONFLICT, "sequence_given_up", "give each write a number above all before")
        }
        SessionRefusal::TooFarAhead => (
            StatusCode::CONFLICT,
            "sequence_too_far",
            "send raft-needed-from: the lowest number whose answer is still awaited",
        ),
    };
    // An earlier try of a command whose session has forgotten it may well have happened.
    let known = match refusal {
        SessionRefusal::TooFarAhead => Known::DidNotHappen,
        SessionRefusal::Expired | SessionRefusal::Acknowledged => Known::Unknown,
    };
    Problem::new(status, error, refusal, next).known(known).answer()
}
