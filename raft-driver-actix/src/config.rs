//! A node's configuration, with the fields and defaults of actix-raft's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use raft_core::{NodeId, SnapshotPolicy};
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::storage::{Identity, SnapshotFileError, SnapshotFiles};

/// How a node behaves: the protocol's own configuration, and what this driver adds.
///
/// Made by [`Config::build`] with the fields and defaults of actix-raft's, or [from](From) a [`raft_core::Config`], whose
/// defaults suit higher loads.
///
/// ```
/// use std::time::Duration;
/// use raft_core::{NodeId, SnapshotPolicy};
/// use raft_driver_actix::{Config, ConfigError};
///
/// let config = Config::build(NodeId::new(1))
///     .heartbeat_interval(Duration::from_millis(100))
///     .election_timeout(Duration::from_millis(500), Duration::from_millis(800))
///     .snapshot_policy(SnapshotPolicy::LogsSinceLast(10_000))
///     .validate()?;
/// assert_eq!(config.protocol.append_entries_max, 300);
///
/// let slow = Config::build(NodeId::new(1)).heartbeat_interval(Duration::from_secs(1)).validate();
/// assert!(matches!(slow, Err(ConfigError::Protocol(_))), "no heartbeat within an election timeout");
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The protocol's configuration.
    pub protocol: raft_core::Config,
    /// How often listeners hear of a node in which nothing changes that they must know. Default 5 s.
    pub metrics_rate: Duration,
    /// Where [`snapshots`](Self::snapshots) opens a store. A [`Builder`](crate::Builder) opens nothing: it runs on the store
    /// that it is given.
    pub snapshot_dir: Option<PathBuf>,
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A rule of the protocol's configuration is broken.
    #[error(transparent)]
    Protocol(#[from] raft_core::ConfigError),
    /// Listeners would be told all the time.
    #[error("metrics_rate must be a millisecond or more")]
    MetricsRate,
    /// Something else is there.
    #[error("the snapshot directory {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
}

impl Config {
    /// A configuration with actix-raft's defaults.
    pub const fn build(id: NodeId) -> ConfigBuilder {
        let mut protocol = raft_core::Config::new(id);
        protocol.election_timeout_min = Duration::from_millis(200);
        protocol.election_timeout_max = Duration::from_millis(300);
        protocol.heartbeat_interval = Duration::from_millis(50);
        protocol.append_entries_max = 300;
        protocol.snapshot_policy = SnapshotPolicy::LogsSinceLast(5000);
        protocol.snapshot_chunk_bytes = 3 * 1024 * 1024;
        ConfigBuilder { config: Self { protocol, metrics_rate: METRICS_RATE, snapshot_dir: None } }
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.protocol.validate()?;
        if self.metrics_rate < Duration::from_millis(1) {
            return Err(ConfigError::MetricsRate);
        }
        match &self.snapshot_dir {
            Some(path) if path.exists() && !path.is_dir() => Err(ConfigError::NotADirectory(path.clone())),
            _ => Ok(()),
        }
    }

    /// The store of snapshots in [`snapshot_dir`](Self::snapshot_dir), which is created; `None` without one.
    ///
    /// # Errors
    /// If the directory cannot be used, or belongs to another node.
    pub fn snapshots(&self, cluster: ClusterId) -> Option<Result<SnapshotFiles, SnapshotFileError>> {
        let identity = Identity { cluster, node: self.protocol.id };
        self.snapshot_dir.as_deref().map(|directory| SnapshotFiles::open(directory, identity))
    }
}

const METRICS_RATE: Duration = Duration::from_secs(5);

impl From<raft_core::Config> for Config {
    fn from(protocol: raft_core::Config) -> Self {
        Self { protocol, metrics_rate: METRICS_RATE, snapshot_dir: None }
    }
}

/// Makes a [`Config`]. What has no method of its own is set through [`protocol`](Self::protocol).
#[derive(Clone, Debug)]
#[must_use = "a configuration comes out of `validate`"]
pub struct ConfigBuilder {
    config: Config,
}

impl ConfigBuilder {
    /// Between what an election timeout is drawn, each time that it is armed (§5.2). Default 200 and 300 ms.
    pub const fn election_timeout(mut self, min: Duration, max: Duration) -> Self {
        self.config.protocol.election_timeout_min = min;
        self.config.protocol.election_timeout_max = max;
        self
    }

    /// How often an idle leader sends heartbeats (§5.2). Default 50 ms.
    pub const fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.config.protocol.heartbeat_interval = interval;
        self
    }

    /// Entries in one message at most. Default 300.
    pub const fn max_payload_entries(mut self, entries: u64) -> Self {
        self.config.protocol.append_entries_max = entries;
        self
    }

    /// How often listeners hear of a node in which nothing changes that they must know. Default 5 s.
    pub const fn metrics_rate(mut self, rate: Duration) -> Self {
        self.config.metrics_rate = rate;
        self
    }

    /// Where [`Config::snapshots`] opens a store, which is to be handed to the [`Builder`](crate::Builder). Default: nowhere.
    pub fn snapshot_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.config.snapshot_dir = Some(directory.as_ref().to_owned());
        self
    }

    /// When a snapshot is taken without being asked for (§7). Default after 5,000 entries;
    /// [`Never`](SnapshotPolicy::Never) disables it.
    pub const fn snapshot_policy(mut self, policy: SnapshotPolicy) -> Self {
        self.config.protocol.snapshot_policy = policy;
        self
    }

    /// Bytes in one message of a snapshot. Default 3 MiB.
    pub const fn snapshot_max_chunk_bytes(mut self, bytes: u64) -> Self {
        self.config.protocol.snapshot_chunk_bytes = bytes;
        self
    }

    /// Anything else of the protocol's configuration.
    pub fn protocol(mut self, change: impl FnOnce(&mut raft_core::Config)) -> Self {
        change(&mut self.config.protocol);
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn validate(self) -> Result<Config, ConfigError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
