//! Walks over a node's or a message's parts and writes them down so that equal states are equal bytes, whenever and by
//! whatever detour they were reached: for those who explore a state space, which otherwise would never close.
//!
//! * Every part is written down as it is, except for those that [`rule`] names. A part that is added later is so too,
//!   until it gets a rule: then states that are equal are told apart, but never two different ones taken for one.
//! * A time becomes its distance from now, and ages beyond every timeout are the same age.
//! * Rounds, and the ids that the core mints, only matter by which is the same and which is later. They become their
//!   place among all there are in the cluster: see [`Names`].
//! * Left out is what nothing depends on: counters for operators, the source of new ids, the configuration, which an
//!   explorer does not vary, and the source of jitter. Where jitter can matter, this is an abstraction: let
//!   `election_timeout_max` be a nanosecond above the minimum.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use serde::Serialize;
use serde::ser::{self, Serializer};

/// The numbers of a cluster of which only the order counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// By term.
    rounds: BTreeMap<u64, BTreeSet<u64>>,
    /// Of snapshots.
    seqs: BTreeSet<u64>,
    /// Incarnation and number.
    questions: BTreeSet<(u64, u64)>,
    /// By node.
    writes: BTreeMap<u64, BTreeSet<u64>>,
    reads: BTreeMap<u64, BTreeSet<u64>>,
}

/// How many of `all` are at most `this`.
fn place<T: Ord>(all: Option<&BTreeSet<T>>, this: &T) -> u64 {
    all.map_or(0, |all| all.range(..=this).count() as u64)
}

/// What a number means.
#[derive(Clone, Copy)]
enum Kind {
    /// Itself.
    Plain,
    /// Nothing that depends on it.
    Omitted,
    /// Nanoseconds since an epoch.
    Time,
    /// The same, and all the past is one.
    Due,
    /// A round of the term that was met last.
    Round,
    /// A term to which the rounds that follow in this struct belong.
    RoundsOfTerm,
    Write,
    Read,
    SnapshotSeq,
    Incarnation,
    QuestionSeq,
    /// Bytes counted from an arbitrary start: rising, then the start itself.
    Running,
    RunningStart,
    /// Each element of a tuple its own.
    Each(&'static [Self]),
}

/// What the field of a struct, or of a variant, means.
fn rule(of: &str, field: &str) -> Kind {
    match (of, field) {
        ("Shared", "config" | "now" | "rng" | "counters")
        | ("Durability" | "LogReads", "next_id")
        | ("Snapshots", "incarnation" | "taken")
        | ("Questions", "incarnation" | "next_seq") => Kind::Omitted,
        (
            "Leader" | "Follower" | "Progress" | "Waiting" | "Asked" | "Farewell" | "Receiving" | "Body",
            "round",
        )
        | ("Progress", "added" | "match_round")
        | ("Lost", "found")
        | ("Handover", "sent")
        | ("Sending", "answered") => Kind::Round,
        ("Message" | "Handover" | "Receiving", "term") => Kind::RoundsOfTerm,
        ("Questions", "again") => Kind::Due,
        ("Follower", "replied") | ("RoundTimes", "rounds") => Kind::Each(&[Kind::Round, Kind::Plain]),
        ("Sending", "inflight") => Kind::Each(&[Kind::Plain, Kind::Plain, Kind::Round]),
        ("SnapshotId", "seq") => Kind::SnapshotSeq,
        ("QuestionId", "incarnation") => Kind::Incarnation,
        ("QuestionId", "seq") => Kind::QuestionSeq,
        ("Backlog", "ends") => Kind::Each(&[Kind::Plain, Kind::Running]),
        ("Backlog", "start_bytes") => Kind::RunningStart,
        _ => Kind::Plain,
    }
}

/// What a walk is for.
pub(crate) enum Sink<'a> {
    /// To find the names.
    Names(&'a mut Names),
    /// To write down what they stand for.
    Bytes(&'a Names, &'a mut Vec<u8>),
}

/// Where a walk begins.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    /// Whose writes and reads it meets.
    pub(crate) node: u64,
    /// Whose rounds.
    pub(crate) term: u64,
    pub(crate) now: u64,
    /// No timeout is longer.
    pub(crate) timeout_max: u64,
}

