//! The application of these tests: sums under names, by serde alone; it can be held up and looked at from outside.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex};

use raft_core::LogId;
use raft_core::host::{Application, Sessions, Typed};
use raft_driver_tokio::Postcard;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::common::{BOUND, within};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) sums: BTreeMap<String, u64>,
    pub(crate) commands: u64,
    #[serde(skip)]
    pub(crate) probe: Probe,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Add { name: String, amount: u64 },
}

pub(crate) fn add(name: &str, amount: u64) -> Command {
    Command::Add { name: name.to_owned(), amount }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("nothing to add")]
pub(crate) struct Nothing;

impl Application for Tally {
    type Command = Command;
    type Response = u64;
    type Rejection = Nothing;
    type Error = Infallible;

    fn validate(command: &Command) -> Result<(), Nothing> {
        let Command::Add { amount, .. } = command;
        if *amount == 0 { Err(Nothing) } else { Ok(()) }
    }

    fn apply(&mut self, command: Command, _: LogId) -> Result<u64, Infallible> {
        self.probe.pass();
        let Command::Add { name, amount } = command;
        let sum = self.sums.entry(name).or_default();
        *sum += amount;
        self.commands += 1;
        self.probe.applied.send_replace(self.commands);
        Ok(*sum)
    }
}

pub(crate) type Plain = Typed<Tally, Postcard>;
pub(crate) type Once = Sessions<Plain, Postcard>;

/// Holds the application up, and tells how many commands it has applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    held: Arc<(Mutex<bool>, Condvar)>,
    pub(crate) applied: Arc<watch::Sender<u64>>,
}

impl Probe {
    /// From now on commands wait, or pass.
    pub(crate) fn hold(&self, held: bool) {
        *self.held.0.lock().expect("no panic while held") = held;
        self.held.1.notify_all();
    }

    fn pass(&self) {
        let held = self.held.0.lock().expect("no panic while held");
        let (held, _) =
            self.held.1.wait_timeout_while(held, BOUND, |held| *held).expect("no panic while held");
        assert!(!*held, "nobody let the commands pass");
    }

    pub(crate) async fn has_applied(&self, commands: u64) {
        let mut applied = self.applied.subscribe();
        within(applied.wait_for(|applied| *applied >= commands)).await.expect("the probe is here");
    }
}
