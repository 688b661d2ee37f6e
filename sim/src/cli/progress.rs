//! The progress bars.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `length` steps, called `unit`; hidden if `quiet`.
pub(super) fn bar(length: u64, unit: &str, quiet: bool) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
    let style = format!("{{bar:30}} {{pos}}/{{len}} {unit}, {{elapsed}} (ETA {{eta}}) {{msg}}");
    bar.set_style(ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
