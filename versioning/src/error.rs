//! What this crate refuses and how it fails.

use std::error::Error as StdError;
use std::sync::Arc;

use anabranch_core::{ErrorKind, Kinded};

use crate::{CommitId, Conflict, Key};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A source that several errors may share: one failed group of commits is told to every waiter.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Everything that can go wrong in a repository.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A branch or tag name breaks the rules of [`crate::check_ref_name`].
    #[error("{name:?} cannot name a branch or tag: {reason}")]
    RefName {
        /// The name as given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A text is not a ref.
    #[error("{text:?} is not a ref: {reason}")]
    RefSyntax {
        /// The text as given.
        text: String,
        /// Where it fails.
        reason: String,
    },
    /// A key, value, page or request breaks a limit or does not decode.
    #[error("{what}: {reason}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why, and what would be right.
        reason: String,
    },
    /// A ref names nothing.
    #[error("no branch, tag or commit {0:?}")]
    NoRef(String),
    /// There is no such branch.
    #[error("no branch {0:?}")]
    NoBranch(String),
    /// There is no such tag.
    #[error("no tag {0:?}")]
    NoTag(String),
    /// There is no such commit.
    #[error("no commit {0}")]
    NoCommit(CommitId),
    /// A content-addressed file is not there.
    #[error("no blob {0}")]
    NoBlob(String),
    /// The content of a commit was released, as its branch's history asks.
    #[error("commit {0} has expired: its content was released by the history of its branch")]
    Expired(CommitId),
    /// A branch has gone another way than an archive's.
    #[error("branch {into:?} has gone another way than the archive's: import it under a prefix and merge, or force it")]
    ImportDiverged {
        /// The branch.
        into: String,
    },
    /// An archive cannot be brought into this repository.
    #[error("the archive cannot be imported: {0}")]
    Import(String),
    /// A hash prefix fits more than one commit.
    #[error("{0:?} begins the hash of more than one commit: give more digits")]
    Ambiguous(String),
    /// A branch of this name is there already.
    #[error("branch {0:?} exists already")]
    BranchExists(String),
    /// A tag of this name is there already.
    #[error("tag {0:?} exists already")]
    TagExists(String),
    /// A change expected another value than the head has; nothing was changed.
    #[error("{key} does not hold what the change expected: read it again and retry")]
    Expect {
        /// The key at fault.
        key: Key,
    },
    /// Something that the commit read has changed since its base; nothing was changed.
    #[error("{key} has changed since {base}, on which the commit was based: read it again and retry")]
    ReadConflict {
        /// The key that moved.
        key: Key,
        /// The commit that the reads were made at.
        base: CommitId,
    },
    /// A prepared change no longer applies to the head: prepare it again.
    #[error("a prepared change no longer applies to the head of {branch:?}: prepare it again")]
    Stale {
        /// The branch.
        branch: String,
    },
    /// The owner of a change refused it.
    #[error("{message}")]
    Refused {
        /// The refusing error's kind.
        kind: ErrorKind,
        /// The refusing error's message.
        message: String,
        /// The refusing error.
        #[source]
        source: Cause,
    },
    /// The head kept moving under this writer, or not to where the caller thought it was.
    #[error("the head of {branch:?} moved meanwhile: retry")]
    HeadMoved {
        /// The branch.
        branch: String,
    },
    /// Both sides changed the same, or what they changed does not fit together; nothing was changed.
    #[error("{source_ref} and {into:?} conflict in {total} keys, among them {}: change one side, or choose one by a strategy", named(conflicts))]
    Conflicts {
        /// The branch.
        into: String,
        /// What was to be brought in.
        source_ref: Arc<str>,
        /// The conflicts in the order of keys, at most [`crate::MAX_CONFLICTS`].
        conflicts: Arc<[Conflict]>,
        /// How many there are.
        total: u64,
    },
    /// Two histories have no commit in common.
    #[error("{source_ref} and {into:?} have no commit in common, so there is nothing to compare them with: they cannot be merged")]
    Unrelated {
        /// The branch.
        into: String,
        /// What was to be merged.
        source_ref: String,
    },
    /// A commit would change nothing.
    #[error("the commit on {branch:?} would change nothing")]
    NothingChanged {
        /// The branch.
        branch: String,
    },
    /// A branch may be neither deleted nor reset.
    #[error("branch {0:?} is protected")]
    Protected(String),
    /// The database was written by a newer version.
    #[error("the metadata database has schema version {found}, this program knows up to {known}: use a newer one")]
    NewerSchema {
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// Stored bytes are not what their name says, or are missing.
    #[error("{object} is damaged: {reason}")]
    Corrupt {
        /// The object: a pack, node, commit or row.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No space is left where the data lie.
    #[error("{what}: no space left")]
    Full {
        /// What was being written.
        what: String,
        /// The failure beneath.
        #[source]
        source: Cause,
    },
    /// The object store or the metadata database failed.
    #[error("{what} failed")]
    Unavailable {
        /// What was being done.
        what: String,
        /// The failure beneath.
        #[source]
        source: Cause,
    },
    /// The answer of the metadata database was lost and could not be asked for again.
    #[error("whether commit {commit} was made on {branch:?} is not known: look at its log before retrying")]
    OutcomeUnknown {
        /// The branch.
        branch: String,
        /// The commit that may have been made.
        commit: CommitId,
        /// The failure beneath.
        #[source]
        source: Cause,
    },
    /// A path cannot name an object.
    #[error("{path:?} cannot name an object: {reason}")]
    ObjectPath {
        /// The path as given, or its beginning.
        path: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// There is no object of this path.
    #[error("no object {0:?}")]
    NoObject(String),
    /// There is nothing to import at this place of the object store.
    #[error("no file and no folder {0:?} in the object store")]
    NoOriginal(String),
    /// What a change of an object expects does not hold; nothing was changed.
    #[error("object {path:?}: {reason}; read it again and retry")]
    ObjectCondition {
        /// The object.
        path: String,
        /// What is there instead.
        reason: String,
    },
    /// A file that was imported is no longer what it was; it is not ours to repair.
    #[error("object {path:?}: the imported original {address} has changed: {reason}; restore it or import it anew")]
    ImportChanged {
        /// The object.
        path: Box<str>,
        /// The original's path in the object store.
        address: Box<str>,
        /// What is different.
        reason: Box<str>,
    },
    /// The repository is being closed.
    #[error("the repository is closing")]
    Closing,
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::RefName { .. } | Self::RefSyntax { .. } | Self::Invalid { .. } | Self::Ambiguous(_) | Self::ObjectPath { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::NoRef(_) | Self::NoBranch(_) | Self::NoTag(_) | Self::NoCommit(_) | Self::NoBlob(_) => ErrorKind::NotFound,
            Self::NoObject(_) | Self::NoOriginal(_) => ErrorKind::NotFound,
            Self::ObjectCondition { .. } | Self::ImportChanged { .. } => ErrorKind::FailedPrecondition,
            Self::BranchExists(_)
            | Self::TagExists(_)
            | Self::Expect { .. }
            | Self::ReadConflict { .. }
            | Self::Stale { .. }
            | Self::HeadMoved { .. }
            | Self::ImportDiverged { .. }
            | Self::Conflicts { .. } => ErrorKind::Conflict,
            Self::Expired(_) | Self::Import(_) => ErrorKind::FailedPrecondition,
            Self::NothingChanged { .. } | Self::Unrelated { .. } | Self::Protected(_) | Self::NewerSchema { .. } => ErrorKind::FailedPrecondition,
            Self::Refused { kind, .. } => *kind,
            Self::Full { .. } => ErrorKind::Exhausted,
            Self::Unavailable { .. } | Self::OutcomeUnknown { .. } | Self::Closing => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Internal,
        }
    }
}

impl Error {
    /// A limit or format that the caller broke.
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { what, reason: reason.into() }
    }

    pub(crate) fn corrupt(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { object: object.into(), reason: reason.into() }
    }

    /// A failure of a back-end, sorted into full and otherwise unavailable.
    pub(crate) fn backend(what: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        let (what, full) = (what.into(), is_full(&source));
        let source: Cause = Arc::new(source);
        if full { Self::Full { what, source } } else { Self::Unavailable { what, source } }
    }
}

/// The first conflicts, each with its reason.
fn named(conflicts: &[Conflict]) -> String {
    let named: Vec<_> = conflicts.iter().take(3).map(|conflict| format!("{} ({})", conflict.key, conflict.reason)).collect();
    named.join(", ")
}

/// Whether somewhere beneath lies a full disk, a spent quota or a full database.
fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        if let Some(sqlx::Error::Database(database)) = error.downcast_ref::<sqlx::Error>() {
            // SQLITE_FULL; Postgres: disk_full.
            if matches!(database.code().as_deref(), Some("13" | "53100")) {
                return true;
            }
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_is_found_beneath_other_errors() {
        let full = object_store::Error::Generic { store: "x", source: Box::new(io::Error::from(io::ErrorKind::StorageFull)) };
        assert_eq!(Error::backend("pack", full).kind(), ErrorKind::Exhausted);
        let other = object_store::Error::Generic { store: "x", source: Box::new(io::Error::from(io::ErrorKind::TimedOut)) };
        assert_eq!(Error::backend("pack", other).kind(), ErrorKind::Unavailable);
    }
}
