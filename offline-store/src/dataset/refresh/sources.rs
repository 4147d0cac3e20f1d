//! Where the rows of a refreshed dataset come from, and how they come together.
//!
//! An earlier dataset and a spine that was made anew are in the same order, so they are walked side by side once, and what was found is read again in that
//! order when the rows are put together.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use arrow::row::{Row, RowConverter, Rows, SortField};

use crate::Result;
use crate::dataset::{DatasetColumn, DatasetError, canonical_schema};
use crate::join::{JoinError, JoinedRows, Spine, Spool, Spooled};

/// Where a row of a refreshed dataset comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Source {
    /// The next row of the earlier dataset that is used.
    Earlier,
    /// The same row of it as before.
    EarlierAgain,
    /// The next of the rows that are joined again.
    Joined,
}

/// Where the rows of a refreshed dataset come from.
#[derive(Debug, Clone)]
pub struct Sources {
    rows: Vec<Source>,
    /// Which rows of the earlier dataset are used.
    used: Vec<bool>,
}

impl Sources {
    /// Of a spine whose rows are those of the earlier dataset; `changed` says which are joined again.
    pub fn of_same(changed: &[bool]) -> Self {
        let rows = changed.iter().map(|changed| if *changed { Source::Joined } else { Source::Earlier }).collect();
        Self { rows, used: changed.iter().map(|changed| !changed).collect() }
    }

    /// Of a spine that was made anew, in canonical form and of these columns; the earlier dataset has them first, in the order of the same kind of spine.
    /// What is found in it and has not changed is taken from there.
    ///
    /// Rows of a query are in the order of all their columns, so every row that the earlier dataset has is found. Events are in the order of their times and
    /// of what no column tells: a row is found unless one of its time that came before it is gone.
    ///
    /// # Errors
    /// [`DatasetError::Schema`] where the earlier dataset has other columns; where rows on disk cannot be read.
    pub fn of_derived(columns: &[DatasetColumn], earlier: &Spooled, spine: &Spine, changed: &[bool], in_order_of_all: bool) -> Result<Self> {
        let time = columns.iter().position(|column| column.name == spine.time_column()).ok_or(DatasetError::Schema)?;
        let by: Vec<usize> = std::iter::once(time).chain((0..columns.len()).filter(|place| *place != time)).collect();
        let schema = canonical_schema(columns);
        let converter = Arc::new(RowConverter::new(by.iter().map(|place| SortField::new(schema.field(*place).data_type().clone())).collect())?);
        let places: Vec<usize> = (0..columns.len()).collect();
        let rows_of = |rows: &Spooled| SortedRows::new(rows.batches(Some(&places)), &schema, &converter, &by);
        let (mut then, mut now) = (rows_of(earlier), rows_of(spine.put_aside()));
        let (mut rows, mut used) = (Vec::with_capacity(spine.rows()), vec![false; earlier.rows()]);
        // The row that was found last.
        let mut last: Vec<u8> = Vec::new();
        while let Some(row) = now.peek()? {
            let row = row.data();
            let source = loop {
                let Some(known) = then.peek()?.map(|row| row.data()) else { break if last == row { Source::EarlierAgain } else { Source::Joined } };
                if known == row {
                    last.clear();
                    last.extend_from_slice(row);
                    used[then.number] = !changed[now.number];
                    then.advance();
                    break Source::Earlier;
                }
                if last == row {
                    break Source::EarlierAgain;
                }
                // A time is the first thing in a row, and always as long.
                let compared = if in_order_of_all { row.len().max(known.len()) } else { TIME_BYTES };
                let (before, after) = (&known[..known.len().min(compared)], &row[..row.len().min(compared)]);
                if before >= after {
                    break Source::Joined;
                }
                then.advance();
            };
            rows.push(if changed[now.number] { Source::Joined } else { source });
            now.advance();
        }
        Ok(Self { rows, used })
    }

    /// How many rows are joined again.
    pub fn joined(&self) -> u64 {
        self.rows.iter().filter(|source| **source == Source::Joined).count() as u64
    }

    /// The rows of the spine that are joined again, put aside.
    ///
    /// # Errors
    /// As [`Spool::push`]; where rows on disk cannot be read.
    pub fn to_join(&self, spine: &Spine, mut into: Spool) -> Result<Spooled> {
        let mut first = 0;
        for batch in spine.all().batches() {
            let batch = batch?;
            let mask: BooleanArray = self.rows[first..first + batch.num_rows()].iter().map(|source| Some(*source == Source::Joined)).collect();
            first += batch.num_rows();
            let wanted = filter_record_batch(&batch, &mask)?;
            if wanted.num_rows() > 0 {
                into.push(wanted)?;
            }
        }
        Ok(into.finish()?)
    }
}

/// The bytes of a time in a row: that it is there, and itself.
const TIME_BYTES: usize = 9;

/// Rows as bytes that order as they do, one after the other.
struct SortedRows {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send>,
    schema: SchemaRef,
    converter: Arc<RowConverter>,
    by: Vec<usize>,
    rows: Option<Rows>,
    /// The next row in its batch, and among all.
    place: usize,
    number: usize,
}

