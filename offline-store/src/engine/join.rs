//! Joins, where the engine is told to do them.
//!
//! In this process a join runs as it is, on the cores that there are, within the engine's memory. Cut into partitions, here or on a cluster, it is one plan:
//!
//! ```text
//! the features of the parts, by row number, beside the spine   in this process, on disk
//!   PointInTimeExec, a partition for a part                    here, or on the executors
//!     the times and keys of the parts, with row numbers        in memory, or in the exchange folder
//! ```
//!
//! The answer does not depend on where, nor on how many parts. Neither spine nor answer need fit into memory ([`Divided`]).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anabranch_core::definition::Definitions;
use anabranch_core::selection::Selection;
use anabranch_versioning::CommitId;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::of_query;
use super::exec::PointInTimeExec;
use super::memory::{divide, join_in};
use super::work::JoinWork;
use crate::join::{Divided, JoinOptions, JoinPlan, Joined, Next};
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
        let work = Arc::new(work_of(store, &request).await?);
        let (mut divided, _reservation) = divide(&self.runtime, &request.plan, partitions).await?;
        let mut parts = Vec::new();
        let given = loop {
            match next_part(divided).await? {
                Next::Part(rest, part) => {
                    parts.push(part);
                    divided = rest;
                }
                Next::All(given) => break given,
            }
        };
        let input = MemorySourceConfig::try_new_exec(&parts, Arc::clone(given.schema()), None).map_err(of_query)?;
        let joined = PointInTimeExec::new(input, work, Some(store.view_rows(request.commit)))?;
        let (context, mut taken) = (Arc::new(TaskContext::default().with_runtime(Arc::clone(&self.runtime))), Vec::new());
        for part in 0..parts.len() {
            let mut rows = joined.execute(part, Arc::clone(&context)).map_err(of_query)?;
            let mut taking = given.taking();
            while let Some(batch) = rows.try_next().await.map_err(of_query)? {
                taking = taking.take(&batch).await?;
            }
            taken.push(taking.finish()?);
        }
        Ok(given.joined(taken))
    }

    async fn join_on_cluster(&self, store: &Arc<OfflineStore>, request: JoinRequest) -> Result<Joined> {
        let Some((cluster, partitions)) = &self.cluster else {
            let reason = "no cluster is configured: set engine.scheduler to the host and port of its scheduler".to_owned();
            return Err(Error::Invalid { what: "engine", reason });
        };
        let work = work_of(store, &request).await?;
        let (divided, reservation) = divide(&self.runtime, &request.plan, *partitions).await?;
        cluster.join(work, divided, reservation).await
    }
}

/// The next part of a spine, cut off the runtime.
pub(super) async fn next_part(divided: Divided) -> Result<Next> {
    Ok(tokio::task::spawn_blocking(move || divided.next()).await.map_err(|_| Error::Closing)??)
}

/// What a join does with each part of its spine.
async fn work_of(store: &Arc<OfflineStore>, request: &JoinRequest) -> Result<JoinWork> {
    let views = store.resolve(&request.commit, &request.plan).await?;
    let location = store.locations().location("");
    let (selection, options, time) = (&request.selection, request.options, request.plan.spine().time_column());
    JoinWork::new(&request.definitions, selection, options, time, location.trim_end_matches('/'), views)
}
