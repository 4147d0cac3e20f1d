//! A join that would outgrow its memory: the spine in parts, joined one after the other and spilled.
//!
//! A row of the answer depends on its own row of the spine alone, so the spine can be cut at will. It is cut by the entities of the view named first, in
//! their order, so that files sorted by entity are read in turns and not again for each part. What grows with the rows of a part is what was measured: the
//! part's own keys and times, the matches of the views that are under way, and its features. The first part is cut by an estimate; each part tells what
//! its features took, and the next is cut by that.
//!
//! ```text
//! limit = spine and plan, which stay | buffers of the cores | one part, and the batches of a merge
//! ```
//!
//! | it stops | what is left |
//! | -- | -- |
//! | cancelled, or an error in any part | nothing: files have no names and go with their handles |
//! | the disk is full | [`JoinError::Spill`], nothing else |
//! | the spine alone outgrows the limit | [`JoinError::Memory`], before anything is read |

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::sync::Arc;

use anabranch_core::types::DataType;
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;

use super::answer::JoinedRows;
use super::gather::{Gathered, extend, rows_of};
use super::plan::{JoinPlan, ViewPlan};
use super::report::JoinReport;
use super::work::Cores;
use super::{JoinError, Spine, ViewRows, gather_views};

/// What a join may use.
#[derive(Clone)]
pub struct JoinLimits {
    /// The most bytes that it holds, about: the spine, what is known of it, and what its rows match.
    pub memory_bytes: usize,
    /// The most rows of the spine that are joined at once, whatever the memory.
    pub part_rows: usize,
    /// Makes an empty file to spill to, which nobody else sees.
    pub spill: Arc<dyn Fn() -> io::Result<File> + Send + Sync>,
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

impl JoinPlan {
    /// About how many bytes the join holds at most when it is done at once, the spine included.
    pub fn memory_bytes(&self) -> usize {
        self.fixed_bytes() + self.spine.rows() * self.row_bytes()
    }

    /// The least that [`join_within`](super::join_within) can be done with.
    pub fn least_memory_bytes(&self) -> usize {
        self.fixed_bytes() + self.spine.rows().min(LEAST_ROWS) * self.row_bytes()
    }

    /// What stays from the first part to the last, and the buffers of the cores.
    fn fixed_bytes(&self) -> usize {
        // Batches are often slices of one buffer, which counts once.
        let slice = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
        let spine: usize = self.spine.batches().iter().flat_map(RecordBatch::columns).map(slice).sum();
        // A time for each row, and for each timeline a time, a number and an entity.
        BYTES_PER_CORE * Cores::count() + spine + self.spine.rows() * (8 + 16 * self.timelines())
    }

    fn timelines(&self) -> usize {
        let mut all: Vec<_> = self.views.iter().map(|view| Arc::as_ptr(&view.timeline)).collect();
        all.sort_unstable();
        all.dedup();
        all.len().max(1)
    }

    /// What a row of the spine takes while it is joined.
    fn row_bytes(&self) -> usize {
        let matches = MATCH_BYTES * self.views.len().min(Cores::views_at_once());
        PART_ROW_BYTES * self.timelines() + matches + self.features_bytes()
    }

    /// What the features of a row take, as far as their types tell.
    fn features_bytes(&self) -> usize {
        let of_view = |view: &Arc<ViewPlan>| view.places.features.iter().map(|place| value_bytes(view.scan.columns[*place].data_type)).sum::<usize>();
        self.views.iter().map(of_view).sum()
    }

    /// The rows of the spine, those of one entity side by side where the first view has any: a cut of this order reads the views' files in turns.
    pub(crate) fn by_entity(&self) -> Vec<u32> {
        let Some(view) = self.views.first() else { return (0..self.spine.rows() as u32).collect() };
        let mut order = view.timeline.rows.all().to_vec();
        let mut keyed = vec![false; self.spine.rows()];
        order.iter().for_each(|row| keyed[*row as usize] = true);
        order.extend((0..self.spine.rows() as u32).filter(|row| !keyed[*row as usize]));
        order
    }

