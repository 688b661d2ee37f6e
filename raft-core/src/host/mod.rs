//! What a user implements, as signatures without IO, so that one implementation serves the simulator and
//! every driver; and the parts that drivers share because they need no IO.

mod log_store;
mod state_machine;
mod transport;
mod waiters;

pub use log_store::{LogReader, LogStore};
pub use state_machine::StateMachine;
pub use transport::Transport;
pub use waiters::Waiters;
