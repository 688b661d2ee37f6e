//! For whoever watches: is the process alive, should it get clients, and figures for Prometheus.
//!
//! * `healthz` says whether the node's task answers: if not for long, restart the process.
//! * `readyz` says whether a client would be served here: by serving a linearizable read, which needs a leader, a
//!   majority, and a state machine that has caught up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use serde_json::json;
use tokio::time::timeout;

use crate::http::Front;
use crate::http::answer::{Answer, Problem, json, typed};
use crate::http::disk::Figures;
use crate::node::Node;

/// Who asks whether a node is well does not wait for long.
const LIMIT: Duration = Duration::from_secs(1);

impl<N: Node> Front<N> {
    pub(super) async fn health(&self) -> Answer {
        match timeout(LIMIT, self.node.observe()).await {
            Ok(Some(_)) => json(StatusCode::OK, &json!({ "healthy": true })),
            Ok(None) => not("stopped", "the node has stopped", "start it again; its log says why"),
            Err(_) => not("stuck", "the node does not answer within a second", "look at its CPU and its log"),
        }
    }

    pub(super) async fn ready(&self) -> Answer {
        if self.leaving.load(Ordering::Relaxed) {
            return not("leaving", "the node shuts down", "ask another node");
        }
        match timeout(LIMIT, self.node.get(Vec::new())).await {
            Ok(Ok(_)) => json(StatusCode::OK, &json!({ "ready": true })),
            Ok(Err(error)) => not("not_ready", error, "wait for a leader, or ask another node"),
            Err(_) => not("not_ready", "no read is served within a second", "look at GET /status"),
        }
    }

    /// Figures in the text format of Prometheus.
    pub(super) async fn metrics(&self) -> Answer {
        let Some(recorder) = &self.recorder else {
            let next = "use GET /status";
            return Problem::new(StatusCode::NOT_FOUND, "not_recorded", "nothing is recorded", next).answer();
        };
        let machine = self.glance.get();
        gauge!("kv_keys").set(machine.keys as f64);
        if let Some(Figures { log_bytes, snapshot_bytes, free_bytes }) = self.storage().await {
            gauge!("kv_storage_bytes", "part" => "log").set(log_bytes as f64);
            gauge!("kv_storage_bytes", "part" => "snapshots").set(snapshot_bytes as f64);
            gauge!("kv_storage_free_bytes").set(free_bytes.unwrap_or_default() as f64);
        }
        gauge!("kv_requests_bytes").set(self.in_flight_bytes() as f64);
        let text = Bytes::from(recorder.render());
        typed(StatusCode::OK, text, "text/plain; version=0.0.4; charset=utf-8")
    }

    fn in_flight_bytes(&self) -> usize {
        super::IN_FLIGHT_BYTES_MAX.saturating_sub(self.in_flight.available_permits())
    }

    /// What the data takes; asked where a slow disk holds up nobody else.
    pub(super) async fn storage(&self) -> Option<Figures> {
        let disk = Arc::clone(self.disk.as_ref()?);
        tokio::task::spawn_blocking(move || disk.figures()).await.ok()
    }
}

fn not(error: &'static str, message: impl ToString, next: &str) -> Answer {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, message, next).answer()
}

/// Counts a request that was answered.
pub(super) fn count(route: &'static str, status: StatusCode, took: Duration) {
    counter!("kv_http_requests_total", "route" => route, "status" => status.as_str().to_owned()).increment(1);
    histogram!("kv_http_request_seconds", "route" => route).record(took);
}

/// Says what the figures are.
pub(crate) fn describe() {
    describe_counter!("kv_http_requests_total", "Requests answered, by route and status code.");
    describe_histogram!("kv_http_request_seconds", "Time from a request's head to its answer, by route.");
    describe_gauge!("kv_keys", "Keys that have a value.");
    describe_gauge!("kv_storage_bytes", "What the data takes on disk, by part.");
    describe_gauge!("kv_storage_free_bytes", "What the file system has left.");
    describe_gauge!(
        "kv_requests_bytes",
        "What requests and answers in flight hold in memory, as they are counted."
    );
}