    /// The join of some rows of the spine, ascending: their keys and times alone.
    fn part(&self, rows: &[u32]) -> Result<Self, JoinError> {
        let wanted = |field: &&Arc<Field>| {
            field.name() == self.spine.time_column() || self.selected.iter().any(|view| view.key_columns.contains(field.name()))
        };
        let places: Vec<usize> = self.spine.schema().fields().iter().enumerate().filter(|(_, field)| wanted(field)).map(|(place, _)| place).collect();
        let schema = Arc::new(self.spine.schema().project(&places)?);
        let spine = Spine::new(schema, self.spine.taken(&places, rows)?, self.spine.time_column())?;
        Self::of_views(spine, self.selected.clone(), self.options)
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

/// Joins part by part; as [`join_within`](super::join_within).
pub(super) async fn join_parts(
    plan: Arc<JoinPlan>,
    rows: Arc<dyn ViewRows>,
    limits: &JoinLimits,
    cores: &Cores,
) -> Result<(JoinedRows, JoinReport), JoinError> {
    let (total, estimate, least) = (plan.spine.rows(), plan.row_bytes(), plan.least_memory_bytes());
    if limits.memory_bytes < least {
        return Err(JoinError::Memory { rows: total, needed: least, limit: limits.memory_bytes });
    }
    let budget = limits.memory_bytes - plan.fixed_bytes();
    let mut report =
        JoinReport { spine_rows: total as u64, reserved_bytes: limits.memory_bytes.min(plan.memory_bytes()) as u64, ..JoinReport::default() };
    let of = Arc::clone(&plan);
    let order = Arc::new(cores.run(move || of.by_entity()).await?);
    // A merge holds a batch of each part.
    let parts = (total * estimate).div_ceil(budget.max(1)).max(total.div_ceil(limits.part_rows.max(1)));
    let batch_rows = (SPILLED_ROWS / parts.max(1)).max(256);
    let (mut row_bytes, mut done, mut files) = (estimate, 0, Vec::new());
    while done < total {
        let size = (budget / row_bytes).max(LEAST_ROWS).min(limits.part_rows.max(1)).min(total - done);
        let (of, all) = (Arc::clone(&plan), Arc::clone(&order));
        let cut = move || {
            let mut numbers = all[done..done + size].to_vec();
            numbers.sort_unstable();
            of.part(&numbers).map(|part| (Arc::new(part), numbers))
        };
        let (part, numbers) = cores.run(cut).await??;
        let mut of_part = JoinReport::default();
        let features = gather_views(&part, &rows, cores, &mut of_part).await?;
        let spread = features.iter().map(Gathered::memory_bytes).sum::<usize>() / size;
        // What the estimate holds for values of no fixed width is replaced by what they took.
        row_bytes = estimate.max(estimate - plan.features_bytes() + 2 * spread);
        let (of, spill) = (Arc::clone(&plan), Arc::clone(&limits.spill));
        let (file, bytes) = tokio::task::spawn_blocking(move || write(&of, &numbers, &features, &spill, batch_rows)).await??;
        files.push(file);
        report.add(of_part);
        (report.parts, report.spilled_bytes, done) = (report.parts + 1, report.spilled_bytes + bytes, done + size);
    }
    Ok((JoinedRows::spilled(plan, files), report))
}

/// Writes the features of a part with their row numbers; gives how many bytes that took.
fn write(
    plan: &JoinPlan,
    numbers: &[u32],
    features: &[Gathered],
    spill: &Arc<dyn Fn() -> io::Result<File> + Send + Sync>,
    batch_rows: usize,
) -> Result<(File, u64), JoinError> {
    let schema = spilled_schema(plan);
    let number = Arc::new(Schema::new(vec![Arc::clone(&schema.fields()[0])]));
    let file = spill().map_err(JoinError::Spill)?;
    let mut writer = StreamWriter::try_new(BufWriter::new(file), &schema).map_err(spilling)?;
    for (place, chunk) in numbers.chunks(batch_rows).enumerate() {
        let chunk: ArrayRef = Arc::new(UInt32Array::from(chunk.to_vec()));
        let chunk = RecordBatch::try_new(Arc::clone(&number), vec![chunk])?;
        let mut batches = Vec::with_capacity(1);
        extend(&mut batches, &schema, &chunk, place * batch_rows, &|rows| rows_of(features, rows))?;
        for batch in batches {
            writer.write(&batch).map_err(spilling)?;
        }
    }
    let mut file = writer.into_inner().map_err(spilling)?.into_inner().map_err(|error| JoinError::Spill(error.into_error()))?;
    file.flush().map_err(JoinError::Spill)?;
    let bytes = file.stream_position().map_err(JoinError::Spill)?;
    Ok((file, bytes))
}

fn spilled_schema(plan: &JoinPlan) -> SchemaRef {
    let number = Arc::new(Field::new("row", ArrowType::UInt32, false));
    let features = plan.schema.fields().iter().skip(plan.spine.schema().fields().len()).cloned();
    Arc::new(Schema::new([number].into_iter().chain(features).collect::<Vec<_>>()))
}

fn spilling(error: arrow::error::ArrowError) -> JoinError {
    match error {
        arrow::error::ArrowError::IoError(_, error) => JoinError::Spill(error),
        other => JoinError::Gather(other),
    }
}
