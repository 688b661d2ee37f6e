//! Traces as files: one JSON object a line.

use std::io::{self, BufRead, Write};

use super::Record;

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is no record.
    #[error("line {line} is no record: {why}")]
    Line {
        /// Which, from 1 on.
        line: u64,
        /// What is wrong with it.
        why: serde_json::Error,
    },
}

/// Writes one record as a line.
///
/// # Errors
/// If `out` does not take it.
pub fn write(record: &Record, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}

/// Reads a trace. Empty lines are passed over.
///
/// # Errors
/// If it cannot be read, or a line is no record.
pub fn read(file: impl BufRead) -> Result<Vec<Record>, Unreadable> {
    let mut records = Vec::new();
    for (number, line) in (1..).zip(file.lines()) {
        let line = line?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line);
            records.push(record.map_err(|why| Unreadable::Line { line: number, why })?);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, id, message, puts, snapshot_meta, status};
    use crate::trace::{State, What};
    use raft_core::{Body, InstallProgress, Membership, NodeId, Notice, RoleKind};

    fn samples() -> Vec<What> {
        let appends = message(1, 3, 2, append(id(4, 1), puts(5, 2, &[1, 2]), 4));
        let id = snapshot_meta(5, 2, 1).id;
        let busy = Body::InstallSnapshotReply { id, progress: InstallProgress::Busy, round: 1 };
        vec![
            What::Begins { seed: u64::MAX, servers: 3, scenario: vec!["calm".to_owned()] },
            What::Sent { id: 9, message: (&appends).into(), arrives_ns: vec![7, 8] },
            What::Swallowed { id: 9, message: (&message(3, 1, 2, busy)).into(), why: "down".to_owned() },
            What::Notes { notice: Notice::MajorityMissing { silent: [NodeId::new(2)].into() } },
            What::Becomes { role: RoleKind::PreCandidate },
            What::Fault {
                fault: "one_way".to_owned(),
                nodes: vec![],
                cuts: vec![(NodeId::new(1), NodeId::new(2))],
                until_ns: Some(4),
                more: [("actions".to_owned(), 3.into())].into(),
            },
            What::Serves { client: 0, op: 3, key: 4, saw: None },
            What::AtRest,
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let state = State::of(&status(1, 2), &Membership::default());
        let record = |what| Record {
            at_ns: 3,
            node: Some(NodeId::new(1)),
            what,
            state: Some(state.clone()),
            core: Some("Wake".to_owned()),
        };
        let records: Vec<Record> = samples().into_iter().map(record).collect();
        let mut file = Vec::new();
        records.iter().for_each(|record| write(record, &mut file).unwrap());
        assert_eq!(read(file.as_slice()).unwrap(), records);
        file.extend_from_slice(b"\nnonsense\n");
        let error = read(file.as_slice()).unwrap_err().to_string();
        assert!(error.starts_with("line 10 is no record"), "{error}");
    }

    #[test]
    fn the_fields_are_those_that_are_documented() {
        let what = samples().swap_remove(1);
        let record = Record { at_ns: 3, node: Some(NodeId::new(1)), what, state: None, core: None };
        let mut file = Vec::new();
        write(&record, &mut file).unwrap();
        let line = r#"{"at_ns":3,"node":1,"what":"sent","id":9,"message":{"from":1,"to":3,"term":2,"kind":"AppendEntries","prev":{"term":1,"index":4},"entries":[{"first":5,"last":6,"term":2,"kind":"command"}],"commit":4,"round":1},"arrives_ns":[7,8]}"#;
        assert_eq!(String::from_utf8(file).unwrap().trim_end(), line);
    }
}
