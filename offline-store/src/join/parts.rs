//! A join that would outgrow its memory: the spine in parts, joined one after the other and spilled.
//!
//! A row of the answer depends on its own row of the spine alone, so the spine can be cut at will. It is cut by the entities of the view named first, in
//! their order ([`super::cut`]), so that files sorted by entity are read in turns and not again for each part. What grows with the rows of a part is what was
//! measured: the part's own keys and times, the matches of the views that are under way, and its features. The first part is cut by an estimate; each
//! part tells what its features took, and the next is cut by that.
//!
//! ```text
//! limit = spine and plan where it lies in memory, which stay | buffers of the cores | one part, a block of the spine on disk, or the batches of a merge
//! ```
//!
//! | it stops | what is left |
//! | -- | -- |
//! | cancelled, or an error in any part | nothing: files have no names and go with their handles |
//! | the disk is full | [`JoinError::Spill`], nothing else |
//! | a spine in memory alone outgrows the limit | [`JoinError::Memory`], before anything is read |

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::types::DataType;
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};

use super::answer::JoinedRows;
use super::cut::{Cut, Cutter, Cutting};
use super::gather::{Gathered, extend, rows_of};
use super::plan::{JoinPlan, ViewPlan};
use super::report::JoinReport;
use super::spool::{Segment, SpillFile, SpillFiles, Waiting, slice_bytes};
use super::work::Cores;
use super::{JoinError, Spine, ViewRows, gather_views};

/// What a join may use.
#[derive(Clone)]
pub struct JoinLimits {
    /// The most bytes that it holds, about: the spine, what is known of it, and what its rows match.
    pub memory_bytes: usize,
    /// The most rows of the spine that are joined at once, whatever the memory.
    pub part_rows: usize,
    /// Where it spills to.
    pub spill: SpillFiles,
}

impl fmt::Debug for JoinLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinLimits").field("memory_bytes", &self.memory_bytes).field("part_rows", &self.part_rows).finish_non_exhaustive()
    }
}

/// Held for each core: keys of row groups and batches of features on their way.
const BYTES_PER_CORE: usize = 24 << 20;

/// What a row of a part takes beside its matches and features: its keys, its time and its place among its entity's.
const PART_ROW_BYTES: usize = 96;

/// What a row takes in a view that is being matched: place, times, and its hits.
const MATCH_BYTES: usize = 48;

/// What a value of no fixed width takes until it is known better.
const VALUE_BYTES: usize = 64;

/// No part is smaller, unless the spine is.
const LEAST_ROWS: usize = 4_096;

/// Rows of a spilled batch: fewer where there are many parts, of each of which a merge holds one.
const SPILLED_ROWS: usize = 8_192;

/// The fewest rows of a spilled batch.
const LEAST_SPILLED_ROWS: usize = 256;

/// What a row of a spine on disk takes in each timeline of its part, beside what a row of one in memory does.
const ON_DISK_ROW_BYTES: usize = 24;

/// What stays in memory of a merge for each part, beside a batch.
const PART_BYTES: usize = 16 << 10;

/// Ranges of keys for each part of a spine on disk: a part begins in the middle of one and ends in the middle of another.
const RANGES_PER_PART: usize = 4;

/// The part of the memory that a block of a spine on disk may take: its rows are held once more as they are ordered.
const BLOCK_SHARE: usize = 3;

/// The least that a block takes.
const LEAST_BLOCK_BYTES: usize = 1 << 20;

impl JoinLimits {
    /// How much of so much memory a spine should take, with what is known of its rows, before it goes to disk: what is left is for the join.
    pub fn spine_share(memory_bytes: usize) -> usize {
        memory_bytes.saturating_sub(BYTES_PER_CORE * Cores::count()) / 2
    }

    /// The most rows of one part.
    pub(super) fn rows_of_part(&self, budget: usize, row_bytes: usize) -> usize {
        (budget / row_bytes).max(LEAST_ROWS).min(self.part_rows.max(1))
    }
}

impl JoinPlan {
    /// About how many bytes the join holds at most when it is done at once, with the spine where that lies in memory.
    pub fn memory_bytes(&self) -> usize {
        self.fixed_bytes() + self.spine.rows().saturating_mul(self.row_bytes())
    }

    /// The least that [`join_within`](super::join_within) can be done with.
    pub fn least_memory_bytes(&self) -> usize {
        let part = self.spine.rows().min(LEAST_ROWS) * self.row_bytes();
        self.fixed_bytes() + if self.spine.is_on_disk() { part.max(LEAST_BLOCK_BYTES * BLOCK_SHARE).max(self.merge_bytes()) } else { part }
    }

    /// What stays from the first part to the last, and the buffers of the cores.
    fn fixed_bytes(&self) -> usize {
        let of_spine = match self.spine.is_on_disk() {
            true => 0,
            // A time for each row, and for each timeline a time, a number and an entity.
            false => self.spine.batches().iter().map(slice_bytes).sum::<usize>() + self.spine.rows() * (8 + 16 * self.timelines()),
        };
        BYTES_PER_CORE * Cores::count() + of_spine
    }

