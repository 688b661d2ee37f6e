//! `kv get`, `kv put` and `kv del`: what they print, and how they end.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};

use crate::cli::{Get, Put, Reach, Remove};
use crate::client::session::Session;
use crate::client::{Ask, Client, Failed, Until, told};
use crate::failure::{Failure, Kind};
use crate::machine::VALUE_BYTES_MAX;

/// `kv get`.
pub(crate) fn get(options: &Get) -> Result<(), Failure> {
    let ask = Ask::new(Method::GET, path_of(&options.key)?);
    let answered = with(&options.reach, async |client, until| client.send(&ask, until).await)?;
    match answered.map_err(not_done)? {
        (StatusCode::OK, value) => print(&value),
        (StatusCode::NOT_FOUND, _) => Err(Failure::new(Kind::NoKey, "the key has no value", "")),
        (status, body) => Err(refused(status, &body)),
    }
}

/// `kv put`.
pub(crate) fn put(options: Put) -> Result<(), Failure> {
    let value = match (options.value, &options.file) {
        (Some(value), _) => Bytes::from(value),
        (None, Some(path)) => {
            let file = std::fs::File::open(path);
            let file = file.map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))?;
            value_of(file)?
        }
        (None, None) => value_of(std::io::stdin().lock())?,
    };
    write(&options.reach, Ask::new(Method::PUT, path_of(&options.key)?).body(value))
}

/// `kv del`.
pub(crate) fn remove(options: &Remove) -> Result<(), Failure> {
    write(&options.reach, Ask::new(Method::DELETE, path_of(&options.key)?))
}

fn write(reach: &Reach, ask: Ask) -> Result<(), Failure> {
    let answered = with(reach, async |client, until| Session::default().write(client, ask, until).await)?;
    match answered.map_err(not_done)? {
        (StatusCode::OK, body) => {
            print(&body)?;
            print(b"\n")
        }
        (status, body) => Err(refused(status, &body)),
    }
}

/// Runs a client of these nodes.
pub(super) fn with<T>(reach: &Reach, run: impl AsyncFnOnce(&Client, Until<'_>) -> T) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    let client = Client::new(reach.at.endpoints.iter().cloned());
    let until = Until::limit(Duration::from_secs(reach.limit_s.into()));
    Ok(runtime.block_on(run(&client, until)))
}

/// The address of a key: whatever is not plain is percent-encoded.
fn path_of(key: &str) -> Result<String, Failure> {
    if key.is_empty() || key.len() > crate::machine::KEY_BYTES_MAX {
        return Err(wrong(format!("a key has 1 to {} bytes", crate::machine::KEY_BYTES_MAX)));
    }
    let mut path = String::from("/kv/");
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                path.push(byte.into())
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(path)
}

fn value_of(source: impl Read) -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    let read = source.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value);
    read.map_err(|error| wrong(format!("the value cannot be read: {error}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(wrong(format!("a value has at most {VALUE_BYTES_MAX} bytes")));
    }
    Ok(value.into())
}

fn wrong(what: String) -> Failure {
    Failure::new(Kind::Arguments, what, "")
}

/// Prints bytes as they are.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::other(format!("nothing can be printed: {error}")))
}

fn not_done(failed: Failed) -> Failure {
    unfinished(failed, "read the key to find out")
}

/// How a request ended that was not done, and where to look if it may have been.
pub(super) fn unfinished(failed: Failed, find_out: &str) -> Failure {
    match failed {
        Failed::NotDone(why) => Failure::new(
            Kind::NotDone,
            format!("not done, nothing changed: {why}"),
            "see that a majority of the nodes runs, and that --endpoints names one of them",
        ),
        Failed::Unknown(why) => {
            Failure::new(Kind::Unknown, format!("it may have happened, or may happen yet: {why}"), find_out)
        }
    }
}

/// What the cluster says no to.
pub(super) fn refused(status: StatusCode, body: &[u8]) -> Failure {
    Failure::new(Kind::Refused, told(status, body), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_so_that_the_server_decodes_the_same() {
        assert_eq!(path_of("a/b-c_d.e~f").unwrap(), "/kv/a/b-c_d.e~f");
        assert_eq!(path_of("a b?c%ä").unwrap(), "/kv/a%20b%3Fc%25%C3%A4");
        assert!(path_of("").is_err() && path_of(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn a_value_that_is_too_long_is_never_sent() {
        assert_eq!(value_of(&b"abc"[..]).unwrap(), "abc");
        assert_eq!(value_of(&vec![0; VALUE_BYTES_MAX][..]).unwrap().len(), VALUE_BYTES_MAX);
        assert_eq!(value_of(&vec![0; VALUE_BYTES_MAX + 1][..]).unwrap_err().kind, Kind::Arguments);
    }
}
