//! The planted bugs stay plantable: every patch applies to the core as it is.

use std::path::Path;
use std::process::Command;

#[test]
fn every_patch_applies() {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = sim.parent().expect("the crate lies in its workspace");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(sim.join("mutants")).expect("there are mutants") {
        let path = entry.expect("a readable directory").path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let checked =
            Command::new("git").args(["apply", "--check", "-p1"]).arg(&path).current_dir(root).output();
        let checked = checked.expect("git is installed");
        assert!(checked.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&checked.stderr));
        names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    }
    for trap in ["trap-01", "trap-06", "trap-15", "trap-18", "trap-34"] {
        assert!(names.iter().any(|name| name.starts_with(trap)), "no mutant for {trap}");
    }
}
