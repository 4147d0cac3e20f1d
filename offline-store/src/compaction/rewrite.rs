//! Rows of some files, sorted together, as new files.
//!
//! The sort is DataFusion's external one: it holds what fits its memory and spills sorted runs beyond it, whatever order the inputs are in. Rows are sorted
//! by partition, then by the table's order, then by the reserved columns; the writer sorts each file once more by exactly its own order.

use std::sync::Arc;

use anabranch_core::definition::{Column, Role};
use anabranch_core::name::reserved;
use arrow::array::{Array, AsArray, Int32Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType as ArrowType, Field, Int32Type, Schema as ArrowSchema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column as SortColumn;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;

use super::CompactOptions;
use super::plan::{Job, Plan};
use crate::data_file::{FileRead, Footers, ReadColumn, WriteOptions, WrittenFile, partition_values, write_files};
use crate::entry::Fill;
use crate::metadata::TableState;
use crate::scan::schema_of;
use crate::table::OfflineStore;
use crate::{Error, Result};

/// The column of partition values that rows are sorted by and that no file gets; a name that no column of a table has.
const PARTITION: &str = "";
const LEAST_MEMORY_BYTES: usize = 4 << 20;

impl OfflineStore {
    /// Writes the rows of a job's files as new files, which nothing names yet.
    pub(super) async fn rewrite(&self, plan: &Plan, job: &Job, options: &CompactOptions) -> Result<Vec<WrittenFile>> {
        let memory = options.memory_bytes.max(LEAST_MEMORY_BYTES);
        let mut sorted = self.sorted(plan, job, options, memory / 2)?;
        let mut piece = Piece::new(job.rows_per_file, memory / 4);
        let mut written = Vec::new();
        while let Some(batch) = sorted.try_next().await.map_err(failed)? {
            for rows in piece.take(batch) {
                written.extend(self.write_piece(&plan.state, rows).await?);
            }
        }
        written.extend(self.write_piece(&plan.state, piece.end()).await?);
        let rows: u64 = written.iter().map(|file| file.data_file.record_count()).sum();
        match rows == job.rows() {
            true => Ok(written),
            false => {
                let reason = format!("{} rows were read of files that hold {} by their manifests", rows, job.rows());
                Err(Error::corrupt(format!("table {}", plan.state.name), reason))
            }
        }
    }

    async fn write_piece(&self, state: &TableState, batches: Vec<RecordBatch>) -> Result<Vec<WrittenFile>> {
        let columns: Vec<_> = (0..state.fields().len()).collect();
        let batches = batches.iter().map(|batch| batch.project(&columns)).collect::<Result<_, _>>()?;
        // It is cut to its size already.
        let options = WriteOptions { file_bytes: usize::MAX, ..self.write_options() };
        write_files(state, batches, options, &self.objects, &self.locations, || self.uuid()).await
    }

    fn sorted(&self, plan: &Plan, job: &Job, options: &CompactOptions, memory: usize) -> Result<SendableRecordBatchStream> {
        let input = Arc::new(Input::new(self, &plan.state, job)?);
        let Some(order) = order(&plan.state) else {
            return Err(Error::schema(&plan.state.name, "it has no sort order"));
        };
        let mut runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)));
        if let Some(spill) = &options.spill {
            std::fs::create_dir_all(spill).map_err(|source| Error::Unavailable { what: spill.display().to_string(), source: Box::new(source) })?;
            runtime = runtime.with_temp_file_path(spill);
        }
        let config = SessionConfig::new().with_sort_spill_reservation_bytes(memory / 8);
        let context = TaskContext::default().with_session_config(config).with_runtime(runtime.build_arc().map_err(failed)?);
        let schema = Arc::clone(input.schema());
        let input = StreamingTableExec::try_new(schema, vec![input], None, [], false, None).map_err(failed)?;
        SortExec::new(order, Arc::new(input)).execute(0, Arc::new(context)).map_err(failed)
    }
}

/// By partition, by the table's sort order, by what else tells rows apart.
fn order(state: &TableState) -> Option<LexOrdering> {
    let fields = state.fields();
    let by_id = state.metadata().default_sort_order().fields.iter().map(|sort| fields.iter().position(|field| field.id == sort.source_id));
    let by_name = [reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION].map(|name| fields.iter().position(|field| field.name == name));
    let places = [Some(fields.len())].into_iter().chain(by_id).chain(by_name).flatten();
    let by = |place: usize| {
        let name = fields.get(place).map_or(PARTITION, |field| field.name.as_str());
        PhysicalSortExpr::new(Arc::new(SortColumn::new(name, place)), SortOptions { descending: false, nulls_first: true })
    };
    LexOrdering::new(places.map(by))
}

/// The rows of a job's files, one file after the other, with their partition as a last column.
#[derive(Debug, Clone)]
struct Input {
    objects: Arc<dyn ObjectStore>,
    footers: Arc<Footers>,
    state: TableState,
    files: Vec<(String, Option<Fill>)>,
    columns: Arc<Vec<ReadColumn>>,
    /// Of the table's columns.
    table: SchemaRef,
    /// Of them and the partition.
    schema: SchemaRef,
}

