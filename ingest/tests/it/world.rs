//! A repository with both stores, and what must hold of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::definition::{Check, Definition, Entity, FeatureView, Rule};
use anabranch_core::{Clock, EntityKey, Ids, RandomIds, Scalar, Span, SystemClock, Timestamp};
use anabranch_ingest::{
    CrashPoints, Ingest, IngestConfig, IngestParts, NoCrash, OffsetResolver, PayloadFormat, Push, Pushed, RecordKind, Result, Visibility,
};
use anabranch_offline_store::{Locations, Namespace, OfflineStore, OfflineStoreOptions, ScanRequest, TableName, TableResolver, quarantine_shape};
use anabranch_online_store::{EmbeddedConfig, EmbeddedOnlineStore, Layouts, OnlineStore, OnlineStoreExt, PackedRow, rows_of};
use anabranch_registry::{Applied, ApplyRequest, FeatureResolver};
use anabranch_versioning::{
    CommitId, Files, MetadataStore, RealFiles, RefSpec, Repository, RepositoryOptions, Resolver, SqliteMetadata, local_objects,
};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What a world is made of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) locations: Locations,
    pub(crate) online: Arc<dyn OnlineStore>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) wal: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) crash: Arc<dyn CrashPoints>,
    pub(crate) config: IngestConfig,
}

impl Parts {
    /// Everything in a folder, as an embedded server has it.
    pub(crate) async fn in_folder(folder: &Path) -> Self {
        let ids = RandomIds::from_os();
        std::fs::create_dir_all(folder).unwrap();
        let metadata = SqliteMetadata::open(&folder.join("metadata.db"), &ids).await.unwrap();
        let config =
            EmbeddedConfig { hot_bytes: 1 << 20, block_cache_bytes: 1 << 20, memtable_bytes: 1 << 20, reserve_bytes: 0, ..EmbeddedConfig::default() };
        let online = EmbeddedOnlineStore::open(folder.join("online"), &config, &ids).await.unwrap();
        Self {
            metadata: Arc::new(metadata),
            objects: local_objects(&folder.join("objects")).unwrap(),
            locations: Locations::local(&folder.join("objects")).unwrap(),
            online: Arc::new(online),
            files: Arc::new(RealFiles),
            wal: folder.join("wal"),
            clock: Arc::new(SystemClock),
            ids: Arc::new(ids),
            crash: Arc::new(NoCrash),
            config: quick(),
        }
    }

    /// Everything but the log in memory.
    pub(crate) fn in_memory(wal: &Path) -> Self {
        let ids = RandomIds::seeded(7);
        Self {
            metadata: Arc::new(anabranch_versioning::MemoryMetadata::new(&ids)),
            objects: Arc::new(object_store::memory::InMemory::new()),
            locations: Locations::memory(),
            online: Arc::new(anabranch_online_store::MemoryOnlineStore::new(&ids)),
            files: Arc::new(RealFiles),
            wal: wal.to_owned(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(ids),
            crash: Arc::new(NoCrash),
            config: quick(),
        }
    }
}

/// As a server opens a repository.
fn options() -> RepositoryOptions {
    let mut options = RepositoryOptions::default();
    let resolvers: [Arc<dyn Resolver>; 3] = [Arc::new(FeatureResolver), Arc::new(OffsetResolver), Arc::new(TableResolver)];
    options.resolvers.extend(resolvers);
    options
}

/// Small segments and an eager worker, so that a short test sees many of everything.
pub(crate) fn quick() -> IngestConfig {
    let mut config =
        IngestConfig { commit_every: Span(20_000), commit_rows: 64, retry_every: Span(100_000), fill_mark_rows: 16, ..IngestConfig::default() };
    config.wal.segment_bytes = 4096;
    config
}

/// A repository with both stores.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) parts: Parts,
    pub(crate) repository: Arc<Repository>,
    pub(crate) offline: Arc<OfflineStore>,
    pub(crate) layouts: Arc<Layouts>,
    pub(crate) ingest: Ingest,
}

impl World {
    pub(crate) async fn open(parts: Parts) -> Self {
        Self::try_open(parts).await.unwrap()
    }

    pub(crate) async fn try_open(parts: Parts) -> Result<Self> {
        let (clock, ids) = (Arc::clone(&parts.clock), Arc::clone(&parts.ids));
        let opened = Repository::open(Arc::clone(&parts.metadata), Arc::clone(&parts.objects), Arc::clone(&clock), Arc::clone(&ids), options());
        let repository = opened.await.unwrap();
        let options = OfflineStoreOptions::default();
        let offline = OfflineStore::new(Arc::clone(&repository), Arc::clone(&parts.objects), parts.locations.clone(), clock, ids, options);
        let layouts = Arc::new(Layouts::new());
        let ingest_parts = IngestParts {
            repository: Arc::clone(&repository),
            offline: Arc::clone(&offline),
            online: Arc::clone(&parts.online),
            layouts: Arc::clone(&layouts),
            files: Arc::clone(&parts.files),
            folder: parts.wal.clone(),
            clock: Arc::clone(&parts.clock),
            crash: Arc::clone(&parts.crash),
        };
        let ingest = Ingest::open(ingest_parts, parts.config.clone()).await?;
        Ok(Self { parts, repository, offline, layouts, ingest })
    }

