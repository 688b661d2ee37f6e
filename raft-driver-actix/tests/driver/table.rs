//! The README's tables name tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every test here, as the README names it: its module and its name.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let functions = fs::read_to_string(&path).unwrap();
        let functions = functions
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("async fn ").or(line.strip_prefix("fn ")));
        for function in functions {
            let name: String = function.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.insert(format!("{module}::{name}"));
        }
    }
    names
}

/// The core's tests are named in a table of its own, which is checked there.
fn in_the_core(name: &str) -> bool {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../raft-core/tests/README.md");
    fs::read_to_string(table).unwrap().contains(&format!("`{name}`"))
}

#[test]
fn every_test_that_the_readme_names_exists_and_every_row_names_one() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let tests = tests();
    let mut rows = 0;
    // Rows of the tables of promises: their last cell names tests.
    for line in readme.lines().filter(|line| line.starts_with("| ") && line.contains("::")) {
        rows += 1;
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap();
        let named: Vec<&str> =
            cell.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        assert!(!named.is_empty(), "no test: {line}");
        for name in named {
            assert!(
                tests.iter().any(|test| test == name || (name.ends_with("::") && test.starts_with(name)))
                    || in_the_core(name),
                "{name} does not exist"
            );
        }
    }
    assert!(rows > 40, "the tables are where they are looked for: {rows}");
}
