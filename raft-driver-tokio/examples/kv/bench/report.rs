//! What a bench measured, and how it is printed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::cli::Load;
use crate::client::commands::print;
use crate::failure::Failure;
use crate::report::thousands;

/// Latencies from 1 µs to this; longer ones count as this.
const LONGEST_US: u64 = 120_000_000;

/// What was seen.
pub(super) struct Figures {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    pub(super) errors: BTreeMap<String, u64>,
    /// Attempts that were repeated, by why.
    pub(super) retries: BTreeMap<&'static str, u64>,
}

impl Figures {
    pub(super) fn new() -> Self {
        // Grows with what it has seen: a client that saw little holds little.
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Self { reads: histogram(), writes: histogram(), errors: BTreeMap::new(), retries: BTreeMap::new() }
    }

    pub(super) fn record(&mut self, read: bool, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, LONGEST_US);
        let histogram = if read { &mut self.reads } else { &mut self.writes };
        histogram.record(us).expect("a histogram that grows takes any value");
    }

    pub(super) fn add(&mut self, other: &Self) {
        let grows = "a histogram that grows takes any other";
        self.reads.add(&other.reads).expect(grows);
        self.writes.add(&other.writes).expect(grows);
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

/// A bench that is over.
pub(super) struct Report {
    pub(super) load: Load,
    pub(super) took: Duration,
    pub(super) figures: Figures,
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

impl Report {
    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        let text = if json { format!("{}\n", self.json()) } else { self.text() };
        print(text.as_bytes())
    }

    fn per_second(&self, histogram: &Histogram<u64>) -> u64 {
        (histogram.len() as f64 / self.took.as_secs_f64().max(1e-9)).round() as u64
    }

    fn text(&self) -> String {
        let load = &self.load;
        let mut text = format!(
            "{} clients, {} connections to each node, values of {} bytes, {} keys, {}, {:.1} s\n",
            load.clients,
            load.connections,
            load.value_bytes,
            thousands(load.keys.into()),
            load.rate.map_or("closed loop".to_owned(), |rate| format!(
                "open loop at {}/s",
                thousands(rate.into())
            )),
            self.took.as_secs_f64(),
        );
        for (kind, histogram) in [("writes", &self.figures.writes), ("reads", &self.figures.reads)] {
            if histogram.is_empty() {
                continue;
            }
            let _ = write!(
                text,
                "{kind:<7}{:>12} {:>10}/s",
                thousands(histogram.len()),
                thousands(self.per_second(histogram)),
            );
            for (name, quantile) in QUANTILES {
                let _ = write!(text, "  {name} {}", ms(histogram.value_at_quantile(quantile)));
            }
            let _ = writeln!(text, "  longest {}", ms(histogram.max()));
        }
        let errors: u64 = self.figures.errors.values().sum();
        let _ = writeln!(text, "errors {:>12}", thousands(errors));
        for (kind, count) in &self.figures.errors {
            let _ = writeln!(text, "       {:>12} {kind}", thousands(*count));
        }
        for (kind, count) in &self.figures.retries {
            let _ = writeln!(text, "retries{:>12} {kind}", thousands(*count));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let side = |histogram: &Histogram<u64>| {
            let mut side = json!({
                "count": histogram.len(),
                "per_second": self.per_second(histogram),
                "longest_us": histogram.max(),
            });
            for (name, quantile) in QUANTILES {
                side[format!("{name}_us")] = histogram.value_at_quantile(quantile).into();
            }
            side
        };
        json!({
            "clients": self.load.clients,
            "connections": self.load.connections,
            "value_bytes": self.load.value_bytes,
            "rate": self.load.rate,
            "took_s": self.took.as_secs_f64(),
            "writes": side(&self.figures.writes),
            "reads": side(&self.figures.reads),
            "errors": self.figures.errors,
            "retries": self.figures.retries,
        })
    }
}

fn ms(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_report_has_rates_quantiles_and_errors() {
        let Command::Bench(options) = Cli::parse_from(["kv", "bench"]).command else {
            unreachable!("bench was asked for")
        };
        let mut figures = Figures::new();
        (1..=1000).for_each(|us| figures.record(false, Duration::from_micros(us)));
        figures.record(true, Duration::from_millis(7));
        figures.errors.insert("outcome unknown".into(), 3);
        let mut all = Figures::new();
        all.add(&figures);
        all.add(&figures);
        let report = Report { load: options.load, took: Duration::from_secs(2), figures: all };
        let found = report.json();
        assert_eq!((&found["writes"]["count"], &found["writes"]["per_second"]), (&2000.into(), &1000.into()));
        assert_eq!(found["writes"]["p50_us"], 500);
        assert_eq!(found["writes"]["p99_us"], 990);
        assert!(found["reads"]["p99.9_us"].as_u64().is_some_and(|us| us.abs_diff(7000) <= 7));
        assert_eq!(found["errors"]["outcome unknown"], 6);
        let text = report.text();
        for part in ["2,000", "1,000/s", "p99.9", "longest", "6 outcome unknown", "closed loop"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
