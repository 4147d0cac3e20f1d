//! The store of tables over one repository, and how tables are made, evolved and dropped.
//!
//! Making and changing tables gives *changes* that the caller commits together with its own (the definitions that ask for them), so that a view and its
//! table appear in one commit. Blobs and ids are made before; if the commit never comes, they are litter that nothing names.
//!
//! | change | inside the committer's queue |
//! | -- | -- |
//! | create | expects that no table of the name is there |
//! | evolve | expects the same table with the same columns as when it was planned, whatever was appended meanwhile; else `Stale` |
//! | drop | takes the entry and all snapshots known at the commit out of the map; files stay, older commits keep them |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::{Clock, Ids};
use anabranch_versioning::{Apply, ApplyError, Change, CommitId, Digest, Expect, Key, MapReader, Repository, Scan, scan_all};
use async_trait::async_trait;
use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;
use object_store::ObjectStore;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use crate::data_file::{Footers, WriteOptions};
use crate::entry::{SnapshotEntry, TableEntry, snapshot_key, snapshot_prefix, table_key};
use crate::manifests::ManifestCache;
use crate::metadata::{self, History, LAST_PARTITION_ID, NewTable, TableDefinition, TableState};
use crate::schema::{self, TableShape};
use crate::storage::{Locations, ObjectStorage};
use crate::{Error, Result};

/// What a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// Tables of feature views.
    Features,
    /// Tables of refused rows.
    Quarantine,
    /// Tables of what was served to lookups.
    Served,
}

impl Namespace {
    /// Every namespace.
    pub const ALL: [Self; 3] = [Self::Features, Self::Quarantine, Self::Served];

    /// The name in keys and catalogs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Quarantine => "quarantine",
            Self::Served => "served",
        }
    }

    /// The namespace of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|namespace| namespace.name() == name)
    }
}

/// The name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// What it is for.
    pub namespace: Namespace,
    /// Its name there.
    pub name: String,
}

impl TableName {
    /// The table of a feature view.
    pub fn features(view: impl Into<String>) -> Self {
        Self { namespace: Namespace::Features, name: view.into() }
    }

    /// A table of refused rows.
    pub fn quarantine(name: impl Into<String>) -> Self {
        Self { namespace: Namespace::Quarantine, name: name.into() }
    }

    /// The table of what a feature service's lookups were answered.
    pub fn served(service: impl Into<String>) -> Self {
        Self { namespace: Namespace::Served, name: service.into() }
    }

    /// The table that a caller names: `namespace.name`, or a feature view, whose name has no dot.
    pub fn from_text(text: &str) -> Self {
        let qualified = text.split_once('.').and_then(|(namespace, name)| Some((Namespace::from_name(namespace)?, name)));
        qualified.map_or_else(|| Self::features(text), |(namespace, name)| Self { namespace, name: name.to_owned() })
    }

    pub(crate) fn key(&self) -> Result<Key> {
        table_key(self.namespace.name(), &self.name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace.name(), self.name)
    }
}

/// How tables are written and read.
#[derive(Debug, Clone)]
pub struct OfflineStoreOptions {
    /// About how many bytes of rows, as Arrow holds them, go into one file.
    pub file_bytes: usize,
    /// How many rows a row group holds.
    pub row_group_rows: usize,
    /// How many snapshots, the newest, outside readers are shown.
    pub listed_snapshots: usize,
    /// How many manifests of like size are merged into one.
    pub merge_manifests: usize,
    /// How often an append is prepared anew after another server moved its table.
    pub append_attempts: usize,
    /// How many row groups are read at a time by one scan.
    pub scan_groups: usize,
    /// How many data files' worth of manifest entries are kept in memory.
    pub cached_entries: u64,
    /// How many bytes of data files' footers are kept in memory.
    pub cached_footer_bytes: u64,
}

impl Default for OfflineStoreOptions {
    fn default() -> Self {
        Self {
            file_bytes: 256 << 20,
            row_group_rows: 256 << 10,
            listed_snapshots: 1_000,
            merge_manifests: 8,
            append_attempts: 16,
            scan_groups: 2,
            cached_entries: 64 << 10,
            cached_footer_bytes: 64 << 20,
        }
    }
}

/// A table on a branch.
type BranchTable = (String, TableName);

/// History in tables over one repository.
#[derive(Debug)]
pub struct OfflineStore {
    pub(crate) repository: Arc<Repository>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) locations: Locations,
    pub(crate) io: FileIO,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) options: OfflineStoreOptions,
    pub(crate) manifests: ManifestCache,
    pub(crate) footers: Arc<Footers>,
    definitions: moka::future::Cache<Digest, Arc<TableDefinition>>,
    locks: Mutex<HashMap<BranchTable, Arc<tokio::sync::Mutex<()>>>>,
}

