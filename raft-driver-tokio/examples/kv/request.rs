//! What a request asks for, or why it is refused before the node hears of it.
//!
//! * Nothing is guessed: what is not understood is refused, since it could name another key.
//! * A value is copied once, into its command, as it arrives.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Method, StatusCode, Uri};

use crate::machine::{self, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Bytes of a body that are read to their end although they are too many: a client that still sends when its
/// connection is closed may never see the answer.
const DRAIN_BYTES_MAX: usize = 8 * VALUE_BYTES_MAX;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Get(Vec<u8>),
    Put(Vec<u8>),
    Delete(Vec<u8>),
    Status,
    Members,
    Transfer,
    Snapshot,
}

/// Why a request is refused before the node hears of it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) what: String,
    /// What may be done instead, where it is the method that is wrong.
    pub(crate) allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: StatusCode, what: impl Into<String>) -> Self {
        Self { status, what: what.into(), allow: None }
    }

    fn method(allow: &'static str) -> Self {
        let what = format!("allowed here: {allow}");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, what, allow: Some(allow) }
    }
}

/// Reads method and address.
pub(crate) fn route(method: &Method, uri: &Uri) -> Result<Route, Refusal> {
    // Anything but a key is here with the one method that it takes.
    let other = match uri.path() {
        "/status" => Some((Route::Status, Method::GET, "GET")),
        "/admin/members" => Some((Route::Members, Method::POST, "POST")),
        "/admin/transfer" => Some((Route::Transfer, Method::POST, "POST")),
        "/admin/snapshot" => Some((Route::Snapshot, Method::POST, "POST")),
        path if path.starts_with("/kv/") => None,
        _ => {
            let what = "there is /kv/{key}, /status, /admin/members, /admin/transfer and /admin/snapshot";
            return Err(Refusal::new(StatusCode::NOT_FOUND, what));
        }
    };
    // Cut off silently, a '?' in a key would name another key.
    if uri.query().is_some() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "no query is understood; write '?' in a key as %3F",
        ));
    }
    if let Some((route, takes, name)) = other {
        return if *method == takes { Ok(route) } else { Err(Refusal::method(name)) };
    }
    let key = uri.path().strip_prefix("/kv/").unwrap_or_default();
    let key = decode_key(key).map_err(|what| Refusal::new(StatusCode::BAD_REQUEST, what))?;
    match *method {
        Method::GET => Ok(Route::Get(key)),
        Method::PUT => Ok(Route::Put(key)),
        Method::DELETE => Ok(Route::Delete(key)),
        _ => Err(Refusal::method("GET, PUT, DELETE")),
    }
}

/// Percent-decoding that refuses what it does not understand, instead of guessing another key.
fn decode_key(raw: &str) -> Result<Vec<u8>, &'static str> {
    let mut key = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        key.push(match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).expect("two hexadecimal digits"),
                _ => return Err("a '%' in the key is not followed by two hexadecimal digits"),
            },
            byte => byte,
        });
    }
    match key.len() {
        0 => Err("the key is empty"),
        1..=KEY_BYTES_MAX => Ok(key),
        _ => Err("the key is longer than 1024 bytes"),
    }
}

/// Reads the value straight into its command.
pub(crate) async fn read_put(key: &[u8], mut body: Incoming) -> Result<Bytes, Refusal> {
    let announced_bytes = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut command: BytesMut = machine::begin_put(key, announced_bytes.min(VALUE_BYTES_MAX));
    let mut value_bytes = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("the body ended early, nothing was written: {error}"),
            )
        })?;
        let Some(data) = frame.data_ref() else { continue };
        value_bytes = value_bytes.saturating_add(data.len());
        if value_bytes <= VALUE_BYTES_MAX {
            command.extend_from_slice(data);
        } else if value_bytes > DRAIN_BYTES_MAX {
            break;
        }
    }
    if value_bytes > VALUE_BYTES_MAX {
        let what = format!("the value is longer than {VALUE_BYTES_MAX} bytes; nothing was written");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    Ok(command.freeze())
}

/// Reads what an operator says.
pub(crate) async fn read_admin(mut body: Incoming) -> Result<Bytes, Refusal> {
    const ADMIN_BYTES_MAX: usize = 64 * 1024;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        whole.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if whole.len() > ADMIN_BYTES_MAX {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too long; nothing was done",
            ));
        }
    }
    Ok(whole.freeze())
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
        assert_eq!(routed(Method::GET, "/status"), Ok(Route::Status));
        assert_eq!(routed(Method::POST, "/admin/members"), Ok(Route::Members));
        assert_eq!(routed(Method::POST, "/admin/transfer"), Ok(Route::Transfer));
        assert_eq!(routed(Method::POST, "/admin/snapshot"), Ok(Route::Snapshot));
        let longest = "%41".repeat(KEY_BYTES_MAX);
        assert_eq!(routed(Method::GET, &format!("/kv/{longest}")), Ok(Route::Get(vec![b'A'; KEY_BYTES_MAX])));
    }

    #[test]
    fn bad_keys_and_queries_are_bad_requests() {
        let long = format!("/kv/{}", "x".repeat(KEY_BYTES_MAX + 1));
        for path in ["/kv/", "/kv/%", "/kv/%4", "/kv/%4g", "/kv/a?b", "/kv/a?", "/status?x=1", &long] {
            assert_eq!(routed(Method::GET, path), Err(StatusCode::BAD_REQUEST), "{path}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        for path in ["/", "/kv", "/kvx", "/status/", "/Status"] {
            assert_eq!(routed(Method::GET, path), Err(StatusCode::NOT_FOUND), "{path}");
        }
        assert_eq!(routed(Method::POST, "/kv/a"), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(routed(Method::DELETE, "/status"), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(routed(Method::GET, "/admin/members"), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(routed(Method::POST, "/admin/"), Err(StatusCode::NOT_FOUND));
    }
}