pub(crate) struct Walk<'a> {
    sink: Sink<'a>,
    place: Place,
    kind: Kind,
    incarnation: u64,
    running: Option<u64>,
}

impl<'a> Walk<'a> {
    /// Walks over all of `value`.
    pub(crate) fn over(value: &impl Serialize, place: Place, sink: Sink<'a>) {
        let mut walk = Self { sink, place, kind: Kind::Plain, incarnation: 0, running: None };
        value.serialize(&mut walk).expect("the parts of a node are numbers, texts, and lists of such");
    }

    /// Seven bits a byte, so that a number ends where it says.
    fn put(&mut self, mut number: u64) {
        let Sink::Bytes(_, out) = &mut self.sink else { return };
        while number > 0x7f {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(bytes.len() as u64);
        if let Sink::Bytes(_, out) = &mut self.sink {
            out.extend_from_slice(bytes);
        }
    }

    /// Writes down the place of a name, or takes note of the name.
    fn name(&mut self, note: impl FnOnce(&mut Names), find: impl FnOnce(&Names) -> u64) {
        match &mut self.sink {
            Sink::Names(names) => note(names),
            Sink::Bytes(names, _) => {
                let place = find(names);
                self.put(place);
            }
        }
    }

    fn number(&mut self, number: u64) {
        let Place { node, term, now, timeout_max } = self.place;
        match self.kind {
            Kind::Plain | Kind::Each(_) => self.put(number),
            Kind::Omitted => {}
            Kind::Time | Kind::Due if number > now => {
                self.put(1);
                self.put(number - now);
            }
            Kind::Time => {
                self.put(0);
                self.put((now - number).min(timeout_max.saturating_add(1)));
            }
            Kind::Due => self.put(0),
            // Zero is no round.
            Kind::Round if number == 0 => self.put(0),
            Kind::Round => self.name(
                |names| {
                    names.rounds.entry(term).or_default().insert(number);
                },
                |names| place(names.rounds.get(&term), &number),
            ),
            Kind::RoundsOfTerm => {
                self.place.term = number;
                self.put(number);
            }
            // A report stands for all before it: one of the past for none.
            Kind::Write => self.name(
                |names| {
                    names.writes.entry(node).or_default().insert(number);
                },
                |names| place(names.writes.get(&node), &number),
            ),
            Kind::Read => self.name(
                |names| {
                    names.reads.entry(node).or_default().insert(number);
                },
                |names| {
                    let all = names.reads.get(&node).filter(|all| all.contains(&number));
                    place(all, &number)
                },
            ),
            Kind::SnapshotSeq => self.name(
                |names| {
                    names.seqs.insert(number);
                },
                |names| place(Some(&names.seqs), &number),
            ),
            Kind::Incarnation => self.incarnation = number,
            Kind::QuestionSeq => {
                let question = (self.incarnation, number);
                self.name(
                    |names| {
                        names.questions.insert(question);
                    },
                    |names| place(Some(&names.questions), &question),
                );
            }
            Kind::Running | Kind::RunningStart => self.count(number),
        }
    }

    /// The first number of a running count says nothing before its start is known.
    fn count(&mut self, number: u64) {
        let before = match self.kind {
            Kind::RunningStart => self.running.take().map_or(0, |first| first.wrapping_sub(number)),
            _ => number.wrapping_sub(*self.running.get_or_insert(number)),
        };
        self.put(before);
    }

    fn within<T: Serialize + ?Sized>(&mut self, kind: Kind, value: &T) -> Result<(), fmt::Error> {
        let outside = core::mem::replace(&mut self.kind, kind);
        let result = value.serialize(&mut *self);
        self.kind = outside;
        result
    }

    fn begin(&mut self, name: &'static str, listed: bool) -> Parts<'_, 'a> {
        let (kind, term) = (self.kind, self.place.term);
        Parts { walk: self, name, kind, term, listed, at: 0 }
    }
}

/// The parts of something, one after the other.
pub(crate) struct Parts<'w, 'a> {
    walk: &'w mut Walk<'a>,
    name: &'static str,
    kind: Kind,
    term: u64,
    /// Whether there may be any number of them.
    listed: bool,
    at: usize,
}

impl Parts<'_, '_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        if self.listed {
            self.walk.put(1);
        }
        let kind = match self.kind {
            // A list of tuples, or a tuple.
            Kind::Each(kinds) if !self.listed => kinds.get(self.at).copied().unwrap_or(Kind::Plain),
            kind => kind,
        };
        self.at += 1;
        self.walk.within(kind, value)
    }

    fn field<T: Serialize + ?Sized>(&mut self, field: &'static str, value: &T) -> Result<(), fmt::Error> {
        match rule(self.name, field) {
            Kind::Omitted => Ok(()),
            kind => self.walk.within(kind, value),
        }
    }

    fn finish(self) {
        if self.listed {
            self.walk.put(0);
        }
        self.walk.place.term = self.term;
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => { $(
        fn $method(self, value: $type) -> Result<(), fmt::Error> {
            self.number(u64::from(value));
            Ok(())
        }
    )* };
}

