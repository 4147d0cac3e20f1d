//! A repository with a table of clicks, and rows for it.

use std::sync::Arc;

use anabranch_core::columns::{column_of, value_at};
use anabranch_core::definition::{Column, Definition, Definitions, Entity, FeatureView, Partition, ViewLayout};
use anabranch_core::{Clock, DataType, Ids, ManualClock, Position, RandomIds, Scalar, SourceId, Timestamp, Value};
use anabranch_offline_store::{
    Append, Appended, Interval, Locations, OfflineStore, OfflineStoreOptions, ScanRequest, TableName, TableResolver, TableRows, TableShape,
};
use anabranch_versioning::{
    Change, CommitId, CommitRequest, MemoryMetadata, MetadataStore, RefSpec, Repository, RepositoryOptions, SqliteMetadata, local_objects,
};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tempfile::TempDir;

pub(crate) const DAY: i64 = 86_400_000_000;

/// A store with what it was made of.
pub(crate) struct World {
    pub(crate) store: Arc<OfflineStore>,
    pub(crate) repository: Arc<Repository>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) folder: Option<TempDir>,
}

impl World {
    pub(crate) async fn memory() -> Self {
        Self::memory_with(OfflineStoreOptions::default(), |objects| objects).await
    }

    /// In memory, with table files behind what `wrap` makes.
    pub(crate) async fn memory_with(options: OfflineStoreOptions, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let files = wrap(Arc::clone(&objects));
        Self::open(Arc::new(MemoryMetadata::new(&RandomIds::seeded(1))), objects, files, Locations::memory(), options, None).await
    }

    /// SQLite and a local folder.
    pub(crate) async fn local() -> Self {
        let folder = TempDir::new().unwrap();
        let metadata = SqliteMetadata::open(&folder.path().join("metadata.db"), &RandomIds::seeded(1)).await.unwrap();
        let objects = local_objects(&folder.path().join("objects")).unwrap();
        let locations = Locations::local(&folder.path().join("objects")).unwrap();
        let files = Arc::clone(&objects);
        Self::open(Arc::new(metadata), objects, files, locations, OfflineStoreOptions::default(), Some(folder)).await
    }

    pub(crate) async fn open(
        metadata: Arc<dyn MetadataStore>,
        objects: Arc<dyn ObjectStore>,
        files: Arc<dyn ObjectStore>,
        locations: Locations,
        options: OfflineStoreOptions,
        folder: Option<TempDir>,
    ) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000)));
        let ids: Arc<dyn Ids> = Arc::new(RandomIds::seeded(7));
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let mut repository = RepositoryOptions::default();
        repository.resolvers.push(Arc::new(TableResolver));
        let repository = Repository::open(metadata, Arc::clone(&objects), Arc::clone(&time), Arc::clone(&ids), repository).await.unwrap();
        let store = OfflineStore::new(Arc::clone(&repository), files, locations, time, Arc::clone(&ids), options);
        Self { store, repository, clock, ids, objects, folder }
    }

    /// A second server on the same repository.
    pub(crate) fn another(&self) -> Arc<OfflineStore> {
        let (clock, locations) = (Arc::clone(&self.clock) as Arc<dyn Clock>, self.store.locations().clone());
        let (repository, objects) = (Arc::clone(&self.repository), Arc::clone(&self.objects));
        OfflineStore::new(repository, objects, locations, clock, Arc::clone(&self.ids), OfflineStoreOptions::default())
    }

    pub(crate) async fn head(&self, branch: &str) -> CommitId {
        self.repository.resolve(&RefSpec::branch(branch)).await.unwrap().commit
    }

    pub(crate) async fn commit(&self, branch: &str, changes: Vec<Change>) -> CommitId {
        self.repository.commit(branch, CommitRequest::new("test", "test", changes)).await.unwrap().commit
    }

    pub(crate) async fn create(&self, layout: &ViewLayout) {
        let changes = self.store.create_table(&TableName::features(layout.name()), &TableShape::from(layout)).await.unwrap();
        self.commit("main", changes).await;
    }

    pub(crate) async fn append(&self, branch: &str, batch: RecordBatch) -> Appended {
        self.store.append(branch, clicks_append(batch)).await.unwrap()
    }

    /// All rows of the clicks at a commit, as text.
    pub(crate) async fn clicks(&self, commit: &CommitId) -> Vec<String> {
        self.rows(commit, &ScanRequest::all(clicks(), layout(Partition::None).table_columns())).await
    }

    pub(crate) async fn rows(&self, commit: &CommitId, request: &ScanRequest) -> Vec<String> {
        let batches: Vec<_> = self.store.scan(commit, request).await.unwrap().try_collect().await.unwrap();
        texts(&batches, &request.columns)
    }
}

