//! What a request asks for, or why it is refused before the node hears of it.
//!
//! * Nothing is guessed: what is not understood is refused, since it could name another key.
//! * A value is copied once, into its command, as it arrives; a longer one again whenever that has to grow.

#![allow(clippy::result_large_err, reason = "a refusal is an answer, made once a request at most")]

use std::fmt::Display;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode, Uri};
use raft_core::NodeId;
use raft_core::host::{Envelope, SessionId};
use tokio::sync::OwnedSemaphorePermit;

use crate::http::answer::{Known, Problem};
use crate::http::{busy, grow};
use crate::machine::{self, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Bytes of a body that are read to their end although they are too many: a client that still sends when its
/// connection is closed may never see the answer.
const DRAIN_BYTES_MAX: usize = 8 * VALUE_BYTES_MAX;

/// Room for a body before its first byte: what is announced may never come.
const BEGIN_BYTES: usize = 64 * 1024;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Get(Vec<u8>),
    Put(Vec<u8>),
    Delete(Vec<u8>),
    OpenSession,
    CloseSession(SessionId),
    Page,
    Status,
    Health,
    Ready,
    Metrics,
    /// Add one member, or say that it is another kind or elsewhere.
    AddMember,
    RemoveMember(NodeId),
    /// Any change of the members in one step.
    ChangeMembers,
    CancelChange,
    Transfer,
    Snapshot,
    Backup,
}

impl Route {
    /// Whether it goes through the log for a client.
    pub(crate) const fn is_write(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Delete(_) | Self::OpenSession | Self::CloseSession(_))
    }

    /// Whether an operator asks for something to be done.
    pub(crate) const fn is_admin(&self) -> bool {
        matches!(
            self,
            Self::AddMember
                | Self::RemoveMember(_)
                | Self::ChangeMembers
                | Self::CancelChange
                | Self::Transfer
                | Self::Snapshot
        )
    }

    /// For metrics.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "get",
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::OpenSession | Self::CloseSession(_) => "sessions",
            Self::Page => "page",
            Self::Status => "status",
            Self::Health => "healthz",
            Self::Ready => "readyz",
            Self::Metrics => "metrics",
            Self::AddMember | Self::RemoveMember(_) | Self::ChangeMembers | Self::CancelChange => "members",
            Self::Transfer => "transfer",
            Self::Snapshot => "snapshot",
            Self::Backup => "backup",
        }
    }
}

/// Reads method and address.
pub(crate) fn route(method: &Method, uri: &Uri) -> Result<Route, Problem> {
    let path = uri.path();
    let key = path.strip_prefix("/kv/");
    let member = path.strip_prefix("/members/").filter(|rest| *rest != "cancel");
    let session = path.strip_prefix("/sessions/");
    // Anything but a key is here with the methods that it takes.
    let takes: &[(Method, Route)] = match path {
        "/" => &[(Method::GET, Route::Page)],
        "/status" => &[(Method::GET, Route::Status)],
        "/healthz" => &[(Method::GET, Route::Health)],
        "/readyz" => &[(Method::GET, Route::Ready)],
        "/metrics" => &[(Method::GET, Route::Metrics)],
        "/sessions" => &[(Method::POST, Route::OpenSession)],
        "/members" => &[(Method::POST, Route::AddMember), (Method::PATCH, Route::ChangeMembers)],
        "/members/cancel" => &[(Method::POST, Route::CancelChange)],
        "/transfer" => &[(Method::POST, Route::Transfer)],
        "/snapshot" => &[(Method::POST, Route::Snapshot)],
        "/backup" => &[(Method::POST, Route::Backup)],
        _ if key.is_some() || member.is_some() || session.is_some() => &[],
        _ => {
            let message = format!("there is nothing at {}", clipped(path));
            return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_address", message, ADDRESSES));
        }
    };
    // Cut off silently, a '?' in a key would name another key.
    if uri.query().is_some() {
        let next = "leave the query out; write '?' in a key as %3F";
        return Err(Problem::bad_request("query", "no query is understood", next));
    }
    if let Some(key) = key {
        let key = decode_key(key)?;
        return match *method {
            Method::GET => Ok(Route::Get(key)),
            Method::PUT => Ok(Route::Put(key)),
            Method::DELETE => Ok(Route::Delete(key)),
            _ => Err(Problem::method("GET, PUT, DELETE")),
        };
    }
    if let Some(member) = member {
        let Ok(id @ 1..) = member.parse() else {
            let message = format!("'{}' is not the number of a node", clipped(member));
            return Err(Problem::bad_request("bad_member", message, "name one of those in GET /status"));
        };
        return match *method {
            Method::DELETE => Ok(Route::RemoveMember(NodeId::new(id))),
            _ => Err(Problem::method("DELETE")),
        };
    }
    if let Some(session) = session {
        let Ok(id) = session.parse() else {
            let message = format!("'{}' is not the number of a session", clipped(session));
            let next = "name what POST /sessions answered";
            return Err(Problem::bad_request("bad_session", message, next));
        };
        return match *method {
            Method::DELETE => Ok(Route::CloseSession(SessionId::new(id))),
            _ => Err(Problem::method("DELETE")),
        };
    }
    let found = takes.iter().find(|(takes, _)| takes == method);
    found.map(|(_, route)| route.clone()).ok_or_else(|| {
        Problem::method(match path {
            "/members" => "POST, PATCH",
            _ if takes.iter().any(|(takes, _)| *takes == Method::POST) => "POST",
            _ => "GET",
        })
    })
}