impl Input {
    fn new(store: &OfflineStore, state: &TableState, job: &Job) -> Result<Self> {
        let mut files = Vec::with_capacity(job.files.len());
        for file in &job.files {
            let location = file.data_file.file_path();
            let path = store.locations.path(location).ok_or_else(|| Error::corrupt(location, "it lies outside of the repository"))?;
            files.push((path.to_owned(), file.fill));
        }
        // Only what rows lack by their snapshot's entry is filled in. A known time that is missing stays so: it is the reader who takes the event time.
        let role =
            |name: &str| if [reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION].contains(&name) { Role::Reserved } else { Role::Feature };
        let column = |field: &crate::TableField| Column { name: field.name.clone(), data_type: field.data_type, role: role(&field.name) };
        let columns: Vec<_> = state.fields().iter().map(column).collect();
        let table = schema_of(&columns);
        let mut fields: Vec<_> = table.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(PARTITION, ArrowType::Int32, true)));
        let ids = state.fields().iter().map(|field| Some(field.id));
        let columns = columns.into_iter().zip(ids).map(|(column, field_id)| ReadColumn { column, field_id }).collect();
        Ok(Self {
            objects: Arc::clone(&store.objects),
            footers: Arc::clone(&store.footers),
            state: state.clone(),
            files,
            columns: Arc::new(columns),
            table,
            schema: Arc::new(ArrowSchema::new(fields)),
        })
    }

    fn with_partition(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        let partition = partition_values(&self.state, &columns)?.map_or_else(|| Int32Array::new_null(batch.num_rows()), Int32Array::from);
        columns.push(Arc::new(partition));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let input = Arc::new(self.clone());
        let batches = stream::iter(self.files.clone())
            .then(move |(path, fill)| {
                let input = Arc::clone(&input);
                async move {
                    let read = FileRead { columns: Arc::clone(&input.columns), schema: Arc::clone(&input.table), event_times: None, fill };
                    let groups = read.wanted(&input.footers.get(&input.objects, &path).await?);
                    Ok::<_, Error>(stream::iter(groups.into_iter().map(move |group| Ok((Arc::clone(&input), read.clone(), group)))))
                }
            })
            .try_flatten()
            .and_then(|(input, read, group)| async move {
                let batches = read.rows(&input.objects, &group).await?;
                let batches: Vec<_> = batches.iter().map(|batch| input.with_partition(batch)).collect::<Result<_>>()?;
                Ok::<_, Error>(stream::iter(batches.into_iter().map(Ok)))
            })
            .try_flatten()
            .map_err(|error: Error| DataFusionError::External(Box::new(error)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// The rows of the file that is being put together.
struct Piece {
    rows_per_file: usize,
    memory: usize,
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Piece {
    fn new(rows_per_file: u64, memory: usize) -> Self {
        Self { rows_per_file: usize::try_from(rows_per_file).unwrap_or(usize::MAX).max(1), memory, batches: Vec::new(), rows: 0, bytes: 0 }
    }

    /// Takes sorted rows; gives the files that are full.
    fn take(&mut self, batch: RecordBatch) -> Vec<Vec<RecordBatch>> {
        let (mut full, mut start) = (Vec::new(), 0);
        while start < batch.num_rows() {
            if self.last_partition().is_some_and(|last| last != partition_at(&batch, start)) || self.is_full() {
                full.push(self.end());
            }
            let one_partition = run(&batch, start);
            let count = one_partition.min(self.rows_per_file - self.rows);
            let slice = batch.slice(start, count);
            self.bytes += batch.get_array_memory_size().saturating_mul(count) / batch.num_rows().max(1);
            self.rows += count;
            self.batches.push(slice);
            start += count;
        }
        full
    }

    fn is_full(&self) -> bool {
        self.rows >= self.rows_per_file || (self.bytes >= self.memory && self.rows > 0)
    }

    fn last_partition(&self) -> Option<Option<i32>> {
        self.batches.last().map(|batch| partition_at(batch, batch.num_rows() - 1))
    }

    fn end(&mut self) -> Vec<RecordBatch> {
        (self.rows, self.bytes) = (0, 0);
        std::mem::take(&mut self.batches)
    }
}

fn partition_at(batch: &RecordBatch, row: usize) -> Option<i32> {
    let values = batch.columns().last()?.as_primitive_opt::<Int32Type>()?;
    values.is_valid(row).then(|| values.value(row))
}

/// How many rows from one on have its partition.
fn run(batch: &RecordBatch, start: usize) -> usize {
    let first = partition_at(batch, start);
    // They are sorted by it.
    let (mut low, mut high) = (start + 1, batch.num_rows());
    while low < high {
        let middle = low + (high - low) / 2;
        if partition_at(batch, middle) == first { low = middle + 1 } else { high = middle }
    }
    low - start
}

/// Our own error beneath the sort's, or what the sort failed with.
fn failed(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(source) => match source.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(source) => Error::Unavailable { what: "sorting rows".to_owned(), source },
        },
        DataFusionError::Context(_, beneath) => failed(*beneath),
        DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
            Ok(beneath) => failed(beneath),
            Err(shared) => Error::Unavailable { what: "sorting rows".to_owned(), source: Box::new(shared) },
        },
        DataFusionError::IoError(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            Error::Full { what: "spilled rows".to_owned(), source: Box::new(source) }
        }
        DataFusionError::ResourcesExhausted(_) => Error::Full { what: "sorting rows within the memory given".to_owned(), source: Box::new(error) },
        other => Error::Unavailable { what: "sorting rows".to_owned(), source: Box::new(other) },
    }
}
