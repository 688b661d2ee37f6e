//! Nodes of both drivers: one cluster, and one form of data.

use crate::PROGRAM;
use crate::support::{Answer, Cluster, Node, example, until};

/// The same program on Tokio.
const OTHER: &str = "kv";
/// Snapshots every few entries, so that whoever was away needs one.
const SMALL: [&str; 4] = ["--snapshot-entries", "40", "--keep-entries", "5"];

/// Nothing runs yet.
fn cluster(programs: [&str; 3]) -> Cluster {
    let mut cluster = Cluster::new(3);
    for (node, program) in cluster.nodes.iter_mut().zip(programs) {
        *node = node.with(&SMALL);
        node.program = example(program);
    }
    cluster
}

/// Exchanges the programs of all nodes, of which none runs.
fn exchange(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        let other = if node.program == example(OTHER) { PROGRAM } else { OTHER };
        node.program = example(other);
    }
}

fn number(node: &Node, name: &str) -> u64 {
    until(name, || node.status()?.pointer(name)?.as_u64())
}

#[test]
fn nodes_of_both_drivers_are_one_cluster() {
    let mut cluster = cluster([OTHER, PROGRAM, PROGRAM]);
    // Clients on arbiters of their own.
    cluster.nodes[2] = cluster.nodes[2].with(&["--threads", "3"]);
    cluster.start();
    // Each leads in turn, and brings one back that was away: Tokio Actix, Actix Actix, Actix Tokio.
    for leader in 0..3 {
        let body = format!("{{\"to\":{}}}", leader + 1);
        until("the leadership to move", || {
            let answer = cluster.ask("POST", "/transfer", body.as_bytes());
            (answer.status == 200 && answer.json()["leader"] == leader + 1).then_some(())
        });
        let away = (leader + 1) % 3;
        let before = cluster.put("before", &leader.to_string());
        cluster.nodes[away].kill();
        for key in 0..60 {
            cluster.put(&format!("k{key}"), &format!("{leader}.{key}"));
        }
        for (_, node) in cluster.nodes.iter().enumerate().filter(|(at, _)| *at != away) {
            until("what was missed to be compacted", || {
                (number(node, "/log_base_index") > before).then_some(())
            });
        }
        cluster.nodes[away].start();
        until("a snapshot of the other driver", || {
            (number(&cluster.nodes[away], "/counters/snapshots_installed") > 0).then_some(())
        });
        assert_eq!(cluster.equal(), 61);
        // Any of them serves readers, and sends writers on.
        for node in &cluster.nodes {
            let read =
                until("a read", || Answer::get(&node.http, "/kv/k59").filter(|read| read.status == 200));
            assert_eq!(read.text(), format!("{leader}.59"));
        }
    }
}

#[test]
fn a_directory_written_by_one_driver_is_opened_by_the_other() {
    let mut cluster = cluster([OTHER, PROGRAM, OTHER]);
    cluster.start();
    let check = |cluster: &Cluster, rounds: u64| {
        for key in 0..rounds * 50 {
            assert_eq!(cluster.get(&format!("k{key}")), Some(format!("v{key}")));
        }
        assert_eq!(cluster.equal(), rounds * 50);
    };
    for round in 0..3 {
        for key in round * 50..(round + 1) * 50 {
            cluster.put(&format!("k{key}"), &format!("v{key}"));
        }
        let orderly = round == 1;
        for node in &mut cluster.nodes {
            if orderly {
                assert!(node.terminate().success());
            } else {
                node.kill();
            }
        }
        exchange(&mut cluster);
        cluster.start();
        check(&cluster, round + 1);
    }
}
