//! What operators rely on: members replaced while clients go on, snapshots, planned moves of the leadership.

use std::fs;

use serde_json::Value;

use crate::support::{Answer, Cluster, Node, free_address, until};

/// Snapshots every few entries, so that whoever is new needs one.
const SMALL: [&str; 4] = ["--snapshot-entries", "40", "--keep-entries", "5"];

fn small(nodes: usize) -> Cluster {
    let mut cluster = Cluster::new(nodes);
    cluster.nodes = cluster.nodes.iter().map(|node| node.with(&SMALL)).collect();
    cluster.start();
    cluster
}

impl Cluster {
    /// A node that waits to be added. Not yet one of those that the cluster asks.
    pub(crate) fn newcomer(&self, id: usize) -> Node {
        let data = self.nodes[0].data.with_file_name(format!("node-{id}"));
        let mut node = Node::new(id, free_address(), free_address(), data).with(&["--join"]).with(&SMALL);
        node.start();
        until("the new node to answer", || node.status());
        node
    }

    /// Asks for other members until that is done.
    fn change(&self, body: &str) {
        until("the change of the members", || {
            let answer = self.ask("PATCH", "/members", body.as_bytes());
            match answer.status {
                200 => Some(()),
                // It goes on, or a new leader goes on with it.
                202 | 500 => None,
                409 if answer.json()["error"] == "change_in_progress" => None,
                _ => panic!("{answer:?}: {}", answer.text()),
            }
        });
    }
}

