//! Tells the command line which commit it was built from: the results of a campaign belong to one.

use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map_or_else(
        || "unknown".to_owned(),
        |commit| {
            let changed = git(&["status", "--porcelain", "--", ".", "../raft-core"]);
            let dirty = changed.is_none_or(|changed| !changed.is_empty());
            if dirty { format!("{commit}-dirty") } else { commit }
        },
    );
    println!("cargo::rustc-env=RAFT_SIM_COMMIT={commit}");
    for path in ["../.git/HEAD", "../.git/index", "../raft-core/src", "src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
}
