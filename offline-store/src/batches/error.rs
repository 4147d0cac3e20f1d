//! What an epoch is refused for, and how gathering it fails.

use anabranch_core::{ErrorKind, Kinded};

/// Everything that can go wrong between a dataset and its batches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchesError {
    /// A request is wrong in itself.
    #[error("{what}: {reason}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why, and what would be right.
        reason: String,
    },
    /// The text is no cursor.
    #[error("{text:?} is no cursor: {reason}")]
    Cursor {
        /// What was given, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The cursor names a place in another order.
    #[error("the cursor is of another {what}: it is of {found}, this is {expected}")]
    OtherOrder {
        /// dataset, split, seed or epoch.
        what: &'static str,
        /// The cursor's.
        found: String,
        /// The request's.
        expected: String,
    },
    /// Rows do not have the columns that were announced.
    #[error("the rows of the dataset are not those that its manifest names: {reason}")]
    Rows {
        /// What does not fit.
        reason: String,
    },
    /// The cache has no room for the dataset.
    #[error(
        "no room to unpack the dataset: it needs over {needed} bytes, and the cache may use {limit} on disk: raise datasets.cache_disk_bytes, or wait for others to finish"
    )]
    Full {
        /// What it would take, at least.
        needed: u64,
        /// What may be used.
        limit: u64,
    },
    /// The cache's file failed.
    #[error("the cache of unpacked datasets failed: {0}")]
    Io(#[from] std::io::Error),
    /// Unpacked bytes are not what was written.
    #[error("unpacked rows are damaged: {0}")]
    Damaged(&'static str),
    /// Arrow refused what was put together here.
    #[error("arrow failed")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A task of ours was cancelled, because the runtime is ending.
    #[error("the runtime is shutting down")]
    Closing,
}

impl Kinded for BatchesError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::Cursor { .. } => ErrorKind::InvalidArgument,
            Self::OtherOrder { .. } => ErrorKind::FailedPrecondition,
            Self::Full { .. } => ErrorKind::Exhausted,
            Self::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
            Self::Io(_) | Self::Closing => ErrorKind::Unavailable,
            Self::Rows { .. } | Self::Damaged(_) | Self::Arrow(_) => ErrorKind::Internal,
        }
    }
}
