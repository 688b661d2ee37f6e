//! What the demo prints: one line for each step, a progress bar where somebody watches, and how numbers look.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a step's result. Whoever closes the other end of a pipe does not want to know, and stops nothing.
pub(crate) fn line(step: &str, text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{step:<12}{text}");
}

/// A progress bar; invisible where standard error is no terminal.
pub(crate) fn bar(step: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<12}{bar:40} {human_pos}/{human_len} {per_sec}");
    let bar = ProgressBar::new(total).with_prefix(step.to_owned());
    // A template that does not parse costs the looks only.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The smallest of `sorted` that at least `percent` of them do not exceed.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// As in `12.3 ms`.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{} ms", thousands(ms.round() as u64)) }
}

/// How many a second.
pub(crate) fn rate(count: u64, time: Duration) -> String {
    thousands((count as f64 / time.as_secs_f64().max(1e-9)).round() as u64)
}

/// As in `10,000`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(ms(Duration::from_micros(1_250)), "1.2 ms");
        assert_eq!(ms(Duration::from_millis(1_250)), "1,250 ms");
    }
}
