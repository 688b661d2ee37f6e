//! Bounds (DESIGN §3): what is configured as a limit is one.
//!
//! * A message, a write, or a chunk is no larger than its limit, except that one entry always goes.
//! * No more is on the way to a disk, a machine or a peer than is allowed; at most one chunk is being written.
//! * A server keeps a few snapshots, not all.

use raft_core::{Body, Config, Entries, Message, PeerStatus, ReplicationState};

use super::{Check, ensure};

const CHECKER: &str = "limits";

/// More snapshots than these are not needed at once, beside one for each peer that still gets an older one: the newest,
/// one that arrives, one that is being taken, and one that is being restored.
const SNAPSHOTS_MAX: usize = 4;

/// No entry of a simulated client or operator is longer.
const ENTRY_BYTES_MAX: u64 = 4 * 1024;

/// No more than `bytes_max`, or one entry.
fn fits(entries: &Entries, bytes_max: u64) -> bool {
    entries.size_bytes() <= bytes_max || entries.len() == 1
}

/// A message is within the sender's limits.
pub(crate) fn message(message: &Message, config: &Config) -> Check {
    match &message.body {
        Body::AppendEntries { entries, .. } => {
            ensure!(
                CHECKER,
                entries.len() <= config.append_entries_max && fits(entries, config.append_bytes_max),
                "{message:?} has {} entries of {} bytes",
                entries.len(),
                entries.size_bytes()
            );
        }
        Body::InstallSnapshot { data, .. } => {
            ensure!(CHECKER, data.len() as u64 <= config.snapshot_chunk_bytes, "{message:?} is too long");
        }
        _ => {}
    }
    Ok(())
}

/// A write is within the limits, and so is how many are under way with it.
pub(crate) fn write(entries: &Entries, under_way: usize, config: &Config) -> Check {
    ensure!(
        CHECKER,
        fits(entries, config.write_bytes_max) && under_way <= config.writes_inflight_max,
        "n{} writes {entries:?} of {} bytes, with {under_way} writes under way",
        config.id,
        entries.size_bytes()
    );
    Ok(())
}

/// A state machine gets more only while what is on its way is below the limit, and no more than that at once.
pub(crate) fn apply(entries: &Entries, under_way_bytes: u64, config: &Config) -> Check {
    ensure!(
        CHECKER,
        under_way_bytes < config.apply_bytes_max && fits(entries, config.apply_bytes_max),
        "n{} applies {entries:?} of {} bytes with {under_way_bytes} bytes under way",
        config.id,
        entries.size_bytes()
    );
    Ok(())
}

/// What a leader has on the way to a peer is within the limits, up to one message beyond that of bytes.
pub(crate) fn peer(peer: &PeerStatus, config: &Config) -> Check {
    let message_bytes_max = config.append_bytes_max.max(ENTRY_BYTES_MAX);
    ensure!(
        CHECKER,
        peer.inflight_appends <= config.inflight_appends_max as u64
            && peer.inflight_bytes <= config.inflight_bytes_max + message_bytes_max
            && (peer.match_index < peer.next_index || peer.state == ReplicationState::Snapshot),
        "n{} has {peer:?}",
        config.id
    );
    Ok(())
}

/// A server's snapshots are few, and at most one chunk is being written.
pub(crate) fn snapshots(stored: usize, peers: usize, writing: usize, config: &Config) -> Check {
    ensure!(
        CHECKER,
        stored <= SNAPSHOTS_MAX + peers && writing <= 1,
        "n{} keeps {stored} snapshots and writes {writing} chunks at once",
        config.id
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, id, index, message as say, node, puts};
    use raft_core::NodeId;

    #[test]
    fn what_is_beyond_a_limit_is_seen_and_one_entry_always_goes() {
        let mut config = Config::new(node(1));
        (config.append_entries_max, config.append_bytes_max) = (2, 100);
        (config.write_bytes_max, config.writes_inflight_max, config.apply_bytes_max) = (100, 2, 100);
        let sends = |ops: &[u64]| message(&say(1, 2, 2, append(id(1, 1), puts(2, 2, ops), 1)), &config);
        assert_eq!(sends(&[1]), Ok(()));
        assert!(sends(&[1, 2, 3]).is_err());
        assert_eq!(write(&puts(2, 2, &[1]), 2, &config), Ok(()));
        assert!(write(&puts(2, 2, &[1]), 3, &config).is_err());
        assert!(write(&puts(2, 2, &[1, 2, 3, 4, 5]), 1, &config).is_err());
        assert_eq!(apply(&puts(2, 2, &[1]), 0, &config), Ok(()));
        assert!(apply(&puts(2, 2, &[1]), 100, &config).is_err());
        assert!(apply(&puts(2, 2, &[1, 2, 3, 4, 5]), 0, &config).is_err());
        assert!(snapshots(SNAPSHOTS_MAX + 3, 2, 0, &config).is_err() && snapshots(1, 2, 2, &config).is_err());
        assert_eq!(snapshots(SNAPSHOTS_MAX + 2, 2, 1, &config), Ok(()));
    }

    #[test]
    fn a_window_that_is_overrun_is_seen() {
        let mut config = Config::new(NodeId::new(1));
        config.inflight_appends_max = 4;
        let status = PeerStatus {
            id: node(2),
            state: ReplicationState::Replicate,
            match_index: index(3),
            next_index: index(4),
            inflight_appends: 4,
            inflight_bytes: 0,
            snapshot_bytes: None,
            last_contact: None,
        };
        assert_eq!(peer(&status, &config), Ok(()));
        assert!(peer(&PeerStatus { inflight_appends: 5, ..status }, &config).is_err());
        assert!(peer(&PeerStatus { match_index: index(4), ..status }, &config).is_err());
    }
}
