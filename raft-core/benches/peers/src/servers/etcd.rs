//! etcd: its command line, and its gRPC, as far as it is needed here: calls with one message each way over HTTP/2, by the
//! same client as kv's. A node that does not lead forwards writes to the one that does.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, TE};
use hyper::{Request, StatusCode};
use prost::Message;

use crate::servers::Timeouts;
use crate::servers::link::{Answer, Put, Status};

pub(super) fn arguments(at: usize, peers: &[(&str, &str)], data: &Path, timeouts: Timeouts) -> Vec<String> {
    let (peer, client) = peers[at];
    let member = |(at, (peer, _)): (usize, &(&str, &str))| format!("n{}=http://{peer}", at + 1);
    let members: Vec<String> = peers.iter().enumerate().map(member).collect();
    vec![
        format!("--name=n{}", at + 1),
        format!("--data-dir={}", data.display()),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--initial-cluster={}", members.join(",")),
        "--initial-cluster-state=new".to_owned(),
        // The same for all three: the directory that holds theirs. Clusters of two benches refuse each other.
        format!("--initial-cluster-token={}", data.parent().unwrap_or(data).display()),
        format!("--heartbeat-interval={}", timeouts.heartbeat_ms),
        format!("--election-timeout={}", timeouts.election_ms),
        "--logger=zap".to_owned(),
        "--log-level=error".to_owned(),
    ]
}

/// `etcdserverpb.PutRequest`, what is sent of it.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `etcdserverpb.ResponseHeader`, what is read of it.
#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// `etcdserverpb.StatusResponse`, what is read of it.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "7")]
    raft_applied_index: u64,
}

/// A message behind its head: not compressed, so long.
const HEAD_BYTES: usize = 5;

fn call(address: &str, method: &str, message: &impl Message) -> Request<Full<Bytes>> {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(HEAD_BYTES + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).expect("messages of the bench are short"));
    message.encode(&mut body).expect("there is room");
    Request::post(format!("http://{address}/etcdserverpb.{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(body.freeze()))
        .expect("addresses of the bench are sound")
}

pub(super) fn put(address: &str, key: &[u8], value: Bytes) -> Request<Full<Bytes>> {
    call(address, "KV/Put", &PutRequest { key: Bytes::copy_from_slice(key), value })
}

pub(super) fn status(address: &str) -> Request<Full<Bytes>> {
    // A `StatusRequest` has no fields.
    call(address, "Maintenance/Status", &())
}

/// A call that failed says so behind the message, or instead of it.
fn succeeded(answer: &Answer) -> bool {
    let said = answer.trailers.as_ref().unwrap_or(&answer.headers).get("grpc-status");
    answer.status == StatusCode::OK && said.is_some_and(|status| status == "0")
}

pub(super) fn understand_put(answer: &Answer) -> Put {
    if succeeded(answer) { Put::Done } else { Put::Failed }
}

pub(super) fn understand_status(answer: &Answer) -> Option<Status> {
    let message = answer.body.get(HEAD_BYTES..).filter(|_| succeeded(answer))?;
    let status = StatusResponse::decode(message).ok()?;
    let leads = status.leader != 0 && status.leader == status.header?.member_id;
    Some(Status { leads, applied: status.raft_applied_index })
}
