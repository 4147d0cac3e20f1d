//! The parts of one repository, opened in the order in which they rest on each other and closed in the reverse.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_core::definition::Definitions;
use anabranch_core::{Clock, Ids, RandomIds, Span};
use anabranch_ingest::wal::WalOptions;
use anabranch_ingest::{Ingest, IngestConfig, IngestParts, NoCrash, OffsetResolver, ServingLog};
use anabranch_offline_store::{Locations, OfflineStore, OfflineStoreOptions, TableResolver};
use anabranch_online_store::{
    CachedOnlineStore, CoalescingOnlineStore, CqlConfig, CqlOnlineStore, EmbeddedConfig, EmbeddedOnlineStore, Layouts, MovingStore, OnlineStore,
    RedisConfig, RedisOnlineStore,
};
use anabranch_registry::FeatureResolver;
use anabranch_versioning::{
    CommitId, LeaseOptions, MetadataStore, PostgresMetadata, RealFiles, Repository, RepositoryOptions, Resolver, SqliteMetadata, local_objects_on,
};

use super::definitions::DefinitionsCache;
use super::online::Lookups;
use crate::config::{Config, OnlineBackend, OnlineConfig};
use crate::error::Result;
use crate::folder::RepositoryFolder;
use crate::metrics::{CacheLabels, Metrics};

/// How long a stop waits for reads of the metadata database.
const CLOSING: Duration = Duration::from_secs(5);
/// How long a start waits for what is committed to be online.
const FIRST_PUBLICATION: Duration = Duration::from_secs(2);

/// One repository.
#[derive(Debug)]
pub(crate) struct Repo {
    name: String,
    pub(crate) versions: Arc<Repository>,
    pub(crate) offline: Arc<OfflineStore>,
    pub(crate) online: Arc<dyn OnlineStore>,
    pub(crate) layouts: Arc<Layouts>,
    pub(crate) ingest: Ingest,
    pub(crate) serving_log: ServingLog,
    pub(crate) lookups: Lookups,
    /// The two stores between which what is online moves.
    pub(crate) moving: Option<Arc<MovingStore>>,
    /// What lies above an online store that is reached over a network.
    cache: Option<Arc<CachedOnlineStore>>,
    definitions: DefinitionsCache,
    /// Held by whoever compacts a table.
    pub(super) compaction: tokio::sync::Mutex<()>,
    /// The database that is closed before the folder is given back; none where metadata lies in Postgres.
    sqlite: Option<Arc<SqliteMetadata>>,
    drain: Span,
}

