//! The rows of an answer: held in memory, or merged from what was spilled, as often as they are asked for.
//!
//! A spilled answer lies in one file for each part of the spine, in the order of the spine's row numbers, without the spine's own columns, which are in
//! memory anyway. A pass over it reads all files side by side, each from its beginning, and takes every row from the part that has its number. The files
//! have no names: the system frees them when the answer is dropped and when the process dies.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use arrow::ipc::reader::StreamReader;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::task::spawn_blocking;

use super::JoinError;
use super::gather::{extend, pick};
use super::plan::JoinPlan;

/// Rows that are put together at a time.
const MERGED_ROWS: usize = 1 << 15;

/// The rows of a join, in the spine's order.
#[derive(Clone)]
pub struct JoinedRows {
    rows: Lies,
    /// Given back with the last copy of the rows.
    held: Option<Arc<dyn Any + Send + Sync>>,
}

#[derive(Clone)]
enum Lies {
    InMemory(Arc<[RecordBatch]>),
    OnDisk(Arc<Spilled>),
}

/// The features of a spine, by parts.
struct Spilled {
    plan: Arc<JoinPlan>,
    parts: Vec<Arc<File>>,
}

impl JoinedRows {
    /// Features that were written part by part: each batch has its row numbers first.
    pub(super) fn spilled(plan: Arc<JoinPlan>, parts: Vec<File>) -> Self {
        Self { rows: Lies::OnDisk(Arc::new(Spilled { plan, parts: parts.into_iter().map(Arc::new).collect() })), held: None }
    }

    /// The same rows, with what is given back when they are dropped: a reservation of their memory.
    #[must_use]
    pub fn holding(self, held: Arc<dyn Any + Send + Sync>) -> Self {
        Self { held: Some(held), ..self }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match &self.rows {
            Lies::InMemory(batches) => batches.iter().map(RecordBatch::num_rows).sum(),
            Lies::OnDisk(spilled) => spilled.plan.spine.rows(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A pass over the rows. One over spilled rows reads and computes as it goes: take it where a thread may be held up.
    pub fn batches(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send> {
        match &self.rows {
            Lies::InMemory(batches) => {
                let batches = Arc::clone(batches);
                Box::new((0..batches.len()).map(move |number| Ok(batches[number].clone())))
            }
            Lies::OnDisk(spilled) => Box::new(Pass::new(Arc::clone(spilled), None)),
        }
    }

    /// A pass over the rows that holds up no thread of the async runtime, and keeps what [`JoinedRows::holding`] gave until it ends.
    pub fn stream(&self) -> BoxStream<'static, Result<RecordBatch, JoinError>> {
        let held = self.held.clone();
        match &self.rows {
            Lies::InMemory(_) => stream::iter(self.batches().inspect(move |_| {
                let _held = &held;
            }))
            .boxed(),
            Lies::OnDisk(_) => stream::try_unfold((self.batches(), held), |(mut pass, held)| async move {
                let (next, pass) = spawn_blocking(move || (pass.next(), pass)).await?;
                Ok(next.transpose()?.map(|batch| (batch, (pass, held))))
            })
            .boxed(),
        }
    }

    /// A pass over one column of rows that have so many, `None` where a batch has others; as [`JoinedRows::batches`], without reading the rest.
    pub fn column(&self, place: usize, columns: usize) -> Box<dyn Iterator<Item = Result<Option<ArrayRef>, JoinError>> + Send> {
        match &self.rows {
            Lies::InMemory(batches) => {
                let (batches, count) = (Arc::clone(batches), batches.len());
                let column = move |number: usize| batches[number].columns().get(place).filter(|_| batches[number].num_columns() == columns).cloned();
                Box::new((0..count).map(move |number| Ok(column(number))))
            }
            Lies::OnDisk(spilled) if place < spilled.plan.schema.fields().len() && columns == spilled.plan.schema.fields().len() => {
                let own = spilled.plan.spine.schema().fields().len();
                match place.checked_sub(own) {
                    Some(feature) => Box::new(Pass::new(Arc::clone(spilled), Some(feature)).map(|batch| Ok(batch?.columns().last().cloned()))),
                    None => {
                        let plan = Arc::clone(&spilled.plan);
                        let count = plan.spine.batches().len();
                        Box::new((0..count).map(move |number| Ok(Some(Arc::clone(plan.spine.batches()[number].column(place))))))
                    }
                }
            }
            Lies::OnDisk(_) => Box::new(std::iter::once(Ok(None))),
        }
    }

    /// All rows in memory.
    ///
    /// # Errors
    /// [`JoinError::Spill`] where spilled ones cannot be read.
    pub fn collect(&self) -> Result<Vec<RecordBatch>, JoinError> {
        self.batches().collect()
    }
}

impl From<Vec<RecordBatch>> for JoinedRows {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self { rows: Lies::InMemory(batches.into()), held: None }
    }
}

impl fmt::Debug for JoinedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = match &self.rows {
            Lies::InMemory(_) => 0,
            Lies::OnDisk(spilled) => spilled.parts.len(),
        };
        f.debug_struct("JoinedRows").field("rows", &self.len()).field("files", &files).field("reserved", &self.held.is_some()).finish()
    }
}