impl OfflineStore {
    /// Tables of `repository`, with their files in `objects`, whose root `locations` names. A put to `objects` must be durable when it returns.
    pub fn new(
        repository: Arc<Repository>,
        objects: Arc<dyn ObjectStore>,
        locations: Locations,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        options: OfflineStoreOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            io: ObjectStorage::file_io(Arc::clone(&objects), locations.clone()),
            manifests: ManifestCache::new(options.cached_entries),
            footers: Arc::new(Footers::new(options.cached_footer_bytes)),
            definitions: moka::future::Cache::new(1_024),
            locks: Mutex::default(),
            repository,
            objects,
            locations,
            clock,
            ids,
            options,
        })
    }

    /// The repository beneath.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Iceberg's access to the files.
    pub fn file_io(&self) -> &FileIO {
        &self.io
    }

    /// Where files lie.
    pub fn locations(&self) -> &Locations {
        &self.locations
    }

    /// A table at a commit.
    ///
    /// # Errors
    /// [`Error::NoTable`] where there is none of this name.
    pub async fn table(&self, commit: &CommitId, name: &TableName) -> Result<TableState> {
        self.find_table(commit, name).await?.ok_or_else(|| Error::NoTable(name.to_string()))
    }

    /// A table at a commit, if there is one.
    ///
    /// # Errors
    /// Those of the repository.
    pub async fn find_table(&self, commit: &CommitId, name: &TableName) -> Result<Option<TableState>> {
        let Some(bytes) = self.repository.get(commit, &name.key()?).await? else { return Ok(None) };
        let entry = TableEntry::decode(&bytes)?;
        let definition = self.definition(name, &entry.metadata).await?;
        Ok(Some(TableState { name: name.clone(), entry, definition }))
    }

    async fn definition(&self, name: &TableName, digest: &Digest) -> Result<Arc<TableDefinition>> {
        if let Some(known) = self.definitions.get(digest).await {
            return Ok(known);
        }
        let blob = self.repository.blob(digest).await?;
        let definition = Arc::new(metadata::read(&name.to_string(), &blob, &self.locations)?);
        self.definitions.insert(*digest, Arc::clone(&definition)).await;
        Ok(definition)
    }

    /// The names of the tables of a namespace at a commit.
    ///
    /// # Errors
    /// Those of the repository.
    pub async fn tables(&self, commit: &CommitId, namespace: Namespace) -> Result<Vec<TableName>> {
        let prefix = Key::prefix(anabranch_versioning::KeyKind::Table, &[namespace.name().as_bytes()])?;
        let entries = scan_all(&self.repository.at(commit).await?, Scan::prefix(prefix)).await?;
        let name = |key: &Key| key.part(1).map(|name| TableName { namespace, name: String::from_utf8_lossy(name).into_owned() });
        Ok(entries.iter().filter_map(|entry| name(&entry.key)).collect())
    }

    /// A snapshot's entry.
    pub(crate) async fn snapshot(&self, commit: &CommitId, table: Uuid, id: i64) -> Result<SnapshotEntry> {
        let bytes = self.repository.get(commit, &snapshot_key(table, id)?).await?;
        SnapshotEntry::decode(&bytes.ok_or_else(|| Error::corrupt(format!("snapshot {id} of table {table}"), "its entry is missing"))?)
    }

    /// The whole metadata of a table at a commit as Iceberg knows it, listing its newest snapshots.
    ///
    /// # Errors
    /// [`Error::NoTable`], and [`Error::Corrupt`] where stored bytes are damaged.
    pub async fn table_metadata(&self, commit: &CommitId, name: &TableName) -> Result<TableMetadata> {
        let table = self.table(commit, name).await?;
        let mut snapshots = Vec::new();
        let mut next = table.entry.current_snapshot;
        while let Some(id) = next.filter(|_| snapshots.len() < self.options.listed_snapshots.max(1)) {
            let snapshot = self.snapshot(commit, table.entry.uuid, id).await?;
            next = snapshot.parent;
            snapshots.push((id, snapshot));
        }
        let metadata = self.repository.metadata();
        let last = |mark: u64| i32::try_from(mark.saturating_sub(1)).unwrap_or(i32::MAX);
        let history = History {
            entry: &table.entry,
            snapshots: &snapshots,
            last_column_id: last(metadata.mark(&field_mark(table.entry.uuid)).await?),
            last_partition_id: last(metadata.mark(&partition_mark(table.entry.uuid)).await?).saturating_add(LAST_PARTITION_ID),
        };
        let blob = self.repository.blob(&table.entry.metadata).await?;
        metadata::assemble(&blob, &history, &self.locations)
    }

    /// What a `metadata.json` of the table at a commit would hold.
    ///
    /// # Errors
    /// As [`OfflineStore::table_metadata`].
    pub async fn metadata_json(&self, commit: &CommitId, name: &TableName) -> Result<Bytes> {
        let metadata = self.table_metadata(commit, name).await?;
        Ok(serde_json::to_vec(&metadata).map_err(|error| Error::corrupt(format!("metadata of table {name}"), error))?.into())
    }

    /// The changes that make a table.
    ///
    /// # Errors
    /// Those of the repository.
    pub async fn create_table(&self, name: &TableName, shape: &TableShape) -> Result<Vec<Change>> {
        let plan = schema::plan(&name.to_string(), None, shape)?;
        let uuid = self.uuid();
        let first = self.allocate(&field_mark(uuid), plan.fresh_ids()).await?;
        let fields = plan.fields(first);
        let mut partition = schema::partition_field(&fields, shape);
        if let Some(field) = &mut partition {
            field.field_id = LAST_PARTITION_ID + self.allocate(&partition_mark(uuid), 1).await?;
        }
        let table = NewTable {
            uuid,
            schema: schema::schema(&fields, 0)?,
            sort_order: schema::sort_order(&fields, shape),
            partition,
            properties: schema::properties(&fields, shape).into_iter().chain(standing_properties()).collect(),
            time_ms: self.now_ms(),
        };
        let blob = self.put_definition(name, table.blob()?).await?;
        let entry = TableEntry { uuid, metadata: blob, current_snapshot: None, last_sequence_number: 0 };
        Ok(vec![Change::Put { key: name.key()?, value: entry.encode(), expect: Expect::Absent }])
    }

    /// The changes that give a table the columns and partitions of a new shape; none where it has them.
    ///
    /// # Errors
    /// [`Error::NoTable`], and [`Error::Schema`] where its rows cannot follow.
    pub async fn evolve_table(&self, commit: &CommitId, name: &TableName, shape: &TableShape) -> Result<Vec<Change>> {
        let table = self.table(commit, name).await?;
        let plan = schema::plan(&name.to_string(), Some(table.metadata()), shape)?;
        let fresh = plan.fresh_ids();
        let first = if fresh == 0 { 0 } else { self.allocate(&field_mark(table.entry.uuid), fresh).await? };
        let fields = plan.fields(first);
        let partition = schema::partition_field(&fields, shape);
        let same_partition = self.default_partition(&table) == partition.clone().map(|field| (field.source_id, field.transform));
        if fields == table.fields() && same_partition {
            return Ok(Vec::new());
        }
        let metadata = self.evolved(&table, &fields, shape, (!same_partition).then_some(partition)).await?;
        let new = self.put_definition(name, metadata::strip(&metadata)?).await?;
        Ok(vec![Change::Apply(Box::new(Evolve { key: name.key()?, uuid: table.entry.uuid, old: table.entry.metadata, new }))])
    }

    fn default_partition(&self, table: &TableState) -> Option<(i32, iceberg::spec::Transform)> {
        table.metadata().default_partition_spec().fields().first().map(|field| (field.source_id, field.transform))
    }

    async fn evolved(
        &self,
        table: &TableState,
        fields: &[schema::TableField],
        shape: &TableShape,
        partition: Option<Option<iceberg::spec::PartitionField>>,
    ) -> Result<TableMetadata> {
        let mut json = metadata::to_json(table.metadata())?;
        let schema_id = table.metadata().schemas_iter().map(|schema| schema.schema_id()).max().unwrap_or(0) + 1;
        let schema = schema::schema(fields, schema_id)?;
        json["last-column-id"] = schema.highest_field_id().max(table.metadata().last_column_id()).into();
        json["schemas"].as_array_mut().into_iter().for_each(|schemas| schemas.extend(metadata::to_json(&schema).ok()));
        json["current-schema-id"] = schema_id.into();
        if let Some(properties) = json["properties"].as_object_mut() {
            properties.remove(schema::KNOWN_TIME_PROPERTY);
        }
        for (key, value) in schema::properties(fields, shape) {
            json["properties"][key] = value.into();
        }
        if let Some(mut partition) = partition {
            if let Some(field) = &mut partition {
                field.field_id = LAST_PARTITION_ID + self.allocate(&partition_mark(table.entry.uuid), 1).await?;
                json["last-partition-id"] = field.field_id.into();
            }
            let spec_id = table.metadata().partition_specs_iter().map(|spec| spec.spec_id()).max().unwrap_or(0) + 1;
            let spec = json!({"spec-id": spec_id, "fields": metadata::to_json(&partition.iter().collect::<Vec<_>>())?});
            json["partition-specs"].as_array_mut().into_iter().for_each(|specs| specs.push(spec.clone()));
            json["default-spec-id"] = spec_id.into();
        }
        json["last-updated-ms"] = self.now_ms().max(table.metadata().last_updated_ms()).into();
        serde_json::from_value(json).map_err(|error| Error::corrupt(format!("metadata of table {}", table.name), error))
    }

    /// The changes that take a table and its snapshots out of the map, as they are at a commit.
    ///
    /// # Errors
    /// [`Error::NoTable`] where there is none.
    pub async fn drop_table(&self, commit: &CommitId, name: &TableName) -> Result<Vec<Change>> {
        let table = self.table(commit, name).await?;
        let snapshots = scan_all(&self.repository.at(commit).await?, Scan::prefix(snapshot_prefix(table.entry.uuid)?)).await?;
        let mut changes: Vec<_> = snapshots.into_iter().map(|entry| Change::delete(entry.key)).collect();
        changes.push(Change::delete(name.key()?));
        Ok(changes)
    }

    /// The ids and types of some columns, in the order asked: the layout of a packed row.
    ///
    /// # Errors
    /// [`Error::NoTable`], and [`Error::Schema`] where the table has no such column.
    pub async fn packed_fields(&self, commit: &CommitId, name: &TableName, columns: &[&str]) -> Result<Vec<(i32, anabranch_core::DataType)>> {
        let table = self.table(commit, name).await?;
        let find = |column: &&str| {
            let field = table.field(column).map(|field| (field.id, field.data_type));
            field.ok_or_else(|| Error::schema(name, format!("it has no column {column:?}")))
        };
        columns.iter().map(find).collect()
    }

    pub(crate) async fn put_definition(&self, name: &TableName, blob: Bytes) -> Result<Digest> {
        // Read back before it is stored: nothing is committed that cannot be loaded.
        metadata::read(&name.to_string(), &blob, &self.locations)?;
        Ok(self.repository.put_blob(blob).await?)
    }

    pub(crate) async fn allocate(&self, mark: &str, count: u64) -> Result<i32> {
        let first = self.repository.metadata().allocate(mark, count).await?;
        let last = i32::try_from(first + count).map_err(|_| Error::Invalid { what: "table", reason: "it has used up its ids".to_owned() });
        last.map(|_| first as i32)
    }

    /// Locks tables of a branch for this process's writers, in one order.
    pub(crate) async fn lock(&self, branch: &str, tables: &[TableName]) -> Vec<OwnedMutexGuard<()>> {
        let mut names: Vec<_> = tables.to_vec();
        names.sort_unstable();
        names.dedup();
        let mut guards = Vec::with_capacity(names.len());
        for name in names {
            let lock = {
                let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
                if locks.len() > 10_000 {
                    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
                }
                Arc::clone(locks.entry((branch.to_owned(), name)).or_default())
            };
            guards.push(lock.lock_owned().await);
        }
        guards
    }

    pub(crate) fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.ids.random().to_be_bytes()).into_uuid()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now().micros().div_euclid(1_000)
    }

    pub(crate) fn write_options(&self) -> WriteOptions {
        WriteOptions { file_bytes: self.options.file_bytes, row_group_rows: self.options.row_group_rows }
    }
}

