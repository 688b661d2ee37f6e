//! What clients did: one record for each operation, in memory for the verdict and as lines of JSON for later.
//!
//! * Every value is written once in a run: a value that is read names the write that it came from.
//! * What nobody knows the outcome of stays open for ever: it may take effect at any time after it was made, or never.
//! * What was answered as not done must never take effect.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    /// Writes the value of this number.
    Put(u64),
    Get,
    Delete,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Done; whether the key had a value before, and the index in the log, as far as the server said.
    Done { existed: Option<bool>, index: Option<u64> },
    /// The number of the value that was read.
    Saw(Option<u64>),
    /// It was answered as not done.
    Never,
    /// Done or not, now or later.
    Unknown,
}

/// One operation. Times are nanoseconds since the run began, of one clock for all clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) client: u32,
    pub(crate) key: String,
    pub(crate) op: Op,
    pub(crate) invoked_ns: u64,
    /// When the last word on it was heard, or the client gave up.
    pub(crate) returned_ns: u64,
    pub(crate) outcome: Outcome,
    /// The server that had the last word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<u64>,
    /// How many requests it took.
    pub(crate) tries: u32,
    /// Why it is not known to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// The value of a number: the number itself, and a filler that follows from it, so that a value that was cut short or
/// altered is recognised. Mostly short, rarely long.
pub(crate) fn value(number: u64) -> Vec<u8> {
    let mut filler = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // Xorshift.
        filler ^= filler << 13;
        filler ^= filler >> 7;
        filler ^= filler << 17;
        filler
    };
    let bytes = match next() % 256 {
        0 => 32 * 1024,
        short => short as usize,
    };
    let mut value = format!("{number}:").into_bytes();
    while value.len() < bytes {
        value.extend_from_slice(format!("{:016x}", next()).as_bytes());
    }
    value
}

/// The number of a value. An error if nobody wrote it like that.
pub(crate) fn number(found: &[u8]) -> Result<u64, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    let digits = found.split(|byte| *byte == b':').next().unwrap_or_default();
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.filter(|number| value(*number) == found).ok_or_else(|| {
        format!("a value of {} bytes that nobody wrote: \"{}\"", found.len(), text(found).escape_debug())
    })
}

/// A file of lines of JSON.
pub(crate) struct Lines(BufWriter<File>);

impl Lines {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(BufWriter::new(File::create(path)?)))
    }

    pub(crate) fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, line)?;
        self.0.write_all(b"\n")
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads such a file.
pub(crate) fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<Vec<T>> {
    let wrong = |at: usize, error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} line {}: {error}", path.display(), at + 1))
    };
    let lines = BufReader::new(File::open(path)?).lines().enumerate();
    lines.map(|(at, line)| serde_json::from_str(&line?).map_err(|error| wrong(at, error))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_number_and_nothing_else_does() {
        for number_ in [0, 1, 7, u64::MAX] {
            assert_eq!(number(&value(number_)), Ok(number_));
        }
        let long = (0..).map(value).find(|value| value.len() > 100).unwrap();
        assert!(number(&long[..long.len() - 1]).is_err(), "cut short");
        let mut altered = long;
        *altered.last_mut().unwrap() ^= 1;
        assert!(number(&altered).is_err());
        assert!(number(b"").is_err());
        assert_ne!(value(3), value(4));
    }

    #[test]
    fn records_survive_as_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let record = |op, outcome| Record {
            client: 3,
            key: "k".into(),
            op,
            invoked_ns: 1,
            returned_ns: 2,
            outcome,
            server: Some(1),
            tries: 1,
            why: None,
        };
        let records = vec![
            record(Op::Put(7), Outcome::Done { existed: Some(false), index: Some(9) }),
            record(Op::Get, Outcome::Saw(None)),
            record(Op::Delete, Outcome::Unknown),
        ];
        let mut lines = Lines::create(&path).unwrap();
        for record in &records {
            lines.write(record).unwrap();
        }
        lines.flush().unwrap();
        assert_eq!(read_lines::<Record>(&path).unwrap(), records);
    }
}
