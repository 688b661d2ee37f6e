//! What became of each mutant, kept in a file so that a run that was interrupted goes on where it was.
//!
//! One line a verdict, written as soon as it is known. A line that cannot be read, the last one of a run that was
//! killed perhaps, is as good as none.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Caught { checker: String, seed: u64, seconds: f64 },
    Missed { seeds: u64 },
    Broken(String),
}

impl Verdict {
    /// In words. `seeds` is how many it was allowed.
    pub(super) fn text(&self, seeds: u64) -> String {
        match self {
            Self::Caught { checker, seed, .. } => format!("{checker}, by seed {seed}"),
            Self::Missed { .. } => format!("NOTHING in {seeds} seeds"),
            Self::Broken(why) => why.clone(),
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Caught { checker, seed, seconds } => format!("caught\t{checker}\t{seed}\t{seconds:.1}"),
            Self::Missed { seeds } => format!("missed\t{seeds}"),
            Self::Broken(_) => "broken".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let parts: Vec<&str> = line.split('\t').collect();
        match parts[..] {
            ["caught", checker, seed, seconds] => {
                let (seed, seconds) = (seed.parse().ok()?, seconds.parse().ok()?);
                Some(Self::Caught { checker: checker.to_owned(), seed, seconds })
            }
            ["missed", seeds] => Some(Self::Missed { seeds: seeds.parse().ok()? }),
            // What did not build is tried again.
            _ => None,
        }
    }

    /// Whether it answers for a run of so many seeds.
    fn holds(&self, seeds: u64) -> bool {
        match self {
            Self::Caught { seed, .. } => *seed < seeds,
            Self::Missed { seeds: without } => *without >= seeds,
            Self::Broken(_) => false,
        }
    }
}

pub(super) struct Verdicts {
    file: File,
    known: BTreeMap<u64, Verdict>,
}

impl Verdicts {
    /// Those of earlier runs, or none.
    pub(super) fn open(path: &Path, fresh: bool) -> io::Result<Self> {
        let text = if fresh || !path.exists() { String::new() } else { std::fs::read_to_string(path)? };
        let parse = |line: &str| {
            let mut parts = line.splitn(3, '\t');
            let key = u64::from_str_radix(parts.next()?, 16).ok()?;
            let _name = parts.next()?;
            Some((key, Verdict::parse(parts.next()?)?))
        };
        let known = text.lines().filter_map(parse).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if fresh {
            file.set_len(0)?;
        } else if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file)?;
        }
        Ok(Self { file, known })
    }

    /// What is known of the sources and the patch behind `key`, if it answers for so many seeds.
    pub(super) fn find(&self, key: u64, seeds: u64) -> Option<Verdict> {
        self.known.get(&key).filter(|verdict| verdict.holds(seeds)).cloned()
    }

    /// Keeps a verdict.
    pub(super) fn keep(&mut self, key: u64, name: &str, verdict: &Verdict) -> io::Result<()> {
        self.known.insert(key, verdict.clone());
        writeln!(self.file, "{key:016x}\t{name}\t{}", verdict.line())?;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_outlive_a_run_that_was_cut_off() {
        let path = std::env::temp_dir().join(format!("raft-sim-verdicts-{}", std::process::id()));
        let caught = Verdict::Caught { checker: "commit".to_owned(), seed: 7, seconds: 1.5 };
        let missed = Verdict::Missed { seeds: 100 };
        let mut verdicts = Verdicts::open(&path, true).unwrap();
        verdicts.keep(1, "one", &caught).unwrap();
        verdicts.keep(2, "two", &missed).unwrap();
        verdicts.keep(3, "three", &Verdict::Broken("does not build".to_owned())).unwrap();
        write!(verdicts.file, "0000000000000004\tfour\tcaug").unwrap();
        drop(verdicts);

        let mut verdicts = Verdicts::open(&path, false).unwrap();
        assert_eq!(verdicts.find(1, 100), Some(caught.clone()));
        assert_eq!(verdicts.find(1, 7), None, "so few seeds would not have found it");
        assert_eq!(verdicts.find(2, 100), Some(missed));
        assert_eq!(verdicts.find(2, 101), None, "more seeds may find it");
        assert_eq!((verdicts.find(3, 1), verdicts.find(4, 1)), (None, None));
        verdicts.keep(4, "four", &caught).unwrap();
        drop(verdicts);
        assert_eq!(Verdicts::open(&path, false).unwrap().find(4, 100), Some(caught));
        assert_eq!(Verdicts::open(&path, true).unwrap().find(1, 100), None);
        std::fs::remove_file(&path).unwrap();
    }
}
