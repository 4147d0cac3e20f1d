//! Where a view's rows come from.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use anabranch_core::definition::{Column, ViewLayout};
use anabranch_core::{ErrorKind, Kinded, Timestamp};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;

/// Which rows can matter. A provider may leave others out, and need not: the join judges each row itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanHint {
    /// No row with an earlier event time matches; `None`: there is no such bound.
    pub min_event_time: Option<Timestamp>,
    /// No row with a later event time matches.
    pub max_event_time: Timestamp,
}

/// What a join wants of one view.
#[derive(Debug, Clone)]
pub struct ViewScan {
    /// The name that the view goes by: its own or its alias.
    pub name: String,
    /// The view.
    pub layout: Arc<ViewLayout>,
    /// The columns wanted, by name and type: keys, event time, known time where the view has one, features, and the four reserved ones.
    pub columns: Vec<Column>,
    /// Which rows can matter.
    pub hint: ScanHint,
}

/// A stream of a view's rows.
pub type RowStream = BoxStream<'static, Result<RecordBatch, ScanError>>;

/// Gives the rows of views as of one commit.
///
/// Contract: a scan gives every row of the view that the hint does not rule out, once, in any order and in any number of batches; each batch has
/// all columns that were asked for, found by name, each of a type that brings its values to the type asked for without loss. `_arrival`, `_source` and
/// `_position` are never null: for rows that carry none, the provider fills in what their snapshot's entry says (DESIGN section 4). A null `_tombstone`
/// is none. A null known time is the event time.
#[async_trait]
pub trait ViewRows: Send + Sync + 'static {
    /// Begins to read a view.
    ///
    /// # Errors
    /// Whatever stands in the way; the join gives it back with the view's name.
    async fn scan(&self, scan: &ViewScan) -> Result<RowStream, ScanError>;
}

/// Why a provider cannot read: any error that has a kind.
pub struct ScanError {
    pub(super) kind: ErrorKind,
    pub(super) source: Box<dyn StdError + Send + Sync>,
}

impl<E: Kinded> From<E> for ScanError {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), source: Box::new(error) }
    }
}

impl fmt::Debug for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.kind, self.source)
    }
}
