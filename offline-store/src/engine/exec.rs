//! The join as a physical operator, and the parts of a spine as what it reads.
//!
//! [`PointInTimeExec`] joins each partition of its input, which is a part of a spine with its row numbers in the last column, and gives the numbers with the
//! features, in the order in which the rows came: input that is sorted by row number stays so. Dropping a stream stops its work at the next batch.
//! [`SpineParts`] reads parts that lie in files.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, Partitioning, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties};
use futures::future::ready;
use futures::{TryFutureExt, TryStreamExt, stream};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::memory::spool;
use super::work::{JoinWork, answered, open, spelled};
use crate::Error;
use crate::join::{JoinError, ViewRows};

/// Joins each partition of its input: row numbers and features.
#[derive(Debug)]
pub(super) struct PointInTimeExec {
    input: Arc<dyn ExecutionPlan>,
    work: Arc<JoinWork>,
    /// Where the rows come from in this process; none: the work says.
    rows: Option<Arc<dyn ViewRows>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PointInTimeExec {
    /// # Errors
    /// Where the input is no spine of this work.
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, work: Arc<JoinWork>, rows: Option<Arc<dyn ViewRows>>) -> crate::Result<Self> {
        let schema = work.schema(&input.schema())?;
        Ok(Self::of_schema(schema, input, work, rows))
    }

    fn of_schema(schema: SchemaRef, input: Arc<dyn ExecutionPlan>, work: Arc<JoinWork>, rows: Option<Arc<dyn ViewRows>>) -> Self {
        let properties = properties(schema, 0, input.output_partitioning().partition_count());
        Self { input, work, rows, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    pub(super) fn work(&self) -> &Arc<JoinWork> {
        &self.work
    }
}

/// Of rows in the order of their numbers, which are the column at this place.
fn properties(schema: SchemaRef, number: usize, partitions: usize) -> PlanProperties {
    let order = LexOrdering::from([PhysicalSortExpr::new_default(Arc::new(Column::new(schema.field(number).name(), number)))]);
    let equivalence = EquivalenceProperties::new_with_orderings(schema, [order]);
    PlanProperties::new(equivalence, Partitioning::UnknownPartitioning(partitions), EmissionType::Final, Boundedness::Bounded)
}

impl DisplayAs for PointInTimeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PointInTimeExec: partitions={}", self.properties.output_partitioning().partition_count())
    }
}

impl ExecutionPlan for PointInTimeExec {
    fn name(&self) -> &'static str {
        "PointInTimeExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop().filter(|_| children.is_empty()) else { return internal_err!("a join has one input") };
        Ok(Arc::new(Self::of_schema(self.schema(), input, Arc::clone(&self.work), self.rows.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let runtime = context.runtime_env();
        let input = self.input.execute(partition, context)?;
        let spine_rows = MetricBuilder::new(&self.metrics).counter("spine_rows", partition);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (work, rows) = (Arc::clone(&self.work), self.rows.clone());
        let joined = async move {
            let refused = |error: JoinError| failed(error.into());
            // What a part may take is for whoever cut it to say.
            let mut spool = spool(&runtime, input.schema(), u64::MAX);
            let mut input = input;
            while let Some(batch) = input.try_next().await? {
                spine_rows.add(batch.num_rows());
                spool = spool.take(batch).await.map_err(refused)?;
            }
            let part = spool.finish().map_err(refused)?;
            let rows = rows.map_or_else(|| work.rows(), Ok).map_err(failed)?;
            let of_part = Arc::clone(part.schema());
            let joined = work.join(&runtime, rows, part).await.map_err(failed)?;
            let answer = answered(&of_part, &joined.schema);
            Ok(joined.rows.stream().map_err(refused).and_then(move |batch| ready(batch.project(&answer).map_err(DataFusionError::from))))
        };
        let batches = joined.try_flatten_stream().inspect_ok(move |batch| metrics.record_output(batch.num_rows()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The parts of a spine in Arrow files, one for each partition.
#[derive(Debug)]
pub(super) struct SpineParts {
    location: String,
    files: Vec<String>,
    properties: Arc<PlanProperties>,
}

impl SpineParts {
    pub(super) fn new(schema: SchemaRef, location: String, files: Vec<String>) -> Result<Self> {
        let Some(number) = schema.fields().len().checked_sub(1) else { return internal_err!("a part of a spine has a row number") };
        let properties = properties(schema, number, files.len());
        Ok(Self { location, files, properties: Arc::new(properties) })
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn files(&self) -> &[String] {
        &self.files
    }
}

impl DisplayAs for SpineParts {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpineParts: files={}", self.files.len())
    }
}

impl ExecutionPlan for SpineParts {
    fn name(&self) -> &'static str {
        "SpineParts"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("the parts of a spine have no input") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(file) = self.files.get(partition).cloned() else { return internal_err!("a spine has no part {partition}") };
        let location = self.location.clone();
        let read = async move {
            let missing = |error| failed(Error::objects(format!("part {partition} of a spine"), error));
            let objects = open(&location).map_err(failed)?;
            let path = Path::parse(&file).map_err(|error| failed(Error::corrupt(&file, error)))?;
            let bytes = objects.get(&path).await.map_err(missing)?.bytes().await.map_err(missing)?;
            Ok(stream::iter(StreamReader::try_new(std::io::Cursor::new(bytes), None)?).map_err(DataFusionError::from))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), read.try_flatten_stream())))
    }
}

/// An error as it travels within a plan of this process, and, by its text, out of another.
pub(super) fn failed(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(Spelled(error)))
}

/// An error whose text says its kind, however it is printed.
pub(super) struct Spelled(pub(super) Error);

impl fmt::Debug for Spelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Spelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&spelled(&self.0))
    }
}

impl std::error::Error for Spelled {}
