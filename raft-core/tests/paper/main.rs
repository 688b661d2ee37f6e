//! The rules of the Raft paper (§) and of the thesis, in their order, each test named by its rule.

#[path = "../support/mod.rs"]
mod support;

mod formation;
mod s5_1_terms;
mod s5_2_elections;
mod s5_3_replication;
mod s5_3_slow_link;
mod s5_4_safety;
mod s6_membership;
mod s7_claims;
mod s7_kept;
mod s7_pace;
mod s7_snapshots;
mod s7_transfer;
mod s8_clients;
mod t10_2_busy_disks;
mod t10_2_durability;
mod t3_10_transfer;
mod t4_2_catching_up;
mod t4_2_disruption;
mod t4_2_needed;
mod t6_2_quorum;
mod t6_4_follower_reads;
mod t6_4_leases;
mod t6_4_reads;
mod t9_6_pre_vote;
