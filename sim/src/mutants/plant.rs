//! Where mutants grow: a copy of the workspace that is patched, built, and run.
//!
//! * The copy has the core and the simulator only, and is made anew for each mutant, but what stays the same keeps its
//!   date: from one mutant to the next little is built again.
//! * Nothing outside the copy and its target directory is ever written.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use twox_hash::XxHash3_64;

use super::verdicts::Verdict;

/// What is copied, beside the workspace's manifest.
const PARTS: [&str; 3] = ["Cargo.lock", "raft-core", "sim"];

/// What of it decides what a run does.
const SOURCES: [&str; 5] =
    ["Cargo.lock", "raft-core/Cargo.toml", "raft-core/src", "sim/Cargo.toml", "sim/src"];

/// How often a campaign is looked after.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Nursery {
    root: PathBuf,
    work: PathBuf,
    tree: PathBuf,
    manifest: String,
    /// A hash of all sources.
    sources: u64,
}

impl Nursery {
    pub(super) fn new(root: &Path, work: &Path) -> io::Result<Self> {
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        let manifest = with_members(&manifest, "members = [\"raft-core\", \"sim\"]")?;
        let manifest_hash = XxHash3_64::oneshot(manifest.as_bytes());
        let sources =
            SOURCES.iter().try_fold(manifest_hash, |so_far, part| hash(&root.join(part), so_far))?;
        Ok(Self { root: root.to_owned(), work: work.to_owned(), tree: work.join("tree"), manifest, sources })
    }

    /// What a verdict is of: these sources with this patch.
    pub(super) fn key(&self, patch: Option<&Path>) -> io::Result<u64> {
        patch.map_or(Ok(self.sources), |patch| hash(patch, self.sources))
    }

    fn target(&self) -> PathBuf {
        self.work.join("target")
    }

    /// Builds the simulator, over a core with this patch. What does not apply or build is told by its last line.
    pub(super) fn build(&self, patch: Option<&Path>) -> io::Result<Result<(), String>> {
        fs::create_dir_all(&self.tree)?;
        for part in PARTS {
            mirror(&self.root.join(part), &self.tree.join(part))?;
        }
        write_if_other(&self.tree.join("Cargo.toml"), self.manifest.as_bytes())?;
        if let Some(patch) = patch {
            let applied = Command::new("git")
                .args(["apply", "-p1"])
                .arg(patch)
                .current_dir(&self.tree)
                // Else git looks for a repository around the copy, and skips what is not in it.
                .env("GIT_CEILING_DIRECTORIES", &self.work)
                .output()?;
            if !applied.status.success() {
                return Ok(Err(format!("does not apply: {}", last_line(&applied.stderr))));
            }
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--offline", "--quiet", "-p", "raft-sim", "--bin", "sim"])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", self.target())
            // Built once for each mutant and run for seconds: the last per cent of speed costs more than it gives.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            // From one mutant to the next little changes: the smaller the units, the fewer of them are built again.
            .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256")
            .output()?;
        if !built.status.success() {
            return Ok(Err(format!("does not build: {}", last_line(&built.stderr))));
        }
        Ok(Ok(()))
    }

    /// Runs the default campaign with what was built last.
    pub(super) fn run(&self, seeds: u64, jobs: usize, limit: Duration) -> io::Result<Verdict> {
        let (out, err) = (self.work.join("stdout"), self.work.join("stderr"));
        let began = Instant::now();
        // Into files, so that nobody has to read while it runs.
        let mut campaign = Command::new(self.target().join("release").join("sim"))
            .args(["run", "--quiet", "--seeds", &seeds.to_string(), "--jobs", &jobs.to_string()])
            .stdout(Stdio::from(fs::File::create(&out)?))
            .stderr(Stdio::from(fs::File::create(&err)?))
            .spawn()?;
        let status = loop {
            match campaign.try_wait()? {
                Some(status) => break status,
                None if began.elapsed() > limit => {
                    campaign.kill()?;
                    campaign.wait()?;
                    return Ok(Verdict::Broken(format!("did not end within {} s", limit.as_secs())));
                }
                None => thread::sleep(LOOK),
            }
        };
        let (out, err) = (fs::read_to_string(&out)?, fs::read(&err)?);
        Ok(read_verdict(status, &out, &err, seeds, began.elapsed()))
    }
}

