//! Thesis §6.2: a leader that cannot lead steps down: no majority, or a disk that does not answer.

use raft_core::RoleKind;

use super::support::Cluster;

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    for _ in 0..20 {
        if cluster.role(1) == RoleKind::Leader {
            cluster.time_out(1);
        }
    }
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Follower, 2));
    assert_eq!(cluster.servers[&1].node.status().counters.leases_lost, 1);
}

#[test]
fn a_leader_with_a_stalled_disk_steps_down_and_does_not_campaign() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["x"]);
    for _ in 0..20 {
        if cluster.role(1) == RoleKind::Leader {
            cluster.time_out(1);
            cluster.settle();
        }
    }
    assert_eq!(cluster.role(1), RoleKind::Follower);
    cluster.time_out(1);
    assert_eq!(cluster.role(1), RoleKind::Follower, "it could not keep a new term");
}

#[test]
fn a_sole_voter_goes_on_leading_while_its_disk_is_slow() {
    let mut cluster = Cluster::pristine(1);
    cluster.bootstrap();
    cluster.wake(1);
    assert_eq!(cluster.role(1), RoleKind::Leader);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    for _ in 0..30 {
        cluster.time_out(1);
    }
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, 2), "nobody else could do better");
    cluster.sync(1);
    assert_eq!(cluster.commit(1), 3);
}
