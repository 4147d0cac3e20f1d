//! The rows of an answer: held in memory, put aside, or merged from what was spilled, as often as they are asked for.
//!
//! A spilled answer lies in a segment for each part of the spine, in the order of the spine's row numbers, without the spine's own columns, which lie where
//! the spine does. A pass over it reads the spine and all segments side by side, each from its beginning, and takes every row from the part that has its
//! number.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};

use super::JoinError;
use super::gather::{extend, pick};
use super::plan::JoinPlan;
use super::spool::{Batches, Segment, Spooled, Waiting, unblocked};

/// Rows that are put together at a time.
const MERGED_ROWS: usize = 1 << 15;

/// The rows of a join, in the spine's order.
#[derive(Clone)]
pub struct JoinedRows {
    rows: Lies,
    /// Given back with the last copy of the rows.
    held: Option<Arc<dyn Any + Send + Sync>>,
    /// Passes end where nobody waits for them.
    waiting: Option<Waiting>,
}

type BoxedPass<T> = Box<dyn Iterator<Item = Result<T, JoinError>> + Send>;

#[derive(Clone)]
enum Lies {
    InMemory(Arc<[RecordBatch]>),
    /// Whole, as they were put aside.
    Spooled(Spooled),
    /// To be merged.
    Spilled(Arc<Spilled>),
}

/// The features of a spine, by parts.
struct Spilled {
    plan: Arc<JoinPlan>,
    parts: Vec<Segment>,
}

impl JoinedRows {
    /// Features that were written part by part: each batch has its row numbers first.
    pub(super) fn spilled(plan: Arc<JoinPlan>, parts: Vec<Segment>) -> Self {
        Self { rows: Lies::Spilled(Arc::new(Spilled { plan, parts })), held: None, waiting: None }
    }

    /// The same rows, with what is given back when they are dropped: a reservation of their memory.
    #[must_use]
    pub fn holding(self, held: Arc<dyn Any + Send + Sync>) -> Self {
        Self { held: Some(held), ..self }
    }

