//! One server's process: started, signalled by a handle that can never mean another process, and waited for.
//!
//! * The process ends with the program that started it: its standard input closes.
//! * Several faults may hold a server at once: it runs again when the last one lets go.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use crate::links::Id;
use crate::owner::Owners;

/// A process that was started.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Names the process itself, not its number, which may be given to another one.
    handle: OwnedFd,
    ended: watch::Receiver<Option<ExitStatus>>,
    _stdin: Option<ChildStdin>,
    /// It was told to end, or has a reason to.
    pub(crate) may_end: bool,
}

impl Process {
    /// Starts `command`, with its output appended to `log`.
    pub(crate) fn start(mut command: Command, log: &Path, id: Id, owners: Arc<Owners>) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut child = command.spawn()?;
        let number = child.id().ok_or(io::ErrorKind::NotFound)?;
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let stdin = child.stdin.take();
        let (sender, ended) = watch::channel(None);
        owners.enter(number, id);
        tokio::spawn(async move {
            let status = child.wait().await;
            owners.remove(number);
            // An error: nobody wants to know.
            let _ = sender.send(status.ok());
        });
        Ok(Self { pid, handle, ended, _stdin: stdin, may_end: false })
    }

    /// An error, that it has ended already, changes nothing for anybody.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Resolves when it has ended.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        async move {
            // An error: whoever waits for it is gone, and it with the program.
            let _ = ended.wait_for(Option::is_some).await;
        }
    }
}

/// Who wants a server not to run, by the numbers of the faults.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    pub(crate) down: BTreeSet<u64>,
    pub(crate) paused: BTreeSet<u64>,
    pub(crate) disk_full: BTreeSet<u64>,
}
