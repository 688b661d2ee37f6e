//! Serde's types as bytes, in the form of [postcard](https://postcard.jamesmunns.com): short, and without names.

use bytes::Bytes;
use raft_core::host::Codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes whatever serde can, in postcard's form.
///
/// The form has no names of fields: new variants of an enum go behind the others, and fields of a struct stay as they are,
/// or what older programs wrote is read as something else. Collections must have an order of their own (`BTreeMap`, not
/// `HashMap`), so that equal values are equal bytes.
///
/// ```
/// use raft_core::host::Codec;
/// use raft_driver_tokio::Postcard;
///
/// let value = ("name".to_string(), 7_u64);
/// let bytes = Postcard::encode(&value)?;
/// assert_eq!(&bytes[..], b"\x04name\x07");
/// assert_eq!(<Postcard as Codec<(String, u64)>>::decode(bytes)?, value);
/// # Ok::<(), raft_driver_tokio::PostcardError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Postcard;

/// Why a value has no bytes, or bytes are no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostcardError {
    /// Postcard says so.
    #[error(transparent)]
    Form(#[from] postcard::Error),
    /// A value is there, and more.
    #[error("{0} bytes follow the value")]
    TooLong(usize),
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    type Error = PostcardError;

    fn encode(value: &T) -> Result<Bytes, PostcardError> {
        Ok(postcard::to_allocvec(value)?.into())
    }

    fn decode(bytes: Bytes) -> Result<T, PostcardError> {
        let (value, rest) = postcard::take_from_bytes(&bytes)?;
        if rest.is_empty() { Ok(value) } else { Err(PostcardError::TooLong(rest.len())) }
    }
}
