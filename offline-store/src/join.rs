//! The point-in-time join: for each row of a spine, what each view's features were, and were known to be, at that row's time.
//!
//! For a spine row with key *k* and time *t* and a view with lookback *L*, the candidates are the view's rows with key *k*, `event_time <= t`,
//! `event_time >= t - L` (both edges inclusive; no lookback: unbounded) and, under the default [`Knowledge::Spine`], `known_time <= t`;
//! [`Knowledge::Any`] drops the last condition and [`Knowledge::At`] puts its own time in the place of *t* there. [`JoinOptions::strict`] makes the first
//! `<`. The match is the candidate that is last in the total order ([`anabranch_core::order`]). No match, a tombstone and a null feature all give null; no
//! older row is asked instead. The output has exactly the spine's rows in the spine's order, its columns first. A null key matches nothing.
//!
//! The module knows nothing of tables: a [`ViewRows`] gives each view as of one commit, as chunks whose columns are read apart. Everything that can be
//! refused without reading is refused by [`JoinPlan::new`]. Keys are matched first, then features are read where a row matched, and their values gathered
//! straight into the output. A join that would outgrow its memory is done in parts of the spine that are spilled ([`join_within`]), and the spine may lie on
//! disk itself ([`Spool`]). Work runs off the async runtime, as much at a time as there are cores; dropping the future of [`join`] stops it at the next
//! chunk.

mod answer;
mod cut;
mod divided;
mod entities;
mod error;
mod gather;
mod keys;
mod matching;
mod options;
mod parts;
mod plan;
mod report;
mod rows;
mod spine;
mod spool;
mod stored;
mod together;
mod view;
mod work;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tokio::task::JoinSet;

pub use answer::JoinedRows;
pub use entities::KeyHint;
pub use error::JoinError;
pub use options::{JoinOptions, Knowledge};
pub use parts::JoinLimits;
pub use plan::JoinPlan;
pub use report::{JoinReport, ViewReport};
pub use rows::{Chunk, ChunkInfo, ColumnReader, PageReader, PageReaders, ScanError, ScanHint, ViewChunks, ViewRows, ViewScan};
pub use spine::Spine;
pub use spool::{Reserve, SpillFiles, Spool, SpoolLimits, Spooled};

pub(crate) use divided::{Divided, Given, Next, Taken, Taking};
pub(crate) use spool::slice_bytes;
pub use stored::{Hybrid, HybridCursor, Presence, StoredPage, StoredValues};

use gather::{Gathered, extend, rows_of};
use parts::join_parts;
use report::{Stopwatch, micros};
use spool::Waiting;
use view::match_view;
use work::Cores;

/// A spine with its features.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The spine's columns, then the features in the order asked for.
    pub schema: SchemaRef,
    /// The spine's rows in the spine's order.
    pub rows: JoinedRows,
    /// What was read and left out on the way.
    pub report: JoinReport,
}

/// Does what was planned, with the spine in memory. Call it within a tokio runtime.
///
/// # Errors
/// [`JoinError::Scan`] where a view cannot be read, [`JoinError::Rows`] where a provider breaks its contract, and where the work is stopped.
pub async fn join(plan: Arc<JoinPlan>, rows: Arc<dyn ViewRows>) -> Result<Joined, JoinError> {
    let (watch, cores) = (Stopwatch::start(), Cores::all());
    let plan = if plan.spine.is_on_disk() { Waiting::run(move |_| plan.in_memory()).await? } else { plan };
    let mut report = JoinReport { spine_rows: plan.spine.rows() as u64, parts: 1, ..JoinReport::default() };
    let features = gather_views(&plan, &rows, &cores, &mut report).await?;
    let batches = assemble(&plan, features, &cores).await?;
    report.wall_us = micros(watch.elapsed());
    Ok(Joined { schema: Arc::clone(&plan.schema), rows: batches.into(), report })
}

