//! The rows of a spine, cut into parts that lie in the views as near together as can be.
//!
//! A spine in memory is cut by the order of its entities. One on disk is never held: what a join looks at of it, times, keys and row numbers, is put aside
//! once more, by ranges of the keys of the view named first.
//!
//! ```text
//! spine -> survey: rows judged, keys sampled -> ranges of equally many rows
//!       -> block by block, each ordered by range -> a segment for each range of each block
//!       -> range by range, its segments one behind the other -> parts of the rows that are wanted next
//! ```
//!
//! The sample is drawn by a hash of the row's number, so it is the same each time and follows no pattern of the spine. An entity with more rows than fit is
//! cut too; rows without a key come last. Held are the sample, a block, and where segments lie: 24 bytes for each range of each block.

use std::sync::Arc;

use anabranch_core::columns::KeyColumns;
use anabranch_core::key::KeyWriter;
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, UInt32Type};

use super::plan::JoinPlan;
use super::spool::{Batches, Segment, SpillFile, SpillFiles, Waiting, slice_bytes};
use super::{JoinError, Spine};

/// Keys that are kept of a spine to tell ranges of equally many rows: twice as many at most.
const SAMPLE: usize = 1 << 13;

/// The most ranges: a part is never less than its share of the sample.
const MAX_RANGES: usize = 1 << 10;

/// Rows of a batch that is put aside.
const BATCH_ROWS: usize = 1 << 14;

/// How rows are put aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cutting {
    /// Into how many ranges, about.
    pub(super) ranges: usize,
    /// How many bytes a block of rows may take.
    pub(super) block_bytes: usize,
    /// How many rows it has at most, a batch more or less.
    pub(super) block_rows: usize,
}

/// The rows of a part: a spine of their own, and their numbers in the whole one, ascending.
pub(super) struct Cut {
    pub(super) spine: Spine,
    pub(super) numbers: Vec<u32>,
}

/// Gives the rows of a spine that lies on disk, part by part.
pub(super) struct Cutter {
    time_column: String,
    /// The columns that are looked at, behind the row numbers.
    schema: SchemaRef,
    rows: Batches,
    rest: Option<RecordBatch>,
    row_bytes: usize,
}

impl Cutter {
    /// Judges all rows and puts them aside by ranges; gives how many bytes that took on disk, too.
    ///
    /// # Errors
    /// What is wrong with a row, by its number; [`JoinError::Spill`].
    pub(super) fn new(plan: Arc<JoinPlan>, cutting: Cutting, files: &SpillFiles, waiting: &Waiting) -> Result<(Self, u64), JoinError> {
        let Survey { sample, row_bytes } = survey(&plan, waiting)?;
        let schema = numbered_schema(&plan)?;
        let bounds = bounds(sample, cutting.ranges.min(MAX_RANGES));
        let (rows, bytes): (Batches, u64) = if bounds.is_empty() {
            (Box::new(Numbered::new(&plan, Arc::clone(&schema))), 0)
        } else {
            let (segments, bytes) = put_aside(&plan, &schema, &bounds, cutting, files, waiting)?;
            (Box::new(segments.into_iter().flat_map(|segment| segment.batches(None))), bytes)
        };
        Ok((Self { time_column: plan.spine.time_column().to_owned(), schema, rows, rest: None, row_bytes }, bytes))
    }

    /// What times and keys of a row take, on the average.
    pub(super) const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The next rows, at most so many; none: there are no more.
    pub(super) fn next(&mut self, rows: usize) -> Result<Option<Cut>, JoinError> {
        let (mut batches, mut taken) = (Vec::new(), 0);
        while taken < rows {
            let next = match self.rest.take() {
                Some(rest) => Some(rest),
                None => self.rows.next().transpose()?,
            };
            let Some(batch) = next else { break };
            let wanted = batch.num_rows().min(rows - taken);
            if wanted < batch.num_rows() {
                self.rest = Some(batch.slice(wanted, batch.num_rows() - wanted));
            }
            taken += wanted;
            batches.push(batch.slice(0, wanted));
        }
        if taken == 0 {
            return Ok(None);
        }
        let batches = by_number(batches)?;
        let columns: Vec<usize> = (1..self.schema.fields().len()).collect();
        let schema = Arc::new(self.schema.project(&columns)?);
        let numbers = batches.iter().flat_map(|batch| numbers_of(batch).iter().copied()).collect();
        let batches = batches.iter().map(|batch| batch.project(&columns)).collect::<Result<_, _>>()?;
        Ok(Some(Cut { spine: Spine::new(schema, batches, &self.time_column)?, numbers }))
    }
}

