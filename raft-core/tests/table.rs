//! The table of traps in `tests/README.md` names every trap, and only tests, scripts and mutants that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What cannot happen by design needs no test, but that is easily said.
const BY_DESIGN_MAX: usize = 15;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The rows of the table: number, and what shows it.
fn rows() -> Vec<(String, String)> {
    let text = fs::read_to_string(tests().join("README.md")).expect("the table");
    let (_, table) = text.split_once("| number | trap | shown by |").expect("the table of traps");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.filter_map(|line| {
        let mut cells = line.splitn(3, " | ");
        Some((cells.next()?.to_owned(), cells.nth(1)?.to_owned()))
    });
    rows.collect()
}

/// The file that a test's path stands for, and its function.
fn place(path: &str) -> (PathBuf, String) {
    let parts: Vec<&str> = path.split("::").collect();
    match parts[..] {
        [binary, function] => (tests().join(format!("{binary}.rs")), function.to_owned()),
        [binary, module, function] => (tests().join(format!("{binary}/{module}.rs")), function.to_owned()),
        _ => panic!("{path}: binary::function or binary::module::function"),
    }
}

#[test]
fn every_trap_has_its_row() {
    let found: Vec<String> = rows().into_iter().map(|(number, _)| number).collect();
    let numbers = (1..=62).map(|number| number.to_string());
    let expected: Vec<String> = numbers.chain((1..=21).map(|number| format!("S{number}"))).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_row_names_only_what_exists() {
    for (number, shown) in rows() {
        let mut count = 0;
        for part in shown.split("<br>") {
            count += 1;
            if part.starts_with("*by design*: ") {
                continue;
            }
            let name = part.split('`').nth(1).unwrap_or_else(|| panic!("{number}: {part} names nothing"));
            if part.starts_with("mutant") {
                let patch = tests().join(format!("../../sim/mutants/{name}.patch"));
                assert!(patch.exists(), "{number}: no mutant {name}");
            } else if part.starts_with("script") {
                let script = tests().join(format!("scripts/{name}.script"));
                assert!(script.exists(), "{number}: no script {name}");
            } else {
                let (file, function) = place(name);
                let text =
                    fs::read_to_string(&file).unwrap_or_else(|_| panic!("{number}: no file for {name}"));
                let there = text.contains(&format!("#[test]\nfn {function}()"))
                    || text.contains(&format!("#[test]\n    fn {function}("));
                assert!(there, "{number}: no test {name}");
            }
        }
        assert!(count > 0, "{number} is shown by nothing");
    }
}

#[test]
fn few_rows_rest_on_the_design_alone() {
    let by_design = rows().iter().filter(|(_, shown)| shown.contains("*by design*")).count();
    assert!((1..=BY_DESIGN_MAX).contains(&by_design), "{by_design}");
}

#[test]
fn every_numbered_test_stands_in_its_row() {
    let rows = rows();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(tests().join("traps")).expect("the traps") {
        let text = fs::read_to_string(entry.expect("readable").path()).expect("a source");
        for line in text.lines().filter_map(|line| line.strip_prefix("fn trap_")) {
            let function = format!("trap_{}", line.trim_end_matches("() {"));
            let number = line.split('_').next().expect("a number");
            let number = number.to_uppercase().replace('S', "S ");
            let number: String =
                number.split(' ').map(|part| part.trim_start_matches('0')).collect::<Vec<_>>().concat();
            let row = rows.iter().find(|(found, _)| *found == number);
            let (_, shown) = row.unwrap_or_else(|| panic!("{function} has no row {number}"));
            assert!(shown.contains(&function), "{function} is not in row {number}");
            seen.insert(function);
        }
    }
    assert!(seen.len() > 35, "the traps are where they are looked for");
}
