//! Histories that are right, and histories with a planted mistake.

use super::*;

fn record(key: &str, times: (u64, u64), op: Op, outcome: Outcome) -> Record {
    let (invoked_ns, returned_ns) = times;
    let key = key.to_owned();
    Record { client: 1, key, op, invoked_ns, returned_ns, outcome, server: None, tries: 1, why: None }
}

fn done() -> Outcome {
    Outcome::Done { existed: None, index: None }
}

fn existed(existed: bool) -> Outcome {
    Outcome::Done { existed: Some(existed), index: None }
}

fn at(index: u64) -> Outcome {
    Outcome::Done { existed: None, index: Some(index) }
}

/// The number of operations that show what is wrong; nothing if nothing is.
fn wrong(records: &[Record]) -> Option<usize> {
    let judged = judge(records, || {});
    assert!(judged.undecided.is_empty());
    judged.wrong.first().map(|wrong| wrong.records.len())
}

#[test]
fn a_lost_write_is_found() {
    let mut records = vec![
        record("k", (0, 10), Op::Put(1), done()),
        record("k", (20, 30), Op::Put(2), done()),
        record("k", (40, 50), Op::Get, Outcome::Saw(Some(2))),
    ];
    assert_eq!(wrong(&records), None);
    records[2].outcome = Outcome::Saw(Some(1));
    assert_eq!(wrong(&records), Some(3));
    records[2].outcome = Outcome::Saw(None);
    assert!(wrong(&records).is_some());
}

#[test]
fn a_write_of_unknown_outcome_may_happen_late_or_never() {
    for seen in [1, 2] {
        let records = [
            record("k", (0, 10), Op::Put(1), done()),
            record("k", (20, 30), Op::Put(2), Outcome::Unknown),
            record("k", (40, 50), Op::Get, Outcome::Saw(Some(1))),
            record("k", (60, 70), Op::Get, Outcome::Saw(Some(seen))),
        ];
        assert_eq!(wrong(&records), None, "{seen}");
    }
}

#[test]
fn a_write_that_was_not_done_must_not_be_seen() {
    let records = [
        record("k", (0, 10), Op::Put(1), done()),
        record("k", (20, 30), Op::Put(2), Outcome::Never),
        record("k", (40, 50), Op::Get, Outcome::Saw(Some(2))),
    ];
    assert_eq!(wrong(&records), Some(2), "the write, and the read that saw it");
}

#[test]
fn a_stale_read_is_found_where_keys_are_deleted() {
    let mut records = vec![
        record("k", (0, 10), Op::Put(1), existed(false)),
        record("k", (20, 30), Op::Delete, existed(true)),
        record("k", (40, 50), Op::Get, Outcome::Saw(None)),
        record("k", (60, 70), Op::Put(2), existed(false)),
    ];
    assert_eq!(wrong(&records), None);
    records[2].outcome = Outcome::Saw(Some(1));
    assert!(wrong(&records).is_some());
    records[2].outcome = Outcome::Unknown;
    assert_eq!(wrong(&records), None);
    records[3].outcome = existed(true);
    assert!(wrong(&records).is_some(), "the delete was lost");
    // A delete that nobody knows of explains it the other way round.
    records[1].outcome = Outcome::Unknown;
    assert_eq!(wrong(&records), None);
}

#[test]
fn what_applies_twice_is_found() {
    // The first delete was performed again after the second write.
    let records = [
        record("k", (0, 10), Op::Put(1), existed(false)),
        record("k", (20, 30), Op::Delete, existed(true)),
        record("k", (40, 50), Op::Put(2), existed(false)),
        record("k", (60, 70), Op::Get, Outcome::Saw(None)),
    ];
    assert!(wrong(&records).is_some());
}

#[test]
fn the_log_has_the_order_in_which_clients_wrote() {
    let mut records = vec![
        record("a", (0, 10), Op::Put(1), at(5)),
        record("b", (20, 30), Op::Put(2), at(6)),
        record("c", (25, 35), Op::Put(3), at(4)),
    ];
    assert_eq!(wrong(&records), Some(2), "c was made after a was done");
    records[2].invoked_ns = 5;
    assert_eq!(wrong(&records), None);
    records[2].outcome = at(6);
    assert_eq!(wrong(&records), Some(2), "one place for two");
}

#[test]
fn long_histories_with_many_open_writes_are_decided() {
    let mut records = Vec::new();
    for number in 0..20_000_u64 {
        let times = (number * 10, number * 10 + 5);
        let outcome = if number % 3 == 0 { Outcome::Unknown } else { done() };
        records.push(record("k", times, Op::Put(number), outcome));
        let seen = if outcome == Outcome::Unknown { number.checked_sub(1) } else { Some(number) };
        records.push(record("k", (number * 10 + 6, number * 10 + 9), Op::Get, Outcome::Saw(seen)));
    }
    assert_eq!(wrong(&records), None);
}
