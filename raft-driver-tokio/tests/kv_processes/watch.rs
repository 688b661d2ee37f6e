//! What whoever watches a node relies on, and who may reach it at all.

use std::io::Write;
use std::net::TcpStream;

use crate::support::{Answer, Cluster, run, until};

#[test]
fn readiness_turns_with_the_majority_and_health_does_not() {
    let mut cluster = Cluster::started(3);
    let ask = |cluster: &Cluster, at: usize, path: &str| Answer::get(&cluster.nodes[at].http, path);
    for at in 0..3 {
        until("a node to be ready", || ask(&cluster, at, "/readyz").filter(|answer| answer.status == 200));
    }
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let refused =
        until("the last to be unready", || ask(&cluster, 2, "/readyz").filter(|answer| answer.status == 503));
    assert!(refused.json()["next"].is_string(), "{refused:?}");
    assert_eq!(ask(&cluster, 2, "/healthz").unwrap().status, 200);
    until("it to know no leader", || cluster.nodes[2].status().filter(|status| status["leader"].is_null()));
    cluster.nodes[0].start();
    until("it to be ready again", || ask(&cluster, 2, "/readyz").filter(|answer| answer.status == 200));
    // Both learned of each leader, and keep it.
    let status = cluster.nodes[2].status().unwrap();
    let elections = status["elections"].as_array().unwrap();
    assert!(elections.len() >= 2, "{status}");
    assert_eq!(elections[0]["term"], status["term"], "the newest first: {status}");
    assert!(elections[0]["without_leader_ms"].as_u64() > Some(0), "{status}");
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let cluster = Cluster::started(1);
    for round in 0..5 {
        cluster.put("k", &round.to_string());
    }
    let answer = Answer::get(&cluster.nodes[0].http, "/metrics").unwrap();
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let mut samples = std::collections::BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        samples.insert(name, value.parse::<f64>().expect("a number"));
    }
    assert_eq!(samples["kv_http_requests_total{route=\"put\",status=\"200\"}"], 5.0, "{text}");
    let puts = samples["kv_http_request_seconds_count{route=\"put\"}"];
    assert_eq!(puts, 5.0 + puts_refused(&samples), "{text}");
    assert_eq!(samples["kv_keys"], 1.0, "{text}");
    // What the driver exports is there too.
    let term = samples.iter().find(|(name, _)| name.starts_with("raft_term"));
    assert!(term.is_some_and(|(_, term)| *term >= 2.0), "{text}");
    assert!(samples["kv_storage_bytes{part=\"log\"}"] > 0.0, "{text}");
    assert!(text.contains("# TYPE kv_http_requests_total counter"), "{text}");
}

/// Puts that came before there was a leader.
fn puts_refused(samples: &std::collections::BTreeMap<&str, f64>) -> f64 {
    let put =
        |name: &&&str| name.starts_with("kv_http_requests_total{route=\"put\"") && !name.contains("\"200\"");
    samples.keys().filter(put).map(|name| samples[name]).sum()
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_pages_of_others_change_nothing() {
    let cluster = Cluster::started(1);
    cluster.put("k", "v");
    let http = &cluster.nodes[0].http;
    let page = Answer::get(http, "/").unwrap();
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(text.starts_with("<!doctype html>") && text.contains("/status"), "{text}");
    for foreign in ["src=", "@import", "href=\"http", "url("] {
        assert!(!text.contains(foreign), "{foreign}");
    }
    let origin = [("origin", "http://elsewhere.example")];
    for (method, path) in
        [("POST", "/transfer"), ("POST", "/snapshot"), ("PUT", "/kv/k"), ("DELETE", "/members/1")]
    {
        let refused = Answer::with(method, http, path, &origin, b"").unwrap();
        assert_eq!((refused.status, &refused.json()["error"]), (403, &"foreign_origin".into()), "{path}");
    }
    assert_eq!(Answer::with("GET", http, "/status", &origin, b"").unwrap().status, 200);
    assert_eq!(cluster.get("k").as_deref(), Some("v"));
}

#[test]
fn nobody_listens_beyond_this_host_unprotected() {
    let node = Cluster::new(1).nodes.remove(0);
    let everywhere = |address: &str| address.replace("127.0.0.1", "0.0.0.0");
    node.set("--raft", &everywhere(&node.raft))
        .refused()
        .says(2, &["--raft 0.0.0.0", "--insecure", "kv certs"]);
    node.set("--http", &everywhere(&node.http))
        .refused()
        .says(2, &["--http 0.0.0.0", "--insecure", "plain HTTP"]);
    node.with(&["--tls-ca", "ca.pem"]).refused().says(2, &["--tls-cert"]);
    let all = ["--tls-ca", "nowhere.pem", "--tls-cert", "nowhere.pem", "--tls-key", "nowhere.key"];
    node.with(&all).refused().says(2, &["nowhere.pem", "what to do", "kv certs"]);
    assert!(!node.data.exists());
}

#[test]
fn nodes_with_certificates_take_nobody_without() {
    let mut cluster = Cluster::new(3);
    let out = cluster.nodes[0].data.with_file_name("tls");
    let out = out.to_str().unwrap();
    let made = run(&["certs", "--out", out, "--nodes", "3"]);
    assert!(made.status.success(), "{made:?}");
    let protected = |at: usize, cluster: &Cluster| {
        let file = |name: &str| format!("{out}/{name}");
        let (certificate, key) =
            (file(&format!("node-{}.pem", at + 1)), file(&format!("node-{}.key", at + 1)));
        cluster.nodes[at].with(&["--tls-ca", &file("ca.pem"), "--tls-cert", &certificate, "--tls-key", &key])
    };
    for at in 0..2 {
        cluster.nodes[at] = protected(at, &cluster);
        cluster.nodes[at].start();
    }
    cluster.put("k", "v");
    // Without, or with the certificate of another node.
    cluster.nodes[2].refused().says(6, &["TLS", "what to do", "--tls-ca"]);
    let third = protected(2, &cluster);
    let (certificate, key) = (format!("{out}/node-1.pem"), format!("{out}/node-1.key"));
    let refused = third.set("--tls-cert", &certificate).set("--tls-key", &key).refused();
    refused.says(2, &["DNS name", "node-3.", "what to do"]);
    cluster.nodes[2] = third;
    cluster.nodes[2].start();
    cluster.put("k", "w");
    assert_eq!(cluster.equal(), 1);
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let mut cluster = Cluster::started(1);
    cluster.put("k", "v");
    let http = cluster.nodes[0].http.clone();
    // A request whose body does not come holds up a shutdown in order, for a while.
    let mut slow = TcpStream::connect(&http).unwrap();
    slow.write_all(b"PUT /kv/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc").unwrap();
    until("it to be heard", || {
        let text = Answer::get(&http, "/metrics")?.text();
        let held =
            text.lines().find_map(|line| line.strip_prefix("kv_requests_bytes "))?.parse::<f64>().ok()?;
        (held >= 2.0 * 16_384.0).then_some(())
    });
    cluster.nodes[0].signal();
    until("it to begin to end", || cluster.nodes[0].printed().contains("shutting down").then_some(()));
    cluster.nodes[0].signal();
    assert_eq!(cluster.nodes[0].ended().code(), Some(130));
    assert!(cluster.nodes[0].printed().contains("second signal"));
    drop(slow);
    // Nothing is lost, and in order it ends with 0.
    cluster.nodes[0].start();
    assert_eq!(cluster.get("k").as_deref(), Some("v"));
    assert_eq!(cluster.nodes[0].terminate().code(), Some(0));
}
