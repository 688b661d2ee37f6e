//! Any value of the vocabulary as bytes, and back: the content of a recording's frames.
//!
//! * Numbers are little endian and as wide as their type, lengths and counts 8 bytes, the number of a variant 1 byte, an
//!   option a flag and then its value. Nothing says what a value is: who reads must expect what was written.
//! * Reading is total: bytes end in a value or an error, and memory grows with their number only, whatever lengths they
//!   claim.
//! * In *brief*, a long string of bytes is its length and both of its ends: for digests, which need not look at every byte
//!   of a payload that a node only passes on.

mod decode;
mod encode;

pub(super) use decode::decode;
pub(super) use encode::{encode, encode_brief};

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        type Value = (Option<i32>, Vec<String>, BTreeMap<u8, char>, Result<bool, ()>, f64);
        let value: Value =
            (Some(-5), vec!["é".into(), String::new()], [(1, 'a'), (2, 'ß')].into(), Ok(true), -1.5);
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        assert_eq!(decode::<Value>(&bytes), Ok(value.clone()));
        for cut in 0..bytes.len() {
            assert!(decode::<Value>(&bytes[..cut]).is_err(), "{cut} bytes are not all");
        }
        bytes.push(0);
        assert!(decode::<Value>(&bytes).is_err(), "a byte too many");
    }

    #[test]
    fn a_length_that_is_claimed_takes_no_memory() {
        let claim = u64::MAX.to_le_bytes();
        assert!(decode::<Vec<u64>>(&claim).is_err());
        assert!(decode::<String>(&claim).is_err());
        assert!(decode::<BTreeMap<u8, u8>>(&claim).is_err());
    }

    #[test]
    fn in_brief_a_long_string_is_its_length_and_its_ends() {
        let brief = |text: &str| {
            let mut out = Vec::new();
            encode_brief(&text, &mut out);
            out
        };
        let long = "0123456789abcdef".repeat(100);
        assert_eq!(brief(&long).len(), 8 + 2 * 16);
        assert_ne!(brief(&long), brief(&long[..1599]));
        assert_ne!(brief(&long), brief(&long[1..]));
        assert_eq!(&brief("short")[8..], b"short");
    }
}