fn numbers_of(batch: &RecordBatch) -> &[u32] {
    batch.column(0).as_primitive::<UInt32Type>().values()
}

fn numbered_schema(plan: &JoinPlan) -> Result<SchemaRef, JoinError> {
    // No name: columns are told by their places, and a spine may have one of any name.
    let number = Arc::new(Field::new("", ArrowType::UInt32, false));
    let wanted = plan.spine.schema().project(&plan.joined_columns())?;
    Ok(Arc::new(Schema::new([number].into_iter().chain(wanted.fields().iter().cloned()).collect::<Vec<_>>())))
}

/// The rows of a spine with their numbers.
struct Numbered {
    schema: SchemaRef,
    batches: Batches,
    row: u32,
}

impl Numbered {
    fn new(plan: &JoinPlan, schema: SchemaRef) -> Self {
        Self { schema, batches: plan.spine.rows_in(Some(&plan.joined_columns())), row: 0 }
    }

    fn number(&mut self, batch: &RecordBatch) -> Result<RecordBatch, JoinError> {
        let end = self.row + batch.num_rows() as u32;
        let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(self.row..end));
        self.row = end;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), [numbers].into_iter().chain(batch.columns().iter().cloned()).collect())?)
    }
}

impl Iterator for Numbered {
    type Item = Result<RecordBatch, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.and_then(|batch| self.number(&batch)))
    }
}

/// Batches whose rows are in the order of their numbers.
fn by_number(batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, JoinError> {
    if batches.iter().flat_map(numbers_of).is_sorted() {
        return Ok(batches);
    }
    let place = |(number, batch): (usize, &RecordBatch)| (0..batch.num_rows()).map(move |row| (number, row)).collect::<Vec<_>>();
    let mut places: Vec<(usize, usize)> = batches.iter().enumerate().flat_map(place).collect();
    places.sort_unstable_by_key(|(batch, row)| numbers_of(&batches[*batch])[*row]);
    let of: Vec<&RecordBatch> = batches.iter().collect();
    Ok(places.chunks(BATCH_ROWS).map(|places| interleave_record_batch(&of, places)).collect::<Result<_, _>>()?)
}

/// The keys of a batch's rows of the view named first, as bytes that order as the keys do.
struct Keys(Option<KeyColumns>);

impl Keys {
    fn of(plan: &JoinPlan, rows: &Spine) -> Result<Self, JoinError> {
        Ok(Self(plan.judged_keys(rows)?.map(KeyColumns::new).transpose()?))
    }

    fn write<'a>(&self, row: usize, writer: &'a mut KeyWriter) -> Option<&'a [u8]> {
        self.0.as_ref().filter(|keys| keys.write(row, writer)).map(|_| writer.as_bytes())
    }
}

/// What is known of a spine once every row is judged.
struct Survey {
    /// Some keys of the view named first, in order.
    sample: Vec<Box<[u8]>>,
    /// What times and keys of a row take, on the average.
    row_bytes: usize,
}

/// Judges every row.
fn survey(plan: &JoinPlan, waiting: &Waiting) -> Result<Survey, JoinError> {
    let places = plan.joined_columns();
    let (mut first, mut bytes, mut sample, mut limit) = (0, 0, Vec::<(u64, Box<[u8]>)>::new(), u64::MAX);
    let mut writer = KeyWriter::default();
    for batch in plan.spine.rows_in(Some(&places)) {
        waiting.check()?;
        let batch = batch?;
        let rows = batch.num_rows();
        bytes += slice_bytes(&batch);
        let judged = || Keys::of(plan, &Spine::of(batch, plan.spine.time_column())?);
        let keys = judged().map_err(|error| error.of_later_rows(first))?;
        for row in 0..rows {
            let drawn = mixed((first + row) as u64);
            if drawn <= limit
                && let Some(key) = keys.write(row, &mut writer)
            {
                sample.push((drawn, key.into()));
            }
            if sample.len() >= 2 * SAMPLE {
                limit /= 2;
                sample.retain(|(drawn, _)| *drawn <= limit);
            }
        }
        first += rows;
    }
    let mut sample: Vec<_> = sample.into_iter().map(|(_, key)| key).collect();
    sample.sort_unstable();
    Ok(Survey { sample, row_bytes: bytes / first.max(1) })
}

