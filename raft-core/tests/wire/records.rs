//! Files of records: cut, zeroed, altered, or written by another version.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::wire::{RecordReader, WireError, encode_record};
use raft_core::{Entries, HardState, NodeId, NotConsecutive, Term};

use crate::golden::golden_entries;
use crate::{commands, id, joint, read_all, record_bytes, reset, write};

/// Some records and where each ends.
fn file() -> (Vec<u8>, Vec<usize>) {
    let voted = HardState { term: Term::new(1), voted_for: Some(NodeId::new(1)) };
    let writes = [
        write(Some(voted), Entries::membership(id(1, 1), Arc::new(joint()))),
        write(None, commands(id(1, 2), (0..5).map(|n| vec![n; 7]))),
        write(Some(HardState { term: Term::new(2), voted_for: None }), Entries::empty()),
        write(None, golden_entries().0),
        reset(None, id(4, 20), Entries::empty()),
        reset(Some(voted), id(5, 30), commands(id(5, 31), [vec![1; 3]])),
    ];
    let mut file = Vec::new();
    let ends = writes.iter().map(|write| {
        encode_record(write, crc32fast::hash, &mut file);
        file.len()
    });
    let ends = ends.collect();
    (file, ends)
}

#[test]
fn a_file_cut_anywhere_yields_exactly_the_whole_records_before_the_cut() {
    let (file, ends) = file();
    let (all, end, result) = read_all(file.clone());
    assert_eq!((all.len(), end, result), (ends.len(), file.len(), Ok(())));
    for cut in 0..file.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let offset = if whole == 0 { 0 } else { ends[whole - 1] };
        let clean = offset == cut;
        let expected = |clean: bool| if clean { Ok(()) } else { Err(WireError::Torn { offset }) };

        let (records, stopped, result) = read_all(file[..cut].to_vec());
        assert_eq!(
            (records.as_slice(), stopped, result),
            (&all[..whole], offset, expected(clean)),
            "cut at {cut}"
        );

        // The file's length survived, its content did not.
        let mut zeroed = file.clone();
        zeroed[cut..].fill(0);
        let whole = ends.iter().filter(|end| zeroed[..**end] == file[..**end]).count();
        let (records, stopped, result) = read_all(zeroed);
        let offset = if whole == 0 { 0 } else { ends[whole - 1] };
        assert_eq!((records.as_slice(), stopped), (&all[..whole], offset), "zeros from {cut}");
        assert_eq!(result, Err(WireError::Torn { offset }), "zeros from {cut}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_where_its_record_begins() {
    let (file, ends) = file();
    let (all, ..) = read_all(file.clone());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let whole = ends.iter().filter(|end| **end <= bit / 8).count();
        let offset = if whole == 0 { 0 } else { ends[whole - 1] };
        let (records, stopped, result) = read_all(flipped);
        assert_eq!((records.as_slice(), stopped), (&all[..whole], offset), "bit {bit}");
        assert_eq!(result, Err(WireError::Torn { offset }), "bit {bit}");
    }
}

#[test]
fn a_whole_record_that_makes_no_sense_is_not_taken_for_a_torn_one() {
    let framed = |content: &[u8]| {
        let covered = [&u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat();
        [&crc32fast::hash(&covered).to_le_bytes(), covered.as_slice()].concat()
    };
    let first = record_bytes(&write(None, Entries::noop(id(1, 1))));
    let read = |content: &[u8]| {
        let (records, offset, result) = read_all([first.as_slice(), &framed(content)].concat());
        assert_eq!((records.len(), offset), (1, first.len()), "the reader stays before it");
        result
    };
    assert_eq!(read(&[2, 0]), Err(WireError::Version(2)), "written by a later version");
    assert_eq!(read(&[1, 0]), Err(WireError::Truncated));
    assert_eq!(read(&[1, 0, 2]), Err(WireError::Unknown { of: "the parts of a record", found: 2 }));
    assert_eq!(read(&[1, 0, 6]), Err(WireError::Unknown { of: "the parts of a record", found: 6 }));
    assert_eq!(read(&[1, 0, 8]), Err(WireError::Unknown { of: "the parts of a record", found: 8 }));
    assert_eq!(read(&[1, 0, 4]), Err(WireError::Truncated), "a reset to what?");
    assert_eq!(read(&[1, 0, 0, 0, 0, 0, 0, 9]), Err(WireError::Trailing { bytes: 1 }));
    let term_max = [&[1, 0, 1], u64::MAX.to_le_bytes().as_slice(), &[0; 4]].concat();
    assert_eq!(read(&term_max), Err(WireError::Term(u64::MAX)));
    // A reset must be to an entry, and entries must follow it.
    let written = |to, entries| read(&record_bytes(&reset(None, to, entries))[8..]);
    assert_eq!(written(id(0, 3), Entries::empty()), Err(WireError::Term(0)));
    assert_eq!(written(id(2, 0), Entries::empty()), Err(WireError::Index(0)));
    let gap = |after, next| Err(WireError::NotConsecutive(NotConsecutive { after, next }));
    assert_eq!(written(id(2, 3), Entries::noop(id(2, 5))), gap(id(2, 3), id(2, 5)));
    assert_eq!(written(id(2, 3), Entries::noop(id(2, 3))), gap(id(2, 3), id(2, 3)));
    assert_eq!(written(id(2, 3), Entries::noop(id(1, 4))), gap(id(2, 3), id(1, 4)));
    // Too short to have a version: no writer of records has ever written that.
    assert_eq!(read(&[]), Err(WireError::Torn { offset: first.len() }));
}

#[test]
fn zeros_are_torn_under_any_checksum() {
    for length in 1..64 {
        let mut reader = RecordReader::new(Bytes::from(vec![0; length]), |_: &[u8]| 0);
        assert_eq!(reader.next_record(), Err(WireError::Torn { offset: 0 }));
    }
    assert_eq!(RecordReader::new(Bytes::new(), crc32fast::hash).next_record(), Ok(None));
}
