//! Mistakes: each ends with its own exit code and words that help, and harms nobody.

use std::fs;
use std::net::TcpListener;

use crate::support::{Cluster, Node, Refused, free_address, run, until};

/// A node that was alone in its cluster, wrote something, and was stopped.
fn used() -> Cluster {
    let mut cluster = Cluster::started(1);
    cluster.put("k", "needle-in-the-file");
    assert_eq!(cluster.nodes[0].terminate().code(), Some(0));
    cluster
}

#[test]
fn help_teaches() {
    let help = run(&["serve", "--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    for part in ["--peer", "PUT /kv/{key}", "Exit codes", "[default: 1]", "307", "Retry-After"] {
        assert!(text.contains(part), "expected \"{part}\" in:\n{text}");
    }
    let text = String::from_utf8_lossy(&run(&["--help"]).stdout).into_owned();
    assert!(text.contains("kv serve --id 1") && text.contains("curl"), "{text}");
}

#[test]
fn arguments_are_checked_before_anything_is_touched() {
    let node = Cluster::new(1).nodes.remove(0);
    for (changed, part) in [
        (node.set("--peer", "1=nowhere"), "HOST:PORT"),
        (node.set("--peer", &format!("2={}", node.raft)), "--id 1 is not among the --peer list"),
        (node.with(&["--peer", "1=127.0.0.1:1"]), "names node 1 twice"),
        (node.with(&["--peer", "2"]), "N=RAFT"),
        (node.with(&["--cluster", "blue"]), "not a cluster id"),
        (node.with(&["--heartbeat-ms", "5000"]), "not shorter than"),
        (node.with(&["--unheard-of"]), "--unheard-of"),
    ] {
        changed.refused().says(2, &[part]);
    }
    let same = node.set("--http", &node.raft).refused();
    same.says(2, &["--raft and --http are the same address", "a port each"]);
    Refused::of(&run(&["serve"])).says(2, &["--id", "--raft", "--http", "--data", "--peer", "--join"]);
    assert!(!node.data.exists());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let node = Cluster::new(1).nodes.remove(0);
    let refused = node.set("--http", &address).refused();
    refused.says(5, &["cannot listen on --http", &address, "what to do", "choose another port"]);
    let refused = node.set("--raft", &address).refused();
    refused.says(5, &["cannot listen on --raft", &address, "what to do", "choose another port"]);
    assert!(!node.data.exists(), "the data was touched");
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let cluster = Cluster::started(1);
    cluster.put("k", "v");
    let node = &cluster.nodes[0];
    // Other ports, the same directory.
    let second = node.set("--http", &free_address()).set("--raft", &free_address());
    second.refused().says(4, &["in use, by another process", "stop it, or choose another data directory"]);
    assert_eq!(cluster.get("k").as_deref(), Some("v"));
    cluster.put("k", "w");
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused() {
    let mut cluster = used();
    let node = &cluster.nodes[0];
    let stranger = Node::new(2, node.raft.clone(), node.http.clone(), node.data.clone());
    let stranger = stranger.with(&["--peer", &format!("2={}", node.raft)]);
    stranger
        .refused()
        .says(3, &["belongs to node 1, not to 2", "choose the right node id or data directory"]);
    let elsewhere = node.with(&["--cluster", "0xbeef"]);
    elsewhere.refused().says(3, &["belongs to cluster 1, not to beef", "choose the right cluster id"]);
    let refused = node.with(&["--peer", &format!("2={}", free_address())]).refused();
    refused.says(
        6,
        &["belongs to a cluster that began with other members", "what to do", "start with the members"],
    );
    // Nothing was harmed.
    cluster.nodes[0].start();
    assert_eq!(cluster.get("k").as_deref(), Some("needle-in-the-file"));
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    fs::write(&node.data, "a letter").unwrap();
    node.refused().says(3, &[node.data.to_str().unwrap(), "check the path"]);
    assert_eq!(fs::read_to_string(&node.data).unwrap(), "a letter");
    let recordings = node.data.join("recordings");
    let elsewhere = node.data.with_file_name("elsewhere");
    let elsewhere = node.set("--data", elsewhere.to_str().unwrap());
    let refused = elsewhere.with(&["--record", recordings.to_str().unwrap()]).refused();
    refused.says(2, &["no recordings in", "what to do", "--record DIR"]);
    fs::remove_file(&node.data).unwrap();
    fs::create_dir(&node.data).unwrap();
    fs::write(node.data.join("raft-log"), "a letter of some length, and no log").unwrap();
    node.refused().says(3, &["is not a file of this library", "choose another data directory"]);
    assert_eq!(
        fs::read_to_string(node.data.join("raft-log")).unwrap(),
        "a letter of some length, and no log"
    );
}

#[test]
fn damaged_data_is_refused_and_kept() {
    let cluster = used();
    let node = &cluster.nodes[0];
    let log = node.data.join("raft-log");
    let whole = fs::read(&log).unwrap();
    let needle = b"needle-in-the-file";
    let mut damaged = whole.clone();
    let found: Vec<usize> = whole
        .windows(needle.len())
        .enumerate()
        .filter(|(_, bytes)| bytes == needle)
        .map(|(at, _)| at)
        .collect();
    assert!(!found.is_empty(), "the value is not in the file");
    for at in found {
        damaged[at] ^= 1;
    }
    fs::write(&log, &damaged).unwrap();
    node.refused().says(3, &["damaged", "new id in an empty directory"]);
    assert!(fs::read(&log).unwrap() == damaged, "the damaged log was changed");

    fs::remove_file(&log).unwrap();
    node.refused().says(3, &["is gone, though its directory held a log before"]);
}

#[test]
fn a_node_with_another_list_than_its_peers_gives_up() {
    odd_one_out(
        |odd| odd.with(&["--peer", &format!("4={}", free_address())]),
        &["different sets of members", "same --peer list"],
    );
}

#[test]
fn a_node_of_another_cluster_gives_up() {
    odd_one_out(|odd| odd.with(&["--cluster", "2"]), &["another cluster", "same --cluster"]);
}

/// Nodes 1 and 2 agree, and node 3 is told something else.
fn odd_one_out(change: impl FnOnce(&Node) -> Node, parts: &[&str]) {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].start();
    cluster.nodes[1].start();
    cluster.put("k", "v");
    let refused = change(&cluster.nodes[2]).refused();
    refused.says(6, &["a majority of peers refuses this node", "what to do"]);
    refused.says(6, parts);
    // The others are none the worse.
    assert_eq!(cluster.get("k").as_deref(), Some("v"));
    cluster.put("k", "w");
    assert!(cluster.nodes[..2].iter_mut().all(Node::runs));
    // Put right, it joins.
    fs::remove_dir_all(&cluster.nodes[2].data).unwrap();
    cluster.nodes[2].start();
    until("the third node to follow", || {
        cluster.nodes[2].status().filter(|status| status["machine"]["keys"] == 1)
    });
    assert_eq!(cluster.equal(), 1);
}
