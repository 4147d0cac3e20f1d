//! A join whose parts are done by somebody else: the parts of its spine that are given away, and their features as they come back.
//!
//! A row of the answer depends on its own row of the spine and on the views, on nothing else: the parts can be joined anywhere, and again. What is given away is
//! what a join looks at, times and keys, with the number of each row of the whole spine in the last column; what comes back is these numbers with the
//! features. All else stays where it lies. The spine is cut as one that outgrows its memory ([`super::parts`]), one part at a time; what comes back goes to
//! files without names, and is merged with the spine as the answer is read.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::answer::JoinedRows;
use super::cut::Cut;
use super::parts::{JoinLimits, Parts, cutting, spilled_rows, spilled_schema};
use super::plan::JoinPlan;
use super::report::{JoinReport, Stopwatch, micros};
use super::spool::{Segment, SpillFiles, Spool, SpoolLimits, Spooled, Waiting};
use super::{JoinError, Joined};

/// A join whose spine is being given away, part by part.
pub(crate) struct Divided {
    parts: Parts,
    part_rows: usize,
    given: Given,
}

/// A part of a spine, or that all were given.
pub(crate) enum Next {
    /// A part, and what gives the others.
    Part(Divided, Vec<RecordBatch>),
    /// There are no more.
    All(Given),
}

/// A join whose spine was given away.
pub(crate) struct Given {
    plan: Arc<JoinPlan>,
    schema: SchemaRef,
    parts: usize,
    cut_bytes: u64,
    watch: Stopwatch,
    files: SpillFiles,
}

impl Divided {
    /// Cuts a spine into so many parts of equally many rows, or into more where one would outgrow the limits.
    ///
    /// # Errors
    /// What is wrong with a row of a spine on disk; [`JoinError::Memory`] and [`JoinError::Spill`].
    pub(crate) async fn new(plan: Arc<JoinPlan>, parts: usize, limits: &JoinLimits) -> Result<Self, JoinError> {
        let (watch, budget, spine) = (Stopwatch::start(), plan.budget(limits)?, plan.spine());
        let part_rows = spine.rows().div_ceil(parts.max(1)).clamp(1, limits.rows_of_part(budget, plan.row_bytes()));
        let cutting = cutting(spine.rows().div_ceil(part_rows), budget, limits);
        let number = Arc::new(Field::new(number_column(spine.schema()), DataType::UInt32, false));
        let wanted = spine.schema().project(&plan.joined_columns())?;
        let schema = Arc::new(Schema::new(wanted.fields().iter().cloned().chain([number]).collect::<Vec<_>>()));
        let (of, files) = (Arc::clone(&plan), Arc::clone(&limits.spill));
        let (parts, cut_bytes) = Waiting::run(move |waiting| Parts::of(of, cutting, &files, waiting)).await?;
        // Only now it is known how long keys are.
        let part_rows = part_rows.min(limits.rows_of_part(budget, plan.row_bytes() + parts.key_bytes()));
        let given = Given { plan, schema, parts: 0, cut_bytes, watch, files: Arc::clone(&limits.spill) };
        Ok(Self { parts, part_rows, given })
    }

    /// The columns of a part.
    pub(crate) const fn schema(&self) -> &SchemaRef {
        &self.given.schema
    }

    /// The next part, its rows in the order of the spine. Take it where a thread may be held up.
    ///
    /// # Errors
    /// [`JoinError::Spill`].
    pub(crate) fn next(mut self) -> Result<Next, JoinError> {
        let Some(Cut { spine, numbers }) = self.parts.next(self.part_rows)? else { return Ok(Next::All(self.given)) };
        self.given.parts += 1;
        let mut rest = &numbers[..];
        let numbered = spine.batches().iter().map(|batch| {
            let (of_batch, after) = rest.split_at(batch.num_rows());
            rest = after;
            let of_batch: ArrayRef = Arc::new(UInt32Array::from(of_batch.to_vec()));
            RecordBatch::try_new(Arc::clone(&self.given.schema), batch.columns().iter().cloned().chain([of_batch]).collect())
        });
        let numbered = numbered.collect::<Result<_, _>>()?;
        Ok(Next::Part(self, numbered))
    }
}

impl Given {
    /// The columns of a part.
    pub(crate) const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many rows all parts have together.
    pub(crate) fn rows(&self) -> usize {
        self.plan.spine().rows()
    }

    /// What takes the features of a part.
    pub(crate) fn taking(&self) -> Taking {
        let limits = SpoolLimits { memory_bytes: 0, total_bytes: u64::MAX, reserve: None, files: Arc::clone(&self.files) };
        Taking { spool: Spool::new(spilled_schema(&self.plan), limits), batch_rows: spilled_rows(self.parts) }
    }

    /// The answer, once the features of every part were taken.
    pub(crate) fn joined(self, taken: Vec<Taken>) -> Joined {
        let segments: Vec<Segment> = taken.iter().filter_map(|part| part.0.segment()).cloned().collect();
        let spilled = taken.iter().map(|part| part.0.disk_bytes()).sum::<u64>();
        let report = JoinReport {
            spine_rows: self.rows() as u64,
            parts: self.parts as u64,
            spilled_bytes: self.plan.spine().put_aside().disk_bytes() + self.cut_bytes + spilled,
            wall_us: micros(self.watch.elapsed()),
            ..JoinReport::default()
        };
        Joined { schema: Arc::clone(self.plan.schema()), rows: JoinedRows::spilled(self.plan, segments), report }
    }
}

/// Takes the features of a part as they come back: batches of row numbers, ascending, with the features behind them.
#[derive(Debug)]
pub(crate) struct Taking {
    spool: Spool,
    batch_rows: usize,
}

/// The features of a part.
#[derive(Debug)]
pub(crate) struct Taken(Spooled);

impl Taking {
    /// Takes a batch, whatever its columns are called.
    ///
    /// # Errors
    /// [`JoinError::Gather`] where the columns are of other types, [`JoinError::Spill`]; all is lost then.
    pub(crate) async fn take(mut self, batch: &RecordBatch) -> Result<Self, JoinError> {
        let batch = RecordBatch::try_new(Arc::clone(self.spool.schema()), batch.columns().to_vec())?;
        for first in (0..batch.num_rows()).step_by(self.batch_rows) {
            self.spool = self.spool.take(batch.slice(first, self.batch_rows.min(batch.num_rows() - first))).await?;
        }
        Ok(self)
    }

    /// # Errors
    /// [`JoinError::Spill`].
    pub(crate) fn finish(self) -> Result<Taken, JoinError> {
        self.spool.finish().map(Taken)
    }
}

impl Taken {
    /// How many rows there are.
    pub(crate) const fn rows(&self) -> usize {
        self.0.rows()
    }
}

/// The name of the column of row numbers beside these columns. No feature is called so: two underscores in a row are kept for output columns, and no view
/// has an empty name.
fn number_column(spine: &Schema) -> String {
    let mut name = "__row".to_owned();
    while spine.column_with_name(&name).is_some() {
        name.push('_');
    }
    name
}
