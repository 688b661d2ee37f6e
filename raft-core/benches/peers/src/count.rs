//! What the first table counts, in a program of its own because its allocator counts: prints the allocations of so many
//! entries committed by one library. `raft-core-peers` starts it, under callgrind too where that is there.
//!
//! `raft-core-peers-count LIBRARY NODES OUTSTANDING ENTRIES`

mod cores;

use crate::cores::{LIBRARIES, Library, commit, steady};

/// What is counted, under a name that callgrind finds.
#[inline(never)]
fn count(library: &mut dyn Library, nodes: u64, window: usize, entries: usize) {
    commit(library, nodes, window, entries);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let ["callgrind" | "allocations", name, nodes, window, entries] = words.as_slice() else {
        eprintln!("usage: raft-core-peers-count callgrind|allocations LIBRARY NODES OUTSTANDING ENTRIES");
        std::process::exit(2);
    };
    let (_, make) = LIBRARIES.iter().find(|(known, _)| known == name).expect("a library's name");
    let nodes = nodes.parse().expect("a number of nodes");
    let (window, entries) =
        (window.parse().expect("how many are outstanding"), entries.parse().expect("a number"));
    if words[0] == "callgrind" {
        // What counts the allocations is no part of the path.
        allocation_counter::opt_out(|| {
            count(steady(*make, nodes, window).as_mut(), nodes, window, entries);
        });
    } else {
        let mut library = steady(*make, nodes, window);
        let counted = allocation_counter::measure(|| count(library.as_mut(), nodes, window, entries));
        println!("{}", counted.count_total);
    }
}