fn ids(status: &Value) -> Vec<u64> {
    let members = status["members"].as_array().unwrap();
    members
        .iter()
        .filter(|member| member["voter"] == true)
        .map(|member| member["id"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_node_is_replaced_while_clients_go_on() {
    let mut cluster = small(3);
    for key in 0..120 {
        cluster.put(&format!("k{key}"), &format!("v{key}"));
    }
    let fourth = cluster.newcomer(4);
    let leader = cluster.leader();
    let body =
        format!("{{\"voters\":{{\"4\":\"{}@{}\"}},\"remove\":[{}]}}", fourth.raft, fourth.http, leader + 1);
    cluster.change(&body);
    let status =
        until("the new node to follow", || fourth.status().filter(|status| ids(status).contains(&4)));
    assert!(status["log_base_index"].as_u64() > Some(0), "it began with a snapshot: {status}");
    // Whoever was replaced is switched off, and its disk thrown away.
    let mut gone = cluster.nodes.remove(leader);
    gone.kill();
    fs::remove_dir_all(&gone.data).unwrap();
    cluster.nodes.push(fourth);
    let expected: Vec<u64> = (1..=4).filter(|id| *id != leader as u64 + 1).collect();
    until("all to know the members", || {
        let all = |node: &Node| node.status().is_some_and(|status| ids(&status) == expected);
        cluster.nodes.iter().all(all).then_some(())
    });
    for key in 100..200 {
        cluster.put(&format!("k{key}"), &format!("v{key}"));
    }
    assert_eq!(cluster.equal(), 200);

    // One of the others goes too: the new node counts. And everybody knows where clients reach it.
    let founder = cluster.nodes.remove(0);
    cluster.put("without", "a founder");
    let newcomer = cluster.nodes[1].http.clone();
    until("the new node to lead", || {
        let answer = cluster.ask("POST", "/transfer", b"{\"to\":4}");
        // It leads already, or another transfer was faster.
        matches!(answer.status, 200 | 409).then_some(())?;
        cluster.nodes[1].status().filter(|status| status["role"] == "leader")
    });
    let redirected = until("the other to know it", || {
        Answer::to("PUT", &cluster.nodes[0].http, "/kv/a", b"v").filter(|answer| answer.status == 307)
    });
    assert_eq!(redirected.location.as_deref(), Some(&*format!("http://{newcomer}/kv/a")));

    // All of them stop and start again, each as it was started before.
    cluster.nodes.insert(0, founder);
    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.start();
    for key in 0..200 {
        assert_eq!(cluster.get(&format!("k{key}")), Some(format!("v{key}")));
    }
    assert_eq!(cluster.equal(), 201);
}

#[test]
fn kill_9_during_snapshots_and_compaction_loses_nothing() {
    let mut cluster = Cluster::new(3);
    let often = ["--snapshot-entries", "3", "--keep-entries", "1"];
    cluster.nodes = cluster.nodes.iter().map(|node| node.with(&often)).collect();
    cluster.start();
    for round in 0..4 {
        // Long enough that a snapshot is written for most of the time.
        let value = format!("{round}").repeat(20_000);
        for key in 0..12 {
            cluster.put(&format!("k{key}"), &value);
        }
        for node in &mut cluster.nodes {
            node.kill();
        }
        cluster.start();
        for key in 0..12 {
            assert_eq!(cluster.get(&format!("k{key}")).as_deref(), Some(&*value));
        }
    }
    assert_eq!(cluster.equal(), 12);
    let status = cluster.nodes[0].status().unwrap();
    assert!(status["log_base_index"].as_u64() > Some(20), "{status}");
}

#[test]
fn an_operator_takes_a_snapshot_and_moves_the_leadership() {
    let mut cluster = Cluster::started(3);
    cluster.put("k", "v");
    let old = cluster.leader();
    let http = cluster.nodes[old].http.clone();
    let taken = Answer::to("POST", &http, "/snapshot", b"").unwrap();
    assert_eq!(taken.status, 200, "{}", taken.text());
    let status = cluster.nodes[old].status().unwrap();
    assert!(status["snapshot_index"].as_u64() > Some(0), "{status}");
    let again = Answer::to("POST", &http, "/snapshot", b"").unwrap();
    assert_eq!(again.status, 409, "{}", again.text());
    let refused: serde_json::Value = serde_json::from_str(&again.text()).unwrap();
    let next = refused["next"].as_str().unwrap();
    assert!(next.contains("snapshot_index") && next.contains("is being taken"), "either may be: {next}");
    let snapshots = cluster.nodes[old].data.join("snapshots");
    assert!(fs::read_dir(&snapshots).unwrap().count() > 1, "a file beside the lock");

    let moved = cluster.ask("POST", "/transfer", b"");
    assert_eq!(moved.status, 200, "{}", moved.text());
    let term = until("another leader", || {
        let leader = cluster.leader();
        (leader != old).then(|| cluster.nodes[leader].status().unwrap()["term"].as_u64().unwrap())
    });
    // A planned stop hands over, and nobody has to find out by a time-out.
    let leader = cluster.leader();
    assert_eq!(cluster.nodes[leader].terminate().code(), Some(0));
    let text = fs::read_to_string(cluster.nodes[leader].data.with_extension("out")).unwrap();
    assert!(!text.contains("took over in time"), "{text}");
    cluster.nodes.remove(leader);
    let after = cluster.nodes[cluster.leader()].status().unwrap()["term"].as_u64().unwrap();
    assert!(after > term);
    cluster.put("k", "w");
}

#[test]
fn mistakes_of_operators_are_told_and_change_nothing() {
    let cluster = Cluster::started(3);
    cluster.put("k", "v");
    // Where the founders are is written with the first change that is asked for.
    assert_eq!(cluster.ask("POST", "/members", b"{\"id\":1}").status, 200);
    let digest = || cluster.nodes[cluster.leader()].status().unwrap()["machine"]["digest"].clone();
    let before = digest();
    let address = free_address();
    for (method, path, body, status, part) in [
        ("PATCH", "/members", "{}".to_owned(), 400, "nobody is named"),
        ("PATCH", "/members", "no json".to_owned(), 400, "not understood"),
        ("PATCH", "/members", "{\"voters\":{\"9\":null}}".to_owned(), 409, "node 9 has no address"),
        ("PATCH", "/members", "{\"remove\":[1,2,3]}".to_owned(), 409, "no voters"),
        ("PATCH", "/members", format!("{{\"voters\":{{\"4\":\"{address}@here\"}}}}"), 400, "HOST:PORT"),
        ("POST", "/members", "{\"id\":9}".to_owned(), 409, "node 9 has no address"),
        ("POST", "/members", "{\"id\":9,\"http\":\"127.0.0.1:9\"}".to_owned(), 409, "node 9 has no address"),
        (
            "POST",
            "/members",
            format!("{{\"id\":4,\"raft\":\"{address}\",\"http\":\"[::]:9\"}}"),
            400,
            "others reach",
        ),
        ("POST", "/members", "{\"id\":4,\"raft\":\"here\"}".to_owned(), 400, "HOST:PORT"),
        ("POST", "/members", "x".repeat(100_000), 413, "send less"),
        ("DELETE", "/members/x", String::new(), 400, "GET /status"),
        ("POST", "/members/cancel", String::new(), 409, "no membership change"),
        ("POST", "/transfer", "{\"to\":9}".to_owned(), 409, "node 9 is unknown"),
        ("POST", "/transfer", "{\"from\":1}".to_owned(), 400, "send nothing"),
    ] {
        let answer = cluster.ask(method, path, body.as_bytes());
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        assert!(answer.text().contains(part), "{path} {body}: {}", answer.text());
        assert!(answer.json()["next"].is_string(), "{path} {body}: {}", answer.text());
    }
    assert_eq!(digest(), before, "what was refused left something behind");
    // What is so already is done.
    for (method, path, body) in
        [("PATCH", "/members", "{\"voters\":{\"1\":null}}"), ("POST", "/members", "{\"id\":1}")]
    {
        assert_eq!(cluster.ask(method, path, body.as_bytes()).status, 200, "{path}");
    }
    assert_eq!(ids(&cluster.nodes[cluster.leader()].status().unwrap()), [1, 2, 3]);
}