    /// The memory with which a merge of the parts takes no more than a part did: more memory makes fewer of them.
    fn merge_bytes(&self) -> usize {
        let joined = self.spine.rows() as f64 * self.row_bytes() as f64;
        (joined * (PART_BYTES + LEAST_SPILLED_ROWS * self.features_bytes()) as f64).sqrt() as usize
    }

    fn timelines(&self) -> usize {
        let mut all: Vec<_> = self.views.iter().map(|view| Arc::as_ptr(&view.timeline)).collect();
        all.sort_unstable();
        all.dedup();
        all.len().max(1)
    }

    /// What is left for the rows of a part.
    ///
    /// # Errors
    /// [`JoinError::Memory`] where the limit is less than the least.
    pub(super) fn budget(&self, limits: &JoinLimits) -> Result<usize, JoinError> {
        let least = self.least_memory_bytes();
        if limits.memory_bytes < least {
            return Err(JoinError::Memory { rows: self.spine.rows(), needed: least, limit: limits.memory_bytes });
        }
        Ok(limits.memory_bytes - self.fixed_bytes())
    }

    /// What a row of the spine takes while it is joined.
    pub(super) fn row_bytes(&self) -> usize {
        let matches = MATCH_BYTES * self.views.len().min(Cores::views_at_once());
        let on_disk = if self.spine.is_on_disk() { ON_DISK_ROW_BYTES } else { 0 };
        (PART_ROW_BYTES + on_disk) * self.timelines() + matches + self.features_bytes()
    }

    /// What the features of a row take, as far as their types tell.
    fn features_bytes(&self) -> usize {
        let of_view = |view: &Arc<ViewPlan>| view.places.features.iter().map(|place| value_bytes(view.scan.columns[*place].data_type)).sum::<usize>();
        self.views.iter().map(of_view).sum()
    }

    /// The rows of the spine, those of one entity side by side where the first view has any: a cut of this order reads the views' files in turns.
    fn by_entity(&self) -> Vec<u32> {
        let Some(view) = self.views.first() else { return (0..self.spine.rows() as u32).collect() };
        let mut order = view.timeline.rows.all().to_vec();
        let mut keyed = vec![false; self.spine.rows()];
        order.iter().for_each(|row| keyed[*row as usize] = true);
        order.extend((0..self.spine.rows() as u32).filter(|row| !keyed[*row as usize]));
        order
    }

    /// Some rows of the spine, ascending: their keys and times alone.
    fn part(&self, rows: &[u32]) -> Result<Spine, JoinError> {
        let places = self.joined_columns();
        let schema = Arc::new(self.spine.schema().project(&places)?);
        Spine::new(schema, self.spine.taken(&places, rows)?, self.spine.time_column())
    }
}

fn value_bytes(data_type: DataType) -> usize {
    match data_type.to_arrow() {
        ArrowType::Boolean => 1,
        ArrowType::Int32 | ArrowType::Float32 => 4,
        ArrowType::Int64 | ArrowType::Float64 | ArrowType::Timestamp(..) => 8,
        ArrowType::FixedSizeList(_, width) => 4 * usize::try_from(width).unwrap_or_default(),
        // Where the value lies, the value itself, and once more when it is put into its place.
        _ => 8 + 2 * VALUE_BYTES,
    }
}

/// Gives the parts of a spine, one after the other.
pub(super) enum Parts {
    /// The rows in the order in which they are joined, and how many were.
    InMemory(Arc<JoinPlan>, Vec<u32>, usize),
    OnDisk(Cutter),
}

impl Parts {
    /// The parts of a spine, and how many bytes were written to cut one that lies on disk.
    ///
    /// # Errors
    /// What is wrong with a row of a spine on disk; [`JoinError::Spill`].
    pub(super) fn of(plan: Arc<JoinPlan>, cutting: Cutting, files: &SpillFiles, waiting: &Waiting) -> Result<(Self, u64), JoinError> {
        if plan.spine.is_on_disk() {
            let (cutter, bytes) = Cutter::new(plan, cutting, files, waiting)?;
            return Ok((Self::OnDisk(cutter), bytes));
        }
        let order = plan.by_entity();
        Ok((Self::InMemory(plan, order, 0), 0))
    }

    /// The next rows, at most so many; none: there are no more.
    pub(super) fn next(&mut self, rows: usize) -> Result<Option<Cut>, JoinError> {
        match self {
            Self::InMemory(_, order, done) if *done == order.len() => Ok(None),
            Self::InMemory(plan, order, done) => {
                let end = order.len().min(*done + rows);
                let mut numbers = order[*done..end].to_vec();
                *done = end;
                numbers.sort_unstable();
                Ok(Some(Cut { spine: plan.part(&numbers)?, numbers }))
            }
            Self::OnDisk(cutter) => cutter.next(rows),
        }
    }

    /// What long keys of a row take beyond what is taken for granted: in the part, as it is put in order, and where they are looked up.
    pub(super) fn key_bytes(&self) -> usize {
        match self {
            Self::InMemory(..) => 0,
            Self::OnDisk(cutter) => 3 * cutter.row_bytes().saturating_sub(ON_DISK_ROW_BYTES),
        }
    }
}

