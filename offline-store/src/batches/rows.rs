//! A dataset's rows, packed in blocks: in memory as far as the cache's budget goes, in an unnamed file beyond that.
//!
//! The file has no name from the beginning, so it goes with its last reader or with the process, whatever ends that. Picks from it are sorted, and what
//! lies close together is read at once; rows in memory are picked as they come.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::cache::{Medium, Reservation, RowCache};
use super::packed::{Block, Layout, PackedColumn, Picked};
use super::{BatchesError, RowSet};
use crate::dataset::SplitRule;

/// Rows of a block; every block but the last has so many.
const BLOCK_ROWS: u64 = 16 << 10;
/// Pieces of the file that are at most so far apart are read at once.
const GAP_BYTES: u64 = 4 << 10;
/// The most that is read at once.
const READ_BYTES: u64 = 256 << 10;

/// All rows of a dataset, any of them in one read.
#[derive(Debug)]
pub struct PackedRows {
    layout: Layout,
    rows: u64,
    bytes: u64,
    blocks: Vec<Stored>,
    file: Option<File>,
    /// Which columns have nulls.
    nulls: Vec<bool>,
    picks: AtomicU64,
    /// The rows of each split, by the rule that was asked for. A bit a row, beside the budget.
    splits: Mutex<HashMap<String, Splitting>>,
    /// Given back when the rows are dropped, after them.
    _reserved: Vec<Reservation>,
}

type Splitting = Arc<OnceLock<Vec<Arc<RowSet>>>>;

#[derive(Debug)]
enum Stored {
    Memory(Block),
    /// Where its parts begin in the file.
    File {
        fixed: u64,
        heap: u64,
    },
}

/// Packs rows in their order.
#[derive(Debug)]
pub struct RowsBuilder {
    cache: Arc<RowCache>,
    folder: PathBuf,
    packed: PackedRows,
    open: Block,
    open_rows: u64,
    written: u64,
}

/// A part of the file that belongs somewhere in a buffer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    at: u64,
    to: usize,
    length: usize,
}

impl RowsBuilder {
    pub(super) fn new(cache: Arc<RowCache>, folder: PathBuf, columns: &[PackedColumn]) -> Self {
        let (layout, nulls) = (Layout::new(columns), vec![false; columns.len()]);
        let packed = PackedRows {
            layout,
            rows: 0,
            bytes: 0,
            blocks: Vec::new(),
            file: None,
            nulls,
            picks: AtomicU64::new(0),
            splits: Mutex::default(),
            _reserved: Vec::new(),
        };
        Self { cache, folder, packed, open: Block::default(), open_rows: 0, written: 0 }
    }

    /// Takes the next rows. It may block on the disk.
    ///
    /// # Errors
    /// [`BatchesError::Rows`] where they do not have the columns; [`BatchesError::Full`] and [`BatchesError::Io`] where there is no room.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), BatchesError> {
        let columns = self.packed.layout.canonical(batch)?;
        let (mut from, rows) = (0, batch.num_rows());
        while from < rows {
            let take = (rows - from).min((BLOCK_ROWS - self.open_rows) as usize);
            let part: Vec<_> = columns.iter().map(|column| column.slice(from, take)).collect();
            self.packed.layout.pack(&part, &mut self.packed.nulls, &mut self.open)?;
            self.open_rows += take as u64;
            from += take;
            if self.open_rows == BLOCK_ROWS {
                self.seal()?;
            }
        }
        Ok(())
    }

    /// The rows, once all are in.
    ///
    /// # Errors
    /// As [`RowsBuilder::push`].
    pub fn finish(mut self) -> Result<PackedRows, BatchesError> {
        if self.open_rows > 0 {
            self.seal()?;
        }
        Ok(self.packed)
    }

    fn seal(&mut self) -> Result<(), BatchesError> {
        let mut block = std::mem::take(&mut self.open);
        block.fixed.shrink_to_fit();
        block.heap.shrink_to_fit();
        let bytes = (block.fixed.len() + block.heap.len()) as u64;
        self.packed.rows += std::mem::take(&mut self.open_rows);
        self.packed.bytes += bytes;
        let stored = match RowCache::reserve(&self.cache, Medium::Memory, bytes) {
            Some(reserved) => {
                self.packed._reserved.push(reserved);
                Stored::Memory(block)
            }
            None => {
                let full = || BatchesError::Full { needed: self.packed.bytes, limit: self.cache.limits().disk_bytes };
                let reserved = RowCache::reserve(&self.cache, Medium::Disk, bytes).ok_or_else(full)?;
                self.packed._reserved.push(reserved);
                self.write(&block)?
            }
        };
        self.packed.blocks.push(stored);
        Ok(())
    }

    fn write(&mut self, block: &Block) -> Result<Stored, BatchesError> {
        let file = match &mut self.packed.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.folder)?),
        };
        let (fixed, heap) = (self.written, self.written + block.fixed.len() as u64);
        file.write_all_at(&block.fixed, fixed)?;
        file.write_all_at(&block.heap, heap)?;
        self.written = heap + block.heap.len() as u64;
        Ok(Stored::File { fixed, heap })
    }
}

impl PackedRows {
    /// How many rows there are.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// How many bytes they take.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How often rows were picked.
    pub fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    /// The columns of some names, all where there are none.
    ///
    /// # Errors
    /// [`BatchesError::Invalid`] that names one that is not there, and those that are.
    pub fn select(&self, names: &[String]) -> Result<Vec<usize>, BatchesError> {
        self.layout.select(names)
    }

    /// The schema of some columns, in canonical types, all of them nullable.
    pub fn schema(&self, columns: &[usize]) -> SchemaRef {
        self.layout.schema(columns)
    }

