//! Proof that the checkers see: each patch under `mutants/` plants one known bug into a copy of the core, and
//! the campaign has to find it.
//!
//! * The patches are small unified diffs against `raft-core/src`; the code itself stays clean.
//! * A mutant that no longer applies, does not build, or is not found is a failure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Instant;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Only the mutants whose names contain this.
    name: Option<String>,
    /// How many seeds a mutant may survive.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Threads for the seeds.
    #[arg(long)]
    jobs: Option<usize>,
}

enum Verdict {
    Caught { checker: String, seed: String },
    Missed,
    Broken(String),
}

impl Mutants {
    pub(crate) fn run(&self) -> ExitCode {
        match self.all() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("mutants: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn all(&self) -> io::Result<bool> {
        let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = sim.parent().ok_or_else(|| io::Error::other("the workspace has no directory"))?;
        let wanted = |name: &str| self.name.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let mut patches: Vec<PathBuf> = fs::read_dir(sim.join("mutants"))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        patches.retain(|path| path.extension().is_some_and(|ext| ext == "patch") && wanted(&name_of(path)));
        patches.sort();
        if patches.is_empty() {
            return Err(io::Error::other("no mutant has such a name"));
        }
        let work = target_dir(root).join("mutants");
        let mut caught = 0;
        println!("{:34} {:28} {:>8} {:>9}", "mutant", "caught by", "seed", "seconds");
        for patch in &patches {
            let began = Instant::now();
            let verdict = self.try_one(root, &work, patch)?;
            let seconds = began.elapsed().as_secs_f64();
            let (by, seed) = match verdict {
                Verdict::Caught { checker, seed } => {
                    caught += 1;
                    (checker, seed)
                }
                Verdict::Missed => (format!("NOTHING in {} seeds", self.seeds), "-".to_owned()),
                Verdict::Broken(why) => (format!("- {why}"), "-".to_owned()),
            };
            println!("{:34} {by:28} {seed:>8} {seconds:>9.1}", name_of(patch));
        }
        println!("{caught} of {} mutants caught", patches.len());
        Ok(caught == patches.len())
    }

    fn try_one(&self, root: &Path, work: &Path, patch: &Path) -> io::Result<Verdict> {
        let tree = work.join("tree");
        copy_workspace(root, &tree)?;
        let applied = Command::new("git")
            .args(["apply", "-p1"])
            .arg(patch)
            .current_dir(&tree)
            // Else git looks for a repository around the copy, and skips what is not in it.
            .env("GIT_CEILING_DIRECTORIES", work)
            .output()?;
        if !applied.status.success() {
            return Ok(Verdict::Broken(format!("does not apply: {}", last_line(&applied))));
        }
        let target = work.join("target");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--offline", "--quiet", "-p", "raft-sim", "--bin", "sim"])
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", &target)
            // Built once for each mutant and run for seconds: the last per cent of speed costs more than it gives.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            // From one mutant to the next little changes.
            .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
            .output()?;
        if !built.status.success() {
            return Ok(Verdict::Broken(format!("does not build: {}", last_line(&built))));
        }
        let mut run = Command::new(target.join("release").join("sim"));
        run.args(["run", "--quiet", "--seeds", &self.seeds.to_string()]);
        if let Some(jobs) = self.jobs {
            run.args(["--jobs", &jobs.to_string()]);
        }
        let output = run.output()?;
        Ok(read_verdict(&output))
    }
}

/// Reads `FAILED: seed 17 at 3.2 s: checker `commit``, as `sim run` prints it.
fn read_verdict(output: &Output) -> Verdict {
    if output.status.success() {
        return Verdict::Missed;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().find_map(|line| {
        let rest = line.strip_prefix("FAILED: seed ")?;
        let (seed, rest) = rest.split_once(' ')?;
        Some(Verdict::Caught { checker: rest.split('`').nth(1)?.to_owned(), seed: seed.to_owned() })
    });
    found.unwrap_or_else(|| Verdict::Broken(format!("ended without a report: {}", last_line(output))))
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned()
}

fn name_of(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Copies what the simulator is built from: the workspace with two of its members.
fn copy_workspace(root: &Path, tree: &Path) -> io::Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    fs::create_dir_all(tree)?;
    for member in ["raft-core", "sim"] {
        copy_dir(&root.join(member), &tree.join(member))?;
    }
    fs::copy(root.join("Cargo.lock"), tree.join("Cargo.lock"))?;
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    fs::write(tree.join("Cargo.toml"), with_members(&manifest, "members = [\"raft-core\", \"sim\"]")?)
}

/// The manifest with another list of members, however many lines the old one took.
fn with_members(manifest: &str, members: &str) -> io::Result<String> {
    let start =
        manifest.find("members = [").ok_or_else(|| io::Error::other("the workspace has no members"))?;
    let length =
        manifest[start..].find(']').ok_or_else(|| io::Error::other("the list of members does not end"))?;
    Ok(format!("{}{members}{}", &manifest[..start], &manifest[start + length + 1..]))
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                copy_dir(&source, &copy)?;
            }
        } else {
            fs::copy(&source, &copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copied_manifest_names_only_what_is_copied() {
        let manifest =
            "[workspace]\nresolver = \"3\"\nmembers = [\n  \"raft-core\",\n  \"other\",\n]\n[x]\na = [1]\n";
        let copied = with_members(manifest, "members = [\"sim\"]").unwrap();
        assert_eq!(copied, "[workspace]\nresolver = \"3\"\nmembers = [\"sim\"]\n[x]\na = [1]\n");
        assert!(with_members("[workspace]", "").is_err());
    }
}