    /// The same rows, passes over which end with an error once what is given with them is dropped: for passes on threads that nobody can stop.
    #[must_use]
    pub fn watched(&self) -> (Self, Arc<()>) {
        let (waiting, guard) = Waiting::new();
        (Self { waiting: Some(waiting), ..self.clone() }, guard)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match &self.rows {
            Lies::InMemory(batches) => batches.iter().map(RecordBatch::num_rows).sum(),
            Lies::Spooled(spooled) => spooled.rows(),
            Lies::Spilled(spilled) => spilled.plan.spine.rows(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A pass over the rows. One over spilled rows reads and computes as it goes: take it where a thread may be held up.
    pub fn batches(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send> {
        let all: Batches = match &self.rows {
            Lies::InMemory(batches) => {
                let batches = Arc::clone(batches);
                Box::new((0..batches.len()).map(move |number| Ok(batches[number].clone())))
            }
            Lies::Spooled(spooled) => spooled.batches(None),
            Lies::Spilled(spilled) => Box::new(Pass::new(Arc::clone(spilled), None)),
        };
        self.while_waited_for(all)
    }

    /// A pass over the rows that holds up no thread of the async runtime, and keeps what [`JoinedRows::holding`] gave until it ends.
    pub fn stream(&self) -> BoxStream<'static, Result<RecordBatch, JoinError>> {
        let held = self.held.clone();
        match &self.rows {
            Lies::InMemory(_) => stream::iter(self.batches().inspect(move |_| {
                let _held = &held;
            }))
            .boxed(),
            Lies::Spooled(_) | Lies::Spilled(_) => unblocked(self.batches(), held),
        }
    }

    /// A pass over one column of rows that have so many, `None` where a batch has others; as [`JoinedRows::batches`], without reading the rest.
    pub fn column(&self, place: usize, columns: usize) -> Box<dyn Iterator<Item = Result<Option<ArrayRef>, JoinError>> + Send> {
        self.while_waited_for(self.whole_column(place, columns))
    }

    fn while_waited_for<T: 'static>(&self, pass: BoxedPass<T>) -> BoxedPass<T> {
        match self.waiting.clone() {
            None => pass,
            Some(waiting) => Box::new(pass.map(move |next| waiting.check().and(next))),
        }
    }

    fn whole_column(&self, place: usize, columns: usize) -> BoxedPass<Option<ArrayRef>> {
        match &self.rows {
            Lies::InMemory(batches) => {
                let (batches, count) = (Arc::clone(batches), batches.len());
                let column = move |number: usize| batches[number].columns().get(place).filter(|_| batches[number].num_columns() == columns).cloned();
                Box::new((0..count).map(move |number| Ok(column(number))))
            }
            Lies::Spooled(spooled) if place < columns && columns == spooled.schema().fields().len() => only(spooled.batches(Some(&[place]))),
            Lies::Spilled(spilled) if place < columns && columns == spilled.plan.schema.fields().len() => {
                let spine = &spilled.plan.spine;
                match place.checked_sub(spine.schema().fields().len()) {
                    Some(feature) => only(Box::new(Pass::new(Arc::clone(spilled), Some(feature)))),
                    None => only(spine.rows_in(Some(&[place]))),
                }
            }
            Lies::Spooled(_) | Lies::Spilled(_) => Box::new(std::iter::once(Ok(None))),
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

/// The last column of each batch.
fn only(batches: Batches) -> BoxedPass<Option<ArrayRef>> {
    Box::new(batches.map(|batch| Ok(batch?.columns().last().cloned())))
}

impl From<Spooled> for JoinedRows {
    fn from(rows: Spooled) -> Self {
        Self { rows: Lies::Spooled(rows), held: None, waiting: None }
    }
}

impl From<Vec<RecordBatch>> for JoinedRows {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self { rows: Lies::InMemory(batches.into()), held: None, waiting: None }
    }
}

impl fmt::Debug for JoinedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = match &self.rows {
            Lies::InMemory(_) | Lies::Spooled(_) => 0,
            Lies::Spilled(spilled) => spilled.parts.len(),
        };
        f.debug_struct("JoinedRows").field("rows", &self.len()).field("parts", &parts).field("reserved", &self.held.is_some()).finish()
    }
}

/// One pass over spilled rows.
struct Pass {
    spilled: Arc<Spilled>,
    parts: Vec<Part>,
    /// The only feature that is wanted, and then without the spine; none: all.
    only: Option<usize>,
    spine: Batches,
    /// What is left of the batch of the spine that was begun.
    rest: Option<RecordBatch>,
    /// The number of the next row.
    row: usize,
    ready: VecDeque<RecordBatch>,
    ended: bool,
}

impl Pass {
    fn new(spilled: Arc<Spilled>, only: Option<usize>) -> Self {
        let part = |segment: &Segment| Part { batches: segment.batches(only.map(|feature| vec![0, feature + 1])), batch: None, row: 0 };
        let parts = spilled.parts.iter().map(part).collect();
        let spine = spilled.plan.spine.rows_in(only.map(|_| [].as_slice()));
        Self { spilled, parts, only, spine, rest: None, row: 0, ready: VecDeque::new(), ended: false }
    }

    /// Makes the next rows ready, where there are any.
    fn step(&mut self) -> Result<(), JoinError> {
        let next = match self.rest.take() {
            Some(rest) => Some(rest),
            None => self.spine.next().transpose()?,
        };
        let Some(batch) = next else {
            self.ended = true;
            return Ok(());
        };
        let rows = MERGED_ROWS.min(batch.num_rows());
        if rows < batch.num_rows() {
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        if rows > 0 {
            let (sources, places) = self.places(rows)?;
            let own = self.spilled.plan.spine.schema().fields().len();
            let (schema, features) = match self.only {
                None => (Arc::clone(&self.spilled.plan.schema), self.spilled.plan.schema.fields().len() - own),
                Some(feature) => (Arc::new(self.spilled.plan.schema.project(&[own + feature])?), 1),
            };
            let columns = |rows: Range<usize>| {
                let feature = |place: usize| {
                    let columns: Vec<&dyn Array> = sources.iter().map(|batch| batch.column(place + 1).as_ref()).collect();
                    pick(&columns, &places[rows.clone()])
                };
                (0..features).map(feature).collect()
            };
            let mut joined = Vec::with_capacity(1);
            extend(&mut joined, &schema, &batch.slice(0, rows), 0, &columns)?;
            self.ready.extend(joined);
        }
        self.row += rows;
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
        while self.ready.is_empty() && !self.ended {
            if let Err(error) = self.step() {
                self.ended = true;
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
    batches: Batches,
    batch: Option<RecordBatch>,
    row: usize,
}

impl Part {
    /// The batch that the next row is of.
    fn batch(&mut self) -> Result<Option<RecordBatch>, JoinError> {
        while self.batch.as_ref().is_none_or(|batch| self.row == batch.num_rows()) {
            (self.batch, self.row) = (self.batches.next().transpose()?, 0);
            if self.batch.is_none() {
                break;
            }
        }
        Ok(self.batch.clone())
    }
}
