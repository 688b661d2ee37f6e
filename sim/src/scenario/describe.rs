//! A scenario as lines to read, for the head of a trace.
//!
//! * Whatever is drawn is told, also what is added later: a field's unit follows from its name. Names that end in `_mean`,
//!   `_min` or `_more` are times in nanoseconds, those in `_max` or `_bytes` plain numbers, all others rates in millionths.
//! * What is nought, or is not, is left out.

use std::time::Duration;

use serde_json::Value;

use super::Scenario;

/// Plain numbers and times whose names do not say so.
const COUNTS: [&str; 4] = ["nodes", "clients", "keys", "operations_min"];
const TIMES: [&str; 2] = ["patience", "duration"];

impl Scenario {
    /// A line for the cluster, and one for each part of the world.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(config) = self.configs.first() {
            let lease = config.lease.map_or_else(
                || "no lease".to_owned(),
                |lease| format!("a lease with drift up to {} ppm", lease.clock_drift_ppm_max),
            );
            let (min, max) = (config.election_timeout_min, config.election_timeout_max);
            let heartbeat = config.heartbeat_interval;
            lines.push(format!(
                "cluster: election timeout {min:.0?} to {max:.0?}, heartbeat {heartbeat:.1?}, {lease}, snapshots {:?}",
                config.snapshot_policy
            ));
        }
        let Ok(Value::Object(parts)) = serde_json::to_value(self) else { return lines };
        let (sections, fields): (Vec<_>, Vec<_>) = parts.iter().partition(|(_, part)| part.is_object());
        lines.push(format!("run: {}", told(fields.into_iter())));
        for (name, part) in sections {
            let fields = part.as_object().into_iter().flatten();
            lines.push(format!("{name}: {}", told(fields)));
        }
        lines
    }
}

fn told<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let told: Vec<String> = fields.filter_map(|(name, value)| field(name, value)).collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

fn field(name: &str, value: &Value) -> Option<String> {
    let spoken = name.replace('_', " ");
    if *value == Value::Bool(true) {
        return Some(spoken);
    }
    if let ("bootstrap_only", Some(at)) = (name, value.as_u64()) {
        return Some(format!("only n{} is bootstrapped", at + 1));
    }
    let number = value.as_u64().filter(|number| *number > 0)?;
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let amount = if ends(&["_max", "_bytes"]) || COUNTS.contains(&name) {
        number.to_string()
    } else if ends(&["_mean", "_min", "_more"]) || TIMES.contains(&name) {
        format!("{:.2?}", Duration::from_nanos(number))
    } else {
        format!("{} %", number as f64 / 10_000.0)
    };
    Some(format!("{spoken} {amount}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn a_field_is_told_with_the_unit_that_its_name_gives() {
        let number = |number: u64| Value::from(number);
        assert_eq!(field("loss", &number(12_345)), Some("loss 1.2345 %".to_owned()));
        assert_eq!(field("delay_min", &number(1_500_000)), Some("delay min 1.50ms".to_owned()));
        assert_eq!(field("batch_max", &number(7)), Some("batch max 7".to_owned()));
        assert_eq!(field("ordered", &Value::Bool(true)), Some("ordered".to_owned()));
        assert_eq!(field("ordered", &Value::Bool(false)), None);
        assert_eq!(field("loss", &number(0)), None);
        assert_eq!(field("interval_mean", &Value::Null), None);
        assert_eq!(field("bootstrap_only", &number(0)), Some("only n1 is bootstrapped".to_owned()));
    }

    #[test]
    fn every_part_of_the_world_is_told() {
        let lines = Scenario::draw(3, &Options::default(), 0).describe();
        for part in
            ["cluster", "run", "network", "disk", "machine", "driver", "clients", "faults", "operator"]
        {
            let told = lines.iter().filter(|line| line.starts_with(&format!("{part}: "))).count();
            assert_eq!(told, 1, "{part} in {lines:#?}");
        }
    }
}
