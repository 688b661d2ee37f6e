//! What clients rely on, with every node up and with nodes killed.

use crate::support::{Answer, Cluster, until};

#[test]
fn clients_write_read_and_remove() {
    let cluster = Cluster::started(3);
    let leader = &cluster.nodes[cluster.leader()].http;
    let ask = |method, path: &str, body: &[u8]| Answer::to(method, leader, path, body).unwrap();

    let first = ask("PUT", "/kv/a", b"one");
    assert_eq!((first.status, &first.json()["existed"]), (200, &false.into()), "{first:?}");
    let second = ask("PUT", "/kv/a", b"two\0\xff");
    assert_eq!((second.status, &second.json()["existed"]), (200, &true.into()), "{second:?}");
    assert!(second.json()["index"].as_u64() > first.json()["index"].as_u64());
    assert_eq!(ask("GET", "/kv/a", b"").body, b"two\0\xff");

    // A key is bytes, percent-decoded.
    assert_eq!(ask("PUT", "/kv/x/y%20%ff", b"").status, 200);
    let empty = ask("GET", "/kv/x%2Fy%20%FF", b"");
    assert_eq!((empty.status, empty.body), (200, Vec::new()));

    let removed = ask("DELETE", "/kv/a", b"");
    assert_eq!((removed.status, &removed.json()["existed"]), (200, &true.into()), "{removed:?}");
    assert_eq!(ask("GET", "/kv/a", b"").status, 404);
    assert_eq!(ask("DELETE", "/kv/a", b"").json()["existed"], false);

    // At the limit, and above it.
    let longest = vec![b'v'; 1024 * 1024];
    assert_eq!(ask("PUT", "/kv/long", &longest).status, 200);
    assert!(ask("GET", "/kv/long", b"").body == longest);
    let too_long = ask("PUT", "/kv/long", &vec![b'w'; 1024 * 1024 + 1]);
    assert_eq!(too_long.status, 413, "{too_long:?}");
    assert_eq!(ask("PUT", "/kv/long", &vec![b'w'; 3 * 1024 * 1024]).status, 413);
    assert!(ask("GET", "/kv/long", b"").body == longest, "a refused value changed something");

    for (method, path, status) in [
        ("PUT", "/kv/".to_owned(), 400),
        ("GET", "/kv/%zz".to_owned(), 400),
        ("GET", "/kv/a?b=c".to_owned(), 400),
        ("GET", format!("/kv/{}", "k".repeat(1025)), 400),
        ("GET", "/nothing".to_owned(), 404),
    ] {
        let answer = ask(method, &path, b"x");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.json()["error"].is_string() && answer.json()["next"].is_string(), "{answer:?}");
    }
    let refused = ask("POST", "/kv/a", b"x");
    assert_eq!((refused.status, refused.allow.as_deref()), (405, Some("GET, PUT, DELETE")));
    assert_eq!(cluster.equal(), 2);
}

#[test]
fn status_tells_who_leads_and_how_far_everybody_is() {
    let cluster = Cluster::started(3);
    let index = cluster.put("k", "v");
    let leader = cluster.leader();
    for (at, node) in cluster.nodes.iter().enumerate() {
        let status = until("the write to be applied", || {
            node.status().filter(|status| status["last_applied"].as_u64() >= Some(index))
        });
        assert_eq!(status["id"], at + 1);
        assert_eq!(status["role"], if at == leader { "leader" } else { "follower" }, "{status}");
        assert_eq!(status["leader"], leader + 1, "{status}");
        assert!(status["term"].as_u64() > Some(1), "{status}");
        assert!(status["commit_index"].as_u64() >= Some(index), "{status}");
        assert!(status["last_log_index"].as_u64() >= Some(index), "{status}");
        let members = status["members"].as_array().unwrap();
        assert_eq!(members.len(), 3);
        for (member, peer) in members.iter().zip(&cluster.nodes) {
            assert_eq!(member["raft"], peer.raft.as_str());
            assert_eq!(member["http"], peer.http.as_str());
            assert_eq!(member["voter"], true);
        }
    }
}