macro_rules! signed {
    ($($method:ident: $type:ty),*) => { $(
        fn $method(self, value: $type) -> Result<(), fmt::Error> {
            self.put(i64::from(value) as u64);
            Ok(())
        }
    )* };
}

impl<'w, 'a> Serializer for &'w mut Walk<'a> {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Parts<'w, 'a>;
    type SerializeTuple = Parts<'w, 'a>;
    type SerializeTupleStruct = Parts<'w, 'a>;
    type SerializeTupleVariant = Parts<'w, 'a>;
    type SerializeMap = Parts<'w, 'a>;
    type SerializeStruct = Parts<'w, 'a>;
    type SerializeStructVariant = Parts<'w, 'a>;

    numbers!(serialize_bool: bool, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char);
    signed!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64);

    fn serialize_f32(self, value: f32) -> Result<(), fmt::Error> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), fmt::Error> {
        self.put(value.to_bits());
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), fmt::Error> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), fmt::Error> {
        self.put_bytes(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), fmt::Error> {
        self.put(0);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), fmt::Error> {
        self.put(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, at: u32, _: &'static str) -> Result<(), fmt::Error> {
        self.put(at.into());
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        let kind = match name {
            "Instant" if matches!(self.kind, Kind::Due) => Kind::Due,
            "Instant" => Kind::Time,
            "WriteId" => Kind::Write,
            "ReadId" => Kind::Read,
            _ => self.kind,
        };
        self.within(kind, value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        at: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        self.put(at.into());
        self.within(Kind::Plain, value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'w, 'a>, fmt::Error> {
        Ok(self.begin("", true))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'w, 'a>, fmt::Error> {
        Ok(self.begin("", false))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Parts<'w, 'a>, fmt::Error> {
        Ok(self.begin(name, false))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        at: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Parts<'w, 'a>, fmt::Error> {
        self.put(at.into());
        Ok(self.begin(name, false))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'w, 'a>, fmt::Error> {
        Ok(self.begin("", true))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts<'w, 'a>, fmt::Error> {
        Ok(self.begin(name, false))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        at: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Parts<'w, 'a>, fmt::Error> {
        self.put(at.into());
        Ok(self.begin(name, false))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! elements {
    ($($of:ident: $method:ident),*) => { $(
        impl ser::$of for Parts<'_, '_> {
            type Ok = ();
            type Error = fmt::Error;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
                self.element(value)
            }
            fn end(self) -> Result<(), fmt::Error> {
                self.finish();
                Ok(())
            }
        }
    )* };
}

elements!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), fmt::Error> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.walk.within(Kind::Plain, value)
    }

    fn end(self) -> Result<(), fmt::Error> {
        self.finish();
        Ok(())
    }
}

macro_rules! fields {
    ($($of:ident),*) => { $(
        impl ser::$of for Parts<'_, '_> {
            type Ok = ();
            type Error = fmt::Error;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, field: &'static str, value: &T) -> Result<(), fmt::Error> {
                self.field(field, value)
            }
            fn end(self) -> Result<(), fmt::Error> {
                self.finish();
                Ok(())
            }
        }
    )* };
}

fields!(SerializeStruct, SerializeStructVariant);
