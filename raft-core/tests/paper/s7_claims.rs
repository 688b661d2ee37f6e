//! §7: what a member may claim of a snapshot that is sent to it, and what that costs its leader at most.

use raft_core::{
    Action, Body, Conflict, Event, InstallProgress, LogId, LogIndex, MachineTask, SnapshotId, SnapshotPolicy,
    SnapshotTask,
};

use super::s7_kept::kept;
use super::s7_pace::lagging;
use super::s7_transfer::{TEN, behind};
use super::support::{Cluster, at, id, message, n};

/// What server 3 says to its leader.
fn says(cluster: &mut Cluster, body: Body) {
    let term = cluster.term(1);
    cluster.step(1, Event::Receive(message(3, 1, term, body)));
}

fn says_of(cluster: &mut Cluster, id: SnapshotId, progress: InstallProgress, round: u64) {
    says(cluster, Body::InstallSnapshotReply { id, progress, round });
}

/// It lacks what comes behind `prev`, and everything before.
fn has_nothing(cluster: &mut Cluster, prev: LogIndex, round: u64) {
    let result = Err(Conflict { prev, hint: LogId::ZERO });
    says(cluster, Body::AppendEntriesReply { result, round });
}

/// What server 3 is asked with the next heartbeat that `asks`; nothing of it arrives.
fn asked<T>(cluster: &mut Cluster, asks: impl Fn(&Body) -> Option<T>) -> T {
    for _ in 0..20 {
        cluster.time_out(1);
        let to_third = cluster.settle_but(|message| message.to == n(3));
        if let Some(asked) = to_third.iter().find_map(|message| asks(&message.body)) {
            return asked;
        }
        to_third.into_iter().for_each(|message| cluster.deliver(message));
    }
    panic!("it is asked");
}

fn how_far(body: &Body) -> Option<(SnapshotId, u64)> {
    match body {
        Body::InstallSnapshot { meta, round, .. } => Some((meta.id, *round)),
        _ => None,
    }
}

fn chunk_reads(cluster: &Cluster) -> usize {
    let is_read = |task: &&SnapshotTask| matches!(task, SnapshotTask::Read { .. });
    cluster.servers[&1].chunk_tasks.iter().filter(is_read).count()
}

#[test]
fn a_peer_that_claims_to_get_further_all_the_time_does_not_hold_the_log() {
    let mut cluster =
        lagging(|config| (config.snapshot_chunk_bytes, config.inflight_bytes_max) = (1 << 20, 4_000));
    cluster.servers.values_mut().for_each(|server| server.remembers = 10);
    let (mut longest, mut claimed) = (0, 0);
    for second in 0..400 {
        cluster.commit_each(1, &TEN);
        for _ in 0..20 {
            cluster.time_out(1);
            for sent in cluster.settle_but(|message| message.to == n(3)) {
                let Body::InstallSnapshot { meta, round, .. } = &sent.body else { continue };
                claimed = if second % 25 == 0 { claimed + 1 } else { claimed };
                let progress = InstallProgress::Wants(claimed % meta.size_bytes);
                says_of(&mut cluster, meta.id, progress, *round);
            }
        }
        longest = longest.max(kept(&cluster));
    }
    assert!(longest <= 100, "{longest} entries were kept");
}

#[test]
fn a_peer_that_claims_anything_has_one_chunk_read_at_a_time() {
    let mut cluster = lagging(|_| ());
    cluster.slow_chunks = vec![1];
    let (id, round) = asked(&mut cluster, how_far);
    for offset in 0..100 {
        says_of(&mut cluster, id, InstallProgress::Wants(offset), round);
    }
    assert_eq!(chunk_reads(&cluster), 1);
}

#[test]
fn a_peer_that_ends_its_transfer_by_a_claim_has_one_chunk_read_at_a_time() {
    let mut cluster = lagging(|_| ());
    cluster.slow_chunks = vec![1];
    let (id, round) = asked(&mut cluster, how_far);
    for _ in 0..1_000 {
        says_of(&mut cluster, id, InstallProgress::Wants(0), round);
        says_of(&mut cluster, id, InstallProgress::Installed(LogIndex::ZERO), round);
        has_nothing(&mut cluster, id.last.index, round);
        cluster.wire.clear();
    }
    assert_eq!(chunk_reads(&cluster), 1);
}

#[test]
fn a_peer_that_lost_what_it_had_has_one_chunk_read_at_a_time() {
    let mut cluster = lagging(|_| ());
    cluster.slow_chunks = vec![1];
    let (id, round) = asked(&mut cluster, how_far);
    let last = id.last.index;
    says(&mut cluster, Body::AppendEntriesReply { result: Ok(last), round });
    let later = |body: &Body| match body {
        Body::AppendEntries { round: later, .. } => Some(*later).filter(|later| *later > round),
        _ => None,
    };
    let round = asked(&mut cluster, later);
    has_nothing(&mut cluster, last, round);
    assert_eq!(cluster.servers[&1].node.status().counters.violations, 1);
    for _ in 0..1_000 {
        says_of(&mut cluster, id, InstallProgress::Wants(0), round);
        says(&mut cluster, Body::AppendEntriesReply { result: Ok(last), round });
        has_nothing(&mut cluster, last, round);
        cluster.wire.clear();
    }
    assert_eq!(chunk_reads(&cluster), 1);
}