/// Does what was planned within limits: at once where that fits, else, and where the spine lies on disk, in parts whose rows are spilled. The rows are the
/// same.
///
/// # Errors
/// As [`join`]; [`JoinError::Memory`] where the limit is less than [`JoinPlan::least_memory_bytes`], and [`JoinError::Spill`].
pub async fn join_within(plan: Arc<JoinPlan>, rows: Arc<dyn ViewRows>, limits: &JoinLimits) -> Result<Joined, JoinError> {
    let bytes = plan.memory_bytes();
    if !plan.spine.is_on_disk() && bytes <= limits.memory_bytes && plan.spine.rows() <= limits.part_rows {
        let mut joined = join(plan, rows).await?;
        joined.report.reserved_bytes = bytes as u64;
        return Ok(joined);
    }
    let watch = Stopwatch::start();
    let (schema, cores) = (Arc::clone(&plan.schema), Cores::all());
    let (rows, mut report) = join_parts(plan, rows, limits, &cores).await?;
    report.wall_us = micros(watch.elapsed());
    Ok(Joined { schema, rows, report })
}

/// The features of all views, in the order of the output.
async fn gather_views(plan: &Arc<JoinPlan>, rows: &Arc<dyn ViewRows>, cores: &Cores, report: &mut JoinReport) -> Result<Vec<Gathered>, JoinError> {
    let mut searches = JoinSet::new();
    for (place, view) in plan.views.iter().enumerate() {
        let (view, rows, cores) = (Arc::clone(view), Arc::clone(rows), cores.clone());
        searches.spawn(async move {
            let at_once = cores.view().await;
            match_view(view, rows.as_ref(), &cores).await.map(|matched| (place, matched, Arc::new(at_once)))
        });
    }
    // A view is gathered as soon as it is matched, while others are being matched.
    let mut gathers = JoinSet::new();
    report.views.resize_with(plan.views.len(), Default::default);
    while let Some(done) = searches.join_next().await {
        let (place, (matched, of_view), at_once) = done??;
        report.views[place] = of_view;
        for task in matched.tasks() {
            let (matched, cores, at_once) = (Arc::clone(&matched), cores.clone(), Arc::clone(&at_once));
            gathers.spawn(async move {
                // The view's matches go with its last column, and then the next view may begin.
                let (first, _at_once) = (task.start, at_once);
                matched.gather(task, &cores).await.map(|gathered| (place, first, gathered))
            });
        }
    }
    let mut parts = Vec::new();
    while let Some(done) = gathers.join_next().await {
        let (place, first, (gathered, spent)) = done??;
        report.views[place].gather_us += micros(spent);
        parts.push(((place, first), gathered));
    }
    parts.sort_by_key(|(place, _)| *place);
    Ok(parts.into_iter().flat_map(|(_, gathered)| gathered).collect())
}

/// Puts the spine and its features together.
async fn assemble(plan: &Arc<JoinPlan>, features: Vec<Gathered>, cores: &Cores) -> Result<Vec<RecordBatch>, JoinError> {
    let features = Arc::new(features);
    let mut tasks = JoinSet::new();
    let mut first_row = 0;
    for (number, batch) in plan.spine.batches().iter().enumerate() {
        let (plan, features, cores, batch, first) = (Arc::clone(plan), Arc::clone(&features), cores.clone(), batch.clone(), first_row);
        first_row += batch.num_rows();
        tasks.spawn(async move {
            let put = move || {
                let mut joined = Vec::with_capacity(1);
                extend(&mut joined, &plan.schema, &batch, first, &|rows| rows_of(&features, rows)).map(|()| joined)
            };
            cores.run(put).await?.map(|joined| (number, joined))
        });
    }
    let mut batches = Vec::with_capacity(plan.spine.batches().len());
    while let Some(done) = tasks.join_next().await {
        batches.push(done??);
    }
    batches.sort_by_key(|(number, _)| *number);
    Ok(batches.into_iter().flat_map(|(_, joined)| joined).collect())
}
