//! Fixed bytes of each kind: a change of the format is seen here, and needs another `VERSION` or `RECORD_VERSION`.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::wire::{decode_message, decode_snapshot_meta};
use raft_core::{
    Body, Conflict, Entries, HardState, InstallProgress, LogIndex, Message, NodeId, QuestionId, Term,
};

use crate::{commands, id, joint, message_bytes, meta, meta_bytes, record_bytes, reset, write};

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
    assert_golden(&bytes, &[&["0300", kind], ENVELOPE.as_slice(), golden].concat());
    assert_eq!(decode_message(bytes.into()), Ok(message));
}

const JOINT: [&str; 7] = [
    "02000000 0100000000000000 0400000000000000",
    "03000000 0100000000000000 0200000000000000 0300000000000000",
    "01000000 0900000000000000",
    "01000000 0300000000000000",
    "01 02000000 0100000000000000 0400000000000000 02000000 0300000000000000 0900000000000000",
    "05000000 0100000000000000 02000000 6831 0200000000000000 02000000 6832",
    "0300000000000000 02000000 6833 0400000000000000 02000000 6834 0900000000000000 02000000 6839",
];

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
    ];
    let golden = [golden.as_slice(), &JOINT].concat();
    (Entries::join(parts).unwrap(), golden)
}

#[test]
fn golden_bytes_of_messages() {
    let last = id(2, 0x0102_0304_0506_0708);
    let last_hex = ["0200000000000000", "0807060504030201"];
    golden_message(Body::RequestVote { last, transfer: false }, "01", &[last_hex[0], last_hex[1], "00"]);
    golden_message(Body::RequestVote { last, transfer: true }, "01", &[last_hex[0], last_hex[1], "01"]);
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

const SNAPSHOT_ID: &str = "0200000000000000 0900000000000000 0100000000000000 0300000000000000";

fn golden_meta() -> Vec<&'static str> {
    let fixed = [
        SNAPSHOT_ID,
        "0700000000000000 0000010000000000 edfe000000000000",
        "02000000 0100000000000000 0400000000000000 0200000000000000 0600000000000000",
    ];
    [fixed.as_slice(), &JOINT].concat()
}

#[test]
fn golden_bytes_of_what_is_known_of_a_snapshot() {
    let bytes = meta_bytes(&meta());
    assert_golden(&bytes, &golden_meta());
    assert_eq!(decode_snapshot_meta(&bytes), Ok(meta()));
}

#[test]
fn golden_bytes_of_messages_about_snapshots() {
    let chunk = |data: &'static [u8], done| Body::InstallSnapshot {
        meta: Arc::new(meta()),
        offset: 0xfffd,
        data: Bytes::from_static(data),
        done,
        round: 77,
    };
    let message = |fixed: &[&'static str]| [fixed, golden_meta().as_slice()].concat();
    let last = ["fdff000000000000", "01", "4d00000000000000", "03000000 656e64"];
    golden_message(chunk(b"end", true), "07", &message(&last));
    let probe = ["fdff000000000000", "00", "4d00000000000000", "00000000"];
    golden_message(chunk(b"", false), "07", &message(&probe));
    let reply = |progress| Body::InstallSnapshotReply { id: meta().id, progress, round: 78 };
    let fixed = [SNAPSHOT_ID, "4e00000000000000"];
    let golden = |progress: &[&'static str]| [fixed.as_slice(), progress].concat();
    golden_message(reply(InstallProgress::Wants(0xfffd)), "08", &golden(&["00", "fdff000000000000"]));
    golden_message(reply(InstallProgress::Busy), "08", &golden(&["01"]));
    golden_message(reply(InstallProgress::Refused), "08", &golden(&["03"]));
    let installed = InstallProgress::Installed(LogIndex::new(9));
    golden_message(reply(installed), "08", &golden(&["02", "0900000000000000"]));
}

#[test]
fn golden_bytes_of_transfers_and_reads() {
    golden_message(Body::TimeoutNow, "09", &[]);
    let id = QuestionId { incarnation: 5, seq: 6 };
    let id_hex = "0500000000000000 0600000000000000";
    golden_message(Body::ReadIndex { id }, "0a", &[id_hex]);
    golden_message(Body::ReadIndexReply { id, index: None }, "0b", &[id_hex, "00"]);
    let index = Some(LogIndex::new(9));
    golden_message(Body::ReadIndexReply { id, index }, "0b", &[id_hex, "01", "0900000000000000"]);
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
    let bytes = record_bytes(&reset(Some(voted), id(2, 9), Entries::noop(id(3, 10))));
    let parts = ["0100 07 0300000000000000 0200000000000000", "0200000000000000 0900000000000000"];
    let entries = ["01000000", "01 0300000000000000 0a00000000000000 01000000 00000000"];
    assert_golden(&bytes, &[["37967515 40000000"].as_slice(), &parts, &entries].concat());
    let bytes = record_bytes(&reset(None, id(2, 9), Entries::empty()));
    assert_golden(&bytes, &["121d3648 17000000", "0100 04", "0200000000000000 0900000000000000", "00000000"]);
}