#[test]
fn a_follower_sends_writers_to_the_leader_and_serves_readers() {
    let cluster = Cluster::started(3);
    let follower = &cluster.nodes[cluster.follower()];
    let leader = follower.status().unwrap()["leader"].as_u64().unwrap();
    let leader = &cluster.nodes[usize::try_from(leader).unwrap() - 1].http;
    for (method, path) in [("PUT", "/kv/a%20b"), ("DELETE", "/kv/a/b")] {
        let answer = Answer::to(method, &follower.http, path, b"value").unwrap();
        assert_eq!(answer.status, 307, "{answer:?}");
        assert_eq!(answer.location.as_deref(), Some(&*format!("http://{leader}{path}")));
    }
    assert_eq!(cluster.get("a%20b"), None, "a redirected write happened");
    for round in 0..20 {
        cluster.put("k", &round.to_string());
        // It asks its leader how far it must be. An election on a busy machine is no answer.
        let read = until("a read at a follower", || {
            Answer::get(&follower.http, "/kv/k").filter(|answer| !matches!(answer.status, 307 | 503))
        });
        assert_eq!((read.status, read.text()), (200, round.to_string()));
    }
}

#[test]
fn a_follower_that_knows_no_address_says_so() {
    let mut cluster = Cluster::build(3, false);
    cluster.start();
    let answer = Answer::to("PUT", &cluster.nodes[cluster.follower()].http, "/kv/a", b"v").unwrap();
    assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")), "{answer:?}");
    assert!(answer.text().contains("--peer"), "{answer:?}");
}

#[test]
fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::started(3);
    cluster.put("before", "v");
    let leader = cluster.leader();
    for at in (0..3).filter(|at| *at != leader) {
        cluster.nodes[at].kill();
    }
    let address = cluster.nodes[leader].http.clone();
    let answer = Answer::to("PUT", &address, "/kv/after", b"v").unwrap();
    match answer.status {
        // It led no more: did not happen.
        503 => assert_eq!(answer.retry_after.as_deref(), Some("1"), "{answer:?}"),
        // It is in its log.
        500 | 504 => assert_eq!(answer.json()["outcome"], "unknown", "{answer:?}"),
        _ => panic!("{answer:?}"),
    }
    let read = Answer::get(&address, "/kv/before").unwrap();
    assert!(matches!(read.status, 503 | 504), "a read without a majority: {read:?}");
    let refused = until("the leader to step down", || {
        Answer::to("PUT", &address, "/kv/later", b"v").filter(|answer| answer.status == 503)
    });
    assert_eq!(refused.retry_after.as_deref(), Some("1"), "{refused:?}");

    for at in (0..3).filter(|at| *at != leader) {
        cluster.nodes[at].start();
    }
    cluster.put("again", "v");
    assert_eq!(cluster.get("before").as_deref(), Some("v"));
    assert_eq!(cluster.get("later"), None, "a write answered 503 happened");
    assert!(cluster.get("after").is_none_or(|value| value == "v"));
}

#[test]
fn acknowledged_writes_survive_the_leader() {
    let mut cluster = Cluster::started(3);
    let keys = 60;
    for key in 0..keys / 2 {
        cluster.put(&format!("k{key}"), &format!("v{key}"));
    }
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    for key in keys / 2..keys {
        cluster.put(&format!("k{key}"), &format!("v{key}"));
    }
    for key in 0..keys {
        assert_eq!(cluster.get(&format!("k{key}")), Some(format!("v{key}")));
    }
    cluster.nodes[leader].start();
    assert_eq!(cluster.equal(), keys);
}

#[test]
fn acknowledged_writes_survive_all_at_once() {
    let mut cluster = Cluster::started(3);
    for round in 0..3 {
        for key in 0..20 {
            cluster.put(&format!("k{key}"), &format!("{round}"));
        }
        for node in &mut cluster.nodes {
            node.kill();
        }
        cluster.start();
        for key in 0..20 {
            assert_eq!(cluster.get(&format!("k{key}")), Some(format!("{round}")));
        }
    }
    assert_eq!(cluster.equal(), 20);
}

#[test]
fn one_node_alone_is_a_cluster_and_shuts_down_when_asked() {
    let mut cluster = Cluster::started(1);
    let index = cluster.put("k", "v");
    assert_eq!(cluster.nodes[0].terminate().code(), Some(0));
    cluster.nodes[0].start();
    assert_eq!(cluster.get("k").as_deref(), Some("v"));
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    assert_eq!(cluster.get("k").as_deref(), Some("v"));
    assert!(cluster.put("k", "w") > index);
}
