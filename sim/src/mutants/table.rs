//! The table of mutants: on the terminal, and as markdown for a page.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::verdicts::Verdict;

/// A mutant and what became of it.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) verdict: Verdict,
}

impl Row {
    /// How many seeds it took to catch it.
    pub(super) fn seeds(&self) -> Option<u64> {
        match self.verdict {
            Verdict::Caught { seed, .. } => Some(seed + 1),
            Verdict::Missed { .. } | Verdict::Broken(_) => None,
        }
    }

    pub(super) fn line(&self, width: usize, seeds: u64) -> String {
        let name = &self.name;
        match &self.verdict {
            Verdict::Caught { checker, seed, seconds } => {
                format!("{name:width$}  {checker:20} {:>6} {seconds:>8.1}", seed + 1)
            }
            other => format!("{name:width$}  {}", other.text(seeds)),
        }
    }
}

pub(super) fn head(width: usize) -> String {
    format!("{:width$}  {:20} {:>6} {:>8}", "mutant", "caught by", "seeds", "seconds")
}

/// The number of the trap that a mutant's name tells: `7` of `trap-07-…`, `S7` of `trap-S7-…`.
pub(super) fn number(name: &str) -> Option<String> {
    let number = name.strip_prefix("trap-")?.split('-').next()?;
    let digits = number.trim_start_matches('S');
    digits
        .parse::<u32>()
        .ok()
        .map(|value| if digits == number { value.to_string() } else { format!("S{value}") })
}

/// Numbers in order, those of the seed behind the others, what has none at the end.
pub(super) fn order(name: &str) -> (bool, bool, u32, String) {
    let number = number(name);
    let of_seed = number.as_ref().is_some_and(|number| number.starts_with('S'));
    let value =
        number.as_ref().and_then(|number| number.trim_start_matches('S').parse().ok()).unwrap_or_default();
    (number.is_none(), of_seed, value, name.to_owned())
}

/// How many traps these names tell of.
pub(super) fn numbers<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let found: BTreeSet<String> = names.filter_map(number).collect();
    format!("of {} numbered traps", found.len())
}

/// The whole table. `limit` is how many seeds a mutant was allowed, `clean` how many were run without one.
pub(super) fn markdown(rows: &[Row], limit: u64, clean: u64) -> String {
    let mut out = String::from("| trap | mutant | caught by | seeds | seconds |\n|---|---|---|--:|--:|\n");
    for row in rows {
        let number = number(&row.name).unwrap_or_default();
        let rest = row.what.split_once(": ").map_or(&*row.what, |(_, rest)| rest);
        let found = match &row.verdict {
            Verdict::Caught { checker, seed, seconds } => {
                format!("`{checker}` | {} | {seconds:.1}", seed + 1)
            }
            other => format!("**{}** | | ", other.text(limit)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| {number} | {rest} | {found} |");
    }
    let caught = rows.iter().filter(|row| row.seeds().is_some()).count();
    let all = numbers(rows.iter().map(|row| &*row.name));
    let _ = writeln!(
        out,
        "\n{caught} of {} caught, {all}. Without a mutant the same {clean} seeds are clean.",
        rows.len()
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, what: &str, verdict: Verdict) -> Row {
        Row { name: name.to_owned(), what: what.to_owned(), verdict }
    }

    #[test]
    fn names_tell_their_numbers_and_order() {
        let mut names = ["trap-S10-c", "other", "trap-10-b", "trap-S2-d", "trap-02-a"];
        names.sort_by_key(|name| order(name));
        assert_eq!(names, ["trap-02-a", "trap-10-b", "trap-S2-d", "trap-S10-c", "other"]);
        let found: Vec<_> = names.iter().filter_map(|name| number(name)).collect();
        assert_eq!(found, ["2", "10", "S2", "S10"]);
        assert_eq!(numbers(["trap-10-b", "trap-10-e", "other"].into_iter()), "of 1 numbered traps");
    }

    #[test]
    fn the_markdown_says_what_was_missed() {
        let caught = Verdict::Caught { checker: "commit".to_owned(), seed: 6, seconds: 1.25 };
        let rows = [
            row("trap-02-a", "TRAP 2: votes twice.", caught),
            row("trap-S2-d", "S2: asks nobody.", Verdict::Missed { seeds: 50 }),
        ];
        let expected = "| trap | mutant | caught by | seeds | seconds |\n|---|---|---|--:|--:|\n\
                        | 2 | votes twice. | `commit` | 7 | 1.2 |\n\
                        | S2 | asks nobody. | **NOTHING in 50 seeds** | |  |\n\n\
                        1 of 2 caught, of 2 numbered traps. Without a mutant the same 7 seeds are clean.\n";
        assert_eq!(markdown(&rows, 50, 7), expected);
    }
}
