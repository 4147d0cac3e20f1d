//! Our tables of the peers' rows, made by ordinary appends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::definition::{Column, Definition, Definitions, Entity, FeatureView};
use anabranch_core::{DataType, RandomIds, Scalar, SystemClock};
use anabranch_offline_store::{
    Append, CompactOptions, CompactionScope, Interval, Locations, OfflineStore, OfflineStoreOptions, TableName, TableRows, TableShape,
};
use anabranch_versioning::{CommitId, CommitRequest, RefSpec, Repository, RepositoryOptions, SqliteMetadata, local_objects};
use anyhow::{Context as _, bail};
use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::task::JoinSet;

use super::workload::Files;
use crate::report::{START_US, say};

/// Where the tables lie that were loaded in bulk, within the folder of the workload.
pub(super) const OWN: &str = "own";
/// Where those lie that a stream left.
pub(super) const UNCOMPACTED: &str = "uncompacted";

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The definitions of the views in a folder, by the columns of their files.
pub(super) fn definitions(folder: &Path) -> anyhow::Result<Definitions> {
    let mut all = vec![Definition::Entity(Entity::new("entity", "entity", Scalar::I64))];
    for (view, schema) in schemas(folder)?.iter().enumerate() {
        let mut definition = FeatureView::new(format!("view{view}"), "at").entity("entity");
        for field in schema.fields() {
            let scalar = match (field.name().as_str(), field.data_type()) {
                ("entity" | "at", _) => continue,
                ("known", _) => {
                    definition = definition.known_timestamp("known");
                    continue;
                }
                (_, ArrowType::Int64) => Scalar::I64,
                (_, ArrowType::Float32) => Scalar::F32,
                (_, ArrowType::Float64) => Scalar::F64,
                (name, other) => bail!("column {name} of view {view} is {other}"),
            };
            definition = definition.field(field.name(), DataType::Scalar(scalar));
        }
        all.push(Definition::FeatureView(definition));
    }
    all.into_iter().map(|definition| Ok(definition.normalized()?)).collect()
}

/// The columns of each view's file in a folder.
pub(super) fn schemas(folder: &Path) -> anyhow::Result<Vec<SchemaRef>> {
    let paths = (0..).map(|view| folder.join(format!("view{view}.parquet"))).take_while(|path| path.exists());
    paths.map(|path| Ok(Arc::clone(ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.schema()))).collect()
}

/// Opens a store in a folder, as the server does.
pub(crate) async fn open(folder: &Path) -> anyhow::Result<Arc<OfflineStore>> {
    fs::create_dir_all(folder)?;
    let ids = Arc::new(RandomIds::from_os());
    let metadata = Arc::new(SqliteMetadata::open(&folder.join("metadata.sqlite"), ids.as_ref()).await?);
    let objects = local_objects(&folder.join("objects"))?;
    let clock = Arc::new(SystemClock);
    let repository = Repository::open(metadata, Arc::clone(&objects), clock.clone(), ids.clone(), RepositoryOptions::default()).await?;
    let locations = Locations::local(&folder.join("objects"))?;
    Ok(OfflineStore::new(repository, objects, locations, clock, ids, OfflineStoreOptions::default()))
}

/// The head of a store's `main`.
pub(super) async fn head(store: &OfflineStore) -> anyhow::Result<CommitId> {
    Ok(store.repository().resolve(&"main".parse::<RefSpec>()?).await?.commit)
}

/// Makes the tables of a workload where they are not there yet: loaded in bulk, or as a stream of so many commits leaves them.
pub(super) fn prepare(files: &Files, tables: &str) -> anyhow::Result<()> {
    let folder = files.folder.join(tables);
    if folder.join("ready").exists() {
        return Ok(());
    }
    say(&format!("loading our tables in {}", folder.display()));
    let _ = fs::remove_dir_all(&folder);
    let definitions = definitions(&files.folder)?;
    let (rows_of_commit, arrived) = match tables {
        OWN => (files.size.bulk_rows, Arrived::AtOnce),
        _ => (files.size.view_rows.div_ceil(files.size.commits.max(1)), Arrived::AsTheyWereMade),
    };
    let compacted = tables == OWN && files.size.view_rows > files.size.bulk_rows;
    runtime()?.block_on(async {
        let store = open(&folder).await?;
        // Sorting and encoding take one core for each.
        let mut views = JoinSet::new();
        for view in 0..files.size.views {
            create(&store, &definitions, view).await?;
            if views.len() == std::thread::available_parallelism()?.get()
                && let Some(done) = views.join_next().await
            {
                done??;
            }
            let (store, folder) = (Arc::clone(&store), folder.clone());
            let batches = read(&files.view(view), &definitions.layout(&table(view).name)?.table_columns(), arrived)?;
            views.spawn(async move {
                load(&store, view, batches, rows_of_commit.max(1)).await?;
                if compacted { compact(&store, &folder, view).await } else { Ok(()) }
            });
        }
        while let Some(done) = views.join_next().await {
            done??;
        }
        store.repository().close().await;
        anyhow::Ok(())
    })?;
    Ok(fs::write(folder.join("ready"), "")?)
}

fn table(view: usize) -> TableName {
    TableName::features(format!("view{view}"))
}

