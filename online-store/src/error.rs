//! What this crate refuses and how it fails.

use std::path::PathBuf;

use anabranch_core::{ErrorKind, Kinded};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error beneath one of ours.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong between a batch, a store and a lookup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What `core` refused: a key, a value, a column.
    #[error(transparent)]
    Core(#[from] anabranch_core::Error),
    /// A table's batch cannot be published as it is.
    #[error("feature view {view:?}: {reason}")]
    Batch {
        /// The feature view.
        view: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A setting is out of its range.
    #[error("online store setting {setting}: {reason}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What it must be.
        reason: String,
    },
    /// A request lacks a key column, or has one that cannot be used.
    #[error("key column {column:?}: {reason}")]
    KeyColumn {
        /// The column as the caller calls it.
        column: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A list of fields is no layout.
    #[error("packed row layout: {0}")]
    InvalidLayout(String),
    /// Something is larger than a store takes.
    #[error("{what} of {bytes} is more than the limit of {limit}: make it smaller")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// Bytes were written by a newer version.
    #[error("{what} has format {found}, and this version reads up to {known}: upgrade it")]
    NewerFormat {
        /// What was to be read.
        what: &'static str,
        /// The format found.
        found: u8,
        /// The newest format known.
        known: u8,
    },
    /// Stored bytes are damaged.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// What was to be read.
        what: &'static str,
        /// Where it fails.
        reason: String,
    },
    /// A row is of a layout that the caller's definitions do not cover.
    #[error("a row of layout {fingerprint:016x} cannot be read: {reason}; load definitions and layouts again and retry")]
    Layout {
        /// The fingerprint of the row's layout.
        fingerprint: u64,
        /// Why.
        reason: String,
    },
    /// Two layouts have one fingerprint.
    #[error("two layouts have the fingerprint {0:016x}: change the order of the fields of the newer one")]
    Fingerprint(u64),
    /// Another process, or another part of this one, has the folder open.
    #[error("the online store in {} is open elsewhere: stop the other server or choose another folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The disk is full, or nearly so. Nothing of the request was written.
    #[error("the disk under the online store in {} is full: free some space and retry", path.display())]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// The failed write; none where the store refused before it tried.
        #[source]
        source: Option<Cause>,
    },
    /// The memory of the server beneath is full. Some rows of the request may have been written.
    #[error("the online store has no memory left: give Redis more (maxmemory) and retry")]
    OutOfMemory {
        /// What Redis said.
        #[source]
        source: Cause,
    },
    /// The store lost what it held since the caller looked: it is another incarnation now.
    #[error("the online store lost what it held and is filled again from history: retry later")]
    Lost,
    /// What was looked up has been replaced since the caller learned where it lies.
    #[error("what was looked up online has just been replaced: retry")]
    Replaced,
    /// A write failed beneath the store, which takes no more of them until it is opened again.
    #[error("the online store in {} takes no writes since one failed beneath it: restart the server", path.display())]
    Stopped {
        /// The folder.
        path: PathBuf,
    },
    /// An operation took too long; a write may still take place, and may be repeated.
    #[error("the online store did not {doing} within {limit_ms} ms: retry")]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// The limit.
        limit_ms: u64,
    },
    /// The storage beneath the store failed.
    #[error("the online store failed to {doing}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// The failure.
        #[source]
        source: Cause,
    },
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Core(error) => error.kind(),
            Self::Batch { .. } | Self::Config { .. } | Self::KeyColumn { .. } | Self::InvalidLayout(_) => ErrorKind::InvalidArgument,
            Self::TooLarge { .. } | Self::DiskFull { .. } | Self::OutOfMemory { .. } => ErrorKind::Exhausted,
            Self::NewerFormat { .. } | Self::Locked { .. } => ErrorKind::FailedPrecondition,
            Self::Fingerprint(_) => ErrorKind::Conflict,
            Self::Layout { .. } | Self::Lost | Self::Replaced | Self::Stopped { .. } | Self::Timeout { .. } | Self::Storage { .. } => {
                ErrorKind::Unavailable
            }
            Self::Corrupt { .. } => ErrorKind::Internal,
        }
    }
}

impl Error {
    pub(crate) fn corrupt_row(reason: impl Into<String>) -> Self {
        Self::Corrupt { what: "packed row", reason: reason.into() }
    }
}