    /// A world in memory with the views of [`definitions`].
    pub(crate) async fn with_views(wal: &Path) -> Self {
        let world = Self::open(Parts::in_memory(wal)).await;
        world.apply(definitions(60)).await.unwrap();
        world
    }

    /// Ends as a server does that is stopped, without waiting for commits, and begins again on the same parts.
    pub(crate) async fn restart(self) -> Self {
        let parts = self.parts.clone();
        self.end().await;
        Self::open(parts).await
    }

    pub(crate) async fn end(self) {
        self.ingest.close(Duration::ZERO).await;
        self.repository.close().await;
    }

    pub(crate) async fn apply(&self, definitions: Vec<Definition>) -> Result<Applied> {
        self.apply_on("main", definitions).await
    }

    pub(crate) async fn apply_on(&self, branch: &str, definitions: Vec<Definition>) -> Result<Applied> {
        self.ingest.apply(branch, ApplyRequest { definitions, author: "ada".into(), allow_breaking: true, ..ApplyRequest::default() }).await
    }

    pub(crate) async fn push(&self, view: &str, json: impl Into<String>) -> Result<Pushed> {
        self.ingest.push("main", rows(view, json)).await
    }

    pub(crate) async fn head(&self) -> CommitId {
        self.repository.resolve(&RefSpec::branch("main")).await.unwrap().commit
    }

    /// Pushes and waits until the rows are committed.
    pub(crate) async fn push_through(&self, view: &str, json: impl Into<String>) -> Pushed {
        let pushed = self.push(view, json).await.unwrap();
        self.ingest.wait_visible(&pushed.token, Visibility::Committed, LONG).await.unwrap();
        pushed
    }

    pub(crate) async fn scan(&self, request: &ScanRequest) -> Vec<RecordBatch> {
        self.scan_at(&self.head().await, request).await
    }

    pub(crate) async fn scan_at(&self, commit: &CommitId, request: &ScanRequest) -> Vec<RecordBatch> {
        if self.offline.find_table(commit, &request.table).await.unwrap().is_none() {
            return Vec::new();
        }
        self.offline.scan(commit, request).await.unwrap().try_collect().await.unwrap()
    }

    /// The committed values of the column `n` of a view, sorted.
    pub(crate) async fn offline_ids(&self, view: &str) -> Vec<i64> {
        let columns = self.layout(view).await.table_columns();
        let batches = self.scan(&ScanRequest::all(TableName::features(view), columns)).await;
        let mut ids: Vec<i64> = Vec::new();
        for batch in &batches {
            let column = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
            ids.extend(column.iter().flatten());
        }
        ids.sort_unstable();
        ids
    }

    /// Every refused row: its view, source, position, payload and the names of the checks that it failed.
    pub(crate) async fn refused(&self) -> Vec<(String, i32, i64, String, String)> {
        let mut all = Vec::new();
        for table in self.offline.tables(&self.head().await, Namespace::Quarantine).await.unwrap() {
            for batch in self.scan(&ScanRequest::all(table, quarantine_shape().columns().to_vec())).await {
                let text = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
                for row in 0..batch.num_rows() {
                    let source = batch.column_by_name("_source").unwrap().as_primitive::<Int32Type>().value(row);
                    let position = batch.column_by_name("_position").unwrap().as_primitive::<Int64Type>().value(row);
                    let payload = batch.column_by_name("payload").unwrap().as_binary::<i32>().value(row);
                    all.push((text("view", row), source, position, String::from_utf8_lossy(payload).into_owned(), text("failures", row)));
                }
            }
        }
        all.sort();
        all
    }

    pub(crate) async fn layout(&self, view: &str) -> Arc<anabranch_core::definition::ViewLayout> {
        let definitions = anabranch_registry::load(&self.repository, &self.head().await).await.unwrap();
        definitions.layout(view).unwrap()
    }

    /// The law of the two stores on `main` and every other branch that is served, see [`World::check_law_of`].
    pub(crate) async fn check_law(&self) {
        for served in self.ingest.serving().await.unwrap() {
            self.check_law_of(&served.branch).await;
        }
    }

