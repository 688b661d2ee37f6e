//! Clients that write at the same time, and a book of what they may expect to read afterwards.
//!
//! * Every value is written once in the whole run, so that a value read names the write that it came from.
//! * A write of unknown outcome stays open for ever: the key may hold it or not, whatever came later. An
//!   acknowledged write must be there unless a later write of the same key took its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use tokio::task::JoinSet;

use crate::client::session::Session;
use crate::client::{Ask, Client, Fate, Until, fate};

/// How long a client goes on trying to have one write accepted.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long it takes at most to read one key.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Readers at the end.
const READERS: usize = 32;

/// The number of a write; its value follows from it.
type Serial = u64;

/// The value of write `serial` of `key`: its name, filled up to `bytes`.
fn value(key: &str, serial: Serial, bytes: usize) -> Bytes {
    let mut value = format!("{key}#{serial}:").into_bytes();
    let mut filler = serial ^ 0x9e37_79b9_7f4a_7c15;
    while value.len() < bytes {
        // Xorshift: values that do not repeat, whatever a file system makes of repetition.
        filler ^= filler << 13;
        filler ^= filler >> 7;
        filler ^= filler << 17;
        value.extend_from_slice(&filler.to_le_bytes());
    }
    value.truncate(bytes);
    value.into()
}

/// What a key may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    /// The last write that was acknowledged.
    acknowledged: Option<Serial>,
    /// Writes of unknown outcome.
    unknown: Vec<Serial>,
}

/// What reading everything back came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Keys with an acknowledged write that hold it.
    pub(crate) acknowledged: u64,
    /// Keys that hold a write of unknown outcome.
    pub(crate) unknown_there: u64,
    /// Keys that hold nothing although a write of unknown outcome was made.
    pub(crate) unknown_absent: u64,
    /// Keys that hold something else, or nothing, where something acknowledged should be.
    pub(crate) wrong: Vec<String>,
}

/// Everything that was written, by key.
#[derive(Debug, Default)]
pub(crate) struct Book {
    keys: HashMap<String, Expected>,
    next: Serial,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
}

impl Book {
    fn enter(&mut self, key: String, serial: Serial, fate: &Fate) {
        match fate {
            Fate::Acknowledged => {
                self.acknowledged += 1;
                self.keys.entry(key).or_default().acknowledged = Some(serial);
            }
            Fate::Unknown(_) => {
                self.unknown += 1;
                self.keys.entry(key).or_default().unknown.push(serial);
            }
            Fate::NotWritten(_) => {}
        }
    }

    /// Judges what a key was found to hold.
    fn judge(&self, audit: &mut Audit, key: &str, found: Option<&Bytes>, value_bytes: usize) {
        let Some(expected) = self.keys.get(key) else { return };
        let is = |serial: &Serial| found.is_some_and(|found| *found == value(key, *serial, value_bytes));
        if expected.acknowledged.as_ref().is_some_and(is) {
            audit.acknowledged += 1;
        } else if expected.unknown.iter().any(is) {
            audit.unknown_there += 1;
        } else if expected.acknowledged.is_none() && found.is_none() {
            audit.unknown_absent += 1;
        } else {
            let held = found.map_or("nothing".to_owned(), |found| {
                format!("\"{}\"", found[..found.len().min(40)].escape_ascii())
            });
            audit.wrong.push(format!("{key} holds {held}, expected {expected:?}"));
        }
    }

    /// Reads every key that was written.
    pub(crate) async fn audit(
        self: &Arc<Self>,
        client: &Arc<Client>,
        value_bytes: usize,
        progress: impl Fn(u64) + Clone + Send + 'static,
    ) -> Result<Audit, String> {
        let keys: Arc<[String]> = self.keys.keys().cloned().collect();
        let mut readers = JoinSet::new();
        for reader in 0..READERS {
            let (book, client, keys) = (Arc::clone(self), Arc::clone(client), Arc::clone(&keys));
            let progress = progress.clone();
            readers.spawn(async move {
                let mut audit = Audit::default();
                for key in keys.iter().skip(reader).step_by(READERS) {
                    let found =
                        client.get(key, READ_LIMIT).await.map_err(|why| format!("reading {key}: {why}"))?;
                    book.judge(&mut audit, key, found.as_ref(), value_bytes);
                    progress(1);
                }
                Ok::<_, String>(audit)
            });
        }
        let mut all = Audit::default();
        while let Some(audit) = readers.join_next().await {
            let audit = audit.map_err(|error| error.to_string())??;
            all.acknowledged += audit.acknowledged;
            all.unknown_there += audit.unknown_there;
            all.unknown_absent += audit.unknown_absent;
            all.wrong.extend(audit.wrong);
        }
        Ok(all)
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys.len() as u64
    }
}

/// A stage of writing.
pub(crate) struct Stage {
    /// Begins the keys of this stage.
    pub(crate) name: &'static str,
    pub(crate) writes: u32,
    /// Keys that each client goes round; each write has its own if it is `writes`.
    pub(crate) keys_per_client: u32,
    pub(crate) clients: u16,
    pub(crate) value_bytes: usize,
}

