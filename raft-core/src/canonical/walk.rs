//! The walk itself: a serializer that writes down what it meets, as [`rule`] says.
//!
//! * Numbers end where they say, lists and options say how many there are: equal bytes are equal parts.
//! * Where servers are called something else, sets of servers and what is kept by server are put in order again; every other list
//!   keeps the order that it has.

use alloc::vec::Vec;
use core::fmt;

use serde::Serialize;
use serde::ser::{self, Serializer};

use super::{Form, Kind, Name, Place, rule};

/// Seven bits a byte, so that a number ends where it says.
pub(crate) fn put(mut number: u64, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) struct Walk<'a> {
    form: &'a mut Form,
    place: Place,
    kind: Kind,
    incarnation: u64,
    running: Option<u64>,
    /// The server that was named first in an element, and from where to where.
    named: Option<(u64, usize, usize)>,
}

impl<'a> Walk<'a> {
    /// Walks over all of `value`.
    pub(crate) fn over(value: &impl Serialize, place: Place, form: &'a mut Form) {
        let mut walk = Self { form, place, kind: Kind::Plain, incarnation: 0, running: None, named: None };
        value.serialize(&mut walk).expect("the parts of a node are numbers, texts, and lists of such");
    }

    fn put(&mut self, number: u64) {
        put(number, &mut self.form.bytes);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(bytes.len() as u64);
        self.form.bytes.extend_from_slice(bytes);
    }

    fn name(&mut self, name: Name) {
        self.form.names.push(name);
    }

    fn number(&mut self, number: u64) {
        let Place { node, term, now, timeout_max } = self.place;
        match self.kind {
            Kind::Plain | Kind::ByServer | Kind::Each(_) => self.put(number),
            Kind::Server => {
                let at = usize::try_from(number).ok().and_then(|id| id.checked_sub(1));
                let called = at.and_then(|at| self.form.called.get(at)).map_or(number, |id| id.get());
                let from = self.form.bytes.len();
                self.put(called);
                self.named.get_or_insert((called, from, self.form.bytes.len()));
            }
            Kind::Omitted => {}
            Kind::Source => self.form.source.push(number),
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
            Kind::Round => {
                self.put(u64::from(number > 0));
                if number > 0 {
                    self.name(Name::Round { term, round: number });
                }
            }
            Kind::RoundsOfTerm => {
                self.place.term = number;
                self.put(number);
            }
            Kind::Write => self.name(Name::Write { node, id: number }),
            Kind::Read => self.name(Name::Read { node, id: number }),
            Kind::SnapshotSeq => self.name(Name::Snapshot { seq: number }),
            Kind::Incarnation => self.incarnation = number,
            Kind::QuestionSeq => self.name(Name::Question { incarnation: self.incarnation, seq: number }),
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
        Parts { walk: self, name, kind, term, listed, at: 0, order: Vec::new() }
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
    /// Where each of them begins that is to be put in the order of the servers they are of.
    order: Vec<Begin>,
}

/// The server that something is of, and where it begins.
struct Begin {
    server: u64,
    bytes: usize,
    names: usize,
}

impl Parts<'_, '_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        if !self.listed || self.walk.form.called.is_empty() {
            return self.part(value);
        }
        let (bytes, names) = (self.walk.form.bytes.len(), self.walk.form.names.len());
        let outside = self.walk.named.take();
        self.part(value)?;
        if let Some((server, from, to)) = core::mem::replace(&mut self.walk.named, outside) {
            // A set of servers, what is kept by server, or else a list that has an order of its own.
            let alone = from == bytes + 1 && to == self.walk.form.bytes.len();
            if alone || matches!(self.kind, Kind::ByServer) {
                self.order.push(Begin { server, bytes, names });
            }
        }
        Ok(())
    }

    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
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

    fn finish(mut self) {
        self.put_in_order();
        if self.listed {
            self.walk.put(0);
        }
        self.walk.place.term = self.term;
    }

    /// Servers that are called something else stand elsewhere in a set.
    fn put_in_order(&mut self) {
        let Some(first) = self.order.first() else { return };
        let form = &mut *self.walk.form;
        let (bytes, names) = (form.bytes.split_off(first.bytes), form.names.split_off(first.names));
        let start = (first.bytes, first.names);
        let end = Begin { server: 0, bytes: start.0 + bytes.len(), names: start.1 + names.len() };
        let ends = self.order.iter().skip(1).chain([&end]);
        let mut parts: Vec<_> = self.order.iter().zip(ends).collect();
        parts.sort_by_key(|(begin, _)| begin.server);
        for (begin, end) in parts {
            form.bytes.extend_from_slice(&bytes[begin.bytes - start.0..end.bytes - start.0]);
            form.names.extend_from_slice(&names[begin.names - start.1..end.names - start.1]);
        }
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
            "NodeId" => Kind::Server,
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