    /// Waits until a branch is filled.
    pub(crate) async fn wait_filled(&self, branch: &str) {
        let filled = async {
            while self.ingest.serving().await.unwrap().iter().any(|served| served.branch == branch && served.filling) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, filled).await.unwrap();
    }

    /// The law of the two stores, once everything is committed: each generation holds, for each entity, the row that is last in the total order among
    /// the rows at the commit that it answers for, and nothing else.
    pub(crate) async fn check_law_of(&self, branch: &str) {
        self.ingest.flush(branch).await.unwrap();
        self.ingest.publish().await.unwrap();
        let head = self.repository.branch(branch).await.unwrap().head;
        let served = self.ingest.served_on(branch).await.unwrap();
        assert_eq!(served.commit, head);
        for (name, view) in served.views.iter() {
            assert_eq!(self.parts.online.published_to(view.generation).await.unwrap().as_deref(), Some(&head.as_bytes()[..]), "{name}");
            let mut wanted: BTreeMap<EntityKey, Bytes> = BTreeMap::new();
            for batch in self.scan_at(&head, &ScanRequest::all(TableName::features(name), view.layout.table_columns())).await {
                for write in rows_of(&batch, &view.layout, &view.packed, view.generation).unwrap() {
                    let row = wanted.entry(write.key).or_insert_with(|| write.row.clone());
                    if write.row > *row {
                        *row = write.row;
                    }
                }
            }
            let held: BTreeMap<_, _> = self.parts.online.scan_all(view.generation).await.unwrap().into_iter().collect();
            assert_eq!(held.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{name}");
            for (key, row) in &held {
                let (held, last) = (PackedRow::parse(row).unwrap(), PackedRow::parse(&wanted[key]).unwrap());
                assert_eq!(held.order().unwrap(), last.order().unwrap(), "{name} {key}");
                assert_eq!(held.is_tombstone(), last.is_tombstone(), "{name} {key}");
                // A row that was packed before a column came is of another layout, and is the same row all the same.
                assert!(held.fingerprint() != last.fingerprint() || *row == wanted[key], "{name} {key}");
            }
        }
    }

    /// No position of any source is in twice.
    pub(crate) async fn check_positions(&self) {
        let mut seen = BTreeMap::new();
        for table in self.offline.tables(&self.head().await, Namespace::Features).await.unwrap() {
            let columns = self.layout(&table.name).await.table_columns();
            for batch in self.scan(&ScanRequest::all(table, columns)).await {
                note_positions(&batch, &mut seen);
            }
        }
        for table in self.offline.tables(&self.head().await, Namespace::Quarantine).await.unwrap() {
            for batch in self.scan(&ScanRequest::all(table, quarantine_shape().columns().to_vec())).await {
                note_positions(&batch, &mut seen);
            }
        }
        let doubled: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
        assert!(doubled.is_empty(), "rows are in twice: {doubled:?}");
    }
}

fn note_positions(batch: &RecordBatch, seen: &mut BTreeMap<(i32, i64), usize>) {
    let source = batch.column_by_name("_source").unwrap().as_primitive::<Int32Type>();
    let position = batch.column_by_name("_position").unwrap().as_primitive::<Int64Type>();
    for row in 0..batch.num_rows() {
        *seen.entry((source.value(row), position.value(row))).or_default() += 1;
    }
}

pub(crate) fn rows(view: &str, json: impl Into<String>) -> Push {
    let payload = Bytes::from(json.into());
    Push { view: view.to_owned(), kind: RecordKind::Rows, format: PayloadFormat::Json, payload, idempotency_key: None }
}

/// Two views: `weather` of airports, whose temperature must not be over `max_temp`, and `fares` of routes, which says when it was known.
pub(crate) fn definitions(max_temp: i64) -> Vec<Definition> {
    let float = anabranch_core::DataType::Scalar(Scalar::F64);
    let integer = anabranch_core::DataType::Scalar(Scalar::I64);
    let weather = FeatureView::new("weather", "hour").entity("airport").field("temp", float).field("n", integer);
    let fares = FeatureView::new("fares", "day").known_timestamp("told").entity("airport").entity("carrier").field("fare", float).field("n", integer);
    let range = Rule::Range { min: None, max: Some(max_temp.into()) };
    vec![
        Definition::Entity(Entity::new("airport", "origin", Scalar::String)),
        Definition::Entity(Entity::new("carrier", "carrier", Scalar::I64)),
        Definition::FeatureView(weather),
        Definition::FeatureView(fares),
        Definition::Check(Check::new("temp_range", "weather", "temp", range)),
    ]
}

pub(crate) fn weather(origin: &str, hour: i64, temp: f64, n: i64) -> String {
    format!(r#"{{"origin":"{origin}","hour":{hour},"temp":{temp},"n":{n}}}"#)
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp(micros)
}
