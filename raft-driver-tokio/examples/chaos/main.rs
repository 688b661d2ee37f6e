//! Chaos on real processes: a cluster of `kv serve`, clients that never rest, and everything that can go wrong at once;
//! then the question whether one order of all operations explains what every client saw.
//!
//! * [`run`] is a run from the first server to the verdict; [`cluster`], [`process`] and [`disk`] are the servers.
//! * [`schedule`] draws the faults from a seed, [`nemesis`] and [`members`] perform them, [`links`] with [`proxy`] and
//!   [`owner`], or with [`namespaces`], break the network.
//! * [`clients`] ask over [`api`] and write their [`history`]; [`watch`] looks at the servers themselves.
//! * [`settle`] is the end, [`said`] is what servers logged, [`recordings`] what they recorded, [`verdict`] judges, [`report`] tells.
//!
//! It drives any server with the command line and the HTTP surface of the example `kv`. Linux only.

#[cfg(target_os = "linux")]
mod api;
#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod clients;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod events;
#[cfg(target_os = "linux")]
mod history;
#[cfg(target_os = "linux")]
mod links;
#[cfg(target_os = "linux")]
mod members;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod nemesis;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod owner;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(target_os = "linux")]
mod recordings;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod said;
#[cfg(target_os = "linux")]
mod schedule;
#[cfg(target_os = "linux")]
mod settle;
#[cfg(target_os = "linux")]
mod verdict;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("chaos: signals, mounts and the owners of sockets are used as Linux has them");
    std::process::ExitCode::FAILURE
}
