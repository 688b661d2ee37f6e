//! Round trips; arbitrary and damaged bytes; and that commands are never copied.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::wire::{
    Record, RecordReader, VERSION, WireError, decode_entries, decode_membership, decode_message,
    decode_snapshot_meta, encode_message, encode_record,
};
use raft_core::{Body, Entries, EntryRef, LogId, LogIndex, Message, NodeId, Term, Write};

use crate::strategies::{any_write, damage, damaged, entries, membership, message, meta};
use crate::{
    commands, encoded, entries_bytes, id, joint, membership_bytes, message_bytes, meta_bytes, read_all,
    record_bytes, write,
};

/// Whatever these bytes are: decoding ends, and what it accepts encodes to the same bytes.
fn decodes_canonically_or_not_at_all(bytes: Vec<u8>) {
    let shared = Bytes::from(bytes);
    if let Ok(message) = decode_message(shared.clone()) {
        assert_eq!(message_bytes(&message), shared);
    }
    if let Ok(entries) = decode_entries(shared.clone()) {
        assert_eq!(entries_bytes(&entries), shared);
    }
    if let Ok(membership) = decode_membership(&shared) {
        assert_eq!(membership_bytes(&membership), shared);
    }
    if let Ok(meta) = decode_snapshot_meta(&shared) {
        assert_eq!(meta_bytes(&meta), shared);
    }
    // With a checksum that is never wrong, so that the content is reached.
    let mut reader = RecordReader::new(shared.clone(), |_: &[u8]| 0);
    while let Ok(Some(record)) = reader.next_record() {
        let Record { hard_state, reset_to, entries } = record;
        let write = Write { reset_to, ..write(hard_state, entries) };
        let again = encoded(|out| encode_record(&write, |_| 0, out));
        assert_eq!(&shared[..reader.offset()][reader.offset() - again.len()..], again);
    }
}

