//! What the server can do, apart from how it is asked: the domain layer beneath gRPC, HTTP and Flight.
//!
//! [`App::enter`] is the only way to a repository, and passes the authorisation hook; what can be done there are the methods of [`Scope`], a file for
//! each concern beneath this one. Nothing here knows a wire type but the columns of a lookup.

mod changes;
mod datasets;
mod definitions;
mod fetching;
mod history;
mod ingest;
mod keys;
mod merges;
mod objects;
mod online;
mod repo;
mod rows;
mod serving;
mod serving_log;
mod tables;
mod upkeep;
mod uploads;
mod values;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{Clock, Ids, RandomIds, Timestamp};
use anabranch_offline_store::batches::{CacheLimits, RowCache};
use anabranch_offline_store::engine::{ClusterOptions, Engine, EngineOptions};
use tokio_util::sync::CancellationToken;

use crate::auth::{Action, Authorizer, Caller, Verb};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::folder::DataFolder;
use crate::metrics::Metrics;
use crate::sessions::Sessions;

pub(crate) use changes::ApplyRequest;
pub(crate) use datasets::{Dataset, DatasetRequest, RefreshRequest, SpineRows};
pub(crate) use definitions::{Planned, Proposal};
pub(crate) use fetching::{EpochRequest, Part};
pub(crate) use history::{DiffLine, DiffReport, DiffRequest, KindCount, LogRequest};
pub(crate) use ingest::{BranchStatus, FileUpload, PushRequest, RowsPayload};
pub(crate) use keys::key_text;
pub(crate) use merges::{MergeOptions, Merged, Replay, ReplayOptions, ResetOptions};
pub(crate) use objects::{PutObjects, Wanted};
pub(crate) use online::{Keys, Looked, LookupRequest};
pub(crate) use repo::Repo;
pub(crate) use serving::sample_always;
pub(crate) use tables::{CompactRequest, compact_in_background};
pub(crate) use upkeep::upkeep_hourly;
pub(crate) use uploads::Spool;
pub(crate) use values::{FieldDifference, Stored};
pub(crate) use versions::DEFAULT_BRANCH;

/// The author of a change whose maker gave no name.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// A server without its faces.
#[derive(Debug)]
pub struct App {
    config: Config,
    folder: DataFolder,
    authorizer: Arc<dyn Authorizer>,
    repositories: BTreeMap<String, Arc<Repo>>,
    clock: Arc<dyn Clock>,
    started: Timestamp,
    metrics: Metrics,
    sessions: Sessions,
    engine: Arc<Engine>,
    row_cache: Arc<RowCache>,
    closing: CancellationToken,
}

/// A repository that a caller may use, and the ref that the call is about.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) app: Arc<App>,
    pub(crate) repo: Arc<Repo>,
    /// As the caller wrote it, `main` where it wrote none.
    pub(crate) reference: String,
}

impl App {
    /// Opens every repository of a data folder and recovers what an earlier server left.
    pub(crate) async fn open(config: Config, folder: DataFolder, authorizer: Arc<dyn Authorizer>, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let closing = CancellationToken::new();
        let mut repositories = BTreeMap::new();
        for name in &config.repositories {
            let repo = Repo::open(name, &folder.repository(name)?, &config, Arc::clone(&clock)).await?;
            repositories.insert(name.clone(), Arc::new(repo));
        }
        let started = clock.now();
        let (metrics, sessions) = (Metrics::default(), Sessions::default());
        let engine = engine(&config, &folder)?;
        let limits = CacheLimits { memory_bytes: config.datasets.cache_memory_bytes, disk_bytes: config.datasets.cache_disk_bytes };
        let row_cache = RowCache::new(&folder.tmp(), limits);
        Ok(Arc::new(Self { config, folder, authorizer, repositories, clock, started, metrics, sessions, engine, row_cache, closing }))
    }

    /// Lets a caller in to do something in a repository, or says why not.
    pub(crate) async fn enter(self: &Arc<Self>, caller: &Caller, verb: Verb, repository: &str, reference: &str) -> Result<Scope> {
        let repository = if repository.is_empty() { "default" } else { repository };
        self.authorizer.authorize(caller, Action { verb, repository, reference }).await?;
        let repo = self.repositories.get(repository).ok_or_else(|| Error::NoRepository {
            name: repository.to_owned(),
            known: self.repositories.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })?;
        let reference = if reference.is_empty() { DEFAULT_BRANCH } else { reference };
        Ok(Scope { app: Arc::clone(self), repo: Arc::clone(repo), reference: reference.to_owned() })
    }

    /// Lets a caller do something with the server itself, or says why not.
    pub(crate) async fn admit(&self, caller: &Caller, verb: Verb) -> Result<()> {
        self.authorizer.authorize(caller, Action { verb, repository: "", reference: "" }).await
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The data folder.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// When the server started.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// The repositories served, by name.
    pub fn repository_names(&self) -> impl Iterator<Item = &str> {
        self.repositories.keys().map(String::as_str)
    }

    pub(crate) fn repos(&self) -> impl Iterator<Item = &Arc<Repo>> {
        self.repositories.values()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What runs joins and queries.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Cancelled when the server begins to shut down.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Ends the repositories, once no request is under way: what was acknowledged is committed, and everything is closed.
    pub(crate) async fn close(&self) {
        for repo in self.repositories.values() {
            repo.close().await;
        }
    }
}

/// The engine, which spills and hands over spines in the folder for what is under way.
fn engine(config: &Config, folder: &DataFolder) -> Result<Arc<Engine>> {
    let cluster = (!config.engine.scheduler.is_empty()).then(|| ClusterOptions {
        scheduler: config.engine.scheduler.clone(),
        exchange_folder: folder.tmp().join("exchange"),
        partitions: config.engine.partitions,
    });
    let memory_bytes = Some(usize::try_from(config.engine.memory_bytes).unwrap_or(usize::MAX));
    let options = EngineOptions { memory_bytes, spill_folder: folder.spill(), cluster };
    let ids: Arc<dyn Ids> = Arc::new(RandomIds::from_os());
    Ok(Engine::new(&options, &ids)?)
}

impl Scope {
    /// The name of whoever made a change.
    pub(crate) fn author(author: &str) -> String {
        if author.is_empty() { ANONYMOUS.to_owned() } else { author.to_owned() }
    }
}
