//! Who may reach this node: beyond this host nobody, unless something protects it or the operator says so.

use std::net::IpAddr;

use tokio::net::lookup_host;

use crate::cli::Serve;
use crate::failure::{Failure, Kind};

/// Refuses to listen where strangers could do as they please.
pub(super) async fn check(options: &Serve) -> Result<(), Failure> {
    if options.insecure {
        return Ok(());
    }
    if !options.has_tls() && reaches_beyond(&options.raft).await {
        return Err(Failure::new(
            Kind::Arguments,
            format!("--raft {} can be reached from other hosts, and nothing protects it", options.raft),
            "give --tls-ca, --tls-cert and --tls-key (`kv certs` makes some for trying); or say --insecure if nobody \
             but the nodes can reach it",
        ));
    }
    if reaches_beyond(&options.http).await {
        return Err(Failure::new(
            Kind::Arguments,
            format!(
                "--http {} can be reached from other hosts: it is plain HTTP without authentication, and whoever \
                 reaches it may read and change everything",
                options.http
            ),
            "listen on 127.0.0.1 behind a proxy that asks who it is; or say --insecure if nobody else can reach it",
        ));
    }
    Ok(())
}

/// Whether an address is more than this host's own. What cannot be resolved cannot be listened on either, which is
/// told elsewhere.
async fn reaches_beyond(address: &str) -> bool {
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    lookup_host(address).await.is_ok_and(|mut found| !found.all(|found| loopback(found.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_this_host_alone() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"] {
            assert!(!reaches_beyond(address).await, "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(reaches_beyond(address).await, "{address}");
        }
    }
}