async fn create(store: &OfflineStore, definitions: &Definitions, view: usize) -> anyhow::Result<()> {
    let name = table(view);
    let changes = store.create_table(&name, &TableShape::from(definitions.layout(&name.name)?.as_ref())).await?;
    let request = CommitRequest { author: "bench".to_owned(), message: format!("create {name}"), changes, ..CommitRequest::default() };
    store.repository().commit("main", request).await?;
    Ok(())
}

/// Appends rows, so many with each commit.
async fn load(
    store: &OfflineStore,
    view: usize,
    batches: impl Iterator<Item = anyhow::Result<RecordBatch>>,
    rows_of_commit: usize,
) -> anyhow::Result<()> {
    let name = table(view);
    let (mut waiting, mut rows) = (Vec::new(), 0);
    for batch in batches {
        let mut batch = batch?;
        while rows + batch.num_rows() >= rows_of_commit {
            let part = rows_of_commit - rows;
            waiting.push(batch.slice(0, part));
            batch = batch.slice(part, batch.num_rows() - part);
            append(store, &name, std::mem::take(&mut waiting)).await?;
            rows = 0;
        }
        rows += batch.num_rows();
        waiting.push(batch);
    }
    if rows > 0 {
        append(store, &name, waiting).await?;
    }
    Ok(())
}

async fn append(store: &OfflineStore, table: &TableName, batches: Vec<RecordBatch>) -> anyhow::Result<()> {
    let tables = vec![TableRows { table: table.clone(), batches, intervals: Vec::<Interval>::new() }];
    store.append("main", Append { author: "bench".to_owned(), message: "load".to_owned(), tables, ..Append::default() }).await?;
    Ok(())
}

/// Compacts a view in full and removes the files of before, which only older commits name.
async fn compact(store: &OfflineStore, folder: &Path, view: usize) -> anyhow::Result<()> {
    let name = table(view);
    let files = |commit: CommitId| {
        let name = &name;
        async move {
            let files = store.table_files(&commit, name).await?;
            anyhow::Ok(files.iter().filter_map(|file| store.locations().path(&file.location).map(str::to_owned)).collect::<Vec<_>>())
        }
    };
    let before = files(head(store).await?).await?;
    let options = CompactOptions { scope: CompactionScope::Full, spill: Some(folder.to_owned()), ..CompactOptions::default() };
    store.compact("main", &name, &options).await?;
    let after = files(head(store).await?).await?;
    for path in before.iter().filter(|path| !after.contains(path)) {
        fs::remove_file(folder.join("objects").join(path))?;
    }
    Ok(())
}

/// The data files of each view of the tables in a folder.
pub(super) fn data_files(folder: &Path, views: usize) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    runtime()?.block_on(async {
        let store = open(folder).await?;
        let head = head(&store).await?;
        let mut found = Vec::new();
        for view in 0..views {
            let files = store.table_files(&head, &table(view)).await?;
            let path =
                |location: &str| store.locations().path(location).map(|path| folder.join("objects").join(path)).context("a file lies elsewhere");
            found.push(files.iter().map(|file| path(&file.location)).collect::<anyhow::Result<_>>()?);
        }
        store.repository().close().await;
        Ok(found)
    })
}

/// The bytes of the data files.
pub(super) fn bytes(folder: &Path, views: usize) -> anyhow::Result<u64> {
    data_files(folder, views)?.iter().flatten().map(|path| Ok(fs::metadata(path)?.len())).sum()
}

fn read(path: &Path, columns: &[Column], arrived: Arrived) -> anyhow::Result<impl Iterator<Item = anyhow::Result<RecordBatch>> + Send + 'static> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let wanted = columns.iter().filter_map(|column| builder.parquet_schema().columns().iter().position(|leaf| leaf.name() == column.name));
    let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted.collect::<Vec<_>>());
    let reader = builder.with_projection(mask).with_batch_size(1 << 16).build()?;
    let columns = columns.to_vec();
    let mut first = 0_i64;
    Ok(reader.map(move |batch| {
        let batch = complete(&batch?, &columns, first, arrived)?;
        first += batch.num_rows() as i64;
        Ok(batch)
    }))
}

/// When rows arrived.
#[derive(Clone, Copy)]
enum Arrived {
    /// In one bulk load.
    AtOnce,
    /// In a stream, when they became known.
    AsTheyWereMade,
}

/// Adds the reserved columns: one source, positions as the rows lie, arrivals.
fn complete(batch: &RecordBatch, columns: &[Column], first: i64, arrived: Arrived) -> anyhow::Result<RecordBatch> {
    let rows = batch.num_rows();
    let made = batch.column_by_name("known").or_else(|| batch.column_by_name("at")).context("no time")?;
    let column = |column: &Column| -> anyhow::Result<(String, ArrayRef)> {
        let array: ArrayRef = match column.name.as_str() {
            "_arrival" => match arrived {
                Arrived::AtOnce => Arc::new(TimestampMicrosecondArray::from_value(START_US, rows).with_timezone("UTC")),
                Arrived::AsTheyWereMade => Arc::clone(made),
            },
            "_source" => Arc::new(Int32Array::from_value(1, rows)),
            "_position" => Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
            "_tombstone" => Arc::new(BooleanArray::new_null(rows)),
            name => Arc::clone(batch.column_by_name(name).with_context(|| format!("no column {name}"))?),
        };
        Ok((column.name.clone(), array))
    };
    Ok(RecordBatch::try_from_iter(columns.iter().map(column).collect::<anyhow::Result<Vec<_>>>()?)?)
}