impl SortedRows {
    fn new(
        batches: Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send>,
        schema: &SchemaRef,
        converter: &Arc<RowConverter>,
        by: &[usize],
    ) -> Self {
        Self { batches, schema: Arc::clone(schema), converter: Arc::clone(converter), by: by.to_vec(), rows: None, place: 0, number: 0 }
    }

    /// The next row; none: there are no more.
    fn peek(&mut self) -> Result<Option<Row<'_>>> {
        while self.rows.as_ref().is_none_or(|rows| self.place == rows.num_rows()) {
            let Some(batch) = self.batches.next().transpose()? else { return Ok(None) };
            if !types_of(&batch).eq(self.schema.fields().iter().map(|field| field.data_type())) {
                return Err(DatasetError::Schema.into());
            }
            let columns: Vec<ArrayRef> = self.by.iter().map(|place| Arc::clone(batch.column(*place))).collect();
            (self.rows, self.place) = (Some(self.converter.convert_columns(&columns)?), 0);
        }
        Ok(self.rows.as_ref().map(|rows| rows.row(self.place)))
    }

    fn advance(&mut self) {
        (self.place, self.number) = (self.place + 1, self.number + 1);
    }
}

fn types_of(batch: &RecordBatch) -> impl Iterator<Item = &ArrowType> {
    batch.columns().iter().map(|column| column.data_type())
}

/// Rows of an earlier dataset and rows joined again, in the order that `sources` say; all of one schema.
///
/// # Errors
/// [`DatasetError::Schema`] where the batches are not of the schema, or there are not as many rows as the sources want; as [`Spool::push`].
pub fn assemble(earlier: &Spooled, joined: &JoinedRows, sources: &Sources, mut into: Spool) -> Result<Spooled> {
    let schema = Arc::clone(into.schema());
    let mut first = 0;
    let used = earlier.batches(None).map(|batch| -> Result<RecordBatch> {
        let batch = batch?;
        let mask = BooleanArray::from(sources.used.get(first..first + batch.num_rows()).ok_or(DatasetError::Schema)?.to_vec());
        first += batch.num_rows();
        Ok(filter_record_batch(&batch, &mask)?)
    });
    let joined = joined.batches().map(|batch| -> Result<RecordBatch> { Ok(batch?) });
    let mut of = [Taken::new(Box::new(used)), Taken::new(Box::new(joined))];
    for wanted in sources.rows.chunks(ASSEMBLED_ROWS) {
        of.iter_mut().for_each(Taken::begin);
        let mut places = Vec::with_capacity(wanted.len());
        for source in wanted {
            let place = match source {
                Source::Earlier => of[0].next()?,
                Source::EarlierAgain => of[0].last,
                Source::Joined => of[1].next()?,
            };
            places.push((usize::from(*source == Source::Joined), place.ok_or(DatasetError::Schema)?));
        }
        let [earlier, joined] = &of;
        let batches: Vec<&RecordBatch> = earlier.batches.iter().chain(&joined.batches).collect();
        if !batches.iter().all(|batch| types_of(batch).eq(schema.fields().iter().map(|field| field.data_type()))) {
            return Err(DatasetError::Schema.into());
        }
        let places: Vec<_> = places.iter().map(|(side, (batch, row))| (side * earlier.batches.len() + batch, *row)).collect();
        let column = |column: usize| {
            let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
            interleave(&arrays, &places)
        };
        let columns = (0..schema.fields().len()).map(column).collect::<Result<Vec<_>, _>>()?;
        into.push(RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    Ok(into.finish()?)
}

/// Rows that are put together at a time.
const ASSEMBLED_ROWS: usize = 1 << 13;

/// Rows of one side as they are taken, and the batches of those taken since the last beginning.
struct Taken<'a> {
    rest: Box<dyn Iterator<Item = Result<RecordBatch>> + 'a>,
    batches: Vec<RecordBatch>,
    /// The batch and the row taken last.
    last: Option<(usize, usize)>,
}

impl<'a> Taken<'a> {
    fn new(rest: Box<dyn Iterator<Item = Result<RecordBatch>> + 'a>) -> Self {
        Self { rest, batches: Vec::new(), last: None }
    }

    /// Lets go of all batches but the one that the last row is of.
    fn begin(&mut self) {
        if let Some((batch, _)) = &mut self.last {
            self.batches.drain(..*batch);
            *batch = 0;
        }
    }

    fn next(&mut self) -> Result<Option<(usize, usize)>> {
        let (mut batch, mut row) = self.last.map_or((0, 0), |(batch, row)| (batch, row + 1));
        while self.batches.get(batch).is_none_or(|rows| row == rows.num_rows()) {
            if self.batches.get(batch).is_some() {
                (batch, row) = (batch + 1, 0);
            }
            if batch == self.batches.len() {
                match self.rest.next().transpose()? {
                    Some(rows) => self.batches.push(rows),
                    None => return Ok(None),
                }
            }
        }
        self.last = Some((batch, row));
        Ok(self.last)
    }
}
