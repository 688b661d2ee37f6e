//! A state machine with types of one's own for commands and responses, without a codec of one's own.
//!
//! * A command is checked by the application before it is proposed, as a value or as bytes; a rejected one is never in the
//!   log.
//! * A command in the log is never skipped: one that cannot be decoded, there or in a snapshot's state, stops the node.
//! * The application is given one command at a time, in the order of the log.

use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use core::error::Error;
use core::fmt;
use core::marker::PhantomData;

use super::application::{Application, Freeze};
use super::codec::Codec;
use super::frozen::{RestoreError, SnapshotSource, WholeState};
use super::state_machine::{StateMachine, Unacceptable};
use crate::entry::{Entries, EntryRef};
use crate::ids::LogId;

/// Snapshots by the codec: the whole application is encoded at once, while clients wait. For a small state. What the codec
/// leaves out is as the codec makes it after a restore.
#[derive(Clone, Copy, Debug)]
pub struct ByCodec;

/// Snapshots by the application: see [`Freeze`].
#[derive(Clone, Copy, Debug)]
pub struct ByItself;

/// An [`Application`] `A` as a [`StateMachine`]. `C` is how its commands are written; `K` who writes its snapshots,
/// [`ByCodec`] or [`ByItself`].
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use raft_core::host::{
///     Application, ByItself, Freeze, Raw, RestoreError, SnapshotSource, StateMachine, Typed, WholeState,
/// };
/// use raft_core::{Commands, Entries, LogId, LogIndex, Term};
///
/// /// Keeps all commands, which are bytes as they are.
/// #[derive(Default)]
/// struct Text(Vec<u8>);
///
/// impl Application for Text {
///     type Command = Bytes;
///     type Response = usize;
///     type Rejection = Infallible;
///     type Error = Infallible;
///
///     fn apply(&mut self, command: Bytes, _at: LogId) -> Result<usize, Infallible> {
///         self.0.extend_from_slice(&command);
///         Ok(self.0.len())
///     }
/// }
///
/// // Not needed where the codec can write the application too, as one for serde can.
/// impl Freeze for Text {
///     type Snapshot = WholeState;
///
///     fn freeze(&mut self) -> Result<WholeState, Infallible> {
///         Ok(WholeState::new(self.0.clone()))
///     }
///
///     fn thaw(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
///         self.0 = source.read_to_end()?;
///         Ok(())
///     }
/// }
///
/// type Machine = Typed<Text, Raw, ByItself>;
///
/// let command = Machine::command(&"hello".into())?; // validated and encoded
/// let entries = Entries::commands(LogId::new(Term::new(1), LogIndex::FIRST), &Commands::one(command));
/// let (mut machine, mut responses) = (Machine::default(), Vec::new());
/// machine.apply(&entries, &mut responses)?;
/// assert_eq!((responses, &machine.application().0[..]), (vec![5], &b"hello"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Typed<A, C, K = ByCodec> {
    application: A,
    how: PhantomData<fn() -> (C, K)>,
}

/// Why a command cannot be proposed. Nothing is in the log.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<J> {
    /// The application rejects it.
    #[error("rejected: {0}")]
    Rejected(#[source] J),
    /// The codec has no bytes for it.
    #[error("the command cannot be encoded: {0}")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
}

/// Why a [`Typed`] machine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TypedError<E> {
    /// What is in the log is no command of this application.
    #[error("the command at {at} cannot be decoded: {error}")]
    Command {
        /// Where it stands.
        at: LogId,
        /// What the codec says.
        #[source]
        error: Box<dyn Error + Send + Sync>,
    },
    /// The state cannot be encoded, or a snapshot is none of this application's.
    #[error("the state cannot be encoded or decoded: {0}")]
    State(#[source] Box<dyn Error + Send + Sync>),
    /// The application failed.
    #[error(transparent)]
    Application(E),
}

impl<A, C, K> Typed<A, C, K> {
    /// Makes an application a state machine.
    #[must_use]
    pub const fn new(application: A) -> Self {
        Self { application, how: PhantomData }
    }

    /// The application, for reads.
    #[must_use]
    pub const fn application(&self) -> &A {
        &self.application
    }
}

