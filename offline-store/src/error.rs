//! What this crate refuses and how it fails.

use std::error::Error as StdError;

use anabranch_core::{ErrorKind, Kinded};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong with tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such table at the commit.
    #[error("no table {0}")]
    NoTable(String),
    /// A table's columns cannot become what is asked.
    #[error("table {table}: {reason}")]
    Schema {
        /// The table.
        table: String,
        /// What does not fit and what to do.
        reason: String,
    },
    /// Rows do not fit the table that they are for.
    #[error("rows for table {table}: {reason}")]
    Rows {
        /// The table.
        table: String,
        /// What does not fit, with the column or row.
        reason: String,
    },
    /// A request is wrong in itself.
    #[error("{what}: {reason}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why, and what would be right.
        reason: String,
    },
    /// A tag or commit was to be written to.
    #[error("{0} is read-only: only branches can be written to")]
    ReadOnly(String),
    /// The catalog is asked for something that it never does.
    #[error("{0}")]
    Unsupported(String),
    /// Other writers kept moving the table under this one.
    #[error("table {table} kept changing on {branch:?} while rows were appended: retry")]
    Contended {
        /// The table.
        table: String,
        /// The branch.
        branch: String,
    },
    /// Stored bytes are not what they should be.
    #[error("{object} is damaged: {reason}")]
    Corrupt {
        /// The file or entry.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No space is left where the files lie.
    #[error("{what}: no space left")]
    Full {
        /// What was being written.
        what: String,
        /// The failure beneath.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The object store failed.
    #[error("{what} failed")]
    Unavailable {
        /// What was being done.
        what: String,
        /// The failure beneath.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The versioned map refused or failed.
    #[error(transparent)]
    Versioning(#[from] anabranch_versioning::Error),
    /// A value, type or name is wrong.
    #[error(transparent)]
    Core(#[from] anabranch_core::Error),
    /// Rows are no dataset, or a dataset has no such rows.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::DatasetError),
    /// Iceberg's metadata code refused or failed.
    #[error("iceberg: {}", .0.message())]
    Iceberg(#[source] Box<iceberg::Error>),
    /// Arrow refused what was put together here.
    #[error("arrow failed")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A task of ours was cancelled, because the runtime is ending.
    #[error("the runtime is shutting down")]
    Closing,
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoTable(_) => ErrorKind::NotFound,
            Self::Rows { .. } | Self::Invalid { .. } | Self::Unsupported(_) => ErrorKind::InvalidArgument,
            Self::Schema { .. } | Self::ReadOnly(_) => ErrorKind::FailedPrecondition,
            Self::Contended { .. } => ErrorKind::Conflict,
            Self::Full { .. } => ErrorKind::Exhausted,
            Self::Unavailable { .. } | Self::Closing => ErrorKind::Unavailable,
            Self::Versioning(error) => error.kind(),
            Self::Core(error) => error.kind(),
            Self::Dataset(error) => error.kind(),
            Self::Iceberg(error) => iceberg_kind(error.kind()),
            Self::Corrupt { .. } | Self::Arrow(_) => ErrorKind::Internal,
        }
    }
}

const fn iceberg_kind(kind: iceberg::ErrorKind) -> ErrorKind {
    match kind {
        iceberg::ErrorKind::NamespaceNotFound | iceberg::ErrorKind::TableNotFound => ErrorKind::NotFound,
        iceberg::ErrorKind::NamespaceAlreadyExists | iceberg::ErrorKind::TableAlreadyExists | iceberg::ErrorKind::CatalogCommitConflicts => {
            ErrorKind::Conflict
        }
        iceberg::ErrorKind::FeatureUnsupported => ErrorKind::InvalidArgument,
        iceberg::ErrorKind::PreconditionFailed => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Internal,
    }
}

impl From<iceberg::Error> for Error {
    fn from(error: iceberg::Error) -> Self {
        // What our own storage reported travels through iceberg as its source.
        if is_full(&error) {
            return Self::Full { what: "a table file".to_owned(), source: Box::new(error) };
        }
        if beneath::<object_store::Error>(&error).is_some() {
            return Self::Unavailable { what: "a table file".to_owned(), source: Box::new(error) };
        }
        Self::Iceberg(Box::new(error))
    }
}

impl Error {
    pub(crate) fn rows(table: impl ToString, reason: impl Into<String>) -> Self {
        Self::Rows { table: table.to_string(), reason: reason.into() }
    }

    pub(crate) fn schema(table: impl ToString, reason: impl Into<String>) -> Self {
        Self::Schema { table: table.to_string(), reason: reason.into() }
    }

    pub(crate) fn corrupt(object: impl Into<String>, reason: impl ToString) -> Self {
        Self::Corrupt { object: object.into(), reason: reason.to_string() }
    }

    /// A failure of the object store, sorted into missing, full and otherwise unavailable.
    pub(crate) fn objects(what: impl Into<String>, source: object_store::Error) -> Self {
        let what = what.into();
        if matches!(source, object_store::Error::NotFound { .. }) {
            return Self::Corrupt { object: what, reason: "the file is missing".to_owned() };
        }
        let full = is_full(&source);
        let source = Box::new(source);
        if full { Self::Full { what, source } } else { Self::Unavailable { what, source } }
    }
}

/// Whether somewhere beneath lies a full disk or a spent quota.
fn is_full(error: &(dyn StdError + 'static)) -> bool {
    beneath::<std::io::Error>(error).is_some_and(|io| matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
}

fn beneath<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_is_found_beneath_iceberg() {
        let full = object_store::Error::Generic { store: "x", source: Box::new(io::Error::from(io::ErrorKind::StorageFull)) };
        let wrapped = iceberg::Error::new(iceberg::ErrorKind::Unexpected, "write").with_source(full);
        assert_eq!(Error::from(wrapped).kind(), ErrorKind::Exhausted);
        let other = object_store::Error::Generic { store: "x", source: "refused".into() };
        let wrapped = iceberg::Error::new(iceberg::ErrorKind::Unexpected, "write").with_source(other);
        assert_eq!(Error::from(wrapped).kind(), ErrorKind::Unavailable);
    }
}