/// How a spine on disk is cut into about so many parts, where the rows of one may take `budget` bytes.
pub(super) fn cutting(parts: usize, budget: usize, limits: &JoinLimits) -> Cutting {
    let ranges = if parts > 1 { parts.saturating_mul(RANGES_PER_PART) } else { 1 };
    Cutting { ranges, block_bytes: budget / BLOCK_SHARE, block_rows: limits.part_rows }
}

/// Rows of a batch that is spilled of one of so many parts.
pub(super) fn spilled_rows(parts: usize) -> usize {
    (SPILLED_ROWS / parts.max(1)).max(LEAST_SPILLED_ROWS)
}

/// Joins part by part; as [`join_within`](super::join_within).
pub(super) async fn join_parts(
    plan: Arc<JoinPlan>,
    rows: Arc<dyn ViewRows>,
    limits: &JoinLimits,
    cores: &Cores,
) -> Result<(JoinedRows, JoinReport), JoinError> {
    let (total, estimate, budget) = (plan.spine.rows(), plan.row_bytes(), plan.budget(limits)?);
    // A merge holds a batch of each part.
    let parts = (total.saturating_mul(estimate)).div_ceil(budget.max(1)).max(total.div_ceil(limits.part_rows.max(1))).max(1);
    let batch_rows = spilled_rows(parts);
    let mut report = JoinReport {
        spine_rows: total as u64,
        reserved_bytes: limits.memory_bytes.min(plan.memory_bytes()) as u64,
        spilled_bytes: plan.spine.put_aside().disk_bytes(),
        ..JoinReport::default()
    };
    let (of, files) = (Arc::clone(&plan), Arc::clone(&limits.spill));
    let cutting = cutting(parts, budget, limits);
    let cut = move |waiting: &Waiting| Ok((Parts::of(of, cutting, &files, waiting)?, SpillFile::new(&files)?));
    let ((cut, bytes), file) = Waiting::run(cut).await?;
    report.spilled_bytes += bytes;
    let estimate = estimate + cut.key_bytes();
    // What is cut and written off the runtime, in turn.
    let (cut, file) = (Arc::new(Mutex::new(cut)), Arc::new(Mutex::new(file)));
    let (mut row_bytes, mut segments) = (estimate, Vec::new());
    loop {
        let size = limits.rows_of_part(budget, row_bytes);
        let (of, whole) = (Arc::clone(&cut), Arc::clone(&plan));
        let next = move || match of.lock().unwrap_or_else(PoisonError::into_inner).next(size)? {
            Some(Cut { spine, numbers }) => JoinPlan::of_views(spine, whole.selected.clone(), whole.options).map(|part| Some((part, numbers))),
            None => Ok(None),
        };
        let next = cores.run(next).await??;
        let Some((part, numbers)) = next else { break };
        let size = numbers.len();
        let mut of_part = JoinReport::default();
        let features = gather_views(&Arc::new(part), &rows, cores, &mut of_part).await?;
        let spread = features.iter().map(Gathered::memory_bytes).sum::<usize>() / size;
        // What the estimate holds for values of no fixed width is replaced by what they took.
        row_bytes = estimate.max(estimate - plan.features_bytes() + 2 * spread);
        let (of, file) = (Arc::clone(&plan), Arc::clone(&file));
        let write = move |_: &Waiting| {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let before = file.bytes();
            let segment = write(&of, &numbers, &features, &mut file, batch_rows)?;
            Ok((segment, file.bytes() - before))
        };
        let (segment, bytes) = Waiting::run(write).await?;
        segments.push(segment);
        report.add(of_part);
        (report.parts, report.spilled_bytes) = (report.parts + 1, report.spilled_bytes + bytes);
    }
    Ok((JoinedRows::spilled(plan, segments), report))
}

/// Writes the features of a part with their row numbers.
fn write(plan: &JoinPlan, numbers: &[u32], features: &[Gathered], file: &mut SpillFile, batch_rows: usize) -> Result<Segment, JoinError> {
    let schema = spilled_schema(plan);
    let number = Arc::new(Schema::new(vec![Arc::clone(&schema.fields()[0])]));
    let batches = numbers.chunks(batch_rows).enumerate().flat_map(|(place, chunk)| {
        let chunk: ArrayRef = Arc::new(UInt32Array::from(chunk.to_vec()));
        let mut batches = Vec::with_capacity(1);
        let written = RecordBatch::try_new(Arc::clone(&number), vec![chunk])
            .map_err(JoinError::from)
            .and_then(|chunk| extend(&mut batches, &schema, &chunk, place * batch_rows, &|rows| rows_of(features, rows)));
        match written {
            Ok(()) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    });
    file.append(&schema, batches)
}

/// The columns of a part that was joined.
pub(super) fn spilled_schema(plan: &JoinPlan) -> SchemaRef {
    let number = Arc::new(Field::new("row", ArrowType::UInt32, false));
    let features = plan.schema.fields().iter().skip(plan.spine.schema().fields().len()).cloned();
    Arc::new(Schema::new([number].into_iter().chain(features).collect::<Vec<_>>()))
}