/// What a write says of its session, if it has one.
pub(crate) fn envelope(headers: &HeaderMap) -> Result<Envelope, Problem> {
    let number = |name: &str| {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let parsed = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
        parsed.map(Some).ok_or_else(|| bad_envelope(&format!("{name} is not a number")))
    };
    match (number(SESSION)?, number(SEQUENCE)?, number(NEEDED_FROM)?) {
        (None, None, None) => Ok(Envelope::Plain),
        (Some(session), Some(sequence @ 1..), needed_from) => Ok(Envelope::Once {
            session: SessionId::new(session),
            sequence,
            needed_from: needed_from.unwrap_or(sequence),
        }),
        _ => Err(bad_envelope("a session without a number of the write, or the reverse")),
    }
}

fn bad_envelope(message: &str) -> Problem {
    let next = "send raft-session as POST /sessions answered it, and raft-sequence: 1 for its first write, 2 for the \
                next, the same again for one that is repeated; or none of them";
    Problem::bad_request("bad_session", message, next).known(Known::DidNotHappen)
}

/// Headers of a write that is to happen once.
pub(crate) const SESSION: &str = "raft-session";
/// Which of the session's writes it is, from 1 on.
pub(crate) const SEQUENCE: &str = "raft-sequence";
/// The lowest of its numbers whose answer the client may still ask for; this one if it is left out.
pub(crate) const NEEDED_FROM: &str = "raft-needed-from";

const ADDRESSES: &str = "ask for /, /kv/{key}, /sessions, /status, /healthz, /readyz or /metrics; operators: /members, \
                         /members/{id}, /members/cancel, /transfer, /snapshot, /backup";

/// What is repeated of an address that was not understood.
pub(crate) fn clipped(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Percent-decoding that refuses what it does not understand, instead of guessing another key.
fn decode_key(raw: &str) -> Result<Vec<u8>, Problem> {
    let bad = |message: &str| {
        let next = "write a key of 1 to 1024 bytes behind /kv/, with anything unusual as %XX";
        Problem::bad_request("bad_key", message, next)
    };
    let mut key = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        key.push(match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).expect("two hexadecimal digits"),
                _ => return Err(bad("a '%' in the key is not followed by two hexadecimal digits")),
            },
            byte => byte,
        });
    }
    match key.len() {
        0 => Err(bad("the key is empty")),
        1..=KEY_BYTES_MAX => Ok(key),
        _ => Err(bad("the key is longer than 1024 bytes")),
    }
}

/// The body of a request, whoever receives it.
pub(crate) trait Incoming: Body<Data = Bytes, Error: Display> + Unpin {}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Incoming for B {}

/// Reads the value straight into its command, and counts it in `permit`.
pub(crate) async fn read_put(
    key: &[u8],
    body: impl Incoming,
    permit: &mut OwnedSemaphorePermit,
) -> Result<Bytes, Problem> {
    let announced_bytes = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let command = machine::begin_put(key, announced_bytes.min(BEGIN_BYTES));
    Ok(read(body, command, VALUE_BYTES_MAX, permit).await?.freeze())
}

/// Reads what an operator says.
pub(crate) async fn read_admin(
    body: impl Incoming,
    permit: &mut OwnedSemaphorePermit,
) -> Result<Bytes, Problem> {
    const ADMIN_BYTES_MAX: usize = 64 * 1024;
    Ok(read(body, BytesMut::new(), ADMIN_BYTES_MAX, permit).await?.freeze())
}

