//! Our side: tables made by ordinary appends, and the join over them or over the peers' files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::definition::{Column, Definition, Definitions, Entity, FeatureView, Role};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, Position, RandomIds, Scalar, SourceId, SystemClock, Timestamp};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Joined, Spine, ViewRows, ViewScan, join};
use anabranch_offline_store::{
    Append, FileRows, Fill, Interval, Locations, OfflineStore, OfflineStoreOptions, TableName, TableRows, TableShape, ViewFile, ViewFiles,
};
use anabranch_versioning::{CommitRequest, RefSpec, Repository, RepositoryOptions, SqliteMetadata, local_objects};
use anyhow::Context as _;
use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Layout, Options, Run};
use crate::report::{START_US, now, peak_rss_mb, say};

/// Where our tables lie, within the folder of the data.
pub(super) const FOLDER: &str = "own";
/// Where those lie that a stream left.
pub(super) const UNCOMPACTED: &str = "uncompacted";

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn definitions(views: usize, features: usize) -> anyhow::Result<Definitions> {
    let mut all = vec![Definition::Entity(Entity::new("entity", "entity", Scalar::I64))];
    for view in 0..views {
        let mut definition = FeatureView::new(format!("view{view}"), "at").entity("entity");
        for i in 0..features {
            definition = definition.field(format!("f{view}_{i}"), DataType::Scalar(Scalar::F32));
        }
        all.push(Definition::FeatureView(definition));
    }
    all.into_iter().map(|definition| Ok(definition.normalized()?)).collect()
}

/// Opens a store in a folder, as the server does.
pub(crate) async fn open(folder: &Path) -> anyhow::Result<Arc<OfflineStore>> {
    std::fs::create_dir_all(folder)?;
    let ids = Arc::new(RandomIds::from_os());
    let metadata = Arc::new(SqliteMetadata::open(&folder.join("metadata.sqlite"), ids.as_ref()).await?);
    let objects = local_objects(&folder.join("objects"))?;
    let clock = Arc::new(SystemClock);
    let repository = Repository::open(metadata, Arc::clone(&objects), clock.clone(), ids.clone(), RepositoryOptions::default()).await?;
    let locations = Locations::local(&folder.join("objects"))?;
    Ok(OfflineStore::new(repository, objects, locations, clock, ids, OfflineStoreOptions::default()))
}

/// Makes tables from the peers' files, in so many commits each.
pub(super) fn load(options: &Options, folder: &Path, tables: &str, commits: usize) -> anyhow::Result<()> {
    let definitions = definitions(options.views, options.features)?;
    runtime()?.block_on(async {
        let store = open(&folder.join(tables)).await?;
        for view in 0..options.views {
            let name = TableName::features(format!("view{view}"));
            let layout = definitions.layout(&name.name)?;
            let changes = store.create_table(&name, &TableShape::from(layout.as_ref())).await?;
            let request = CommitRequest { author: "bench".to_owned(), message: format!("create {name}"), changes, ..CommitRequest::default() };
            store.repository().commit("main", request).await?;
            let columns = layout.table_columns();
            let rows_of_commit = options.view_rows.div_ceil(commits.max(1));
            let (mut waiting, mut rows) = (Vec::new(), 0);
            for batch in read(&folder.join(format!("view{view}.parquet")), &columns)? {
                let mut batch = batch?;
                while rows + batch.num_rows() >= rows_of_commit {
                    let part = rows_of_commit - rows;
                    waiting.push(batch.slice(0, part));
                    batch = batch.slice(part, batch.num_rows() - part);
                    append(&store, &name, std::mem::take(&mut waiting)).await?;
                    rows = 0;
                }
                rows += batch.num_rows();
                waiting.push(batch);
            }
            if rows > 0 {
                append(&store, &name, waiting).await?;
            }
        }
        store.repository().close().await;
        Ok(())
    })
}

async fn append(store: &OfflineStore, table: &TableName, batches: Vec<RecordBatch>) -> anyhow::Result<()> {
    let tables = vec![TableRows { table: table.clone(), batches, intervals: Vec::<Interval>::new() }];
    store.append("main", Append { author: "bench".to_owned(), message: "load".to_owned(), tables, ..Append::default() }).await?;
    Ok(())
}