pub(crate) fn clicks() -> TableName {
    TableName::features("clicks")
}

pub(crate) fn clicks_append(batch: RecordBatch) -> Append {
    let rows = TableRows { table: clicks(), batches: vec![batch], intervals: Vec::new() };
    Append { author: "test".into(), message: "rows".into(), tables: vec![rows], ..Append::default() }
}

pub(crate) fn clicks_view() -> FeatureView {
    FeatureView::new("clicks", "at")
        .entity("user")
        .known_timestamp("known")
        .field("count", DataType::Scalar(Scalar::I32))
        .field("score", DataType::Scalar(Scalar::F32))
        .field("tags", DataType::List(Scalar::String))
        .field("embedding", DataType::Vector(2))
}

pub(crate) fn layout(partition: Partition) -> Arc<ViewLayout> {
    layout_of(FeatureView { partition, ..clicks_view() })
}

pub(crate) fn layout_of(view: FeatureView) -> Arc<ViewLayout> {
    let name = view.name.clone();
    let user = Entity::new("user", "user_id", Scalar::I64).join_key("region", Scalar::String);
    [Definition::Entity(user), Definition::FeatureView(view)].into_iter().collect::<Definitions>().layout(&name).unwrap()
}

pub(crate) fn source(id: u32) -> SourceId {
    SourceId::new(id).unwrap()
}

pub(crate) fn interval(id: u32, first: u64, last: u64) -> Interval {
    Interval { source: source(id), first: Position::new(first).unwrap(), last: Position::new(last).unwrap() }
}

/// Rows of the clicks at positions of a source, a day apart and out of order; every third feature is null.
pub(crate) fn batch(id: u32, positions: std::ops::Range<u64>) -> RecordBatch {
    let rows: Vec<_> = positions.rev().map(|position| row(id, position as i64)).collect();
    batch_of(&layout(Partition::None).table_columns(), &rows)
}

fn row(id: u32, position: i64) -> Vec<Value> {
    let null_or = |value: Value| if position % 3 == 0 { Value::Null } else { value };
    vec![
        Value::String(["eu", "us"][position as usize % 2].into()),
        Value::I64(position % 5),
        Value::Timestamp(Timestamp(position * DAY + 5)),
        Value::Timestamp(Timestamp(position * DAY + 9)),
        null_or(Value::I32(position as i32)),
        null_or(Value::F32(position as f32 / 2.0)),
        null_or(Value::List(vec![Value::String(format!("t{position}")), Value::String(String::new())])),
        null_or(Value::Vector(vec![position as f32, -1.0])),
        Value::Timestamp(Timestamp(1_000 + position)),
        Value::I32(id as i32),
        Value::I64(position),
        if position % 7 == 6 { Value::Bool(true) } else { Value::Null },
    ]
}

pub(crate) fn batch_of(columns: &[Column], rows: &[Vec<Value>]) -> RecordBatch {
    let arrays = columns.iter().enumerate().map(|(place, column)| {
        let values: Vec<_> = rows.iter().map(|row| row[place].clone()).collect();
        column_of(column.data_type, &values).unwrap()
    });
    let fields: Vec<_> = columns.iter().map(|column| Field::new(&column.name, column.data_type.to_arrow(), column.nullable())).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.collect()).unwrap()
}

/// Rows as sorted lines of JSON.
pub(crate) fn texts(batches: &[RecordBatch], columns: &[Column]) -> Vec<String> {
    let mut lines: Vec<_> = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| text(batch, columns, row)).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

fn text(batch: &RecordBatch, columns: &[Column], row: usize) -> String {
    let cells = columns.iter().enumerate().map(|(place, column)| value_at(batch.column(place), column.data_type, row).unwrap().to_json());
    serde_json::Value::from(cells.collect::<Vec<_>>()).to_string()
}

/// What [`World::clicks`] reads of these rows.
pub(crate) fn expected(batches: &[RecordBatch]) -> Vec<String> {
    texts(batches, &layout(Partition::None).table_columns())
}

impl World {
    /// Iceberg's own access to the files.
    pub(crate) fn io(&self) -> iceberg::io::FileIO {
        self.store.file_io().clone()
    }
}