impl Repo {
    pub(crate) async fn open(name: &str, folder: &RepositoryFolder, config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let ids = Arc::new(RandomIds::from_os());
        let files = Arc::new(RealFiles);
        let (metadata, sqlite, lease) = metadata(name, folder, config, ids.as_ref()).await?;
        let objects = local_objects_on(files.clone(), &folder.objects)?;
        let mut options = RepositoryOptions { name: name.to_owned(), lease, ..RepositoryOptions::default() };
        options.resolvers.extend(resolvers());
        let versions = Repository::open(metadata, Arc::clone(&objects), Arc::clone(&clock), ids.clone(), options).await?;
        let locations = Locations::local(&folder.objects)?;
        let (repository, options) = (Arc::clone(&versions), OfflineStoreOptions::default());
        let offline = OfflineStore::new(repository, objects, locations, Arc::clone(&clock), ids.clone(), options);
        let online = online_store(config.online.backend, name, folder, config, versions.metadata().as_ref(), ids.clone()).await?;
        let (online, moving) = match config.online.next.backend() {
            None => (online, None),
            Some(next) => {
                let next = online_store(next, name, folder, config, versions.metadata().as_ref(), ids.clone()).await?;
                let moving = Arc::new(MovingStore::new(online, next));
                (Arc::clone(&moving) as Arc<dyn OnlineStore>, Some(moving))
            }
        };
        let (online, cache) = layers(online, config, sqlite.is_some(), &clock);
        let layouts = Arc::new(Layouts::new());
        let parts = IngestParts {
            repository: Arc::clone(&versions),
            offline: Arc::clone(&offline),
            online: Arc::clone(&online),
            layouts: Arc::clone(&layouts),
            files,
            folder: folder.wal.clone(),
            clock,
            crash: Arc::new(NoCrash),
        };
        let ingest = Ingest::open(parts, ingest_config(config)).await?;
        // Usually there is little to publish, and whoever comes first finds all served. What takes longer, or fails, goes on in the background.
        let _ = tokio::time::timeout(FIRST_PUBLICATION, ingest.publish()).await;
        let serving_log = ServingLog::begin(&ingest, ids, config.serving_log.clone())?;
        let (lookups, definitions) = (Lookups::default(), DefinitionsCache::default());
        let compaction = tokio::sync::Mutex::default();
        Ok(Self {
            name: name.to_owned(),
            versions,
            offline,
            online,
            layouts,
            ingest,
            serving_log,
            lookups,
            moving,
            cache,
            definitions,
            compaction,
            sqlite,
            drain: config.drain,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The definitions at a commit.
    pub(crate) async fn definitions(&self, commit: &CommitId) -> Result<Arc<Definitions>> {
        self.definitions.at(&self.versions, commit).await
    }

    /// Takes over what the cache counted.
    pub(super) fn measure_cache(&self, metrics: &Metrics) {
        let Some(cache) = &self.cache else { return };
        let (hits, misses) = cache.hits_and_misses();
        for (outcome, count) in [("hit", hits), ("miss", misses)] {
            let labels = CacheLabels { repository: self.name.clone(), outcome };
            metrics.cache_lookups.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
        }
    }

    /// Commits what was acknowledged and closes every part.
    pub(crate) async fn close(&self) {
        let limit = Duration::from_micros(self.drain.micros().unsigned_abs());
        self.serving_log.close(limit).await;
        self.ingest.close(limit).await;
        self.versions.close().await;
        if let Err(error) = self.online.sync().await {
            tracing::warn!(%error, repository = self.name, "the online store was not synced; it is refilled from history");
        }
        // Whoever takes the folder next may move the database.
        if let Some(sqlite) = &self.sqlite
            && tokio::time::timeout(CLOSING, sqlite.close()).await.is_err()
        {
            tracing::warn!(repository = self.name, "the metadata database is still in use; it is closed with the process");
        }
    }
}

/// Who decides merges, by the kind of key that they own.
fn resolvers() -> [Arc<dyn Resolver>; 3] {
    [Arc::new(FeatureResolver), Arc::new(OffsetResolver), Arc::new(TableResolver)]
}

/// The store, the same where it is an SQLite database, and how servers take turns.
type Metadata = (Arc<dyn MetadataStore>, Option<Arc<SqliteMetadata>>, Option<LeaseOptions>);

/// What is mutable of a repository, and how its servers take turns where there may be several.
async fn metadata(name: &str, folder: &RepositoryFolder, config: &Config, ids: &dyn Ids) -> Result<Metadata> {
    let Some(url) = config.metadata.store.postgres() else {
        let sqlite = Arc::new(SqliteMetadata::open(&folder.metadata, ids).await?);
        return Ok((Arc::clone(&sqlite) as Arc<dyn MetadataStore>, Some(sqlite), None));
    };
    let store = PostgresMetadata::open(url, &format!("anabranch_{name}"), ids).await?;
    let holder = format!("pid {} on {}", std::process::id(), folder.objects.display());
    let ttl = Duration::from_micros(config.metadata.lease_ttl.micros().unsigned_abs());
    Ok((Arc::new(store), None, Some(LeaseOptions { holder, ttl })))
}

fn ingest_config(config: &Config) -> IngestConfig {
    let wal = WalOptions {
        segment_bytes: config.ingest.segment_bytes,
        max_push_bytes: config.limits.push_bytes,
        queue_bytes: WalOptions::default().queue_bytes.max(config.limits.push_bytes),
        ..WalOptions::default()
    };
    IngestConfig {
        commit_every: config.ingest.commit_every,
        commit_rows: config.ingest.commit_rows,
        commit_bytes: config.ingest.commit_bytes,
        wal,
        ..IngestConfig::default()
    }
}

async fn online_store(
    backend: OnlineBackend,
    name: &str,
    folder: &RepositoryFolder,
    config: &Config,
    metadata: &dyn MetadataStore,
    ids: Arc<dyn Ids>,
) -> Result<Arc<dyn OnlineStore>> {
    Ok(match backend {
        OnlineBackend::Embedded => Arc::new(EmbeddedOnlineStore::open(&folder.online, &embedded_config(config), ids.as_ref()).await?),
        OnlineBackend::Redis => {
            let redis = &config.online.redis;
            // Rows belong to the metadata database that numbers their generations: another one, or one that was restored, begins with none.
            let database = format!("{:032x}", metadata.incarnation().await?);
            let redis = RedisConfig { prefix: format!("{}:{name}:{}", redis.prefix, &database[..12]), ..redis.clone() };
            Arc::new(RedisOnlineStore::open(&redis, ids).await?)
        }
        OnlineBackend::Cql => {
            // As above.
            let database = format!("{:032x}", metadata.incarnation().await?);
            let cql = CqlConfig { prefix: format!("{}_{}", config.online.cql.prefix, &database[..12]), ..config.online.cql.clone() };
            Arc::new(CqlOnlineStore::open(&cql, ids).await?)
        }
    })
}

/// What lies above a store that is reached over a network: a cache, where there is one to be, and below it equal lookups are sent once.
fn layers(
    online: Arc<dyn OnlineStore>,
    config: &Config,
    alone: bool,
    clock: &Arc<dyn Clock>,
) -> (Arc<dyn OnlineStore>, Option<Arc<CachedOnlineStore>>) {
    let OnlineConfig { cache_bytes, cache_staleness, .. } = config.online;
    if config.online.backend == OnlineBackend::Embedded {
        return (online, None);
    }
    let online: Arc<dyn OnlineStore> = Arc::new(CoalescingOnlineStore::new(online));
    let staleness = (!alone).then_some(cache_staleness);
    if cache_bytes == 0 || staleness == Some(Span::default()) {
        return (online, None);
    }
    let cache = Arc::new(CachedOnlineStore::new(online, cache_bytes, staleness, Arc::clone(clock)));
    (Arc::clone(&cache) as _, Some(cache))
}

fn embedded_config(config: &Config) -> EmbeddedConfig {
    // Rows take what the cache of blocks and the tables not yet written leave.
    let defaults = EmbeddedConfig::default();
    let beside = defaults.block_cache_bytes + defaults.memtable_bytes;
    EmbeddedConfig { hot_bytes: config.online.memory_bytes.saturating_sub(beside), ..defaults }
}
