//! A campaign that can be interrupted: what it has done lies in a file, and goes on there.
//!
//! * Results belong to the code that they were got with: a file of another commit or of other options is refused.
//! * The file is replaced at once or not at all.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Unusable;
use crate::{Outcome, Summary};

/// The commit that this was built from, with `-dirty` behind it if files had changed since; `unknown` outside a
/// repository.
pub(super) const COMMIT: &str = env!("RAFT_SIM_COMMIT");

/// What a campaign has done so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    commit: String,
    /// What was fixed, as arguments.
    options: String,
    start: u64,
    /// How many seeds are done.
    pub(super) done: u64,
    pub(super) wall_seconds: f64,
    pub(super) summary: Summary,
    /// What failed, as it was printed.
    pub(super) failures: Vec<String>,
}

impl State {
    pub(super) fn new(options: String, start: u64) -> Self {
        Self {
            commit: COMMIT.to_owned(),
            options,
            start,
            done: 0,
            wall_seconds: 0.0,
            summary: Summary::default(),
            failures: Vec::new(),
        }
    }

    /// Goes on with what is in the file, if there is one.
    pub(super) fn resume(self, file: &Path) -> Result<Self, Unusable> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
        };
        let name = file.display();
        let found: Self = serde_json::from_str(&text).map_err(|error| {
            format!("{name} is no state of a campaign ({error}); remove it to begin anew")
        })?;
        let is = |state: &Self| (state.commit.clone(), state.options.clone(), state.start);
        if is(&found) != is(&self) {
            return Err(format!(
                "{name} is of another campaign: commit {}, options `{}`, from seed {}; this is commit {}, options `{}`, from \
                 seed {}. Remove the file to begin anew",
                found.commit, found.options, found.start, self.commit, self.options, self.start
            ));
        }
        Ok(found)
    }

    pub(super) fn add(&mut self, seeds: u64, wall_seconds: f64, outcome: &Outcome) {
        self.done += seeds;
        self.wall_seconds += wall_seconds;
        self.summary.add(&outcome.summary);
        self.failures.extend(outcome.failures.iter().map(ToString::to_string));
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), Unusable> {
        let aside = file.with_extension("new");
        let text = serde_json::to_string_pretty(self).expect("a state is plain data");
        let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, file));
        written.map_err(|error| format!("{} cannot be written: {error}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_goes_on_and_another_campaigns_is_refused() {
        let file = std::env::temp_dir().join(format!("raft-sim-state-{}.json", std::process::id()));
        let mut state = State::new(" --nodes 3".to_owned(), 7);
        state.add(
            5,
            1.5,
            &Outcome { summary: Summary { runs: 5, ..Summary::default() }, failures: Vec::new() },
        );
        state.write(&file).unwrap();
        let resumed = State::new(" --nodes 3".to_owned(), 7).resume(&file).unwrap();
        assert_eq!((resumed.done, resumed.summary.runs), (5, 5));
        let other = State::new(String::new(), 7).resume(&file).unwrap_err();
        assert!(other.contains("another campaign"), "{other}");
        fs::write(&file, "{").unwrap();
        assert!(State::new(String::new(), 7).resume(&file).unwrap_err().contains("no state"));
        fs::remove_file(&file).unwrap();
        assert_eq!(State::new(String::new(), 7).resume(&file).unwrap().done, 0);
    }
}
