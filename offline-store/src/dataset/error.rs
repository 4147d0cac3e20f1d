//! What a dataset's digest, rows, splits and manifest refuse.

use anabranch_core::{ErrorKind, Kinded};

/// Why there is no digest, no manifest, no split or no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A column's type is none of ours.
    #[error(
        "column {column:?} is {found}, which a dataset cannot hold; cast it to bool, an integer, a float, text, bytes, a time or a list of these"
    )]
    ColumnType {
        /// The column.
        column: String,
        /// Its Arrow type.
        found: String,
    },
    /// A value has no exact form in the type of its column.
    #[error("row {row}: the value of column {column:?} is not exact as {data_type}; a dataset cannot hold it")]
    Misfit {
        /// The column.
        column: String,
        /// The row, counted from 0 over all batches.
        row: u64,
        /// The type.
        data_type: String,
    },
    /// A batch is not of the schema.
    #[error("a batch has other columns than the dataset's schema")]
    Schema,
    /// Rows that cannot be put together.
    #[error("the rows of the dataset cannot be put together: {reason}")]
    Rows {
        /// Why not.
        reason: String,
    },
    /// Splits that cannot be.
    #[error("splits {text:?}: {reason}")]
    Splits {
        /// As they were asked for.
        text: String,
        /// What is wrong with them, and what would be right.
        reason: String,
    },
    /// There is no split of the name.
    #[error("dataset {dataset:?} has no split {split:?}; it has {known}")]
    NoSplit {
        /// The dataset.
        dataset: String,
        /// The split.
        split: String,
        /// Those that there are.
        known: String,
    },
    /// Only the manifest of a dataset is there.
    #[error("the rows of dataset {name:?} were never stored, because an earlier version saved it: save it again under its name")]
    NotStored {
        /// The dataset.
        name: String,
    },
    /// A name that no dataset may have.
    #[error(transparent)]
    Name(#[from] anabranch_core::Error),
    /// A text is not a digest.
    #[error("{text:?} is not a digest of 64 hex digits")]
    Digest {
        /// The text.
        text: String,
    },
    /// Bytes are no manifest that this version reads.
    #[error("malformed dataset manifest: {reason}")]
    Manifest {
        /// Where it fails.
        reason: String,
    },
}

impl Kinded for DatasetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSplit { .. } => ErrorKind::NotFound,
            Self::NotStored { .. } => ErrorKind::FailedPrecondition,
            _ => ErrorKind::InvalidArgument,
        }
    }
}
