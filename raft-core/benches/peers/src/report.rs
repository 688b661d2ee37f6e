//! What was measured, as a file for programs, and how far it is, for whoever waits.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

/// Rows of the tables that were measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    tables: Map<String, Value>,
    file: Option<PathBuf>,
}

impl Report {
    /// Rows go to `file`, if there is one.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { tables: Map::new(), file }
    }

    /// Adds a row, and writes all that is there: a run that is interrupted leaves what it has.
    pub(crate) fn row(&mut self, table: &str, row: Value) {
        let rows = self.tables.entry(table).or_insert_with(|| Value::Array(Vec::new()));
        rows.as_array_mut().expect("tables are arrays").push(row);
        let Some(file) = &self.file else { return };
        let text = serde_json::to_vec_pretty(&self.tables).expect("plain values with string keys");
        if let Err(error) = fs::write(file, text) {
            eprintln!("{} cannot be written: {error}", file.display());
            self.file = None;
        }
    }

    /// Shown on a terminal only.
    pub(crate) fn bar(&self, what: &'static str, steps: usize) -> ProgressBar {
        let style = "{prefix} [{bar:30}] {pos}/{len} {msg} {elapsed}, {eta} to go";
        let bar = ProgressBar::new(steps as u64).with_prefix(what);
        bar.set_style(ProgressStyle::with_template(style).expect("a sound template"));
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}
