//! How the committers of several servers take turns on one branch.

use std::time::Duration;

/// How a committer takes turns with those of other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOptions {
    /// What this server is called in the database. A random part is added, so that no two instances share a name.
    pub holder: String,
    /// How long a holder may show no life before another takes over: what a killed server costs.
    pub ttl: Duration,
}

impl LeaseOptions {
    /// Three seconds.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(3);
}
