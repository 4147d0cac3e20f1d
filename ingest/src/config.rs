//! Settings of ingest.

use anabranch_core::Span;
use serde::{Deserialize, Serialize};

use crate::wal::WalOptions;
use crate::{Error, Result};

/// Settings of ingest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// The longest that a row waits for its commit once it is visible online.
    pub commit_every: Span,
    /// The most rows that wait for a commit.
    pub commit_rows: usize,
    /// About the most bytes of rows that wait for a commit.
    pub commit_bytes: usize,
    /// The most rows that are judged and published at once.
    pub batch_rows: u64,
    /// A file or bulk stream larger than this is committed in several parts.
    pub bulk_bytes: usize,
    /// How long an apply or a merge waits for running loads and for the pipeline to come to rest.
    pub barrier_timeout: Span,
    /// After about so many rows a fill of the online store notes how far it is.
    pub fill_mark_rows: u64,
    /// How long a failed step waits at most before it is tried again.
    pub retry_every: Span,
    /// The write-ahead log.
    pub wal: WalOptions,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            commit_every: Span::seconds(2),
            commit_rows: 200_000,
            commit_bytes: 64 << 20,
            batch_rows: 8_192,
            bulk_bytes: 256 << 20,
            barrier_timeout: Span::seconds(60),
            fill_mark_rows: 200_000,
            retry_every: Span::seconds(5),
            wal: WalOptions::default(),
        }
    }
}

impl IngestConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let positive = |what, value: u64| if value == 0 { Err(Error::invalid(what, "it must be more than nothing")) } else { Ok(()) };
        positive("ingest.commit_every", self.commit_every.micros().unsigned_abs())?;
        positive("ingest.commit_rows", self.commit_rows as u64)?;
        positive("ingest.commit_bytes", self.commit_bytes as u64)?;
        positive("ingest.batch_rows", self.batch_rows)?;
        positive("ingest.bulk_bytes", self.bulk_bytes as u64)?;
        positive("ingest.barrier_timeout", self.barrier_timeout.micros().unsigned_abs())?;
        positive("ingest.fill_mark_rows", self.fill_mark_rows)?;
        positive("ingest.retry_every", self.retry_every.micros().unsigned_abs())?;
        self.wal.validate()
    }
}

/// A span as the runtime's timers take it.
pub(crate) fn duration(span: Span) -> std::time::Duration {
    std::time::Duration::from_micros(span.micros().unsigned_abs())
}
