//! Joins, where the engine is told to do them.
//!
//! In this process a join runs as it is, on the cores that there are, within the engine's memory. Cut into partitions, here or on a cluster, it is one plan:
//!
//! ```text
//! SortPreservingMergeExec by row number       in this process
//!   PointInTimeExec, a partition for a part   here, or on the executors
//!     the parts of the spine                  in memory, or in the exchange folder
//! ```
//!
//! The answer does not depend on where, nor on how many parts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anabranch_core::definition::Definitions;
use anabranch_core::selection::Selection;
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::of_query;
use super::exec::{PointInTimeExec, by_number};
use super::memory::join_in;
use super::parts::Parts;
use super::work::JoinWork;
use crate::join::{JoinOptions, JoinPlan, JoinReport, Joined};
use crate::{Error, OfflineStore, Result};

/// Where joins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// In the server's process.
    #[default]
    DataFusion,
    /// On a cluster.
    Ballista,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DataFusion => "datafusion",
            Self::Ballista => "ballista",
        })
    }
}

impl FromStr for EngineKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "datafusion" => Ok(Self::DataFusion),
            "ballista" => Ok(Self::Ballista),
            other => Err(Error::Invalid { what: "engine", reason: format!("there is no {other:?}; there are datafusion and ballista") }),
        }
    }
}

/// A planned join, and what it was planned from.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The commit to read.
    pub commit: CommitId,
    /// The join of the whole spine.
    pub plan: Arc<JoinPlan>,
    /// The features that it was planned with.
    pub selection: Selection,
    /// The definitions at the commit.
    pub definitions: Arc<Definitions>,
    /// The options that it was planned with.
    pub options: JoinOptions,
}

impl Engine {
    /// Does what was planned; dropping the future stops it everywhere.
    ///
    /// # Errors
    /// As [`join`](crate::join::join); [`Error::Limit`] where the memory pool has too little left; on a cluster [`Error::Cluster`] where it cannot be reached
    /// or gives no answer, and [`Error::Remote`] for what a join there refused.
    pub async fn join(&self, kind: EngineKind, store: &Arc<OfflineStore>, request: JoinRequest) -> Result<Joined> {
        match kind {
            EngineKind::DataFusion => join_in(&self.runtime, request.plan, store.view_rows(request.commit)).await,
            EngineKind::Ballista => self.join_on_cluster(store, request).await,
        }
    }

    /// Does what was planned in this process, as a plan of so many partitions.
    ///
    /// # Errors
    /// As [`join`](crate::join::join).
    pub async fn join_partitioned(&self, partitions: usize, store: &Arc<OfflineStore>, request: JoinRequest) -> Result<Joined> {
        let request = in_memory(request).await?;
        let (work, parts) = divided(store, &request, partitions).await?;
        let rows = store.view_rows(request.commit);
        let input = MemorySourceConfig::try_new_exec(&parts.parts, Arc::clone(&parts.schema), None).map_err(of_query)?;
        let joined: Arc<dyn ExecutionPlan> = Arc::new(PointInTimeExec::new(input, Arc::new(work), Some(rows))?);
        let batches = self.merged(joined, parts.schema.fields().len() - 1).await?;
        Ok(answer(&request, parts.parts.len(), batches))
    }

    async fn join_on_cluster(&self, store: &Arc<OfflineStore>, request: JoinRequest) -> Result<Joined> {
        let Some((cluster, partitions)) = &self.cluster else {
            let reason = "no cluster is configured: set engine.scheduler to the host and port of its scheduler".to_owned();
            return Err(Error::Invalid { what: "engine", reason });
        };
        let request = in_memory(request).await?;
        let (work, parts) = divided(store, &request, *partitions).await?;
        let (number, schema) = (parts.schema.fields().len() - 1, work.schema(&parts.schema)?);
        let cut = parts.parts.len();
        let partitions = cluster.join(work, parts).await?;
        let fetched = MemorySourceConfig::try_new_exec(&partitions, schema, None).map_err(of_query)?;
        drop(partitions);
        let batches = self.merged(fetched, number).await?;
        Ok(answer(&request, cut, batches))
    }

    /// The rows of all partitions in the order of their numbers, which end here.
    async fn merged(&self, plan: Arc<dyn ExecutionPlan>, number: usize) -> Result<Vec<RecordBatch>> {
        let schema: SchemaRef = plan.schema();
        let order = LexOrdering::from([by_number(&schema, number)]);
        let merged: Arc<dyn ExecutionPlan> = Arc::new(SortPreservingMergeExec::new(order, plan));
        let context = TaskContext::default().with_runtime(Arc::clone(&self.runtime));
        let kept: Vec<_> = (0..schema.fields().len()).filter(|place| *place != number).collect();
        let batches = collect(merged, Arc::new(context)).await.map_err(of_query)?;
        batches.into_iter().map(|batch| Ok(batch.project(&kept)?)).collect()
    }
}

/// The answer of a join in parts; of what they read, this process knows no more.
fn answer(request: &JoinRequest, parts: usize, batches: Vec<RecordBatch>) -> Joined {
    let report = JoinReport { spine_rows: request.plan.spine().rows() as u64, parts: parts as u64, ..JoinReport::default() };
    Joined { schema: Arc::clone(request.plan.schema()), rows: batches.into(), report }
}

/// The same with the spine in memory: it is cut there.
async fn in_memory(request: JoinRequest) -> Result<JoinRequest> {
    let plan = tokio::task::spawn_blocking(move || request.plan.in_memory().map(|plan| JoinRequest { plan, ..request }));
    Ok(plan.await.map_err(|_| Error::Closing)??)
}

/// The work of a join, and its spine cut by the entities of the view named first.
async fn divided(store: &Arc<OfflineStore>, request: &JoinRequest, partitions: usize) -> Result<(JoinWork, Parts)> {
    let views = store.resolve(&request.commit, &request.plan).await?;
    let location = store.locations().location("");
    let (selection, options, time) = (&request.selection, request.options, request.plan.spine().time_column());
    let work = JoinWork::new(&request.definitions, selection, options, time, location.trim_end_matches('/'), views)?;
    let plan = Arc::clone(&request.plan);
    let parts = tokio::task::spawn_blocking(move || Parts::cut(&plan, partitions)).await.map_err(|_| Error::Closing)??;
    Ok((work, parts))
}
