//! What a dataset's digest and manifest refuse.

use anabranch_core::{ErrorKind, Kinded};

/// Why there is no digest or no manifest.
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
        ErrorKind::InvalidArgument
    }
}
