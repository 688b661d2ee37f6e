//! A machine behind sessions is a machine like any other.

use std::convert::Infallible;

use bytes::Bytes;
use raft_core::host::{
    Envelope, Raw, RestoreError, SessionId, SessionLimits, Sessions, SnapshotSource, StateMachine, WholeState,
};
use raft_core::{Entries, EntryRef, SnapshotError};
use raft_driver_tokio::testing::MachineCheck;

/// Keeps the length of every command.
#[derive(Default)]
struct Lengths(Vec<u8>);

impl StateMachine for Lengths {
    type Response = Bytes;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Bytes>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            if let EntryRef::Command(_, command) = entry {
                self.0.push(command.len() as u8);
                responses.push(format!("{} is the {}th", command.len(), self.0.len()).into());
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new([&(self.0.len() as u64).to_le_bytes()[..], &self.0].concat()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let mut length = [0; 8];
        source.read_exact(&mut length)?;
        let rest = source.read_to_end()?;
        if rest.len() as u64 != u64::from_le_bytes(length) {
            return Err(SnapshotError::Unusable.into());
        }
        self.0 = rest;
        Ok(())
    }
}

/// Few sessions and few numbers, so that most commands come again.
fn command(random: u64) -> Bytes {
    let session = SessionId::new(1 + (random >> 8) % 8);
    let envelope = match random % 10 {
        0..=1 => Envelope::Open(SessionLimits::new(4, 5)),
        2 => Envelope::Close(session),
        3 => Envelope::Plain,
        _ => {
            let sequence = 1 + (random >> 16) % 7;
            Envelope::Once { session, sequence, needed_from: 1 + (random >> 24) % sequence }
        }
    };
    envelope.seal(vec![0; (random >> 32) as usize % 9])
}

#[test]
fn a_machine_behind_sessions_keeps_its_promises() {
    let check = MachineCheck::new(command)
        .seeds(0..60)
        .bad_commands(|random| vec![255; random as usize % 4])
        .view(|machine: &Sessions<Lengths, Raw>| format!("{:?}", machine.machine().0))
        .equal_snapshots();
    println!("{}", check.run(|| Sessions::new(Lengths::default())).unwrap());
}
