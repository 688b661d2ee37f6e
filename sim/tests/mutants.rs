//! The planted bugs stay plantable: every patch applies to the core as it is, and they stand for many traps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const PATCHES_MIN: usize = 50;
const NUMBERS_MIN: usize = 40;

/// Traps have numbers through this, and those that the seed fell into through the other.
const NUMBERS_MAX: [u32; 2] = [62, 21];

fn patches() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
    let entries = std::fs::read_dir(dir).expect("there are mutants");
    let paths = entries.map(|entry| entry.expect("a readable directory").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ext| ext == "patch")).collect();
    paths.sort();
    paths
}

/// The number in `trap-07-…` or `trap-S7-…`.
fn number(path: &Path) -> Option<(bool, u32)> {
    let number = path.file_stem()?.to_str()?.strip_prefix("trap-")?.split('-').next()?;
    let digits = number.trim_start_matches('S');
    Some((digits != number, digits.parse().ok()?))
}

#[test]
fn every_patch_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in its workspace");
    for path in patches() {
        let checked =
            Command::new("git").args(["apply", "--check", "-p1"]).arg(&path).current_dir(root).output();
        let checked = checked.expect("git is installed");
        assert!(checked.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn every_patch_says_what_it_plants_and_touches_the_core_alone() {
    for path in patches() {
        let text = std::fs::read_to_string(&path).expect("a patch is text");
        let what = text.lines().next().unwrap_or_default();
        assert!(what.contains(": ") && what.ends_with('.'), "{}: {what}", path.display());
        let touched: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("--- ").or_else(|| line.strip_prefix("+++ ")))
            .collect();
        let allowed =
            |file: &&&str| ["a/raft-core/src/", "b/raft-core/src/"].iter().any(|dir| file.starts_with(dir));
        assert!(!touched.is_empty(), "{} changes nothing", path.display());
        assert_eq!(touched.iter().find(|file| !allowed(file)), None, "{}", path.display());
    }
}

#[test]
fn they_stand_for_many_traps() {
    let patches = patches();
    let numbers: BTreeSet<_> = patches.iter().filter_map(|path| number(path)).collect();
    assert!(patches.len() >= PATCHES_MIN, "{} patches", patches.len());
    assert!(numbers.len() >= NUMBERS_MIN, "{} numbers: {numbers:?}", numbers.len());
    let [paper, seed] = NUMBERS_MAX;
    let known = |(of_seed, number): &(bool, u32)| (1..=if *of_seed { seed } else { paper }).contains(number);
    assert!(numbers.iter().all(known), "{numbers:?}");
    for path in &patches {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        assert!(!name.starts_with("trap-") || number(path).is_some(), "{name} has no number");
    }
}
