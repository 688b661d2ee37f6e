//! What it costs to write the core's messages and records as bytes, and to read them again: beside postcard, which writes any
//! type of serde's, and beside a copy of as many bytes, less than which no encoder can do.
//!
//! `cargo bench -p raft-core --bench codec` prints a table: nanoseconds, medians of rounds taken in turn (least to most), and
//! allocations, which repeat. Times compare only within one run.

mod rounds;

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use raft_core::wire::{RecordReader, decode_message, encode_message, encode_record};
use raft_core::{Body, Commands, Entries, LogId, LogIndex, Message, NodeId, Term, Write, WriteId};
use rounds::in_turn;

const COMMAND_BYTES: usize = 256;
const ROUNDS: usize = 21;
/// As many calls a round as move about so many bytes.
const BYTES_A_ROUND: usize = 1 << 22;

fn entries(count: usize) -> Entries {
    let commands: Commands = (0..count).map(|at| [at as u8; COMMAND_BYTES]).collect();
    Entries::commands(LogId::new(Term::new(3), LogIndex::new(1_001)), &commands)
}

fn message(body: Body) -> Message {
    Message { from: NodeId::new(1), to: NodeId::new(2), term: Term::new(3), body }
}

fn append(count: usize) -> Message {
    message(Body::AppendEntries {
        prev: LogId::new(Term::new(3), LogIndex::new(1_000)),
        entries: entries(count),
        commit: LogIndex::new(990),
        round: 77,
    })
}

fn reply() -> Message {
    message(Body::AppendEntriesReply { result: Ok(LogIndex::new(1_064)), round: 77 })
}

/// A way to do something once.
type Call = Box<dyn FnMut()>;

/// The shipped format, postcard, a copy: each as a way to encode and, but for the copy, a way to decode.
fn of_message(message: Message) -> (usize, Vec<(&'static str, Call)>) {
    let mut bytes = Vec::new();
    encode_message(&message, &mut bytes);
    let length = bytes.len();
    let (ours, copied) = (Bytes::from(bytes.clone()), bytes);
    let theirs = postcard::to_allocvec(&message).expect("a message can be written");
    let (mut out, mut out_theirs, mut copy) = (Vec::new(), Vec::new(), Vec::new());
    let again = message.clone();
    let calls: Vec<(&'static str, Call)> = vec![
        (
            "encode",
            Box::new(move || {
                out.clear();
                encode_message(black_box(&message), &mut out);
                black_box(&out);
            }),
        ),
        ("decode", Box::new(move || drop(black_box(decode_message(ours.clone()).expect("it was encoded"))))),
        (
            "postcard, encode",
            Box::new(move || {
                out_theirs = postcard::to_extend(black_box(&again), {
                    out_theirs.clear();
                    std::mem::take(&mut out_theirs)
                })
                .expect("a message can be written");
                black_box(&out_theirs);
            }),
        ),
        (
            "postcard, decode",
            Box::new(move || {
                drop(black_box(postcard::from_bytes::<Message>(&theirs).expect("it was encoded")));
            }),
        ),
        (
            "copy",
            Box::new(move || {
                copy.clear();
                copy.extend_from_slice(black_box(&copied));
                black_box(&copy);
            }),
        ),
    ];
    (length, calls)
}

/// As the shipped stores write it: with CRC-32, which is most of it.
fn of_record(count: usize) -> (usize, Vec<(&'static str, Call)>) {
    let id = serde_json::from_value::<WriteId>(1.into()).expect("a number");
    let write = Write { id, hard_state: None, reset_to: None, entries: entries(count) };
    let mut bytes = Vec::new();
    encode_record(&write, crc32fast::hash, &mut bytes);
    let (length, file, summed) = (bytes.len(), Bytes::from(bytes.clone()), bytes);
    let mut out = Vec::new();
    let calls: Vec<(&'static str, Call)> = vec![
        (
            "encode",
            Box::new(move || {
                out.clear();
                encode_record(black_box(&write), crc32fast::hash, &mut out);
                black_box(&out);
            }),
        ),
        (
            "decode",
            Box::new(move || {
                let mut reader = RecordReader::new(file.clone(), crc32fast::hash);
                black_box(reader.next_record().expect("it was encoded").expect("it is whole"));
            }),
        ),
        (
            "CRC-32 alone",
            Box::new(move || {
                black_box(crc32fast::hash(black_box(&summed)));
            }),
        ),
    ];
    (length, calls)
}

fn main() {
    println!("| what | bytes | | ns | allocations |");
    println!("|---|--:|---|--:|--:|");
    let cases = [
        ("AppendEntriesReply", of_message(reply())),
        ("AppendEntries, 1 entry", of_message(append(1))),
        ("AppendEntries, 64 entries", of_message(append(64))),
        ("AppendEntries, 1,024 entries", of_message(append(1_024))),
        ("record, 1 entry", of_record(1)),
        ("record, 64 entries", of_record(64)),
    ];
    for (name, (length, mut calls)) in cases {
        let repeat = (BYTES_A_ROUND / length).clamp(64, 1 << 14);
        // The first call lets buffers grow.
        calls.iter_mut().for_each(|(_, call)| call());
        let times = in_turn(ROUNDS, &mut calls, |(_, call)| {
            let begin = Instant::now();
            (0..repeat).for_each(|_| call());
            begin.elapsed().as_nanos() as f64 / repeat as f64
        });
        for ((what, call), time) in calls.iter_mut().zip(times) {
            let allocations = allocation_counter::measure(&mut *call).count_total;
            println!("| {name} | {length} | {what} | {time} | {allocations} |");
        }
    }
}