/// Reads `FAILED: seed 17 at 3.2 s: checker `commit``, as `sim run` prints it.
fn read_verdict(status: ExitStatus, out: &str, err: &[u8], seeds: u64, took: Duration) -> Verdict {
    if status.success() {
        return Verdict::Missed { seeds };
    }
    let found = out.lines().find_map(|line| {
        let rest = line.strip_prefix("FAILED: seed ")?;
        let (seed, rest) = rest.split_once(' ')?;
        let checker = rest.split('`').nth(1)?.to_owned();
        Some(Verdict::Caught { checker, seed: seed.parse().ok()?, seconds: took.as_secs_f64() })
    });
    found.unwrap_or_else(|| Verdict::Broken(format!("ended without a report: {}", last_line(err))))
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned()
}

/// What lies in a directory and is not built, in order.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name != "target"));
    paths.sort();
    Ok(paths)
}

/// A hash of everything that lies there, on top of what was hashed before.
fn hash(path: &Path, so_far: u64) -> io::Result<u64> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let named = XxHash3_64::oneshot_with_seed(so_far, name);
    if path.is_dir() {
        return entries(path)?.iter().try_fold(named, |so_far, path| hash(path, so_far));
    }
    Ok(XxHash3_64::oneshot_with_seed(named, &fs::read(path)?))
}

/// Makes `to` what `from` is. What is the same already is not touched.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return write_if_other(to, &fs::read(from)?);
    }
    fs::create_dir_all(to)?;
    let wanted = entries(from)?;
    for path in entries(to)? {
        let is_wanted = wanted.iter().any(|wanted| wanted.file_name() == path.file_name());
        match (is_wanted, path.is_dir()) {
            (true, _) => {}
            (false, true) => fs::remove_dir_all(&path)?,
            (false, false) => fs::remove_file(&path)?,
        }
    }
    wanted.iter().try_for_each(|path| mirror(path, &to.join(path.file_name().unwrap_or_default())))
}

fn write_if_other(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) { Ok(()) } else { fs::write(path, bytes) }
}

/// The manifest with another list of members, however many lines the old one took.
fn with_members(manifest: &str, members: &str) -> io::Result<String> {
    let start =
        manifest.find("members = [").ok_or_else(|| io::Error::other("the workspace has no members"))?;
    let length =
        manifest[start..].find(']').ok_or_else(|| io::Error::other("the list of members does not end"))?;
    Ok(format!("{}{members}{}", &manifest[..start], &manifest[start + length + 1..]))
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

    #[test]
    fn a_mirror_is_the_same_and_leaves_alone_what_is() {
        let dir = std::env::temp_dir().join(format!("raft-sim-mirror-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(from.join("src")).unwrap();
        fs::create_dir_all(to.join("gone")).unwrap();
        for (path, text) in
            [("from/a", "1"), ("from/src/b", "2"), ("to/gone/c", "3"), ("to/d", "4"), ("to/a", "1")]
        {
            fs::write(dir.join(path), text).unwrap();
        }
        let date = |path: &str| fs::metadata(dir.join(path)).unwrap().modified().unwrap();
        let before = date("to/a");
        mirror(&from, &to).unwrap();
        let names = |dir: &Path| {
            let paths = entries(dir).unwrap();
            paths.iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&to), ["a", "src"]);
        assert_eq!(fs::read_to_string(to.join("src/b")).unwrap(), "2");
        assert_eq!(date("to/a"), before);
        let of = |part: &str| hash(&dir.join(part), 0).unwrap();
        assert_eq!(of("from/src"), of("to/src"));
        fs::write(to.join("src/b"), "5").unwrap();
        assert_ne!(of("from/src"), of("to/src"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