/// A peer refuses each snapshot, and may say first that it has it. Returns how many snapshots the leader takes in a minute.
fn snapshots_for_who_refuses(says_first_that_it_has_it: bool) -> usize {
    let mut cluster = behind(3, &[3], 1 << 20);
    let mut known = None;
    for _ in 0..1_200 {
        cluster.time_out(1);
        for sent in cluster.settle_but(|message| message.to == n(3)) {
            match sent.body {
                Body::InstallSnapshot { meta, round, .. } => {
                    if says_first_that_it_has_it && known.replace(meta.id) != Some(meta.id) {
                        says_of(&mut cluster, meta.id, InstallProgress::Installed(LogIndex::ZERO), round);
                        has_nothing(&mut cluster, meta.id.last.index, round);
                    } else {
                        says_of(&mut cluster, meta.id, InstallProgress::Refused, round);
                    }
                }
                Body::AppendEntries { prev, round, .. } => has_nothing(&mut cluster, prev.index, round),
                _ => {}
            }
        }
    }
    let trace = cluster.trace.as_ref().expect("kept");
    let is_taken = |action: &Action| matches!(action, Action::Machine(MachineTask::TakeSnapshot(_)));
    trace.iter().filter(|(_, action)| is_taken(action)).count()
}

#[test]
fn snapshots_are_not_taken_as_a_peer_likes() {
    for says_first_that_it_has_it in [false, true] {
        let taken = snapshots_for_who_refuses(says_first_that_it_has_it);
        assert!((1..=8).contains(&taken), "{says_first_that_it_has_it}: {taken} snapshots in a minute");
    }
}

/// Answers at random, in the last round or a little before, about what was asked and about what was not.
fn anything(seed: u64, turns: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    };
    let mut cluster = lagging(|config| {
        config.snapshot_policy = SnapshotPolicy::LogsSinceLast(10);
        config.tail_bytes_max = 300;
        config.inflight_bytes_max = 4_000;
    });
    (cluster.slow_chunks, cluster.slow_reads) = (vec![1], vec![1]);
    cluster.trace = Some(Vec::new());
    let whole = |body: &Body| match body {
        Body::InstallSnapshot { meta, .. } => Some(meta.clone()),
        _ => None,
    };
    let (mut round, mut prev, mut snapshot) = (1, LogIndex::ZERO, asked(&mut cluster, whole));
    for turn in 0..turns {
        if turn % 10 == 0 {
            cluster.time_out(1);
        }
        if turn % 40 == 0 {
            cluster.propose(1, &["x"]);
        }
        if below(30) == 0 {
            cluster.perform_chunk(1);
            cluster.answer_reads(1);
        }
        for sent in cluster.settle_but(|message| message.to == n(3)) {
            match sent.body {
                Body::AppendEntries { prev: behind, round: asked, .. } => {
                    (round, prev) = (asked, behind.index)
                }
                Body::InstallSnapshot { meta, round: asked, .. } => (round, snapshot) = (asked, meta),
                _ => {}
            }
        }
        let index = match below(5) {
            0 => prev,
            1 => prev.next(),
            2 => snapshot.id.last.index,
            3 => at(cluster.last(1)),
            _ => at(below(cluster.last(1) + 2)),
        };
        let round = round - below(6).saturating_sub(4).min(round);
        let before = cluster.trace.as_ref().map_or(0, Vec::len);
        match below(7) {
            0 => says(&mut cluster, Body::AppendEntriesReply { result: Ok(index), round }),
            1 | 2 => {
                let hint = id(below(3), below(index.get() + 1));
                let result = Err(Conflict { prev: index, hint });
                says(&mut cluster, Body::AppendEntriesReply { result, round });
            }
            kind => {
                let progress = match kind {
                    3 => InstallProgress::Wants(below(2) * below(snapshot.size_bytes + 2)),
                    4 => InstallProgress::Busy,
                    5 => InstallProgress::Refused,
                    _ => InstallProgress::Installed(index),
                };
                says_of(&mut cluster, snapshot.id, progress, round);
            }
        }
        let actions = cluster.trace.as_ref().map_or(0, Vec::len) - before;
        let reads = (chunk_reads(&cluster), cluster.servers[&1].log_reads.len());
        assert!(reads.0 <= 1 && reads.1 <= 1, "seed {seed}: {reads:?} reads of snapshot and log under way");
        assert!(actions <= 8, "seed {seed}: {actions} actions for an answer");
        assert!(kept(&cluster) <= 100, "seed {seed}: {} entries kept", kept(&cluster));
    }
}

#[test]
fn whatever_a_peer_answers_it_costs_little() {
    (1..=50).for_each(|seed| anything(seed, 1_000));
}