    /// Some columns of rows, in the order given; a row may come more than once. It may block on the disk.
    ///
    /// # Errors
    /// [`BatchesError::Invalid`] for a row that is not there, or where a column would have over 2 GiB; [`BatchesError::Io`].
    pub fn pick(&self, rows: &[u64], columns: &[usize]) -> Result<RecordBatch, BatchesError> {
        if let Some(row) = rows.iter().find(|row| **row >= self.rows) {
            return Err(BatchesError::Invalid { what: "row", reason: format!("there is no row {row}: there are {}", self.rows) });
        }
        self.picks.fetch_add(1, Ordering::Relaxed);
        let fixed = self.fixed(rows)?;
        let (heap, heap_at) = self.heap(rows, &fixed)?;
        self.layout.unpack(&Picked { rows: rows.len(), fixed, heap, heap_at }, columns, &self.nulls)
    }

    /// The rows of the split at a place of a rule; none where the rule has no such place. Asked for first, it looks at all rows.
    ///
    /// # Errors
    /// [`BatchesError::Rows`] where the rows have not the columns that the rule looks at.
    pub fn split(&self, rule: &SplitRule, places: usize, place: usize) -> Result<Arc<RowSet>, BatchesError> {
        let name = serde_json::to_string(rule).map_err(|error| BatchesError::Rows { reason: error.to_string() })?;
        let cell = Arc::clone(self.splits.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default());
        let sets = match cell.get() {
            Some(sets) => sets,
            // Two who ask at a time may both look; they find the same.
            None => {
                let found = self.divide(rule, places)?;
                cell.get_or_init(|| found)
            }
        };
        Ok(sets.get(place).map_or_else(|| Arc::new(RowSet::All(0)), Arc::clone))
    }

    fn divide(&self, rule: &SplitRule, places: usize) -> Result<Vec<Arc<RowSet>>, BatchesError> {
        let columns = self.layout.select(rule.columns())?;
        let mut assigned = Vec::with_capacity(self.rows as usize);
        for first in (0..self.rows).step_by(BLOCK_ROWS as usize) {
            let rows: Vec<_> = (first..self.rows.min(first + BLOCK_ROWS)).collect();
            let found = rule.assign(&self.pick(&rows, &columns)?).map_err(|error| BatchesError::Rows { reason: error.to_string() })?;
            assigned.extend(found.into_iter().map(|place| u16::try_from(place).unwrap_or(u16::MAX)));
        }
        Ok((0..places).map(|place| Arc::new(assigned.iter().map(|found| usize::from(*found) == place).collect())).collect())
    }

    fn fixed(&self, rows: &[u64]) -> Result<Vec<u8>, BatchesError> {
        let stride = self.layout.stride;
        let mut out = vec![0; rows.len() * stride];
        let mut pieces = Vec::new();
        for (slot, row) in rows.iter().enumerate() {
            let within = (row % BLOCK_ROWS) as usize * stride;
            match &self.blocks[(row / BLOCK_ROWS) as usize] {
                Stored::Memory(block) => out[slot * stride..][..stride].copy_from_slice(&block.fixed[within..][..stride]),
                Stored::File { fixed, .. } => pieces.push(Piece { at: fixed + within as u64, to: slot * stride, length: stride }),
            }
        }
        self.read(pieces, &mut out)?;
        Ok(out)
    }

    /// The heaps of rows, one behind the other, and where each begins.
    fn heap(&self, rows: &[u64], fixed: &[u8]) -> Result<(Vec<u8>, Vec<usize>), BatchesError> {
        let ranges: Option<Vec<_>> = fixed.chunks_exact(self.layout.stride).map(|row| self.layout.heap_range(row)).collect();
        let Some(ranges) = ranges else { return Ok((Vec::new(), Vec::new())) };
        let (mut starts, mut end) = (Vec::with_capacity(rows.len()), 0);
        for (_, length) in &ranges {
            starts.push(end);
            end += length;
        }
        let mut out = vec![0; end];
        let mut pieces = Vec::new();
        for ((row, (begin, length)), to) in rows.iter().zip(&ranges).zip(&starts) {
            match &self.blocks[(row / BLOCK_ROWS) as usize] {
                Stored::Memory(block) => {
                    let begin = *begin as usize;
                    let bytes = block.heap.get(begin..begin + length).ok_or(BatchesError::Damaged("a row lies beyond its block"))?;
                    out[*to..to + length].copy_from_slice(bytes);
                }
                Stored::File { heap, .. } => pieces.push(Piece { at: heap + begin, to: *to, length: *length }),
            }
        }
        self.read(pieces, &mut out)?;
        Ok((out, starts))
    }

    /// Reads pieces of the file into their places.
    fn read(&self, mut pieces: Vec<Piece>, out: &mut [u8]) -> Result<(), BatchesError> {
        let Some(file) = &self.file else { return Ok(()) };
        pieces.sort_unstable();
        let (mut run, mut buffer) = (pieces.as_slice(), Vec::new());
        while let Some(first) = run.first() {
            let mut end = first.at + first.length as u64;
            let mut count = 1;
            while let Some(next) = run.get(count)
                && next.at <= end + GAP_BYTES
                && next.at + next.length as u64 - first.at <= READ_BYTES
            {
                end = end.max(next.at + next.length as u64);
                count += 1;
            }
            buffer.resize((end - first.at) as usize, 0);
            file.read_exact_at(&mut buffer, first.at)?;
            for piece in &run[..count] {
                let from = (piece.at - first.at) as usize;
                out[piece.to..piece.to + piece.length].copy_from_slice(&buffer[from..from + piece.length]);
            }
            run = &run[count..];
        }
        Ok(())
    }
}
