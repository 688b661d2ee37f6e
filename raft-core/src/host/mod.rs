//! What a user implements, as signatures without IO, so that one implementation serves every driver; and the
//! parts that drivers share because they need no IO.

mod application;
mod clients;
mod codec;
mod frozen;
mod log_store;
mod machine_lane;
#[cfg(feature = "serde")]
pub mod recording;
mod refound;
mod rejection;
mod sessions;
mod snapshots;
mod state_machine;
mod transport;
mod typed;
mod waiters;

pub use application::{Application, Freeze};
pub use clients::{Clients, Committed, Operator, Reader, Writer};
pub use codec::{Codec, Raw};
pub use frozen::{FrozenState, RestoreError, SnapshotSource, WholeState};
pub use log_store::{AsyncLogReader, AsyncLogStore, LogReader, LogSpan, LogStore};
pub use machine_lane::{LaneError, MachineLane, Read};
pub use refound::{RefoundError, Refounding};
pub use rejection::Rejection;
pub use sessions::{
    ClientSession, Envelope, FrozenSessions, FrozenSessionsError, NotSealed, SessionId, SessionLimits,
    SessionRefusal, SessionResponse, Sessions, SessionsError, TRAILER_BYTES_MAX,
};
pub use snapshots::{
    IncomingSnapshot, SaveError, SnapshotChunk, SnapshotFault, SnapshotStore, SnapshotWriter, Written,
    save_snapshot,
};
pub use state_machine::{StateMachine, Unacceptable};
pub use transport::{Transport, message_bytes_needed};
pub use typed::{ByCodec, ByItself, CommandError, Typed, TypedError};
pub use waiters::Waiters;
