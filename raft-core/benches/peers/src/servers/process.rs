//! One process, known by the handle that started it: until it is waited for, its number is nobody else's.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process that is killed when this is dropped.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    /// `kill -9`, and waits for it.
    pub(crate) fn kill(&mut self) {
        // Errors: it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end in order.
    pub(crate) fn terminate(&mut self) {
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
        {
            // An error: it ended just now.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it has ended, and says whether it did in time.
    pub(crate) async fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// CPU time until now, of all its threads; to a hundredth.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // Behind the name, which may have anything in it: state is the third field, user and system time are 14 and 15.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

/// A command of a program that the system kills when this one ends, whatever ends it; where `setpriv` is not there, like
/// any other.
pub(super) fn ends_with_us(program: &Path) -> Command {
    let tried = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).status();
    if tried.is_ok_and(|status| status.success()) {
        let mut command = Command::new("setpriv");
        command.args([OsStr::new("--pdeathsig"), OsStr::new("KILL"), program.as_os_str()]);
        return command;
    }
    Command::new(program)
}
