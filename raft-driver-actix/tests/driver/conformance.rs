//! The promises of stores and state machines, checked through the actors.

use std::sync::mpsc;

use actix::System;
use raft_core::host::AsyncLogStore;
use raft_driver_actix::storage::{ActorLog, LogActor, MemoryLog};
use raft_driver_tokio::testing::{Blocking, LogCheck, MachineCheck, Survives};

use crate::support::{Async, Disk, Kind, Sync};

/// Runs a check within an Actix system that runs elsewhere.
fn within_a_system(check: impl FnOnce()) {
    let (sender, systems) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runner = System::new();
        sender.send(System::current()).unwrap();
        runner.run().unwrap();
    });
    let system = systems.recv().unwrap();
    System::set_current(system.clone());
    check();
    system.stop();
    thread.join().unwrap();
}

fn check_log<A: AsyncLogStore>(open: impl Fn(MemoryLog) -> A) {
    let passed = LogCheck::new().seeds(0..10).run(|kept: &Survives<MemoryLog>| {
        Blocking::open(async || Ok::<_, std::io::Error>(open(kept.0.clone())))
    });
    println!("{}", passed.unwrap());
}

fn disk(log: MemoryLog) -> Disk {
    Disk { log, ..Disk::default() }
}

#[test]
fn a_log_behind_the_shipped_actor() {
    within_a_system(|| check_log(|log| ActorLog::new(&LogActor::start(log)).0));
}

#[test]
fn a_log_behind_an_actor_that_blocks() {
    within_a_system(|| check_log(|log| Sync::start(disk(log)).1.0));
}

#[test]
fn a_log_behind_an_actor_whose_calls_are_futures() {
    within_a_system(|| check_log(|log| Async::start(disk(log)).1.0));
}

#[test]
fn state_machines_behind_actors() {
    // The check makes machines where there is no runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    within_a_system(|| {
        let _entered = runtime.enter();
        let check = || MachineCheck::new(|random: u64| random.to_le_bytes().to_vec()).seeds(0..5);
        println!("{}", check().run(|| Sync::start(Disk::default()).2).unwrap());
        println!("{}", check().run(|| Async::start(Disk::default()).2).unwrap());
    });
}
