//! The guide, in the order in which one needs it.
//!
//! 1. [`getting_started`]: an application, a node, a write and a read.
//! 2. [`raft_api`]: every message, and what its answer says.
//! 3. [`network`]: how messages travel: TCP with TLS, or an actor of one's own.
//! 4. [`storage`]: where log, snapshots and state survive: shipped stores, or an actor of one's own.
//! 5. [`cluster_formation`]: the first configuration.
//! 6. [`dynamic_membership`]: members come and go.
//! 7. [`metrics`]: what operators see.
//! 8. [`coming_from_actix_raft`]: each item of actix-raft 0.4, and what it became.

pub mod getting_started {
    #![doc = include_str!("getting_started.md")]
}
pub mod raft_api {
    #![doc = include_str!("raft_api.md")]
}
pub mod network {
    #![doc = include_str!("network.md")]
}
pub mod storage {
    #![doc = include_str!("storage.md")]
}
pub mod cluster_formation {
    #![doc = include_str!("cluster_formation.md")]
}
pub mod dynamic_membership {
    #![doc = include_str!("dynamic_membership.md")]
}
pub mod metrics {
    #![doc = include_str!("metrics.md")]
}
pub mod coming_from_actix_raft {
    #![doc = include_str!("coming_from_actix_raft.md")]
}
