//! What the commands of the client promise: they follow the leader, a repeated write happens once, and exit codes say
//! what became of it.

use std::process::Output;

use crate::support::{Answer, Cluster, free_address, run, until};

/// A command, its output, and its exit code.
fn kv(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String, String) {
    let endpoints = cluster.endpoints();
    let all = [arguments, &["--endpoints", &endpoints]].concat();
    told(&run(&all))
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn done(outcome: (Option<i32>, String, String)) -> String {
    assert_eq!(outcome.0, Some(0), "{}", outcome.2);
    outcome.1
}

#[test]
fn the_client_follows_the_leader_and_says_how_it_ended() {
    let mut cluster = Cluster::started(3);
    // One that does not lead is enough, whoever leads.
    let follower = cluster.nodes[cluster.follower()].http.clone();
    let one = |arguments: &[&str]| told(&run(&[arguments, &["--endpoints", &follower]].concat()));
    assert!(done(one(&["put", "a b/ä?", "first"])).contains("\"existed\":false"));
    assert!(done(kv(&cluster, &["put", "a b/ä?", "second"])).contains("\"existed\":true"));
    assert_eq!(done(one(&["get", "a b/ä?"])), "second");
    assert!(done(one(&["del", "a b/ä?"])).contains("\"existed\":true"));
    let (code, _, why) = one(&["get", "a b/ä?"]);
    assert_eq!(code, Some(10), "{why}");

    let status = done(one(&["status"]));
    assert_eq!(status.lines().count(), 4, "{status}");
    assert!(status.contains("leader") && status.contains("follower"), "{status}");
    for line in done(kv(&cluster, &["status", "--json"])).lines() {
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(line).unwrap()["members"].as_array().unwrap().len(),
            3
        );
    }
    assert!(done(one(&["member", "list"])).contains(&cluster.nodes[2].raft));
    assert!(done(one(&["snapshot"])).contains("node 3: "));

    let leader = cluster.leader();
    let to = (leader + 1) % 3 + 1;
    assert_eq!(done(one(&["transfer", "--to", &to.to_string()])), format!("node {to} leads\n"));
    // While the leader is gone too, within its limit.
    cluster.nodes[to - 1].kill();
    done(kv(&cluster, &["put", "after", "it"]));
    assert_eq!(done(kv(&cluster, &["get", "after", "--limit-s", "60"])), "it");

    assert!(done(kv(&cluster, &["member", "remove", "9", "--limit-s", "60"])).contains("no member"));
    let (code, _, why) = kv(&cluster, &["member", "cancel"]);
    assert_eq!(code, Some(11), "{why}");
    let gone = cluster.nodes[to - 1].http.clone();
    let (code, _, why) = told(&run(&["put", "k", "v", "--endpoints", &gone, "--limit-s", "1"]));
    assert_eq!(code, Some(8), "{why}");
    assert!(why.contains("nothing changed") && why.contains("what to do"), "{why}");
    assert_eq!(told(&run(&["put", "k", "v", "--endpoints", "nowhere"])).0, Some(2));
    assert_eq!(told(&run(&["get", ""])).0, Some(2));
}

