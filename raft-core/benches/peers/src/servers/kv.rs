//! kv, this project's example: its command line, and its HTTP over HTTP/2. A node that does not lead sends clients to the
//! one that does.

use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::LOCATION;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use serde_json::Value;

use crate::servers::Timeouts;
use crate::servers::link::{Answer, Put, Status};

pub(super) fn arguments(at: usize, peers: &[(&str, &str)], data: &Path, timeouts: Timeouts) -> Vec<String> {
    let (raft, http) = peers[at];
    let mut arguments = vec![
        "serve".to_owned(),
        "--until-stdin-closes".to_owned(),
        "--log=warn".to_owned(),
        format!("--id={}", at + 1),
        format!("--raft={raft}"),
        format!("--http={http}"),
        format!("--data={}", data.display()),
        format!("--heartbeat-ms={}", timeouts.heartbeat_ms),
        format!("--election-ms={}", timeouts.election_ms),
    ];
    let peer = |(at, (raft, http)): (usize, &(&str, &str))| format!("--peer={}={raft}@{http}", at + 1);
    arguments.extend(peers.iter().enumerate().map(peer));
    arguments
}

/// Keys need no encoding here.
pub(super) fn put(address: &str, key: &[u8], value: Bytes) -> Request<Full<Bytes>> {
    let key = String::from_utf8_lossy(key);
    request(Request::put(format!("http://{address}/kv/{key}")), value)
}

pub(super) fn status(address: &str) -> Request<Full<Bytes>> {
    request(Request::get(format!("http://{address}/status")), Bytes::new())
}

fn request(builder: Builder, body: Bytes) -> Request<Full<Bytes>> {
    builder.body(Full::new(body)).expect("addresses and keys of the bench are sound")
}

pub(super) fn understand_put(answer: &Answer) -> Put {
    match answer.status {
        StatusCode::OK => Put::Done,
        StatusCode::TEMPORARY_REDIRECT => {
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let leader = location.and_then(|location| location.strip_prefix("http://")?.split('/').next());
            leader.map_or(Put::Failed, |leader| Put::Elsewhere(leader.to_owned()))
        }
        _ => Put::Failed,
    }
}

pub(super) fn understand_status(answer: &Answer) -> Option<Status> {
    let status: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(Status { leads: status["role"] == "leader", applied: status["last_applied"].as_u64()? })
}