/// What others may see of a stage, and ask of it, while it runs.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Writes begun.
    begun: AtomicU32,
    pub(crate) acknowledged: AtomicU32,
    /// No further write is begun, none is tried again.
    pub(crate) stop: AtomicBool,
}

impl Control {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }
}

/// What the clients of a stage saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Of every acknowledged write: when it was acknowledged, how long it took.
    pub(crate) acknowledged: Vec<(Instant, Duration)>,
    pub(crate) unknown: u64,
    /// Given up although nobody asked for that: the first reason.
    pub(crate) given_up: Option<String>,
    pub(crate) took: Duration,
}

impl Stage {
    /// Writes with all clients at the same time; each has at most one write under way.
    pub(crate) async fn run(
        self,
        client: &Arc<Client>,
        book: &mut Book,
        control: &Arc<Control>,
        progress: impl Fn(u64) + Clone + Send + 'static,
    ) -> Result<Seen, String> {
        let stage = Arc::new(self);
        let first = book.next;
        book.next += u64::from(stage.writes);
        let began = Instant::now();
        let mut writers = JoinSet::new();
        for number in 0..stage.clients {
            let writer = Writer {
                stage: Arc::clone(&stage),
                client: Arc::clone(client),
                control: Arc::clone(control),
                number,
                first,
            };
            writers.spawn(writer.run(progress.clone()));
        }
        let mut seen = Seen::default();
        while let Some(writes) = writers.join_next().await {
            for (key, serial, written, at, took) in writes.map_err(|error| error.to_string())? {
                book.enter(key, serial, &written);
                match written {
                    Fate::Acknowledged => seen.acknowledged.push((at, took)),
                    Fate::Unknown(_) => seen.unknown += 1,
                    Fate::NotWritten(why) => {
                        if !control.stop.load(Ordering::Relaxed) {
                            seen.given_up.get_or_insert(why);
                        }
                    }
                }
            }
        }
        seen.took = began.elapsed();
        seen.acknowledged.sort_unstable();
        Ok(seen)
    }
}

struct Writer {
    stage: Arc<Stage>,
    client: Arc<Client>,
    control: Arc<Control>,
    number: u16,
    first: Serial,
}

impl Writer {
    async fn run(self, progress: impl Fn(u64)) -> Vec<(String, Serial, Fate, Instant, Duration)> {
        let Self { stage, client, control, number, first } = self;
        let (mut writes, mut session) = (Vec::new(), Session::default());
        for round in 0_u32.. {
            if control.stop.load(Ordering::Relaxed) {
                break;
            }
            // Whoever is fast takes more: the stage ends for all at about the same time.
            let write = control.begun.fetch_add(1, Ordering::Relaxed);
            if write >= stage.writes {
                break;
            }
            let key = format!("{}/{number}/{}", stage.name, round % stage.keys_per_client);
            let serial = first + u64::from(write);
            let value = value(&key, serial, stage.value_bytes);
            let began = Instant::now();
            let until = Until { deadline: began + WRITE_LIMIT, stop: Some(&control.stop) };
            let ask = Ask::new(Method::PUT, format!("/kv/{key}")).body(value);
            let written = fate(session.write(&client, ask, until).await);
            if written == Fate::Acknowledged {
                control.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            progress(1);
            writes.push((key, serial, written, Instant::now(), began.elapsed()));
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 64;

    fn judged(written: &[Fate], found: Option<Serial>) -> Audit {
        let mut book = Book::default();
        for (serial, written) in (0..).zip(written) {
            book.enter("k".into(), serial, written);
        }
        let found = found.map(|serial| value("k", serial, BYTES));
        let mut audit = Audit::default();
        book.judge(&mut audit, "k", found.as_ref(), BYTES);
        audit
    }

    #[test]
    fn values_name_their_write() {
        assert_eq!(value("k", 7, BYTES).len(), BYTES);
        assert!(value("k", 7, BYTES).starts_with(b"k#7:"));
        assert_ne!(value("k", 7, BYTES), value("k", 8, BYTES));
        assert_ne!(value("k", 1, BYTES), value("l", 1, BYTES));
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let acknowledged = [Fate::Acknowledged, Fate::Acknowledged];
        assert_eq!(judged(&acknowledged, Some(1)).acknowledged, 1);
        assert_eq!(judged(&acknowledged, Some(0)).wrong.len(), 1, "an older value");
        assert_eq!(judged(&acknowledged, None).wrong.len(), 1, "nothing");
        assert_eq!(judged(&acknowledged, Some(9)).wrong.len(), 1, "a value never written");
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not() {
        let unknown = Fate::Unknown(String::new());
        let written = [Fate::Acknowledged, unknown.clone()];
        assert_eq!(judged(&written, Some(0)).acknowledged, 1);
        assert_eq!(judged(&written, Some(1)).unknown_there, 1);
        assert_eq!(judged(&written, None).wrong.len(), 1);
        assert_eq!(judged(std::slice::from_ref(&unknown), None).unknown_absent, 1);
        assert_eq!(judged(&[unknown], Some(5)).wrong.len(), 1);
    }

    #[test]
    fn a_write_that_did_not_happen_must_not_be_there() {
        let refused = Fate::NotWritten(String::new());
        assert_eq!(judged(&[Fate::Acknowledged, refused], Some(1)).wrong.len(), 1);
    }
}
