//! What a run prints: a bar while it runs, and a table at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::history::{Op, Outcome, Record};
use crate::recordings::Replayed;
use crate::said::Said;
use crate::verdict::Judged;

/// A bar; invisible where standard error is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix:<9}{bar:30} {pos}/{len} {msg}");
        let bar = ProgressBar::new(total).with_prefix(what);
        // A template that does not parse costs the looks only.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    pub(crate) fn at(&self, position: u64, message: String) {
        self.0.set_position(position);
        self.0.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How many operations of one kind came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    done: u64,
    never: u64,
    unknown: u64,
}

/// What the operations came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    rows: BTreeMap<&'static str, Row>,
    /// When writes were acknowledged, in order.
    written_ns: Vec<u64>,
    writes: u64,
}

impl Figures {
    pub(crate) fn of(records: &[Record]) -> Self {
        let mut figures = Self::default();
        for record in records {
            let kind = match record.op {
                Op::Put(_) => "put",
                Op::Get => "get",
                Op::Delete => "delete",
            };
            let row = figures.rows.entry(kind).or_default();
            match record.outcome {
                Outcome::Done { .. } => {
                    row.done += 1;
                    figures.written_ns.push(record.returned_ns);
                }
                Outcome::Saw(_) => row.done += 1,
                Outcome::Never => row.never += 1,
                Outcome::Unknown => row.unknown += 1,
            }
        }
        figures.written_ns.sort_unstable();
        figures.writes = figures.written_ns.len() as u64;
        figures
    }

    /// The longest time without an acknowledged write before `end_ns`, and when it began.
    pub(crate) fn longest_without_write(&self, end_ns: u64) -> (Duration, Duration) {
        let ends = self.written_ns.iter().copied().filter(|at| *at < end_ns).chain([end_ns]);
        let begins = [0].into_iter().chain(self.written_ns.iter().copied());
        let longest = begins.zip(ends).map(|(from, to)| (to.saturating_sub(from), from)).max();
        let (length, from) = longest.unwrap_or_default();
        (Duration::from_nanos(length), Duration::from_nanos(from))
    }
}

/// All that is told at the end.
pub(crate) struct Report<'a> {
    pub(crate) title: String,
    pub(crate) figures: &'a Figures,
    pub(crate) faults: BTreeMap<String, u64>,
    /// When everything was healed.
    pub(crate) healed_ns: u64,
    pub(crate) recovery: Option<Duration>,
    pub(crate) keys: Option<u64>,
    pub(crate) said: &'a Said,
    pub(crate) replayed: &'a Replayed,
    pub(crate) judged: &'a Judged,
    pub(crate) wrong: &'a [String],
}

/// As in `12.3 s`.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl Report<'_> {
    /// Whether the run passed.
    pub(crate) fn passed(&self) -> bool {
        self.wrong.is_empty() && self.judged.wrong.is_empty() && self.judged.undecided.is_empty()
    }
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(f, "{:<24}{:>10}{:>10}{:>10}", "operations", "done", "not done", "unknown")?;
        for (kind, row) in &self.figures.rows {
            writeln!(f, "  {kind:<22}{:>10}{:>10}{:>10}", row.done, row.never, row.unknown)?;
        }
        writeln!(f, "\nfaults")?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {kind:<22}{count:>10}")?;
        }
        let Said { full_logs, full_starts, full_files, .. } = self.said;
        writeln!(
            f,
            "\nout of room             {full_logs} servers stopped, {full_starts} could not start, {full_files} files were given up"
        )?;
        let time = Duration::from_nanos(self.healed_ns);
        let rate = self.figures.writes as f64 / time.as_secs_f64().max(1e-9);
        let (longest, since) = self.figures.longest_without_write(self.healed_ns);
        writeln!(f, "acknowledged writes     {rate:.0} a second")?;
        writeln!(f, "longest without a write {} (from {} on)", seconds(longest), seconds(since))?;
        match self.recovery {
            Some(recovery) => {
                writeln!(f, "first write after all   {} after the last fault ended", seconds(recovery))?
            }
            None => writeln!(f, "first write after all   none")?,
        }
        match self.keys {
            Some(keys) => {
                writeln!(f, "at the end              all members agree, {keys} keys, also after a restart")?
            }
            None => writeln!(f, "at the end              the members do not agree")?,
        }
        let Judged { keys, wrong, undecided, indexed } = self.judged;
        writeln!(
            f,
            "histories               {keys} keys: {} linearizable, {} not, {} undecided; {indexed} writes in log order",
            keys - (wrong.len() as u64 + undecided.len() as u64).min(*keys),
            wrong.len(),
            undecided.len()
        )?;
        let Replayed { files, steps, wrong: others } = self.replayed;
        if *files > 0 {
            writeln!(
                f,
                "recordings              {files} files, {} of them replay; {steps} steps as recorded",
                files - others.len() as u64
            )?;
        }
        for what in self.wrong.iter().take(20) {
            writeln!(f, "WRONG  {what}")?;
        }
        for wrong in wrong.iter().take(5) {
            write!(f, "WRONG  {wrong}")?;
        }
        for key in undecided.iter().take(5) {
            writeln!(f, "UNDECIDED  key {key}: the search for an order grew too large")?;
        }
        write!(f, "verdict                 {}", if self.passed() { "passed: nothing lost" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_a_write_counts_from_the_beginning_to_the_end() {
        let figures = |written_ns: &[u64]| Figures { written_ns: written_ns.to_vec(), ..Figures::default() };
        let ns = Duration::from_nanos;
        assert_eq!(figures(&[]).longest_without_write(10), (ns(10), ns(0)));
        assert_eq!(figures(&[4, 5, 9]).longest_without_write(10), (ns(4), ns(5)));
        assert_eq!(figures(&[1, 2]).longest_without_write(10), (ns(8), ns(2)));
        assert_eq!(figures(&[6, 20]).longest_without_write(10), (ns(6), ns(0)));
    }
}
