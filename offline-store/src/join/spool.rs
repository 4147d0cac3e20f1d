//! Rows that are put aside as they come: in memory as far as there is room, then in a file without a name.
//!
//! ```text
//! file = segment, one behind the other;   segment = an Arrow stream: schema | batches | end
//! ```
//!
//! A file has no name, so the system frees it when its last handle is dropped and when the process dies: whatever ends a request leaves nothing behind.
//!
//! | it stops | what the caller sees |
//! | -- | -- |
//! | the disk is full, or no file can be made | [`JoinError::Spill`] |
//! | more bytes than [`SpoolLimits::total_bytes`] | [`JoinError::SpoolTooLarge`], before the batch that is too much is written |
//! | what is read is not what was written | [`JoinError::Spill`] with `InvalidData`, or [`JoinError::Gather`] |

mod file;

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::JoinError;
use file::{FILED_ROWS, SegmentWriter, ended, write};

pub(super) use file::{Segment, SpillFile};

/// Makes an empty file to spill to, which nobody else sees.
pub type SpillFiles = Arc<dyn Fn() -> io::Result<File> + Send + Sync>;

/// Asked for so many bytes of memory more, says whether they may be held; what it granted is given back when it is dropped.
pub type Reserve = Box<dyn Fn(usize) -> bool + Send + Sync>;

/// Batches, one behind the other.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send>;

/// What is known of a row while it is joined, beside the row itself: a spine in memory counts with it.
const KNOWN_BYTES: usize = 64;

/// About how many bytes the values of a batch take. Batches are often slices of one buffer, which counts once.
pub(crate) fn slice_bytes(batch: &RecordBatch) -> usize {
    let slice = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    batch.columns().iter().map(slice).sum()
}

/// Whether somebody still waits for work that has begun.
#[derive(Debug, Clone)]
pub(super) struct Waiting(Weak<()>);

impl Waiting {
    /// Does work that takes long off the runtime; it should look up now and then whether anybody still waits for it.
    pub(super) async fn run<T: Send + 'static>(work: impl FnOnce(&Self) -> Result<T, JoinError> + Send + 'static) -> Result<T, JoinError> {
        let (seen, _waiting) = Self::new();
        tokio::task::spawn_blocking(move || work(&seen)).await?
    }

    /// Whether what is given with it lives.
    pub(super) fn new() -> (Self, Arc<()>) {
        let waiting = Arc::new(());
        (Self(Arc::downgrade(&waiting)), waiting)
    }

    /// # Errors
    /// Where nobody waits any more, and so nobody will see it.
    pub(super) fn check(&self) -> Result<(), JoinError> {
        if self.0.strong_count() > 0 { Ok(()) } else { Err(JoinError::Spill(io::ErrorKind::Interrupted.into())) }
    }
}

/// What rows that are put aside may take.
pub struct SpoolLimits {
    /// The most bytes of memory, with what a join will know of the rows; beyond it they go to a file.
    pub memory_bytes: usize,
    /// The most bytes in all, in memory or on disk.
    pub total_bytes: u64,
    /// Whether memory may be had; none: always.
    pub reserve: Option<Reserve>,
    /// Where they go to.
    pub files: SpillFiles,
}

impl fmt::Debug for SpoolLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolLimits").field("memory_bytes", &self.memory_bytes).field("total_bytes", &self.total_bytes).finish_non_exhaustive()
    }
}

/// Takes rows as they come.
pub struct Spool {
    schema: SchemaRef,
    limits: SpoolLimits,
    held: Vec<RecordBatch>,
    /// What was reserved for them.
    held_bytes: usize,
    file: Option<(Segment, SegmentWriter)>,
    batches: usize,
    rows: usize,
    bytes: u64,
}

impl Spool {
    /// Rows of a schema, of which there are none yet.
    pub fn new(schema: SchemaRef, limits: SpoolLimits) -> Self {
        Self { schema, limits, held: Vec::new(), held_bytes: 0, file: None, batches: 0, rows: 0, bytes: 0 }
    }

    /// The columns.
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Takes a batch; a file may be written to, so do it where a thread may be held up.
    ///
    /// # Errors
    /// [`JoinError::SpineSchema`] where it is of other columns, [`JoinError::SpoolTooLarge`], [`JoinError::Spill`].
    pub fn push(&mut self, batch: RecordBatch) -> Result<(), JoinError> {
        let bytes = self.admit(&batch)?;
        if self.has_room(&batch, bytes) {
            self.held.push(batch);
            return Ok(());
        }
        self.file(&batch)
    }

    /// As [`Spool::push`], without holding up a thread of the async runtime.
    ///
    /// # Errors
    /// As [`Spool::push`]; all is lost then.
    pub async fn take(mut self, batch: RecordBatch) -> Result<Self, JoinError> {
        let bytes = self.admit(&batch)?;
        if self.has_room(&batch, bytes) {
            self.held.push(batch);
            return Ok(self);
        }
        tokio::task::spawn_blocking(move || self.file(&batch).map(|()| self)).await?
    }

    /// All rows that were taken.
    ///
    /// # Errors
    /// [`JoinError::Spill`].
    pub fn finish(self) -> Result<Spooled, JoinError> {
        let lies = match self.file {
            None => {
                let held: Arc<dyn Any + Send + Sync> = Arc::new(self.limits.reserve);
                Lies::InMemory(self.held.into(), Some((held, self.held_bytes)))
            }
            Some((segment, writer)) => {
                let end = ended(writer)?;
                Lies::OnDisk(segment, end)
            }
        };
        Ok(Spooled { schema: self.schema, rows: self.rows, lies })
    }

