//! What a driver with the same hops between tasks could not beat: see [`hops`].

#[path = "../../../../../raft-driver-tokio/benches/hops/mod.rs"]
mod hops;

use bytes::Bytes;

use crate::drivers::on_one_thread;
use crate::load::{Work, client, load};

/// Writes a second with so many clients.
pub(super) fn measure(clients: usize, work: Work) -> f64 {
    on_one_thread(async {
        let hops = hops::Hops::start();
        load(clients, work, |written, enough| {
            let hops = hops.clone();
            let write = async move |command: Bytes| hops.write(command).await;
            tokio::spawn(client(write, written, enough))
        })
        .await
    })
}
