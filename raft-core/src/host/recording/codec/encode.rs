//! Values as bytes: see the [module's head](super).

use alloc::vec::Vec;

use serde::de::value::Error;
use serde::ser::{self, Error as _, Serialize, Serializer};

/// How much of each end of a long string of bytes is kept in brief.
const END_BYTES: usize = 16;

/// Appends a value to `out`.
pub(in super::super) fn encode(value: &impl Serialize, out: &mut Vec<u8>) {
    put(value, Encoder { out, brief: false });
}

/// Appends to `out` what tells a value from others.
pub(in super::super) fn encode_brief(value: &impl Serialize, out: &mut Vec<u8>) {
    put(value, Encoder { out, brief: true });
}

fn put(value: &impl Serialize, mut encoder: Encoder<'_>) {
    value.serialize(&mut encoder).expect("a node's parts have a length, and no kind has many variants");
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    brief: bool,
}

impl Encoder<'_> {
    fn count(&mut self, count: usize) {
        self.out.extend_from_slice(&(count as u64).to_le_bytes());
    }

    fn variant(&mut self, number: u32) -> Result<(), Error> {
        let number = u8::try_from(number).map_err(Error::custom)?;
        self.out.push(number);
        Ok(())
    }
}

macro_rules! put_numbers {
    ($($method:ident: $type:ty),*) => { $(
        fn $method(self, value: $type) -> Result<(), Error> {
            self.out.extend_from_slice(&value.to_le_bytes());
            Ok(())
        }
    )* };
}

impl Serializer for &mut Encoder<'_> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    put_numbers!(
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_f32: f32, serialize_f64: f64
    );

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.serialize_u8(value.into())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_u32(value.into())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.count(value.len());
        match (value.first_chunk::<END_BYTES>(), value.last_chunk::<END_BYTES>()) {
            (Some(first), Some(last)) if self.brief && value.len() > 2 * END_BYTES => {
                self.out.extend_from_slice(first);
                self.out.extend_from_slice(last);
            }
            _ => self.out.extend_from_slice(value),
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_bool(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.out.push(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, number: u32, _: &'static str) -> Result<(), Error> {
        self.variant(number)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        number: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(number)?;
        value.serialize(self)
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Self, Error> {
        self.count(count.ok_or_else(|| Error::custom("a list of unknown length"))?);
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        number: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Error> {
        self.variant(number)?;
        Ok(self)
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Self, Error> {
        self.serialize_seq(count)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        number: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Error> {
        self.variant(number)?;
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! put_parts {
    ($($of:ident: $($method:ident($($name:pat)?)),*;)*) => { $(
        impl ser::$of for &mut Encoder<'_> {
            type Ok = ();
            type Error = Error;
            $(fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), Error> {
                value.serialize(&mut **self)
            })*
            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        }
    )* };
}

put_parts!(
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(_);
    SerializeStructVariant: serialize_field(_);
);
