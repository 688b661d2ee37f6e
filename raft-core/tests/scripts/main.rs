//! Scripts: whole stories as text, each readable in a minute. `scripts/README.md` has the lines that there are.

#[path = "../support/mod.rs"]
mod support;

mod runner;

use std::fs;
use std::path::Path;

/// One test a script, so that each is named where it fails.
macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            runner::run(stringify!($name), include_str!(concat!(stringify!($name), ".script")));
        })+

        const NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

scripts! {
    aba_race,
    figure_7,
    figure_8,
    joint_replacement_of_a_leader,
    lease_that_must_not_be_served,
    partition_and_return,
    snapshot_to_a_lagging_follower,
    transfer,
}

#[test]
fn every_script_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = fs::read_dir(folder).expect("the scripts").map(|entry| entry.expect("readable").path());
    let scripts = files.filter(|path| path.extension().is_some_and(|end| end == "script"));
    let mut found: Vec<_> =
        scripts.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    found.sort();
    assert_eq!(found, NAMES);
}
