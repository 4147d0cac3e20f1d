//! The point-in-time join: for each row of a spine, what each view's features were, and were known to be, at that row's time.
//!
//! For a spine row with key *k* and time *t* and a view with lookback *L*, the candidates are the view's rows with key *k*, `event_time <= t`,
//! `event_time >= t - L` (both edges inclusive; no lookback: unbounded) and, under the default [`Knowledge::Spine`], `known_time <= t`;
//! [`Knowledge::Any`] drops the last condition and [`Knowledge::At`] puts its own time in the place of *t* there. [`JoinOptions::strict`] makes the first
//! `<`. The match is the candidate that is last in the total order ([`anabranch_core::order`]). No match, a tombstone and a null feature all give null; no
//! older row is asked instead. The output has exactly the spine's rows in the spine's order, its columns first. A null key matches nothing.
//!
//! The module knows nothing of tables: a [`ViewRows`] gives the rows of each view as of one commit. Everything that can be refused without reading is
//! refused by [`JoinPlan::new`]. Views are joined at once, as many as there are cores; the work on batches runs off the async runtime, and dropping the
//! future of [`join`] stops it at the next batch.

mod candidates;
mod entities;
mod error;
mod gather;
mod options;
mod plan;
mod rows;
mod spine;
mod view;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

pub use error::JoinError;
pub use options::{JoinOptions, Knowledge};
pub use plan::{Buffer, JoinPlan};
pub use rows::{RowStream, ScanError, ScanHint, ViewRows, ViewScan};
pub use spine::Spine;

use plan::ViewPlan;
use view::{Matches, ViewJoin};

/// A spine with its features.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The spine's columns, then the features in the order asked for.
    pub schema: SchemaRef,
    /// The spine's rows in the spine's order.
    pub batches: Vec<RecordBatch>,
}

/// Does what was planned. Call it within a tokio runtime.
///
/// # Errors
/// [`JoinError::Scan`] where a view cannot be read, [`JoinError::Rows`] where a provider breaks its contract, and where the work is stopped.
pub async fn join(plan: Arc<JoinPlan>, rows: Arc<dyn ViewRows>) -> Result<Joined, JoinError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let permits = Arc::new(Semaphore::new(cores));
    let mut tasks = JoinSet::new();
    for (place, view) in plan.views.iter().enumerate() {
        let (view, rows, permits, buffer) = (Arc::clone(view), Arc::clone(&rows), Arc::clone(&permits), plan.buffer);
        tasks.spawn(async move {
            // The semaphore is never closed, so a permit always comes.
            let _permit = permits.acquire().await;
            join_view(view, rows.as_ref(), buffer).await.map(|matches| (place, matches))
        });
    }
    let mut matches = Vec::with_capacity(plan.views.len());
    while let Some(done) = tasks.join_next().await {
        matches.push(done??);
    }
    matches.sort_by_key(|(place, _)| *place);
    spawn_blocking(move || gather::gather(&plan, matches.into_iter().map(|(_, matches)| matches).collect())).await?
}

async fn join_view(plan: Arc<ViewPlan>, rows: &dyn ViewRows, buffer: Buffer) -> Result<Matches, JoinError> {
    let failed = |error: ScanError| JoinError::Scan { view: plan.scan.name.clone(), kind: error.kind, source: error.source };
    let mut join = ViewJoin::new(Arc::clone(&plan), buffer);
    // Where no row of the spine has a key, nothing can match and nothing need be read.
    if !plan.timeline.times.is_empty() {
        let mut stream = rows.scan(&plan.scan).await.map_err(failed)?;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(failed)?;
            join = spawn_blocking(move || join.push(&batch).map(|()| join)).await??;
        }
    }
    Ok(spawn_blocking(move || join.finish()).await?)
}
