//! Pictures: a run as one HTML page, a space-time diagram of its records.
//!
//! * The page is one file and needs nothing else: no server, no network, no fonts.
//! * Everything that it shows is in the records; it knows no more of a run than a reader of a
//!   [trace](crate::trace) does.

use serde::Serialize;

use crate::trace::{Record, State, What};

const PAGE: &str = include_str!("show/page.html");
const STYLE: &str = include_str!("show/page.css");
const SCRIPTS: [&str; 4] = [
    include_str!("show/model.js"),
    include_str!("show/draw.js"),
    include_str!("show/events.js"),
    include_str!("show/page.js"),
];

/// A record as the page gets it: with its line, and with its state only where that differs from the node's last.
#[derive(Serialize)]
struct Row<'a> {
    at_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<raft_core::NodeId>,
    #[serde(flatten)]
    what: &'a What,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core: Option<&'a str>,
    line: String,
}

/// One page that shows these records, to be written to a file and opened in a browser.
#[must_use]
pub fn page(records: &[Record]) -> String {
    let script = SCRIPTS.join("\n");
    let (rows, title) = (rows(records), title(records));
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + script.len() + rows.len());
    // What is put in is not looked through again: a line may well contain a brace.
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("the template closes its braces");
        page.push_str(before);
        page.push_str(match name {
            "title" => &title,
            "css" => STYLE,
            "records" => &rows,
            _ => &script,
        });
        rest = after;
    }
    page + rest
}

fn title(records: &[Record]) -> String {
    let seed = records.iter().find_map(|record| match record.what {
        What::Begins { seed, .. } => Some(seed),
        _ => None,
    });
    seed.map_or_else(|| "A run".to_owned(), |seed| format!("Seed {seed}"))
}

fn rows(records: &[Record]) -> String {
    let mut last_states: Vec<Option<&State>> = Vec::new();
    let mut rows: Vec<String> = Vec::with_capacity(records.len());
    for record in records {
        let &Record { at_ns, node, ref what, ref state, ref core } = record;
        let slot = node.and_then(|node| usize::try_from(node.get()).ok()).unwrap_or(0);
        if slot >= last_states.len() {
            last_states.resize(slot + 1, None);
        }
        let fresh = state.as_ref().filter(|state| last_states[slot] != Some(*state));
        if node.is_some() {
            last_states[slot] = state.as_ref();
        }
        let row = Row { at_ns, node, what, state: fresh, core: core.as_deref(), line: record.line() };
        let row = serde_json::to_string(&row).expect("records have no keys but strings");
        // A line that speaks of HTML must not end the script.
        rows.push(row.replace('<', "\\u003c"));
    }
    format!("[\n{}\n]", rows.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_every_record_once_and_needs_nothing_else() {
        let mut records = Vec::new();
        let options = crate::Options { seconds_min: 1, operations_min: 5, ..Default::default() };
        let simulation = crate::Simulation { options, workload: crate::Registers };
        simulation.trace(3, &mut |record| records.push(record.clone())).unwrap();
        let found = "</script> {{css}}".to_owned();
        let what = What::Broken { checker: "none".to_owned(), found };
        records.push(Record { at_ns: 1, node: None, what, state: None, core: None });
        let page = page(&records);
        let lines = page.lines().filter(|line| line.starts_with("{\"at_ns\":")).count();
        assert_eq!(lines, records.len());
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(page.contains("\\u003c/script> {{css}}"));
        assert!(page.contains("<title>Seed 3</title>"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<link"));
    }

    #[test]
    fn a_state_is_told_again_only_when_it_has_changed() {
        let (status, nobody) = (crate::testing::status(1, 2), raft_core::Membership::default());
        let state = State::of(&status, &nobody);
        let record = |term| {
            let state = Some(State { term: crate::testing::term(term), ..state.clone() });
            Record { at_ns: 1, node: Some(status.id), what: What::SwitchedOff, state, core: None }
        };
        let records = [record(2), record(2), record(3)];
        let told: Vec<bool> = rows(&records).lines().map(|row| row.contains("\"state\"")).collect();
        assert_eq!(told, [false, true, false, true, false]);
    }
}