/// Joins and measures from the first byte read to the answer in Arrow.
pub(super) fn run(folder: &Path, layout: Layout, answer: Option<&Path>, explain: bool) -> anyhow::Result<Run> {
    let (views, features) = shape(folder)?;
    let definitions = definitions(views, features)?;
    let runtime = runtime()?;
    let start = now();
    let mut phases = Vec::new();
    let joined = runtime.block_on(async {
        let spine = ParquetRecordBatchReaderBuilder::try_new(File::open(folder.join("spine.parquet"))?)?.with_batch_size(1 << 16).build()?;
        let schema = arrow::array::RecordBatchReader::schema(&spine);
        let spine = Spine::new(schema, spine.collect::<Result<Vec<_>, _>>()?, Spine::DEFAULT_TIME_COLUMN)?;
        phases.push(("spine decoded", start.elapsed().as_secs_f64()));
        let selection = Selection::Features((0..views).map(|view| format!("view{view}")).collect());
        let plan = JoinPlan::new(spine, &selection, &definitions, JoinOptions::default())?;
        phases.push(("spine ordered", start.elapsed().as_secs_f64()));
        let rows: Arc<dyn ViewRows> = match layout {
            Layout::Own | Layout::Uncompacted => {
                let store = open(&folder.join(if layout == Layout::Own { FOLDER } else { UNCOMPACTED })).await?;
                let head = store.repository().resolve(&"main".parse::<RefSpec>()?).await?.commit;
                store.view_rows(head)
            }
            Layout::Same => same_files(folder, &plan)?,
        };
        phases.push(("store opened", start.elapsed().as_secs_f64()));
        anyhow::Ok(join(Arc::new(plan), rows).await?)
    })?;
    let wall_s = start.elapsed().as_secs_f64();
    if let Some(path) = answer {
        write(&joined, path)?;
    }
    if explain {
        say(&format!("seconds until: {phases:?}, joined {wall_s}; {}", serde_json::to_string(&joined.report)?));
    }
    Ok(Run { wall_s, peak_rss_mb: peak_rss_mb() })
}

fn write(joined: &Joined, path: &Path) -> anyhow::Result<()> {
    let mut writer = FileWriter::try_new(File::create(path)?, &joined.schema)?;
    for batch in joined.rows.batches() {
        writer.write(&batch?)?;
    }
    Ok(writer.finish()?)
}

/// How many views there are and how many features each has.
fn shape(folder: &Path) -> anyhow::Result<(usize, usize)> {
    let views = (0..).take_while(|view| folder.join(format!("view{view}.parquet")).exists()).count();
    let first = ParquetRecordBatchReaderBuilder::try_new(File::open(folder.join("view0.parquet"))?)?;
    Ok((views, first.schema().fields().len() - 2))
}

/// The peers' files as they are: they carry no reserved columns, so one source, one arrival, and positions as the rows lie.
fn same_files(folder: &Path, plan: &JoinPlan) -> anyhow::Result<Arc<dyn ViewRows>> {
    let fill = Fill { arrival: Timestamp(START_US), source: SourceId::new(1)?, first_position: Position::new(0)? };
    let file = |scan: &ViewScan| ViewFiles {
        name: scan.name.clone(),
        // Without ids, columns are found by name.
        field_ids: scan.columns.iter().map(|column| (column.role != Role::Reserved).then_some(0)).collect(),
        sorted_by: Vec::new(),
        files: vec![ViewFile { path: format!("{}.parquet", scan.layout.name()), fill: Some(fill) }],
        all_files: 1,
        all_rows: 0,
    };
    Ok(FileRows::new(local_objects(folder)?, plan.scans().map(file).collect()))
}

fn read(path: &Path, columns: &[Column]) -> anyhow::Result<impl Iterator<Item = anyhow::Result<RecordBatch>> + Send + 'static> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let wanted = columns.iter().filter_map(|column| builder.parquet_schema().columns().iter().position(|leaf| leaf.name() == column.name));
    let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted.collect::<Vec<_>>());
    let reader = builder.with_projection(mask).with_batch_size(1 << 16).build()?;
    let columns = columns.to_vec();
    let mut first = 0_i64;
    Ok(reader.map(move |batch| {
        let batch = complete(&batch?, &columns, first)?;
        first += batch.num_rows() as i64;
        Ok(batch)
    }))
}

/// Adds the reserved columns: one source, positions as the rows lie, one arrival.
fn complete(batch: &RecordBatch, columns: &[Column], first: i64) -> anyhow::Result<RecordBatch> {
    let rows = batch.num_rows();
    let column = |column: &Column| -> anyhow::Result<(String, ArrayRef)> {
        let array: ArrayRef = match column.name.as_str() {
            "_arrival" => Arc::new(TimestampMicrosecondArray::from_value(START_US, rows).with_timezone("UTC")),
            "_source" => Arc::new(Int32Array::from_value(1, rows)),
            "_position" => Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
            "_tombstone" => Arc::new(BooleanArray::new_null(rows)),
            name => Arc::clone(batch.column_by_name(name).with_context(|| format!("no column {name}"))?),
        };
        Ok((column.name.clone(), array))
    };
    Ok(RecordBatch::try_from_iter(columns.iter().map(column).collect::<anyhow::Result<Vec<_>>>()?)?)
}