/// The mark of a table's field ids.
pub(crate) fn field_mark(table: Uuid) -> String {
    format!("fields/{table}")
}

/// The mark of a table's partition field ids, counted from 1000.
pub(crate) fn partition_mark(table: Uuid) -> String {
    format!("partitions/{table}")
}

/// Outside engines must not clean up files that other branches share.
fn standing_properties() -> impl Iterator<Item = (String, String)> {
    [("gc.enabled", "false"), ("write.parquet.compression-codec", "zstd")].into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// Puts a table's new columns beside whatever snapshot is current.
#[derive(Debug)]
struct Evolve {
    key: Key,
    uuid: Uuid,
    old: Digest,
    new: Digest,
}

#[async_trait]
impl Apply for Evolve {
    async fn apply(&mut self, head: &dyn MapReader) -> Result<Vec<Change>, ApplyError> {
        let bytes = head.get(&self.key).await?.ok_or(ApplyError::Stale)?;
        let entry = TableEntry::decode(&bytes).map_err(|error| ApplyError::Refused(Box::new(error)))?;
        if entry.uuid != self.uuid || entry.metadata != self.old {
            return Err(ApplyError::Stale);
        }
        let entry = TableEntry { metadata: self.new, ..entry };
        Ok(vec![Change::put(self.key.clone(), entry.encode())])
    }
}