impl<A, C, K> Typed<A, C, K>
where
    A: Application,
    C: Codec<A::Command>,
{
    /// The bytes to propose for a command, if the application takes it.
    ///
    /// # Errors
    /// If it is rejected, or cannot be encoded.
    pub fn command(command: &A::Command) -> Result<Bytes, CommandError<A::Rejection>> {
        A::validate(command).map_err(CommandError::Rejected)?;
        C::encode(command).map_err(|error| CommandError::Encode(Box::new(error)))
    }

    fn check_bytes(command: &Bytes) -> Result<(), Unacceptable> {
        let command = C::decode(command.clone()).map_err(Unacceptable::new)?;
        A::validate(&command).map_err(Unacceptable::new)
    }

    fn apply_each(
        &mut self,
        entries: &Entries,
        responses: &mut Vec<A::Response>,
    ) -> Result<(), TypedError<A::Error>> {
        for entry in entries.iter() {
            if let EntryRef::Command(at, command) = entry {
                let command = C::decode(command.to_bytes())
                    .map_err(|error| TypedError::Command { at, error: Box::new(error) })?;
                let response = self.application.apply(command, at).map_err(TypedError::Application)?;
                responses.push(response);
            }
        }
        Ok(())
    }
}

impl<A, C> StateMachine for Typed<A, C, ByCodec>
where
    A: Application,
    C: Codec<A::Command> + Codec<A>,
{
    type Response = A::Response;
    type Snapshot = WholeState;
    type Error = TypedError<A::Error>;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<A::Response>) -> Result<(), Self::Error> {
        self.apply_each(entries, responses)
    }

    fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
        let bytes = C::encode(&self.application);
        bytes.map(WholeState::new).map_err(|error| TypedError::State(Box::new(error)))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        let application = C::decode(source.read_to_end()?.into());
        self.application =
            application.map_err(|error| RestoreError::Machine(TypedError::State(Box::new(error))))?;
        Ok(())
    }

    fn recover(&mut self) -> Result<LogId, Self::Error> {
        self.application.recover().map_err(TypedError::Application)
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        Self::check_bytes(command)
    }

    fn response_bytes(response: &A::Response) -> usize {
        A::response_bytes(response)
    }
}

impl<A, C> StateMachine for Typed<A, C, ByItself>
where
    A: Freeze,
    C: Codec<A::Command>,
{
    type Response = A::Response;
    type Snapshot = A::Snapshot;
    type Error = TypedError<A::Error>;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<A::Response>) -> Result<(), Self::Error> {
        self.apply_each(entries, responses)
    }

    fn snapshot(&mut self) -> Result<A::Snapshot, Self::Error> {
        self.application.freeze().map_err(TypedError::Application)
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        let thawed = self.application.thaw(source);
        thawed.map_err(|error| error.map_machine(TypedError::Application))
    }

    fn recover(&mut self) -> Result<LogId, Self::Error> {
        self.application.recover().map_err(TypedError::Application)
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        Self::check_bytes(command)
    }

    fn response_bytes(response: &A::Response) -> usize {
        A::response_bytes(response)
    }
}

impl<A: Default, C, K> Default for Typed<A, C, K> {
    fn default() -> Self {
        Self::new(A::default())
    }
}

