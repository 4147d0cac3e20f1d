//! Everything that knows DataFusion and Ballista: SQL over the tables of a commit, and joins as plans, in this process or on a cluster.
//!
//! An [`Engine`] is made once for a process. It holds the memory that all its work may use together and the folder that work spills to, so that a query
//! larger than the limit is slower and one that cannot spill is refused with [`ErrorKind::Exhausted`](anabranch_core::ErrorKind::Exhausted).
//!
//! [`Engine::query`] runs one query. The feature views at the commit are its tables, by their names, with all their columns; names are matched as they
//! are written. It refuses what is not a query: definitions, changes, `COPY`, `SET`, `EXPLAIN`, and several statements at once. Nothing that a query
//! says can reach a file, another commit or another repository.
//!
//! [`Engine::query_spine`] and [`Engine::events_spine`] make spines of a commit, [`Engine::spool`] takes one that comes from elsewhere; what outgrows the memory
//! lies on disk. [`Engine::join`] does a planned join where its caller wants it; [`process`] are the scheduler and the executors of a cluster.

mod catalog;
mod cluster;
mod codec;
mod error;
mod exec;
mod join;
mod memory;
pub mod process;
mod query;
mod spines;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use anabranch_core::Ids;

pub use join::{EngineKind, JoinRequest};

use crate::{Error, Locations, Result};
use cluster::Cluster;

/// What an engine may use.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The most memory, in bytes, of all work together; none: as much as there is.
    pub memory_bytes: Option<usize>,
    /// Where work spills to: a folder that is emptied when the process starts.
    pub spill_folder: PathBuf,
    /// The cluster, where there is one.
    pub cluster: Option<ClusterOptions>,
}

/// A cluster that an engine sends joins to.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Host and port of its scheduler.
    pub scheduler: String,
    /// A folder that every executor sees under the same name, for the parts of spines; it is made.
    pub exchange_folder: PathBuf,
    /// Into how many parts a spine is cut.
    pub partitions: usize,
}

/// Runs plans within one memory limit.
#[derive(Debug)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    cluster: Option<(Cluster, usize)>,
}

impl Engine {
    /// An engine with its memory pool and its folders, which are made.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the folder cannot be made.
    pub fn new(options: &EngineOptions, ids: &Arc<dyn Ids>) -> Result<Arc<Self>> {
        let pool: Arc<dyn MemoryPool> = match options.memory_bytes {
            Some(bytes) => Arc::new(FairSpillPool::new(bytes)),
            None => Arc::new(UnboundedMemoryPool::default()),
        };
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![options.spill_folder.clone()]));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).with_disk_manager_builder(disk).build_arc();
        let made = |folder: &PathBuf| format!("making the folder {}", folder.display());
        let runtime = runtime.map_err(|error| Error::Unavailable { what: made(&options.spill_folder), source: Box::new(error) })?;
        let cluster = match &options.cluster {
            Some(cluster) => {
                let folder = &cluster.exchange_folder;
                std::fs::create_dir_all(folder).map_err(|error| Error::Unavailable { what: made(folder), source: Box::new(error) })?;
                let exchange = Locations::local(folder)?.location("").trim_end_matches('/').to_owned();
                Some((Cluster { scheduler: cluster.scheduler.clone(), exchange, ids: Arc::clone(ids) }, cluster.partitions.max(1)))
            }
            None => None,
        };
        Ok(Arc::new(Self { runtime, cluster }))
    }

    /// The memory pool and spill folder, for work that accounts for itself.
    pub const fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }
}
