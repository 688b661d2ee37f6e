//! Runs the unit tests inside `examples/kv`. An example with tests of its own would be built as tests only, and its
//! program is what `kv_processes` needs.

#![allow(dead_code, reason = "tests use parts of each room; the program uses all")]

#[path = "../examples/kv/bench/mod.rs"]
mod bench;
#[path = "../examples/kv/certs.rs"]
mod certs;
#[path = "../examples/kv/cli/mod.rs"]
mod cli;
#[path = "../examples/kv/client/mod.rs"]
mod client;
#[path = "../examples/kv/demo/mod.rs"]
mod demo;
#[path = "../examples/kv/driver/mod.rs"]
mod driver;
#[path = "../examples/kv/failure.rs"]
mod failure;
#[path = "../examples/kv/frozen.rs"]
mod frozen;
#[path = "../examples/kv/http/mod.rs"]
mod http;
#[path = "../examples/kv/machine.rs"]
mod machine;
#[path = "../examples/kv/node.rs"]
mod node;
#[path = "../examples/kv/offline.rs"]
mod offline;
#[path = "../examples/kv/once.rs"]
mod once;
#[path = "../examples/kv/report.rs"]
mod report;
#[path = "../examples/kv/serve/mod.rs"]
mod serve;
#[path = "../examples/kv/stop.rs"]
mod stop;

/// With the feature `testing`: `cargo test --features testing --test kv_rooms`.
#[cfg(feature = "testing")]
mod conformance {
    use bytes::{BufMut, Bytes};
    use raft_core::NodeId;
    use raft_driver_tokio::testing::MachineCheck;

    use crate::machine::{Machine, begin_put, delete, set_http};

    /// Few keys, so that commands have to do with each other.
    fn command(random: u64) -> Bytes {
        let key = [b'a' + (random >> 8) as u8 % 6];
        let value = vec![(random >> 16) as u8; (random >> 24) as usize % 40];
        match random % 8 {
            0 | 1 => delete(&key),
            2 => set_http(NodeId::new(1 + (random >> 8) % 3), &format!("host:{}", random >> 48)),
            _ => {
                let mut command = begin_put(&key, value.len());
                command.put_slice(&value);
                command.freeze()
            }
        }
    }

    #[test]
    fn the_machine_keeps_its_promises() {
        let check = MachineCheck::new(command)
            .bad_commands(|random| [&[9, 1, 0, b'k'][..], b"\x01\x05\x00key", b""][random as usize % 3])
            .view(|machine: &Machine| format!("{:?}", machine.glance().get()))
            .equal_snapshots()
            .notices_damage();
        println!("{}", check.run(Machine::default).unwrap());
    }
}