impl<A: fmt::Debug, C, K> fmt::Debug for Typed<A, C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Typed").field(&self.application).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Commands;
    use crate::host::clients::tests::id;
    use crate::host::frozen::tests::meta;
    use crate::host::{FrozenState, Raw};
    use alloc::string::{FromUtf8Error, String, ToString};
    use core::convert::Infallible;

    /// Keeps words of at most 8 bytes.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Words(Vec<String>);

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("{0} bytes are too long")]
    struct TooLong(usize);

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("full")]
    struct Full;

    impl Application for Words {
        type Command = String;
        type Response = LogId;
        type Rejection = TooLong;
        type Error = Full;

        fn validate(command: &String) -> Result<(), TooLong> {
            if command.len() > 8 { Err(TooLong(command.len())) } else { Ok(()) }
        }

        fn apply(&mut self, command: String, at: LogId) -> Result<LogId, Full> {
            if self.0.len() == 3 {
                return Err(Full);
            }
            self.0.push(command);
            Ok(at)
        }
    }

    /// UTF-8; words in a snapshot end with a line break.
    struct Text;

    impl Codec<String> for Text {
        type Error = FromUtf8Error;

        fn encode(value: &String) -> Result<Bytes, FromUtf8Error> {
            Ok(value.clone().into())
        }

        fn decode(bytes: Bytes) -> Result<String, FromUtf8Error> {
            String::from_utf8(bytes.into())
        }
    }

    impl Codec<Words> for Text {
        type Error = FromUtf8Error;

        fn encode(value: &Words) -> Result<Bytes, FromUtf8Error> {
            Ok(value.0.iter().map(|word| word.clone() + "\n").collect::<String>().into())
        }

        fn decode(bytes: Bytes) -> Result<Words, FromUtf8Error> {
            Ok(Words(String::from_utf8(bytes.into())?.lines().map(ToString::to_string).collect()))
        }
    }

    impl Freeze for Words {
        type Snapshot = WholeState;

        fn freeze(&mut self) -> Result<WholeState, Full> {
            Ok(WholeState::new(self.0.concat()))
        }

        fn thaw(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Full>> {
            Err(RestoreError::Machine(Full))
        }
    }

    type Machine = Typed<Words, Text>;

    fn apply(machine: &mut Machine, first: u64, commands: &[&[u8]]) -> Result<Vec<LogId>, TypedError<Full>> {
        let mut responses = Vec::new();
        let commands: Commands = commands.iter().collect();
        machine.apply(&Entries::commands(id(first), &commands), &mut responses)?;
        Ok(responses)
    }

    fn restore<K>(
        machine: &mut Typed<Words, Text, K>,
        bytes: &'static [u8],
    ) -> Result<(), RestoreError<TypedError<Full>>>
    where
        Typed<Words, Text, K>: StateMachine<Error = TypedError<Full>>,
    {
        let meta = meta(id(9), bytes.len() as u64);
        let mut read = |_, _| Ok(Bytes::from_static(bytes));
        machine.restore(&mut SnapshotSource::new(&meta, &mut read))
    }

    #[test]
    fn commands_are_validated_encoded_and_applied_one_by_one() {
        let long = "much too long".to_string();
        assert!(matches!(Machine::command(&long), Err(CommandError::Rejected(TooLong(13)))));
        assert_eq!(Machine::command(&"word".to_string()).unwrap(), "word");
        assert_eq!(Machine::check(&"word".into()), Ok(()));
        let refused = Machine::check(&"much too long".into()).unwrap_err();
        assert_eq!(refused.to_string(), TooLong(13).to_string());
        assert!(Machine::check(&Bytes::from_static(b"\xff")).is_err());
        let mut machine = Machine::default();
        assert_eq!(apply(&mut machine, 4, &[b"one", b"two"]).unwrap(), [id(4), id(5)]);
        assert_eq!(machine.application().0, ["one", "two"]);
    }

    #[test]
    fn what_cannot_be_decoded_is_never_skipped() {
        let mut machine = Machine::default();
        let error = apply(&mut machine, 4, &[b"one", b"\xff", b"three"]).unwrap_err();
        assert!(matches!(error, TypedError::Command { at, .. } if at == id(5)), "{error}");
        let error = apply(&mut machine, 6, &[b"three", b"four", b"five"]).unwrap_err();
        assert!(matches!(error, TypedError::Application(Full)), "{error}");
        let error = restore(&mut machine, b"\xff").unwrap_err();
        assert!(matches!(error, RestoreError::Machine(TypedError::State(_))), "{error}");
    }

    #[test]
    fn a_small_state_is_kept_by_the_codec_and_a_large_one_by_itself() {
        let mut machine = Machine::new(Words(["a".to_string(), "b".to_string()].into()));
        let bytes = machine.snapshot().unwrap().next_chunk().unwrap();
        assert_eq!(bytes, Some(Bytes::from_static(b"a\nb\n")));
        restore(&mut machine, b"c\nd\n").unwrap();
        assert_eq!(machine.application().0, ["c", "d"]);

        let mut large: Typed<Words, Text, ByItself> = Typed::new(machine.application().clone());
        let bytes = large.snapshot().unwrap().next_chunk().unwrap();
        assert_eq!(bytes, Some(Bytes::from_static(b"cd")));
        let error = restore(&mut large, b"cd").unwrap_err();
        assert!(matches!(error, RestoreError::Machine(TypedError::Application(Full))), "{error}");
    }

    #[test]
    fn raw_commands_are_not_copied() {
        struct Last(Bytes);

        impl Application for Last {
            type Command = Bytes;
            type Response = ();
            type Rejection = Infallible;
            type Error = Infallible;

            fn apply(&mut self, command: Bytes, _: LogId) -> Result<(), Infallible> {
                self.0 = command;
                Ok(())
            }
        }

        let mut machine: Typed<Last, Raw> = Typed::new(Last(Bytes::new()));
        let command = Bytes::from(alloc::vec![7; 100]);
        let proposed = Typed::<Last, Raw>::command(&command).unwrap();
        machine.apply_each(&Entries::commands(id(1), &Commands::one(proposed)), &mut Vec::new()).unwrap();
        assert_eq!(machine.application().0.as_ptr(), command.as_ptr());
    }
}
