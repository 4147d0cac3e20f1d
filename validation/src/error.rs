//! What this crate refuses.

use anabranch_core::{ErrorKind, Kinded};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Checks that do not compile, or a batch that is not what they were compiled for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The regular expression of a check does not compile.
    #[error("check {check:?}: its pattern is no regular expression")]
    Pattern {
        /// The check.
        check: String,
        /// Where it fails.
        #[source]
        source: Box<regex::Error>,
    },
    /// A check does not fit the view whose rows it should judge.
    #[error("check {check:?} cannot judge rows of feature view {view:?}: {reason}")]
    Misfit {
        /// The check.
        check: String,
        /// The view.
        view: String,
        /// Why not.
        reason: String,
    },
    /// A batch is not in the canonical form of the view.
    #[error("a batch for feature view {view:?} is not in its form: {reason}")]
    Batch {
        /// The view.
        view: String,
        /// Where they differ.
        reason: String,
    },
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Pattern { .. } | Self::Misfit { .. } | Self::Batch { .. } => ErrorKind::InvalidArgument,
        }
    }
}
