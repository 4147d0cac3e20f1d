//! What the point-in-time join refuses, and what can go wrong while it reads.

use std::error::Error as StdError;

use anabranch_core::{ErrorKind, Kinded};
use arrow::error::ArrowError;

use super::ScanError;

/// Why a join has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The selection names what does not exist, or two output columns would have one name.
    #[error(transparent)]
    Selection(#[from] anabranch_core::Error),
    /// A column that the join needs is not there.
    #[error("the spine has no column {column:?}, which is {role}; it has {found}")]
    MissingColumn {
        /// The column.
        column: String,
        /// What it is needed for.
        role: String,
        /// The columns that are there.
        found: String,
    },
    /// Two columns have one name.
    #[error("the spine has two columns called {column:?}; rename one of them")]
    AmbiguousColumn {
        /// The name.
        column: String,
    },
    /// A column's type can never be the one that is needed.
    #[error("column {column:?} of the spine is {found}, but {role} is {expected}; cast it")]
    ColumnType {
        /// The column.
        column: String,
        /// What it is needed for.
        role: String,
        /// The type that it must have.
        expected: String,
        /// The Arrow type that it has.
        found: String,
    },
    /// A row has no time.
    #[error("row {row} of the spine has no time: column {column:?} is null; drop the row or give it one")]
    NullTime {
        /// The time column.
        column: String,
        /// The row, counted from 0 over all batches.
        row: usize,
    },
    /// A value is of the right sort, but not one that the type can hold.
    #[error("row {row} of the spine: the value of column {column:?} does not fit {expected}")]
    Misfit {
        /// The column.
        column: String,
        /// The row, counted from 0 over all batches.
        row: usize,
        /// The type that it must have.
        expected: String,
    },
    /// The batches of the spine do not belong together.
    #[error("batch {batch} of the spine has other columns than its schema says")]
    SpineSchema {
        /// The batch, counted from 0.
        batch: usize,
    },
    /// More rows than a join numbers.
    #[error("the spine has {rows} rows, more than the {limit} of one join; split it")]
    SpineTooLarge {
        /// Its rows.
        rows: usize,
        /// The most that there may be.
        limit: usize,
    },
    /// Rows that are put aside take more bytes than they may.
    #[error("the rows take more than the {limit} bytes that one spine may; raise limits.spine_bytes or split the spine")]
    SpoolTooLarge {
        /// What they may take.
        limit: u64,
    },
    /// The spine and what is known of its rows leave no memory to join with.
    #[error("the join of {rows} spine rows needs at least {needed} bytes of memory and may use {limit}; raise the limit or split the spine")]
    Memory {
        /// Rows of the spine.
        rows: usize,
        /// What it needs.
        needed: usize,
        /// What it may use.
        limit: usize,
    },
    /// Rows that outgrew the memory could not be written to disk or read back.
    #[error("rows that outgrew the memory limit cannot be spilled")]
    Spill(#[source] std::io::Error),
    /// A view's rows could not be read.
    #[error("the rows of feature view {view:?} cannot be read")]
    Scan {
        /// The view.
        view: String,
        /// The kind of what happened.
        kind: ErrorKind,
        /// What happened.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// What a provider gave is not what it was asked for.
    #[error("the rows of feature view {view:?} are not what was asked for: {reason}")]
    Rows {
        /// The view.
        view: String,
        /// What is wrong.
        reason: String,
    },
    /// Arrow refused to put the output together.
    #[error("the joined columns cannot be put together")]
    Gather(#[from] ArrowError),
    /// A thread of the join ended before its work did.
    #[error("the join was stopped")]
    Stopped(#[from] tokio::task::JoinError),
    /// The work of a join panicked, or no thread could be started for it.
    #[error("a thread of the join is gone; see the log")]
    NoThread,
}

impl JoinError {
    /// The same of rows that come after so many others.
    pub(super) fn of_later_rows(self, rows: usize) -> Self {
        match self {
            Self::NullTime { column, row } => Self::NullTime { column, row: row + rows },
            Self::Misfit { column, row, expected } => Self::Misfit { column, row: row + rows, expected },
            other => other,
        }
    }

    /// A view that cannot be read.
    pub(super) fn scan(view: &str, error: ScanError) -> Self {
        Self::Scan { view: view.to_owned(), kind: error.kind, source: error.source }
    }
}

impl Kinded for JoinError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Selection(error) => error.kind(),
            Self::MissingColumn { .. }
            | Self::AmbiguousColumn { .. }
            | Self::ColumnType { .. }
            | Self::NullTime { .. }
            | Self::Misfit { .. }
            | Self::SpineSchema { .. } => ErrorKind::InvalidArgument,
            Self::SpineTooLarge { .. } | Self::SpoolTooLarge { .. } | Self::Memory { .. } => ErrorKind::Exhausted,
            Self::Spill(error) if error.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
            Self::Spill(error) if error.kind() != std::io::ErrorKind::InvalidData => ErrorKind::Unavailable,
            Self::Scan { kind, .. } => *kind,
            Self::Stopped(error) if error.is_cancelled() => ErrorKind::Unavailable,
            Self::Spill(_) | Self::Rows { .. } | Self::Gather(_) | Self::Stopped(_) | Self::NoThread => ErrorKind::Internal,
        }
    }
}