/// A number that has nothing to do with another's (the finaliser of splitmix64).
const fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Where ranges begin, but for the first.
fn bounds(sample: Vec<Box<[u8]>>, ranges: usize) -> Vec<Box<[u8]>> {
    let mut bounds: Vec<_> = (1..ranges).filter_map(|range| sample.get(sample.len() * range / ranges).cloned()).collect();
    bounds.dedup();
    bounds
}

/// Puts the rows aside; gives the segments, range by range, and how many bytes they take.
fn put_aside(
    plan: &JoinPlan,
    schema: &SchemaRef,
    bounds: &[Box<[u8]>],
    cutting: Cutting,
    files: &SpillFiles,
    waiting: &Waiting,
) -> Result<(Vec<Segment>, u64), JoinError> {
    let mut file = SpillFile::new(files)?;
    // One more than there are bounds, and one for rows without a key.
    let mut ranges: Vec<Vec<Segment>> = vec![Vec::new(); bounds.len() + 2];
    let mut block = Block::default();
    let mut rows = Numbered::new(plan, Arc::clone(schema));
    loop {
        waiting.check()?;
        let next = rows.next().transpose()?;
        let ends = next.is_none();
        if let Some(batch) = next {
            block.take(plan, batch, bounds)?;
        }
        if ends || block.bytes >= cutting.block_bytes || block.rows.len() >= cutting.block_rows {
            block.write(schema, &mut file, &mut ranges)?;
        }
        if ends {
            return Ok((ranges.into_iter().flatten().collect(), file.bytes()));
        }
    }
}

/// Rows that are put aside together.
#[derive(Default)]
struct Block {
    batches: Vec<RecordBatch>,
    /// For each row its range, and where it lies.
    rows: Vec<(u32, u32, u32)>,
    bytes: usize,
}

impl Block {
    fn take(&mut self, plan: &JoinPlan, batch: RecordBatch, bounds: &[Box<[u8]>]) -> Result<(), JoinError> {
        let columns: Vec<usize> = (1..batch.num_columns()).collect();
        let keys = Keys::of(plan, &Spine::of(batch.project(&columns)?, plan.spine.time_column())?)?;
        let mut writer = KeyWriter::default();
        let number = self.batches.len() as u32;
        self.rows.extend((0..batch.num_rows()).map(|row| {
            let range = match keys.write(row, &mut writer) {
                Some(key) => bounds.partition_point(|bound| bound.as_ref() <= key),
                None => bounds.len() + 1,
            };
            (range as u32, number, row as u32)
        }));
        self.bytes += slice_bytes(&batch) + batch.num_rows() * size_of::<(u32, u32, u32)>();
        self.batches.push(batch);
        Ok(())
    }

    /// Writes a segment for each range that has rows.
    fn write(&mut self, schema: &SchemaRef, file: &mut SpillFile, ranges: &mut [Vec<Segment>]) -> Result<(), JoinError> {
        // By range, and within one in the order in which they came.
        self.rows.sort_unstable();
        let of: Vec<&RecordBatch> = self.batches.iter().collect();
        for rows in self.rows.chunk_by(|a, b| a.0 == b.0) {
            let batch = |rows: &[(u32, u32, u32)]| {
                let places: Vec<_> = rows.iter().map(|(_, batch, row)| (*batch as usize, *row as usize)).collect();
                Ok(interleave_record_batch(&of, &places)?)
            };
            ranges[rows[0].0 as usize].push(file.append(schema, rows.chunks(BATCH_ROWS).map(batch))?);
        }
        *self = Self::default();
        Ok(())
    }
}
