//! The source tree keeps its own rules: rooms import only from rooms before them, stay small, and say what they
//! are for.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order in which they build on each other; those of one line may know each other.
const ROOMS: &[&[&str]] = &[
    &["ids", "time", "rng", "canonical"],
    &["entry", "membership", "snapshot", "quorum"],
    &["message", "event", "action", "error", "status"],
    &["config", "recovery", "wire"],
    &["terms", "log", "durability", "timers"],
    &["progress", "rounds", "proposals", "reads", "questions", "lease", "change", "flow", "transfer"],
    &["state"],
    &["role"],
    &["node"],
    &["host"],
    &["lib"],
];

const LINES_MAX: usize = 500;

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&root).expect("inside the root");
            let first = relative.components().next().expect("a name").as_os_str().to_string_lossy();
            let room = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("a readable source");
            found.push((room, relative.to_owned(), text));
        }
    }
    assert!(found.len() > 20, "the sources are where they are looked for");
    found
}

fn level(room: &str) -> usize {
    ROOMS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("{room} has no place in ROOMS"))
}

#[test]
fn imports_go_only_upwards() {
    for (room, path, text) in sources() {
        let shipped = text.split("#[cfg(test)]\nmod ").next().expect("a split has a first part");
        for line in shipped.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let import: String =
                    rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !import.is_empty() && import != room {
                    assert!(
                        level(&import) <= level(&room),
                        "{}: {room} must not know {import}",
                        path.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_room_says_what_it_is_for_and_stays_small() {
    for (_, path, text) in sources() {
        assert!(text.starts_with("//! "), "{}: begins with its purpose", path.display());
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines are more than one room", path.display());
    }
}

#[test]
fn no_clock_no_randomness_no_threads_no_std() {
    for (_, path, text) in sources() {
        let shipped = text.split("#[cfg(test)]\nmod ").next().expect("a split has a first part");
        for line in shipped.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in
                ["std::time", "std::thread", "std::net", "std::fs", "HashMap", "RandomState", "unsafe "]
            {
                assert!(!line.contains(word), "{}: {word} in `{}`", path.display(), line.trim());
            }
        }
    }
}