proptest! {
    #[test]
    fn messages_survive(message in message(), before in vec(any::<u8>(), 0..8)) {
        let mut out = before.clone();
        encode_message(&message, &mut out);
        prop_assert_eq!(&out[..before.len()], before.as_slice(), "what was there stays");
        prop_assert_eq!(decode_message(Bytes::from(out).slice(before.len()..)), Ok(message));
    }

    #[test]
    fn entries_survive(entries in entries()) {
        let bytes = entries_bytes(&entries);
        prop_assert!(bytes.len() as u64 <= 4 + entries.size_bytes(), "limits bound what is sent");
        let decoded = decode_entries(bytes.clone().into());
        prop_assert_eq!(decoded.as_ref(), Ok(&entries));
        prop_assert_eq!(entries_bytes(&decoded.unwrap()), bytes);
    }

    #[test]
    fn memberships_survive_and_equal_ones_are_equal_bytes(a in membership(), b in membership()) {
        let (a_bytes, b_bytes) = (membership_bytes(&a), membership_bytes(&b));
        prop_assert_eq!(a_bytes == b_bytes, a == b);
        prop_assert_eq!(decode_membership(&a_bytes), Ok(a));
    }

    #[test]
    fn what_is_known_of_snapshots_survives(a in meta(), b in meta()) {
        let (a_bytes, b_bytes) = (meta_bytes(&a), meta_bytes(&b));
        prop_assert_eq!(a_bytes == b_bytes, a == b);
        prop_assert_eq!(decode_snapshot_meta(&a_bytes), Ok(a));
    }

    #[test]
    fn writes_survive(writes in vec(any_write(), 0..4)) {
        let mut file = Vec::new();
        writes.iter().for_each(|write| encode_record(write, crc32fast::hash, &mut file));
        let end = file.len();
        let expected = writes
            .into_iter()
            .map(|Write { id: _, hard_state, reset_to, entries }| Record { hard_state, reset_to, entries })
            .collect::<Vec<_>>();
        prop_assert_eq!(read_all(file), (expected, end, Ok(())));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_canonical(bytes in vec(any::<u8>(), 0..200)) {
        decodes_canonically_or_not_at_all(bytes);
    }

    #[test]
    fn arbitrary_bodies_are_refused_or_canonical(kind in 0..13u8, rest in vec(prop_oneof![0..3u8, any::<u8>()], 0..200)) {
        let header = VERSION.to_le_bytes().into_iter().chain([kind]);
        decodes_canonically_or_not_at_all(header.chain([0; 24]).chain(rest).collect());
    }

    #[test]
    fn damaged_messages_are_refused_or_canonical(message in message(), damage in damage()) {
        decodes_canonically_or_not_at_all(damaged(message_bytes(&message), damage));
    }

    #[test]
    fn damaged_entries_memberships_and_snapshots_are_refused_or_canonical(
        entries in entries(), membership in membership(), meta in meta(), damage in damage(),
    ) {
        decodes_canonically_or_not_at_all(damaged(meta_bytes(&meta), damage.clone()));
        decodes_canonically_or_not_at_all(damaged(entries_bytes(&entries), damage.clone()));
        decodes_canonically_or_not_at_all(damaged(membership_bytes(&membership), damage));
    }

    #[test]
    fn damaged_records_are_noticed(first in any_write(), second in any_write(), damage in damage()) {
        let intact = record_bytes(&first);
        let file = damaged(record_bytes(&second), damage.clone());
        if file.starts_with(&record_bytes(&second)) {
            return Ok(());
        }
        let at = intact.len();
        let (records, offset, end) = read_all([intact.as_slice(), file.as_slice()].concat());
        prop_assert_eq!((records.len(), offset), (1, at));
        prop_assert_eq!(end, if file.is_empty() { Ok(()) } else { Err(WireError::Torn { offset: at }) });
        // The same under a checksum that is never wrong: the content is looked at.
        decodes_canonically_or_not_at_all(damaged(
            encoded(|out| encode_record(&second, |_| 0, out)),
            damage,
        ));
    }

    #[test]
    fn every_beginning_of_a_value_is_refused(message in message(), membership in membership(), meta in meta()) {
        let bytes = meta_bytes(&meta);
        for end in 0..bytes.len() {
            prop_assert!(decode_snapshot_meta(&bytes[..end]).is_err());
        }
        let bytes = Bytes::from(message_bytes(&message));
        for end in 0..bytes.len().min(300) {
            prop_assert!(decode_message(bytes.slice(..end)).is_err());
        }
        let bytes = membership_bytes(&membership);
        for end in 0..bytes.len() {
            prop_assert!(decode_membership(&bytes[..end]).is_err());
        }
    }
}

/// How many commands there are; each must lie within `buffer`.
fn commands_within(buffer: &Bytes, entries: &Entries) -> usize {
    let bounds = buffer.as_ptr_range();
    let mut seen = 0;
    for entry in entries.iter() {
        if let EntryRef::Command(_, command) = entry {
            let place = command.as_ptr_range();
            assert!(bounds.start <= place.start && place.end <= bounds.end);
            let owned = command.to_bytes();
            assert_eq!(owned.as_ptr_range(), place);
            seen += 1;
        }
    }
    seen
}

#[test]
fn commands_stay_slices_of_the_buffer_that_was_decoded() {
    let entries = Entries::join([
        commands(id(1, 1), (0..64).map(|n| vec![n; 256])),
        commands(id(2, 65), [vec![1; 10_000]]),
        Entries::membership(id(2, 66), Arc::new(joint())),
    ])
    .unwrap();

    let body =
        Body::AppendEntries { prev: LogId::ZERO, entries: entries.clone(), commit: LogIndex::ZERO, round: 1 };
    let message = Message { from: NodeId::new(1), to: NodeId::new(2), term: Term::new(2), body };
    let buffer = Bytes::from(message_bytes(&message));
    let Body::AppendEntries { entries: received, .. } = decode_message(buffer.clone()).unwrap().body else {
        panic!("another message than was sent");
    };
    assert_eq!(commands_within(&buffer, &received), 65);

    let file = Bytes::from(record_bytes(&write(None, entries)));
    let record = RecordReader::new(file.clone(), crc32fast::hash).next_record().unwrap().unwrap();
    assert_eq!(commands_within(&file, &record.entries), 65);

    // A membership outlives the buffer that it came in: its addresses are its own.
    let configuration = received.iter().last();
    let Some(EntryRef::Membership(_, membership)) = configuration else {
        panic!("the last entry is the membership");
    };
    assert!(membership.nodes.values().all(|address| !buffer.as_ptr_range().contains(&address.as_ptr())));
}

#[test]
fn a_chunk_stays_a_slice_of_the_buffer_that_was_decoded_and_the_rest_does_not() {
    let data = Bytes::from(vec![7; 100_000]);
    let meta = Arc::new(crate::meta());
    let body = Body::InstallSnapshot { meta, offset: 0, data: data.clone(), done: false, round: 1 };
    let message = Message { from: NodeId::new(1), to: NodeId::new(2), term: Term::new(2), body };
    let buffer = Bytes::from(message_bytes(&message));
    let Body::InstallSnapshot { meta, data: received, .. } = decode_message(buffer.clone()).unwrap().body
    else {
        panic!("another message than was sent");
    };
    let bounds = buffer.as_ptr_range();
    assert!(bounds.contains(&received.as_ptr()));
    assert_eq!(received, data);
    assert!(meta.membership.nodes.values().all(|address| !bounds.contains(&address.as_ptr())));
}