#[test]
fn a_repeated_write_happens_once() {
    let mut cluster = Cluster::started(3);
    let opened = cluster.ask("POST", "/sessions", b"");
    let session = opened.json()["session"].as_u64().expect("a session").to_string();
    let put = |cluster: &Cluster, sequence: &str, value: &str| {
        let headers = [("raft-session", session.as_str()), ("raft-sequence", sequence)];
        cluster.ask_with("PUT", "/kv/k", &headers, value.as_bytes())
    };
    assert_eq!(put(&cluster, "1", "mine").json()["existed"], false);
    cluster.put("k", "another's");
    // The answer it had then, and nothing is overwritten.
    let again = put(&cluster, "1", "mine");
    assert_eq!((again.status, &again.json()["existed"]), (200, &false.into()), "{again:?}");
    assert_eq!(cluster.get("k").as_deref(), Some("another's"));
    // Nor by a leader that came later.
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    let again =
        until("a new leader", || Some(put(&cluster, "1", "mine")).filter(|answer| answer.status < 500));
    assert_eq!((again.status, &again.json()["existed"]), (200, &false.into()), "{again:?}");
    assert_eq!(cluster.get("k").as_deref(), Some("another's"));
    cluster.nodes[leader].start();
    assert_eq!(put(&cluster, "2", "next").json()["existed"], true);
    let given_up = put(&cluster, "1", "mine");
    assert_eq!((given_up.status, &given_up.json()["error"]), (409, &"sequence_given_up".into()));
    assert_eq!(put(&cluster, "99", "far").status, 200, "numbers may be left out");

    for (headers, status, error) in [
        (&[("raft-session", "999999"), ("raft-sequence", "1")][..], 410, "session_expired"),
        (&[("raft-session", session.as_str())], 400, "bad_session"),
        (&[("raft-session", session.as_str()), ("raft-sequence", "one")], 400, "bad_session"),
    ] {
        let refused = cluster.ask_with("PUT", "/kv/k", headers, b"v");
        assert_eq!((refused.status, &refused.json()["error"]), (status, &error.into()), "{refused:?}");
    }
    assert_eq!(cluster.get("k").as_deref(), Some("far"));
    assert_eq!(cluster.ask("DELETE", &format!("/sessions/{session}"), b"").status, 200);
    assert_eq!(put(&cluster, "100", "late").status, 410);
    cluster.equal();
}

#[test]
fn members_come_and_go_one_by_one() {
    let mut cluster = Cluster::started(3);
    cluster.put("k", "v");
    // One that does not run is waited for until somebody takes it back.
    let address = free_address();
    let (code, _, why) = kv(&cluster, &["member", "add", "9", "--raft", &address, "--limit-s", "3"]);
    assert_eq!(code, Some(9), "{why}");
    assert!(why.contains("see that every node") && why.contains("kv member cancel"), "{why}");
    assert_eq!(done(kv(&cluster, &["member", "cancel"])), "given up\n");
    let fourth = cluster.newcomer(4);
    let body =
        format!("{{\"id\":4,\"raft\":\"{}\",\"http\":\"{}\",\"learner\":true}}", fourth.raft, fourth.http);
    until("a learner", || {
        matches!(cluster.ask("POST", "/members", body.as_bytes()).status, 200).then_some(())
    });
    let kind =
        |list: &str| list.lines().find(|line| line.starts_with('4')).map(|line| line.contains("voter"));
    assert_eq!(kind(&done(kv(&cluster, &["member", "list"]))), Some(false));
    done(kv(&cluster, &["member", "add", "4", "--limit-s", "60"]));
    assert_eq!(kind(&done(kv(&cluster, &["member", "list"]))), Some(true));
    let leader = cluster.leader() + 1;
    let gone = leader % 3 + 1;
    let removed = until("a member to be gone", || {
        let answer = cluster.ask("DELETE", &format!("/members/{gone}"), b"");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(removed.json()["done"], true);
    let list = done(kv(&cluster, &["member", "list"]));
    assert!(!list.lines().any(|line| line.starts_with(&gone.to_string())), "{list}");
    cluster.nodes[gone - 1].kill();
    cluster.nodes.remove(gone - 1);
    cluster.nodes.push(fourth);
    cluster.put("k", "w");
    cluster.equal();
}

#[test]
fn a_bench_reports_what_it_did() {
    let cluster = Cluster::started(3);
    let arguments =
        ["bench", "--count", "300", "--clients", "8", "--reads", "50", "--spread-reads", "--json"];
    let report = done(kv(&cluster, &[&arguments[..], &["--sessions", "--limit-s", "60"]].concat()));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let count = |side: &str| report[side]["count"].as_u64().unwrap();
    assert_eq!(count("reads") + count("writes"), 300, "{report}");
    assert!(count("reads") > 0 && count("writes") > 0, "{report}");
    assert!(report["writes"]["p50_us"].as_u64() <= report["writes"]["p99.9_us"].as_u64(), "{report}");
    assert_eq!(report["errors"], serde_json::json!({}), "{report}");
    let open = ["bench", "--count", "50", "--rate", "500", "--clients", "4", "--limit-s", "60"];
    let report = done(kv(&cluster, &open));
    assert!(report.contains("open loop at 500/s") && report.contains("p99.9"), "{report}");
    let nobody = Answer::get(&cluster.nodes[0].http, "/kv/bench/none").unwrap();
    assert_eq!(nobody.status, 404);
}
