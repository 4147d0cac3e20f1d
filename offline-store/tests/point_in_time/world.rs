//! Small worlds to join: views, their rows, a spine, and a provider of rows from memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use anabranch_core::columns::column_of;
use anabranch_core::definition::{Definition, Definitions, Entity, FeatureService, FeatureView, Projection, Role};
use anabranch_core::name::reserved;
use anabranch_core::types::{DataType, Scalar};
use anabranch_core::{Span, Timestamp, Value};
use anabranch_offline_store::join::{
    Chunk, ChunkInfo, ColumnReader, JoinError, JoinLimits, JoinOptions, JoinPlan, Joined, ScanError, Spine, Spool, SpoolLimits, Spooled, ViewChunks,
    ViewRows, ViewScan, join, join_within,
};
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, Schema};
use async_trait::async_trait;
use tokio::sync::oneshot;

/// A view, told shortly.
#[derive(Debug, Clone)]
pub(crate) struct ViewSpec {
    pub(crate) name: &'static str,
    pub(crate) keys: Vec<(&'static str, Scalar)>,
    pub(crate) known: bool,
    pub(crate) lookback: Option<i64>,
    pub(crate) features: Vec<(&'static str, DataType)>,
}

/// A row of a view.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) key: Vec<Value>,
    pub(crate) event: i64,
    /// Null: the event time, and always null for a view without known times.
    pub(crate) known: Option<i64>,
    pub(crate) arrival: i64,
    pub(crate) source: i32,
    pub(crate) position: i64,
    pub(crate) tombstone: Option<bool>,
    pub(crate) features: Vec<Value>,
}

impl Row {
    /// Its place in the total order, spelled out anew.
    pub(crate) fn order(&self) -> (i64, i64, i64, i32, i64) {
        (self.event, self.known_time(), self.arrival, self.source, self.position)
    }

    pub(crate) fn known_time(&self) -> i64 {
        self.known.unwrap_or(self.event)
    }
}

/// How a service takes a view: an alias, and the spine's column for each key.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) view: usize,
    pub(crate) alias: Option<&'static str>,
    pub(crate) columns: Vec<&'static str>,
}

impl Use {
    pub(crate) fn name<'a>(&'a self, views: &'a [ViewSpec]) -> &'a str {
        self.alias.unwrap_or(views[self.view].name)
    }
}

pub(crate) fn data_type(text: &str) -> DataType {
    text.parse().unwrap()
}

/// The definitions of some views, one entity for each, and a service called `all` over the uses.
pub(crate) fn definitions(views: &[ViewSpec], uses: &[Use]) -> Definitions {
    let mut definitions = Definitions::new();
    for spec in views {
        let entity = format!("{}_entity", spec.name);
        let keys = spec.keys[1..].iter().fold(Entity::new(&entity, spec.keys[0].0, spec.keys[0].1), |e, (name, scalar)| e.join_key(*name, *scalar));
        let mut view = FeatureView::new(spec.name, "event").entity(entity);
        if spec.known {
            view = view.known_timestamp("known");
        }
        if let Some(lookback) = spec.lookback {
            view = view.lookback(Span(lookback));
        }
        view = spec.features.iter().fold(view, |view, (name, data_type)| view.field(*name, *data_type));
        definitions.insert(Definition::Entity(keys).normalized().unwrap());
        definitions.insert(Definition::FeatureView(view).normalized().unwrap());
    }
    let service = uses.iter().fold(FeatureService::new("all"), |service, used| {
        let spec = &views[used.view];
        let key_map: BTreeMap<_, _> =
            spec.keys.iter().zip(&used.columns).map(|((key, _), column)| ((*key).to_owned(), (*column).to_owned())).collect();
        service.with(Projection { alias: used.alias.map(str::to_owned), key_map, ..Projection::all(spec.name) })
    });
    definitions.insert(Definition::FeatureService(service).normalized().unwrap());
    definitions
}

