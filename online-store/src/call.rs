//! One call of a store on another server: what it does and how long it may take.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::{Error, Result};

/// How long a call may take, and what it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) doing: &'static str,
    limit: Duration,
    deadline: Instant,
}

impl Call {
    pub(crate) fn new(doing: &'static str, limit_ms: u64) -> Self {
        let limit = Duration::from_millis(limit_ms);
        Self { doing, limit, deadline: Instant::now() + limit }
    }

    /// Waits as long as the call may take.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let late = |_| Error::Timeout { doing: self.doing, limit_ms: self.limit.as_millis() as u64 };
        timeout_at(self.deadline, work).await.map_err(late)
    }

    pub(crate) fn failed(&self, source: impl Into<crate::error::Cause>) -> Error {
        Error::Storage { doing: self.doing, source: source.into() }
    }
}
