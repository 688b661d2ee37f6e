//! Fixed bytes of each kind: a change of the format is seen here, and needs another `VERSION`.

use std::sync::Arc;

use raft_core::wire::decode_message;
use raft_core::{Body, Conflict, Entries, HardState, LogIndex, Message, NodeId, Term};

use crate::{commands, id, joint, message_bytes, record_bytes, write};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Groups are for the reader.
fn assert_golden(bytes: &[u8], golden: &[&str]) {
    assert_eq!(hex(bytes), golden.concat().replace(' ', ""));
}

const ENVELOPE: [&str; 3] = ["0100000000000000", "0200000000000000", "0300000000000000"];

fn golden_message(body: Body, kind: &str, golden: &[&str]) {
    let message = Message { from: NodeId::new(1), to: NodeId::new(2), term: Term::new(3), body };
    let bytes = message_bytes(&message);
    assert_golden(&bytes, &[&["0100", kind], ENVELOPE.as_slice(), golden].concat());
    assert_eq!(decode_message(bytes.into()), Ok(message));
}

/// A no-op, two commands, the second half of three commands, and a membership.
pub(crate) fn golden_entries() -> (Entries, Vec<&'static str>) {
    let three = [b"drop".to_vec(), b"ef".to_vec(), b"".to_vec(), b"g".to_vec()];
    let parts = [
        Entries::noop(id(2, 5)),
        commands(id(2, 6), [b"ab".to_vec(), b"c".to_vec()]),
        commands(id(3, 7), three).slice(LogIndex::new(8), LogIndex::new(10)),
        commands(id(3, 11), [b"solo".to_vec()]),
        Entries::membership(id(3, 12), Arc::new(joint())),
    ];
    let golden = vec![
        "05000000",
        "01 0200000000000000 0500000000000000 01000000 00000000",
        "02 0200000000000000 0600000000000000 02000000 0b000000 616263 02000000 03000000",
        "02 0300000000000000 0800000000000000 03000000 0f000000 656667 02000000 02000000 03000000",
        "02 0300000000000000 0b00000000000000 01000000 04000000 736f6c6f",
        "03 0300000000000000 0c00000000000000 01000000 bb000000",
        "02000000 0100000000000000 0400000000000000",
        "03000000 0100000000000000 0200000000000000 0300000000000000",
        "01000000 0900000000000000",
        "01000000 0300000000000000",
        "01 02000000 0100000000000000 0400000000000000 02000000 0300000000000000 0900000000000000",
        "05000000 0100000000000000 02000000 6831 0200000000000000 02000000 6832",
        "0300000000000000 02000000 6833 0400000000000000 02000000 6834 0900000000000000 02000000 6839",
    ];
    (Entries::join(parts).unwrap(), golden)
}

#[test]
fn golden_bytes_of_messages() {
    let last = id(2, 0x0102_0304_0506_0708);
    let last_hex = ["0200000000000000", "0807060504030201"];
    golden_message(Body::RequestVote { last }, "01", &last_hex);
    golden_message(Body::RequestVoteReply { granted: true }, "02", &["01"]);
    let proposed = Term::new(4);
    golden_message(Body::PreVote { proposed, last }, "03", &["0400000000000000", last_hex[0], last_hex[1]]);
    golden_message(Body::PreVoteReply { proposed, granted: false }, "04", &["0400000000000000", "00"]);
    let (entries, golden) = golden_entries();
    let append =
        |entries| Body::AppendEntries { prev: id(2, 4), entries, commit: LogIndex::new(9), round: 77 };
    let fixed = ["0200000000000000 0400000000000000", "0900000000000000", "4d00000000000000"];
    golden_message(append(Entries::empty()), "05", &[fixed.as_slice(), &["00000000"]].concat());
    golden_message(append(entries), "05", &[fixed.as_slice(), golden.as_slice()].concat());
    let (round, round_hex) = (78, "4e00000000000000");
    golden_message(
        Body::AppendEntriesReply { result: Ok(LogIndex::new(6)), round },
        "06",
        &[round_hex, "00", "0600000000000000"],
    );
    let conflict = Conflict { prev: LogIndex::new(6), hint: id(1, 5) };
    golden_message(
        Body::AppendEntriesReply { result: Err(conflict), round },
        "06",
        &[round_hex, "01", "0600000000000000", "0100000000000000 0500000000000000"],
    );
}

#[test]
fn golden_bytes_of_records() {
    let (entries, golden) = golden_entries();
    let voted = HardState { term: Term::new(3), voted_for: Some(NodeId::new(2)) };
    let head = ["e63dda96 6d010000", "0100 03 0300000000000000 0200000000000000"];
    assert_golden(
        &record_bytes(&write(Some(voted), entries)),
        &[head.as_slice(), golden.as_slice()].concat(),
    );
    let term_only = HardState { term: Term::new(3), voted_for: None };
    let bytes = record_bytes(&write(Some(term_only), Entries::empty()));
    assert_golden(&bytes, &["3c8f648a 0f000000", "0100 01 0300000000000000", "00000000"]);
    let bytes = record_bytes(&write(None, Entries::empty()));
    assert_golden(&bytes, &["dbafcbe4 07000000", "0100 00", "00000000"]);
}