/// Appends a body of at most `bytes_max`.
async fn read(
    mut body: impl Incoming,
    mut whole: BytesMut,
    bytes_max: usize,
    permit: &mut OwnedSemaphorePermit,
) -> Result<BytesMut, Problem> {
    let mut body_bytes = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let message = format!("the body ended early: {error}");
            Problem::bad_request("short_body", message, "send it again").known(Known::DidNotHappen)
        })?;
        let Some(data) = frame.data_ref() else { continue };
        body_bytes = body_bytes.saturating_add(data.len());
        if body_bytes <= bytes_max {
            if !grow(permit, data.len()) {
                return Err(busy());
            }
            whole.extend_from_slice(data);
        } else if body_bytes > bytes_max.saturating_add(DRAIN_BYTES_MAX) {
            break;
        }
    }
    if body_bytes > bytes_max {
        let message = format!("the body is longer than {bytes_max} bytes");
        let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, "send less");
        return Err(problem.known(Known::DidNotHappen));
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: Method, path: &str) -> Result<Route, StatusCode> {
        route(&method, &path.parse().unwrap()).map_err(|refusal| refusal.status)
    }

    #[test]
    fn keys_are_what_follows_the_prefix_decoded() {
        assert_eq!(routed(Method::GET, "/kv/a"), Ok(Route::Get(b"a".to_vec())));
        assert_eq!(routed(Method::PUT, "/kv/a/b%2Fc%20%ff"), Ok(Route::Put(b"a/b/c \xff".to_vec())));
        assert_eq!(routed(Method::DELETE, "/kv/%3F%00+"), Ok(Route::Delete(b"?\0+".to_vec())));
        let longest = "%41".repeat(KEY_BYTES_MAX);
        assert_eq!(routed(Method::GET, &format!("/kv/{longest}")), Ok(Route::Get(vec![b'A'; KEY_BYTES_MAX])));
    }

    #[test]
    fn everything_else_has_an_address_of_its_own() {
        for (method, path, route) in [
            (Method::GET, "/", Route::Page),
            (Method::GET, "/status", Route::Status),
            (Method::GET, "/healthz", Route::Health),
            (Method::GET, "/readyz", Route::Ready),
            (Method::GET, "/metrics", Route::Metrics),
            (Method::POST, "/sessions", Route::OpenSession),
            (Method::DELETE, "/sessions/9", Route::CloseSession(SessionId::new(9))),
            (Method::POST, "/members", Route::AddMember),
            (Method::PATCH, "/members", Route::ChangeMembers),
            (Method::DELETE, "/members/7", Route::RemoveMember(NodeId::new(7))),
            (Method::POST, "/members/cancel", Route::CancelChange),
            (Method::POST, "/transfer", Route::Transfer),
            (Method::POST, "/snapshot", Route::Snapshot),
            (Method::POST, "/backup", Route::Backup),
        ] {
            assert_eq!(routed(method, path), Ok(route), "{path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_a_bad_request() {
        let long = format!("/kv/{}", "x".repeat(KEY_BYTES_MAX + 1));
        for path in ["/kv/", "/kv/%", "/kv/%4", "/kv/%4g", "/kv/a?b", "/kv/a?", "/status?x=1", &long] {
            assert_eq!(routed(Method::GET, path), Err(StatusCode::BAD_REQUEST), "{path}");
        }
        for path in ["/members/", "/members/0", "/members/x", "/members/-1", "/members/1/2"] {
            assert_eq!(routed(Method::DELETE, path), Err(StatusCode::BAD_REQUEST), "{path}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        for path in ["/kv", "/kvx", "/status/", "/Status", "/admin/members", "*", "//"] {
            assert_eq!(routed(Method::GET, path), Err(StatusCode::NOT_FOUND), "{path}");
        }
        for (method, path, allow) in [
            (Method::POST, "/kv/a", "GET, PUT, DELETE"),
            (Method::HEAD, "/kv/a", "GET, PUT, DELETE"),
            (Method::DELETE, "/status", "GET"),
            (Method::GET, "/members", "POST, PATCH"),
            (Method::GET, "/members/1", "DELETE"),
            (Method::DELETE, "/members/cancel", "POST"),
            (Method::GET, "/transfer", "POST"),
        ] {
            let refused = route(&method, &path.parse().unwrap()).unwrap_err();
            assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(refused.answer().headers()[hyper::header::ALLOW], allow, "{method} {path}");
        }
    }

    #[test]
    fn a_session_is_named_in_full_or_not_at_all() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (name.parse().unwrap(), value.parse().unwrap())
            };
            let headers: HeaderMap = pairs.iter().map(pair).collect();
            envelope(&headers).map_err(|problem| problem.error)
        };
        assert_eq!(read(&[]), Ok(Envelope::Plain));
        let session = SessionId::new(7);
        assert_eq!(
            read(&[(SESSION, "7"), (SEQUENCE, "3")]),
            Ok(Envelope::Once { session, sequence: 3, needed_from: 3 })
        );
        assert_eq!(
            read(&[(SESSION, "7"), (SEQUENCE, "3"), (NEEDED_FROM, "2")]),
            Ok(Envelope::Once { session, sequence: 3, needed_from: 2 })
        );
        for bad in [
            &[(SESSION, "7")][..],
            &[(SEQUENCE, "3")],
            &[(NEEDED_FROM, "3")],
            &[(SESSION, "7"), (SEQUENCE, "0")],
            &[(SESSION, "x"), (SEQUENCE, "1")],
            &[(SESSION, "7"), (SEQUENCE, "-1")],
        ] {
            assert_eq!(read(bad), Err("bad_session"), "{bad:?}");
        }
    }
}