/// One pass over spilled rows.
struct Pass {
    spilled: Arc<Spilled>,
    parts: Vec<Part>,
    /// The only feature that is wanted, and then without the spine; none: all.
    only: Option<usize>,
    /// The batch of the spine that is next, and its rows that were taken.
    batch: usize,
    taken: usize,
    /// The number of the next row.
    row: usize,
    ready: VecDeque<RecordBatch>,
    failed: bool,
}

impl Pass {
    fn new(spilled: Arc<Spilled>, only: Option<usize>) -> Self {
        let part = |file: &Arc<File>| Part { file: Some(Arc::clone(file)), only, reader: None, batch: None, row: 0 };
        let parts = spilled.parts.iter().map(part).collect();
        Self { spilled, parts, only, batch: 0, taken: 0, row: 0, ready: VecDeque::new(), failed: false }
    }

    /// Makes the next rows ready, where there are any.
    fn step(&mut self) -> Result<(), JoinError> {
        let spilled = Arc::clone(&self.spilled);
        let Some(spine) = spilled.plan.spine.batches().get(self.batch) else { return Ok(()) };
        let rows = MERGED_ROWS.min(spine.num_rows() - self.taken);
        if rows > 0 {
            let (sources, places) = self.places(rows)?;
            let own = spilled.plan.spine.schema().fields().len();
            let (schema, spine, features) = match self.only {
                None => (Arc::clone(&spilled.plan.schema), spine.slice(self.taken, rows), spilled.plan.schema.fields().len() - own),
                Some(feature) => (Arc::new(spilled.plan.schema.project(&[own + feature])?), spine.slice(self.taken, rows).project(&[])?, 1),
            };
            let columns = |rows: Range<usize>| {
                let feature = |place: usize| {
                    let columns: Vec<&dyn Array> = sources.iter().map(|batch| batch.column(place + 1).as_ref()).collect();
                    pick(&columns, &places[rows.clone()])
                };
                (0..features).map(feature).collect()
            };
            let mut joined = Vec::with_capacity(1);
            extend(&mut joined, &schema, &spine, 0, &columns)?;
            self.ready.extend(joined);
        }
        (self.taken, self.row) = (self.taken + rows, self.row + rows);
        if self.taken == spine.num_rows() {
            (self.batch, self.taken) = (self.batch + 1, 0);
        }
        Ok(())
    }

    /// Where the next rows lie.
    fn places(&mut self, rows: usize) -> Result<Lie, JoinError> {
        let (first, end) = (self.row, self.row + rows);
        let mut places = vec![(usize::MAX, 0); rows];
        let mut sources: Vec<RecordBatch> = Vec::new();
        for part in &mut self.parts {
            while let Some(batch) = part.batch()? {
                let numbers = batch.column(0).as_primitive::<UInt32Type>().values();
                let from = part.row;
                while part.row < numbers.len() && (numbers[part.row] as usize) < end {
                    let row = (numbers[part.row] as usize).checked_sub(first).ok_or_else(damaged)?;
                    places[row] = (sources.len(), part.row);
                    part.row += 1;
                }
                let is_used_up = part.row == numbers.len();
                if part.row > from {
                    sources.push(batch.clone());
                }
                if !is_used_up {
                    break;
                }
            }
        }
        if places.iter().any(|(source, _)| *source == usize::MAX) {
            return Err(damaged());
        }
        Ok((sources, places))
    }
}

fn damaged() -> JoinError {
    JoinError::Spill(io::Error::new(io::ErrorKind::InvalidData, "the rows of a part are not those that were written"))
}

impl Iterator for Pass {
    type Item = Result<RecordBatch, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.failed && self.batch < self.spilled.plan.spine.batches().len() {
            if let Err(error) = self.step() {
                self.failed = true;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

/// Batches of parts, and for each row its batch and place.
type Lie = (Vec<RecordBatch>, Vec<(usize, usize)>);

/// Where a pass stands in a part.
struct Part {
    /// The file until it is opened.
    file: Option<Arc<File>>,
    only: Option<usize>,
    reader: Option<StreamReader<BufReader<FromStart>>>,
    batch: Option<RecordBatch>,
    row: usize,
}

impl Part {
    /// The batch that the next row is of.
    fn batch(&mut self) -> Result<Option<RecordBatch>, JoinError> {
        if let Some(file) = self.file.take() {
            self.reader = Some(StreamReader::try_new(BufReader::new(FromStart { file, at: 0 }), self.only.map(|feature| vec![0, feature + 1]))?);
        }
        while self.batch.as_ref().is_none_or(|batch| self.row == batch.num_rows()) {
            (self.batch, self.row) = (self.reader.as_mut().and_then(Iterator::next).transpose()?, 0);
            if self.batch.is_none() {
                self.reader = None;
                break;
            }
        }
        Ok(self.batch.clone())
    }
}

/// Reads a file that others read too.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}
