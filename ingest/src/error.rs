//! What ingest refuses and how it fails.
//!
//! Errors are `Clone`: one failed group of appends is told to every waiter.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::{ErrorKind, Kinded, Position, SourceId};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of any crate beneath, with its kind.
pub type Cause = Arc<dyn Kinded>;

/// Everything that can go wrong in ingest.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system failed.
    #[error("{what} failed")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// No space is left where the log lies.
    #[error("{what}: no space left on the device; free some and push again")]
    Full {
        /// What was being done to which file.
        what: String,
        /// The failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// A segment of the log is damaged where it was durable once.
    #[error("log segment {segment} is damaged at byte {offset}: {reason}; restore it, or move the log's folder away to begin a new source")]
    LogDamaged {
        /// The file.
        segment: String,
        /// The first byte that cannot be read.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A segment was written by a newer version.
    #[error("log segment {segment} has format version {found}, this program knows up to {known}: use a newer one")]
    LogNewer {
        /// The file.
        segment: String,
        /// The version found.
        found: u16,
        /// The newest version known.
        known: u16,
    },
    /// The log in a folder belongs to another source.
    #[error("the log in {folder} is that of source {found}, not of source {expected}")]
    LogForeign {
        /// The folder.
        folder: String,
        /// The source in the segments.
        found: SourceId,
        /// The source asked for.
        expected: SourceId,
    },
    /// A position that the log does not hold, or not at the beginning of a record.
    #[error("the log of source {source_id} holds no record that begins at {position}: {reason}")]
    NotInLog {
        /// The log's source.
        source_id: SourceId,
        /// The position asked for.
        position: Position,
        /// Why not.
        reason: String,
    },
    /// Something is larger than it may be.
    #[error("{what} has {size}, which is over the limit of {limit}: {advice}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size with a unit.
        size: String,
        /// The limit with a unit.
        limit: String,
        /// What to do.
        advice: &'static str,
    },
    /// An idempotency key was used before, for other content.
    #[error("idempotency key {key:?} was used before for other rows: give every push a key of its own")]
    KeyReused {
        /// The key.
        key: String,
    },
    /// A payload is not what its format says.
    #[error("the payload is no {format}: {reason}")]
    Payload {
        /// The format as given.
        format: &'static str,
        /// Where it fails.
        reason: String,
    },
    /// A file cannot be read as rows of a view.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong, where, and what to do.
        reason: String,
    },
    /// A request breaks a rule of ingest.
    #[error("{what}: {reason}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why, and what would be right.
        reason: String,
    },
    /// Stored bytes do not decode.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// What the bytes should have been.
        what: &'static str,
        /// Where they fail.
        reason: String,
    },
    /// A branch is not served online.
    #[error("branch {0:?} is not served online: serve it first, or ask on main")]
    NotServed(String),
    /// What is served was replaced by another generation meanwhile.
    #[error("what is online was replaced meanwhile: retry")]
    Replaced,
    /// A branch that is served no longer was still being filled.
    #[error("feature view {0:?} is not filled any further: its branch is not served any more")]
    Unserved(String),
    /// Pushed rows that a reset would have consumed again are gone from the log.
    #[error(
        "branch {branch:?} cannot be rewound to position {next}: its log begins at {first}, what lies before was committed and cut off; reset it without rewinding its offsets"
    )]
    Rewind {
        /// The branch.
        branch: String,
        /// The position to go back to.
        next: u64,
        /// The first position that the log holds.
        first: u64,
    },
    /// What was waited for did not come in time.
    #[error("{what} within {waited_ms} ms: {advice}")]
    TimedOut {
        /// What did not happen.
        what: String,
        /// How long it was waited for.
        waited_ms: u64,
        /// What to do.
        advice: String,
    },
    /// Another load of the same rows was faster, again and again.
    #[error("the same rows are being loaded by somebody else: try again when that has ended")]
    Overtaken,
    /// The online store is being filled.
    #[error("the online store is being filled from history: try again in a moment")]
    Refilling,
    /// Definitions are refused, or moved meanwhile.
    #[error(transparent)]
    Registry(Arc<anabranch_registry::Error>),
    /// Ingest is being closed.
    #[error("ingest is closing")]
    Closing,
    /// A crate beneath failed.
    #[error("{what}: {source}")]
    Below {
        /// What was being done.
        what: &'static str,
        /// The failure.
        source: Cause,
    },
}

impl Error {
    /// A failure of the file system.
    pub(crate) fn io(action: &str, path: &Path, source: io::Error) -> Self {
        let what = format!("{action} {}", path.display());
        if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded {
            Self::Full { what, source: Arc::new(source) }
        } else {
            Self::Io { what, source: Arc::new(source) }
        }
    }

    /// A failure of a crate beneath.
    pub(crate) fn below(what: &'static str, source: impl Kinded) -> Self {
        Self::Below { what, source: Arc::new(source) }
    }

    /// A request that breaks a rule.
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { what, reason: reason.into() }
    }

    /// A file that cannot be read.
    pub(crate) fn file(file: &str, reason: impl Into<String>) -> Self {
        Self::File { file: file.to_owned(), reason: reason.into() }
    }
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Unavailable,
            Self::Full { .. } | Self::TooLarge { .. } => ErrorKind::Exhausted,
            Self::LogDamaged { .. } | Self::LogNewer { .. } | Self::LogForeign { .. } | Self::NotInLog { .. } => ErrorKind::FailedPrecondition,
            Self::Malformed { .. } | Self::NotServed(_) | Self::Unserved(_) | Self::Rewind { .. } => ErrorKind::FailedPrecondition,
            Self::KeyReused { .. } | Self::Overtaken => ErrorKind::Conflict,
            Self::Registry(error) => error.kind(),
            Self::Payload { .. } | Self::File { .. } | Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::Closing | Self::Refilling | Self::Replaced | Self::TimedOut { .. } => ErrorKind::Unavailable,
            Self::Below { source, .. } => source.kind(),
        }
    }
}

impl From<anabranch_core::Error> for Error {
    fn from(error: anabranch_core::Error) -> Self {
        Self::below("definitions or values", error)
    }
}

impl From<anabranch_registry::Error> for Error {
    fn from(error: anabranch_registry::Error) -> Self {
        Self::Registry(Arc::new(error))
    }
}
