//! Answers: how they are made, and what the body of every refusal says.
//!
//! * A refusal is `{"error":KIND,"message":..,"next":..}`: a word for programs, what happened, and what to do about it.
//! * Where the request was to change something, `outcome` says what is known: `did_not_happen`, `unknown` or
//!   `committed`.

use bytes::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

pub(crate) type Answer = Response<Bytes>;

/// What is known of a request that was to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Known {
    DidNotHappen,
    Unknown,
    Committed,
}

/// A refusal, before it is an answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    pub(crate) status: StatusCode,
    /// The kind, for programs.
    pub(crate) error: &'static str,
    /// What happened.
    pub(crate) message: String,
    /// What to do.
    pub(crate) next: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Known>,
    /// Who leads, where that is why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) leader: Option<u64>,
    /// Where it is in the log, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u64>,
    #[serde(skip)]
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        error: &'static str,
        message: impl ToString,
        next: impl ToString,
    ) -> Self {
        let (message, next) = (message.to_string(), next.to_string());
        Self { status, error, message, next, outcome: None, leader: None, index: None, header: None }
    }

    /// What the client said is wrong.
    pub(crate) fn bad_request(error: &'static str, message: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, message, next)
    }

    /// Did not happen; may be tried again after a second, at any node.
    pub(crate) fn unavailable(error: &'static str, message: impl ToString) -> Self {
        let next = "try again after a second, here or at another node";
        Self {
            outcome: Some(Known::DidNotHappen),
            header: Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error, message, next)
        }
    }

    /// It may have happened or not.
    pub(crate) fn unknown(status: StatusCode, message: impl ToString, next: impl ToString) -> Self {
        Self { outcome: Some(Known::Unknown), ..Self::new(status, "unknown", message, next) }
    }

    /// Somebody else's to answer: the same request is to go to `location`.
    pub(crate) fn elsewhere(leader: u64, location: HeaderValue) -> Self {
        let status = StatusCode::TEMPORARY_REDIRECT;
        Self {
            outcome: Some(Known::DidNotHappen),
            leader: Some(leader),
            header: Some((LOCATION, location)),
            ..Self::new(status, "not_leader", "this node does not lead", "send the request to the Location")
        }
    }

    /// The method is not for this address.
    pub(crate) fn method(allow: &'static str) -> Self {
        let message = format!("allowed here: {allow}");
        Self {
            header: Some((ALLOW, HeaderValue::from_static(allow))),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
                "use one of these methods",
            )
        }
    }

    /// The same, where it is known what became of it.
    pub(crate) const fn known(mut self, outcome: Known) -> Self {
        self.outcome = Some(outcome);
        self
    }

    pub(crate) fn answer(mut self) -> Answer {
        let header = self.header.take();
        let mut answer = json(self.status, &self);
        answer.headers_mut().extend(header);
        answer
    }
}

/// `body` as JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("plain structs with string keys");
    typed(status, body.into(), "application/json")
}

/// `body`, and what it is. Nobody is to keep it: the next answer may be another.
pub(crate) fn typed(status: StatusCode, body: Bytes, content_type: &'static str) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_it_is_and_what_to_do() {
        let answer = Problem::unavailable("no_leader", "nobody leads").answer();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[RETRY_AFTER], "1");
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(body["error"], "no_leader");
        assert_eq!(body["outcome"], "did_not_happen");
        assert!(body["next"].as_str().unwrap().contains("try again"));
        assert!(body.get("leader").is_none());
    }
}