/// Rows as one batch of the view's table columns.
pub(crate) fn batch(spec: &ViewSpec, rows: &[Row]) -> RecordBatch {
    let time = |t: i64| Value::Timestamp(Timestamp(t));
    let mut columns: Vec<(String, DataType, Vec<Value>)> = Vec::new();
    for (i, (name, scalar)) in spec.keys.iter().enumerate() {
        columns.push(((*name).to_owned(), DataType::Scalar(*scalar), rows.iter().map(|row| row.key[i].clone()).collect()));
    }
    let timestamp = DataType::Scalar(Scalar::Timestamp);
    columns.push(("event".to_owned(), timestamp, rows.iter().map(|row| time(row.event)).collect()));
    if spec.known {
        columns.push(("known".to_owned(), timestamp, rows.iter().map(|row| row.known.map_or(Value::Null, time)).collect()));
    }
    for (i, (name, data_type)) in spec.features.iter().enumerate() {
        columns.push(((*name).to_owned(), *data_type, rows.iter().map(|row| row.features[i].clone()).collect()));
    }
    columns.push((reserved::ARRIVAL.to_owned(), timestamp, rows.iter().map(|row| time(row.arrival)).collect()));
    columns.push((reserved::SOURCE.to_owned(), data_type("i32"), rows.iter().map(|row| Value::I32(row.source)).collect()));
    columns.push((reserved::POSITION.to_owned(), data_type("i64"), rows.iter().map(|row| Value::I64(row.position)).collect()));
    let tombstones = rows.iter().map(|row| row.tombstone.map_or(Value::Null, Value::Bool)).collect();
    columns.push((reserved::TOMBSTONE.to_owned(), data_type("bool"), tombstones));
    table(columns.iter().map(|(name, data_type, values)| (name.as_str(), column_of(*data_type, values).unwrap())))
}

/// A batch of named columns, all of which may be null.
pub(crate) fn table<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> RecordBatch {
    let (fields, columns): (Vec<_>, Vec<_>) =
        columns.into_iter().map(|(name, column)| (Field::new(name, column.data_type().clone(), true), column)).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// How rows lie in the files of a [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// As they came.
    Anyhow,
    /// In the order of their event times.
    ByTime,
    /// By entity and in their total order, and the files say so; row groups are cut anywhere.
    Sorted,
}

/// Gives rows from memory: files of so many rows in row groups of so many, with or without those that the hint rules out.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) views: HashMap<String, (ViewSpec, Vec<Row>)>,
    pub(crate) file_rows: usize,
    pub(crate) batch_rows: usize,
    pub(crate) lie: Lie,
    pub(crate) prune: bool,
}

impl Memory {
    pub(crate) fn new(views: &[ViewSpec], rows: &[Vec<Row>]) -> Self {
        let views = views.iter().zip(rows).map(|(spec, rows)| (spec.name.to_owned(), (spec.clone(), rows.clone()))).collect();
        Self { views, file_rows: usize::MAX, batch_rows: 1_000, lie: Lie::Anyhow, prune: false }
    }
}

#[async_trait]
impl ViewRows for Memory {
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError> {
        let (spec, rows) = &self.views[scan.layout.name()];
        assert_eq!(scan.columns.iter().filter(|column| column.role == Role::Reserved).count(), 4);
        let asked = |key: &[Value]| match (scan.hint.keys.as_deref(), key) {
            (Some(hint), [Value::I32(key)]) => hint.any_integer(i64::from(*key), i64::from(*key)),
            (Some(hint), [Value::I64(key)]) => hint.any_integer(*key, *key),
            (Some(hint), [Value::String(key)]) => hint.any_text(key.as_bytes(), key.as_bytes()),
            _ => true,
        };
        let within = |row: &&Row| {
            let event = Timestamp(row.event);
            event <= scan.hint.max_event_time && scan.hint.min_event_time.is_none_or(|min| event >= min) && asked(&row.key)
        };
        let rows: Vec<Row> = rows.iter().filter(|row| !self.prune || within(row)).cloned().collect();
        let mut found = ViewChunks::default();
        for (number, file) in rows.chunks(self.file_rows.clamp(1, rows.len().max(1))).enumerate() {
            let mut file = file.to_vec();
            match self.lie {
                Lie::Anyhow => {}
                Lie::ByTime => file.sort_by_key(|row| row.event),
                // The rows of an entity lie together; in which order entities do is nobody's business.
                Lie::Sorted => file.sort_by(|a, b| format!("{:?}", b.key).cmp(&format!("{:?}", a.key)).then(a.order().cmp(&b.order()))),
            }
            for rows in file.chunks(self.batch_rows.max(1)) {
                let batch = batch(spec, rows);
                let columns = scan.columns.iter().map(|column| Arc::clone(batch.column_by_name(&column.name).unwrap())).collect();
                let info = ChunkInfo {
                    rows: rows.len(),
                    file: number as u32,
                    sorted: self.lie == Lie::Sorted,
                    min_event_time: Timestamp(rows.iter().map(|row| row.event).min().unwrap()),
                    max_event_time: Timestamp(rows.iter().map(|row| row.event).max().unwrap()),
                    tombstones: rows.iter().any(|row| row.tombstone.is_some()),
                };
                found.chunks.push(Arc::new(MemoryChunk { columns, info }));
            }
            found.files += 1;
        }
        Ok(found)
    }
}

