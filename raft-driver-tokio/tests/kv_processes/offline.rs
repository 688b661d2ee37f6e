//! What is done while no node runs: a cluster that lost its majority is rescued, refused while it is not needed, and a
//! backup begins a new one.

use crate::support::{Cluster, Node, Refused, free_address, run, until};

fn refused(arguments: &[&str]) -> Refused {
    Refused::of(&run(arguments))
}

/// The last entry that a data directory holds.
fn last(id: &str, data: &str) -> String {
    let output = run(&["offline", "inspect", "--id", id, "--data", data]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("last entry")).expect("an end");
    line.trim().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_cluster_that_lost_its_majority_begins_anew_and_a_backup_of_it_too() {
    let mut cluster = Cluster::started(3);
    for key in 0..30 {
        cluster.put(&format!("k{key}"), &format!("v{key}"));
    }
    cluster.equal();
    let data: Vec<String> = cluster.nodes.iter().map(|node| node.data.to_str().unwrap().to_owned()).collect();
    let (new, raft) = (format!("{}-new", data[0]), free_address());
    let rescue = |more: &[&str]| {
        let fixed =
            ["offline", "rescue", "--id", "1", "--data", &data[0], "--new-data", &new, "--raft", &raft];
        refused(&[&fixed[..], more].concat())
    };
    let both: [&str; 6] = ["--lost", "2", "--lost", "3", "--new-cluster", "2"];

    // While it runs, while others answer, and while they are enough.
    rescue(&both).says(4, &["in use"]);
    cluster.nodes[0].kill();
    rescue(&both).says(11, &["answers at its address"]);
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let other = format!("2={}", last("2", &data[1]));
    rescue(&["--lost", "3", "--other", &other, "--new-cluster", "2"]).says(11, &["not needed"]);
    rescue(&["--lost", "3", "--new-cluster", "2"]).says(11, &["what about"]);
    rescue(&["--lost", "2", "--lost", "3", "--new-cluster", "1"]).says(2, &["another name"]);
    refused(&["offline", "inspect", "--id", "1", "--data", "nowhere"]).says(3, &["is no directory"]);
    let done = rescue(&both);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    rescue(&both).says(11, &["not empty"]);

    let again = |id: usize, raft: &str, data: &str, cluster: &str| {
        let node = Node::new(id, raft.to_owned(), free_address(), data.into());
        node.with(&["--join", "--cluster", cluster])
    };
    cluster.nodes = vec![again(1, &raft, &new, "2")];
    cluster.start();
    for key in 0..30 {
        assert_eq!(cluster.get(&format!("k{key}")), Some(format!("v{key}")));
    }
    cluster.put("k30", "v30");
    let taken = until("a snapshot", || Some(cluster.ask("POST", "/snapshot", b"")));
    assert_eq!(taken.status, 200, "{}", taken.text());
    cluster.nodes[0].kill();

    // Two nodes of a third cluster, from a backup of the second.
    let file = format!("{}.backup", data[0]);
    let backup = ["offline", "backup", "--id", "1", "--cluster", "2", "--data", &new, "--to", &file];
    assert_eq!(refused(&backup).code, Some(0), "all of the log is in the snapshot");
    refused(&backup).says(3, &["exists"]);
    // A snapshot that lacks what was acknowledged is copied only on demand.
    cluster.start();
    cluster.put("k31", "in the log alone");
    cluster.nodes[0].kill();
    let file = format!("{file}.2");
    let backup = [&backup[..8], &["--to", &file]].concat();
    let lacking = refused(&backup);
    lacking.says(11, &["entries of the log", "are in no snapshot", "what to do", "kv backup FILE"]);
    assert!(!std::path::Path::new(&file).exists());
    let taken = run(&[&backup[..], &["--snapshot-only"]].concat());
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let told = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(told.contains("not in it") && told.contains("entries of the log"), "{told}");
    let members: Vec<(usize, String)> = (1..=2).map(|id| (id, free_address())).collect();
    cluster.nodes = members
        .iter()
        .map(|(id, address)| {
            let (id_text, data) = (id.to_string(), format!("{}-third", data[*id]));
            let peers = members.iter().flat_map(|(id, raft)| ["--peer".to_owned(), format!("{id}={raft}")]);
            let import = ["offline", "import", &file, "--id", &id_text, "--cluster", "3", "--data", &data];
            let import: Vec<String> = import.map(str::to_owned).into_iter().chain(peers).collect();
            let imported = refused(&import.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(imported.code, Some(0), "{}", imported.stderr);
            again(*id, address, &data, "3")
        })
        .collect();
    cluster.start();
    cluster.leader();
    // Clients are not told where the others are: whoever leads is asked.
    let leader = cluster.leader();
    cluster.nodes = vec![cluster.nodes.remove(leader), cluster.nodes.remove(0)];
    for key in 0..31 {
        let address = cluster.nodes[0].http.clone();
        let answer = until("a read", || {
            crate::support::Answer::get(&address, &format!("/kv/k{key}"))
                .filter(|answer| answer.status == 200)
        });
        assert_eq!(answer.text(), format!("v{key}"));
    }
}

#[test]
fn a_backup_of_a_running_cluster_holds_what_was_acknowledged_and_begins_another() {
    let cluster = Cluster::started(3);
    let value = |key: usize| format!("{key}").repeat(1 + key * 997 % 5000);
    for key in 0..40 {
        cluster.put(&format!("k{key}"), &value(key));
    }
    // Of no effect but that the log says where clients reach everybody.
    let written = cluster.ask("POST", "/members", b"{\"id\":1}");
    assert_eq!(written.status, 200, "{}", written.text());
    // Of one that does not lead: what others have acknowledged is in it all the same.
    let at = (cluster.leader() + 1) % 3;
    let file = format!("{}.backup", cluster.nodes[at].data.display());
    let backup = ["backup", &file, "--endpoints", &cluster.nodes[at].http];
    let taken = run(&backup);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(String::from_utf8_lossy(&taken.stdout).contains("bytes of state through"));
    refused(&backup).says(2, &["exists", "what to do"]);
    refused(&["backup", &format!("{file}.2"), "--endpoints", "127.0.0.1:1"]).says(8, &["no backup"]);
    cluster.put("later", "not in it");
    let directory = cluster.nodes[at].data.parent().unwrap();
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains(".part")).collect();
    assert!(left.is_empty(), "{left:?}");

    let (raft, data) = (free_address(), format!("{file}.data"));
    let peer = format!("1={raft}");
    let import =
        ["offline", "import", &file, "--id", "1", "--cluster", "2", "--data", &data, "--peer", &peer];
    assert_eq!(refused(&import).code, Some(0));
    let node = Node::new(1, raft, free_address(), data.into());
    let mut new = Cluster::new(1);
    new.nodes = vec![node.with(&["--join", "--cluster", "2"])];
    new.start();
    for key in 0..40 {
        assert_eq!(new.get(&format!("k{key}")), Some(value(key)));
    }
    assert_eq!(new.get("later"), None);
    // The new cluster sends nobody to the old one.
    let status = new.nodes[0].status().unwrap();
    assert!(status["members"][0]["http"].is_null(), "{status}");
    let old = cluster.nodes[at].status().unwrap();
    assert!(old["members"][0]["http"].is_string(), "{old}");
}
