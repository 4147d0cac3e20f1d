//! Where a view's rows come from: chunks, each of which gives its columns one by one.
//!
//! A chunk is a row group of a file, or a batch in memory. What is known of a chunk without reading it (its rows, their order, its times) says how it is
//! joined; its columns are read apart, keys and times first and features only where a row of it was matched.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use anabranch_core::definition::{Column, ViewLayout};
use anabranch_core::{ErrorKind, Kinded, Timestamp};
use arrow::array::ArrayRef;
use async_trait::async_trait;

use super::entities::KeyHint;
use super::stored::StoredPage;

/// Which rows can matter. A provider may leave others out, and need not: the join judges each row itself.
#[derive(Debug, Clone)]
pub struct ScanHint {
    /// No row with an earlier event time matches; `None`: there is no such bound.
    pub min_event_time: Option<Timestamp>,
    /// No row with a later event time matches.
    pub max_event_time: Timestamp,
    /// No row with another key matches; `None`: any may.
    pub keys: Option<Arc<KeyHint>>,
}

impl ScanHint {
    /// Any row can matter.
    pub(super) const fn anything() -> Self {
        Self { min_event_time: None, max_event_time: Timestamp::MAX, keys: None }
    }
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

/// What is known of a chunk without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Its rows.
    pub rows: usize,
    /// The file that it is of, by any number: of two sorted chunks of one file, the one that comes first holds what comes first.
    pub file: u32,
    /// Whether rows of one entity lie side by side and in their total order, in this chunk and on through those of its file.
    pub sorted: bool,
    /// No row has an earlier event time.
    pub min_event_time: Timestamp,
    /// No row has a later event time.
    pub max_event_time: Timestamp,
    /// Whether a row may be a tombstone.
    pub tombstones: bool,
}

/// Columns of a chunk as batches, one behind the other: an array for each column asked for.
pub type ColumnReader = Box<dyn Iterator<Item = Result<Vec<ArrayRef>, ScanError>> + Send>;

/// Pages of a column, one behind the other.
pub type PageReader = Box<dyn Iterator<Item = Result<StoredPage, ScanError>> + Send>;

/// Begins to read columns that were fetched, which may take long: the pages of each.
pub type PageReaders = Box<dyn FnOnce() -> Result<Vec<PageReader>, ScanError> + Send>;

/// Rows that can be read column by column.
#[async_trait]
pub trait Chunk: fmt::Debug + Send + Sync + 'static {
    /// What is known without reading.
    fn info(&self) -> ChunkInfo;

    /// How many bytes these columns take as they are stored, as far as known.
    fn stored_bytes(&self, columns: &[usize]) -> u64;

    /// Fetches columns, by their places in [`ViewScan::columns`]; decoding is left to the reader, which may take long. Where `rows` are given, ascending
    /// and apart, only those come. No batch has more than `batch_rows` rows.
    ///
    /// # Errors
    /// Whatever stands in the way.
    async fn read(&self, columns: &[usize], rows: Option<&[Range<usize>]>, batch_rows: usize) -> Result<ColumnReader, ScanError>;

    /// Fetches columns of numbers or times whose values lie in their pages one like the other, so that those that are wanted can be taken from there.
    /// `None` where one is of another type, or stored in another way: then they are to be read.
    ///
    /// # Errors
    /// Whatever stands in the way.
    async fn pages(&self, _columns: &[usize]) -> Result<Option<PageReaders>, ScanError> {
        Ok(None)
    }
}

/// The chunks of a view, and how many there were before what cannot matter was left out.
#[derive(Debug, Clone, Default)]
pub struct ViewChunks {
    /// Those that may matter.
    pub chunks: Vec<Arc<dyn Chunk>>,
    /// All files of the view.
    pub files: u64,
    /// Files of which a chunk may matter.
    pub files_kept: u64,
    /// All chunks of the files that were opened.
    pub chunks_seen: u64,
    /// All rows of the view, as far as known.
    pub rows: u64,
}

/// Gives the rows of views as of one commit.
///
/// Contract: the chunks of a scan hold every row of the view that the hint does not rule out, once; each column comes in a type that brings its values to
/// the type asked for without loss. `_arrival`, `_source` and `_position` are never null: for rows that carry none, the provider fills in what their
/// snapshot's entry says (DESIGN section 4). A null `_tombstone` is none. A null known time is the event time. A chunk that says that it is sorted is.
#[async_trait]
pub trait ViewRows: fmt::Debug + Send + Sync + 'static {
    /// Finds the chunks of a view; nothing but what describes them is read.
    ///
    /// # Errors
    /// Whatever stands in the way; the join gives it back with the view's name.
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError>;
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