    /// Counts a batch in; gives its bytes.
    fn admit(&mut self, batch: &RecordBatch) -> Result<usize, JoinError> {
        if batch.schema_ref().fields() != self.schema.fields() {
            return Err(JoinError::SpineSchema { batch: self.batches });
        }
        self.batches += 1;
        let bytes = slice_bytes(batch);
        self.bytes += bytes as u64;
        if self.bytes > self.limits.total_bytes {
            return Err(JoinError::SpoolTooLarge { limit: self.limits.total_bytes });
        }
        self.rows += batch.num_rows();
        Ok(bytes)
    }

    fn has_room(&mut self, batch: &RecordBatch, bytes: usize) -> bool {
        let wanted = bytes + batch.num_rows() * KNOWN_BYTES;
        if self.file.is_some() || self.held_bytes + wanted > self.limits.memory_bytes {
            return false;
        }
        let granted = self.limits.reserve.as_ref().is_none_or(|reserve| reserve(wanted));
        self.held_bytes += if granted { wanted } else { 0 };
        granted
    }

    /// Writes a batch, and first those that were held.
    fn file(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        let (_, writer) = match &mut self.file {
            Some(file) => file,
            file => {
                let segment = SpillFile::new(&self.limits.files)?.first();
                let mut writer = segment.writer(&self.schema)?;
                for held in std::mem::take(&mut self.held) {
                    write(&mut writer, &self.schema, &held)?;
                }
                self.held_bytes = 0;
                self.limits.reserve = None;
                file.insert((segment, writer))
            }
        };
        write(writer, &self.schema, batch)
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("rows", &self.rows).field("bytes", &self.bytes).field("on_disk", &self.file.is_some()).finish_non_exhaustive()
    }
}

/// Rows that were put aside; copies share them.
#[derive(Clone)]
pub struct Spooled {
    schema: SchemaRef,
    rows: usize,
    lies: Lies,
}

#[derive(Clone)]
enum Lies {
    /// With what was reserved for them.
    InMemory(Arc<[RecordBatch]>, Option<(Arc<dyn Any + Send + Sync>, usize)>),
    /// With the end of their file.
    OnDisk(Segment, u64),
}

impl Spooled {
    /// Rows in memory, of which nobody keeps account.
    pub fn of(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        Self { schema, rows, lies: Lies::InMemory(batches.into(), None) }
    }

    /// The columns.
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many rows there are.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Those that lie in memory: all, or none.
    pub fn held(&self) -> Option<&[RecordBatch]> {
        match &self.lies {
            Lies::InMemory(batches, _) => Some(batches),
            Lies::OnDisk(..) => None,
        }
    }

    /// How many bytes of memory are reserved for them.
    pub(crate) fn reserved_bytes(&self) -> usize {
        match &self.lies {
            Lies::InMemory(_, Some((_, bytes))) => *bytes,
            _ => 0,
        }
    }

    /// Where they lie on disk; none: they lie in memory.
    pub(super) const fn segment(&self) -> Option<&Segment> {
        match &self.lies {
            Lies::InMemory(..) => None,
            Lies::OnDisk(segment, _) => Some(segment),
        }
    }

    /// How many bytes they take on disk.
    pub(super) const fn disk_bytes(&self) -> u64 {
        match &self.lies {
            Lies::InMemory(..) => 0,
            Lies::OnDisk(_, end) => *end,
        }
    }

    /// A pass over the rows in some columns, by their places, ascending; none: all columns. One over rows on disk reads as it goes: take it where a thread
    /// may be held up.
    pub fn batches(&self, columns: Option<&[usize]>) -> Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send> {
        match &self.lies {
            Lies::InMemory(batches, held) => {
                let (batches, held, columns) = (Arc::clone(batches), held.clone(), columns.map(<[usize]>::to_vec));
                Box::new((0..batches.len()).map(move |number| {
                    let _held = &held;
                    match &columns {
                        None => Ok(batches[number].clone()),
                        Some(columns) => Ok(batches[number].project(columns)?),
                    }
                }))
            }
            // A message without columns does not tell its rows.
            Lies::OnDisk(..) if columns.is_some_and(<[usize]>::is_empty) => Box::new(rows_alone(self.rows)),
            Lies::OnDisk(segment, _) => segment.batches(columns.map(<[usize]>::to_vec)),
        }
    }
}

impl Spooled {
    /// A pass over the rows, as [`Spooled::batches`], that holds up no thread of the async runtime.
    pub fn stream(&self, columns: Option<&[usize]>) -> BoxStream<'static, Result<RecordBatch, JoinError>> {
        unblocked(self.batches(columns), ())
    }
}

/// A pass on threads that may be held up, and what is kept until it ends.
pub(super) fn unblocked<T: Send + 'static>(pass: Batches, held: T) -> BoxStream<'static, Result<RecordBatch, JoinError>> {
    stream::try_unfold((pass, held), |(mut pass, held)| async move {
        let (next, pass) = tokio::task::spawn_blocking(move || (pass.next(), pass)).await?;
        Ok(next.transpose()?.map(|batch| (batch, (pass, held))))
    })
    .boxed()
}

/// Batches of so many rows without columns.
fn rows_alone(rows: usize) -> impl Iterator<Item = Result<RecordBatch, JoinError>> + Send {
    (0..rows).step_by(FILED_ROWS).map(move |first| {
        let options = RecordBatchOptions::new().with_row_count(Some(FILED_ROWS.min(rows - first)));
        Ok(RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::empty()), Vec::new(), &options)?)
    })
}

impl fmt::Debug for Spooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spooled").field("rows", &self.rows).field("on_disk", &self.held().is_none()).finish_non_exhaustive()
    }
}
