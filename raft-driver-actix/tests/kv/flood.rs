//! A client that asks for too much at a time.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::Request;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{Cluster, LIMIT};

#[test]
fn a_connection_with_too_many_requests_at_a_time_is_ended() {
    let cluster = Cluster::started(1);
    cluster.put("k", "v");
    let address = cluster.nodes[0].http.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, flood(address)).await.unwrap() });
    assert_eq!(cluster.get("k").as_deref(), Some("v"), "others are served");
}

/// Bodies that never come: each request is served until its time is up.
async fn flood(address: String) {
    let stream = TcpStream::connect(&address).await.unwrap();
    let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_max_send_streams(4096)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let ask = |number: u32| {
        let body = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let uri = format!("http://{address}/kv/{number}");
        let request = Request::put(uri).header("content-length", 9).body(StreamBody::new(body)).unwrap();
        let mut client = client.clone();
        tokio::spawn(async move { client.send_request(request).await.is_ok() })
    };
    let all: Vec<_> = (0..2000).map(ask).collect();
    let mut ended = 0;
    for asked in all {
        ended += usize::from(!asked.await.unwrap());
    }
    assert!(ended > 0, "all were answered");
}
