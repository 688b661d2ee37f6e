//! How values become bytes and return: commands in the log, responses and states in snapshots.

use alloc::vec::Vec;
use bytes::Bytes;
use core::convert::Infallible;

/// Turns values into bytes and back.
///
/// What is written lives as long as the log and its snapshots do, and every server reads it: a form must not change in a
/// way that an older or a newer program reads as something else.
///
/// ```
/// use bytes::Bytes;
/// use raft_core::host::Codec;
///
/// /// A number in 8 bytes.
/// struct Little;
///
/// impl Codec<u64> for Little {
///     type Error = std::array::TryFromSliceError;
///
///     fn encode(value: &u64) -> Result<Bytes, Self::Error> {
///         Ok(Bytes::copy_from_slice(&value.to_le_bytes()))
///     }
///
///     fn decode(bytes: Bytes) -> Result<u64, Self::Error> {
///         Ok(u64::from_le_bytes(bytes[..].try_into()?))
///     }
/// }
///
/// assert_eq!(Little::decode(Little::encode(&7)?)?, 7);
/// assert!(Little::decode(Bytes::from_static(b"short")).is_err());
/// # Ok::<(), std::array::TryFromSliceError>(())
/// ```
pub trait Codec<T>: Send + 'static {
    /// Why a value cannot be written, or bytes are none.
    type Error: core::error::Error + Send + Sync + 'static;

    /// The bytes of a value: equal ones for equal values, on every server.
    ///
    /// # Errors
    /// If it has no bytes.
    fn encode(value: &T) -> Result<Bytes, Self::Error>;

    /// The value of these bytes, all of them.
    ///
    /// # Errors
    /// If they are none. Never guess: a command that is read as another one makes machines differ for ever.
    fn decode(bytes: Bytes) -> Result<T, Self::Error>;
}

/// Bytes as they are, without a copy.
///
/// A command taken out of the log is a slice of a buffer that holds others too (at most about 100 KiB): a machine that
/// keeps a small part of it for long should copy that part.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    type Error = Infallible;

    fn encode(value: &Bytes) -> Result<Bytes, Infallible> {
        Ok(value.clone())
    }

    fn decode(bytes: Bytes) -> Result<Bytes, Infallible> {
        Ok(bytes)
    }
}

impl Codec<Vec<u8>> for Raw {
    type Error = Infallible;

    fn encode(value: &Vec<u8>) -> Result<Bytes, Infallible> {
        Ok(Bytes::copy_from_slice(value))
    }

    fn decode(bytes: Bytes) -> Result<Vec<u8>, Infallible> {
        Ok(bytes.into())
    }
}