/// Rows in memory.
#[derive(Debug)]
pub(crate) struct MemoryChunk {
    columns: Vec<ArrayRef>,
    info: ChunkInfo,
}

#[async_trait]
impl Chunk for MemoryChunk {
    fn info(&self) -> ChunkInfo {
        self.info
    }

    fn stored_bytes(&self, columns: &[usize]) -> u64 {
        columns.iter().map(|place| self.columns[*place].get_array_memory_size() as u64).sum()
    }

    async fn read(&self, columns: &[usize], rows: Option<&[Range<usize>]>, batch_rows: usize) -> Result<ColumnReader, ScanError> {
        let rows: Vec<u32> = match rows {
            Some(rows) => rows.iter().flat_map(|range| range.clone().map(|row| row as u32)).collect(),
            None => (0..self.info.rows as u32).collect(),
        };
        let part = |rows: &[u32]| {
            let rows = UInt32Array::from(rows.to_vec());
            columns.iter().map(|place| arrow::compute::take(&self.columns[*place], &rows, None).unwrap()).collect()
        };
        let batches: Vec<_> = rows.chunks(batch_rows).map(|rows| Ok(part(rows))).collect();
        Ok(Box::new(batches.into_iter()))
    }
}

/// Says that it was asked, and never answers.
#[derive(Debug)]
pub(crate) struct Silent(Mutex<Option<oneshot::Sender<()>>>);

impl Silent {
    pub(crate) fn new(asked: oneshot::Sender<()>) -> Self {
        Self(Mutex::new(Some(asked)))
    }
}

#[async_trait]
impl ViewRows for Silent {
    async fn chunks(&self, _: &ViewScan) -> Result<ViewChunks, ScanError> {
        if let Some(asked) = self.0.lock().unwrap().take() {
            let _ = asked.send(());
        }
        std::future::pending().await
    }
}

/// Joins.
pub(crate) fn run(plan: impl Into<Arc<JoinPlan>>, rows: Memory) -> Result<Joined, JoinError> {
    runtime().block_on(join(plan.into(), Arc::new(rows)))
}

/// The same, within limits.
pub(crate) fn run_within(plan: impl Into<Arc<JoinPlan>>, rows: Memory, memory_bytes: usize, part_rows: usize) -> Result<Joined, JoinError> {
    let limits = JoinLimits { memory_bytes, part_rows, spill: Arc::new(tempfile::tempfile) };
    runtime().block_on(join_within(plan.into(), Arc::new(rows), &limits))
}

/// The same in parts that are spilled to files which something else makes.
pub(crate) fn run_spilling_to(
    plan: impl Into<Arc<JoinPlan>>,
    rows: Memory,
    part_rows: usize,
    spill: impl Fn() -> std::io::Result<std::fs::File> + Send + Sync + 'static,
) -> Result<Joined, JoinError> {
    let limits = JoinLimits { memory_bytes: usize::MAX, part_rows, spill: Arc::new(spill) };
    runtime().block_on(join_within(plan.into(), Arc::new(rows), &limits))
}

pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap())
}

/// A spine cut into batches of so many rows.
pub(crate) fn cut(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    let rows = rows.max(1);
    (0..batch.num_rows()).step_by(rows).map(|at| batch.slice(at, rows.min(batch.num_rows() - at))).collect()
}

pub(crate) fn options(knowledge: anabranch_offline_store::join::Knowledge, strict: bool) -> JoinOptions {
    JoinOptions { knowledge, strict, full_names: false }
}

pub(crate) fn spine(batch: &RecordBatch, batch_rows: usize) -> Result<Spine, JoinError> {
    Spine::new(batch.schema(), cut(batch, batch_rows), Spine::DEFAULT_TIME_COLUMN)
}

/// The same with no more than so many bytes of it in memory.
pub(crate) fn spooled_spine(batch: &RecordBatch, batch_rows: usize, memory_bytes: usize) -> Result<Spine, JoinError> {
    Spine::spooled(spooled(batch, batch_rows, memory_bytes)?, Spine::DEFAULT_TIME_COLUMN)
}

/// Rows that are put aside in batches of so many.
pub(crate) fn spooled(batch: &RecordBatch, batch_rows: usize, memory_bytes: usize) -> Result<Spooled, JoinError> {
    let limits = SpoolLimits { memory_bytes, total_bytes: u64::MAX, reserve: None, files: Arc::new(tempfile::tempfile) };
    let mut spool = Spool::new(batch.schema(), limits);
    for batch in cut(batch, batch_rows) {
        spool.push(batch)?;
    }
    spool.finish()
}
