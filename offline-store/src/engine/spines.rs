//! Spines that a server makes, brought into their order ([`crate::dataset::events`]).
//!
//! Rows are held as they come and sorted in memory. Where they outgrow their share of it, they go through DataFusion's external sort instead, by the same
//! bytes, and are put aside as it gives them; the order is the same. The sort's runs lie in the engine's folder under names of its own and go when it
//! ends or is dropped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::definition::ViewLayout;
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::task::spawn_blocking;

use super::Engine;
use super::error::of_query;
use super::exec::failed;
use super::memory::room;
use crate::dataset::events::SpineOrder;
use crate::join::{JoinError, Spooled, slice_bytes};
use crate::scan::BatchStream;
use crate::{Error, OfflineStore, Result};

/// Rows are held twice while they are sorted in memory, and their places beside them.
const SORTED_SHARE: usize = 3;

/// The most that a sort keeps free to merge its runs.
const MERGE_BYTES: usize = 10 << 20;

impl Engine {
    /// The rows of a query at a commit, by their times and then by all columns, in canonical form; at most so many bytes.
    ///
    /// # Errors
    /// As [`Engine::query`]; as values are refused; as [`Spool`](crate::join::Spool)'s.
    pub async fn query_spine(&self, commit: CommitId, store: &Arc<OfflineStore>, sql: &str, time_column: &str, total_bytes: u64) -> Result<Spooled> {
        let (schema, rows) = self.query(commit, store, sql).await?;
        self.in_order(SpineOrder::of_query(&schema, time_column)?, rows, total_bytes).await
    }

    /// The events of a view at a commit in the total order, their time in a column of the name `time_column`; at most so many bytes. There are none where
    /// nothing was ever put there.
    ///
    /// # Errors
    /// [`DatasetError::Rows`](crate::dataset::DatasetError::Rows) where a key has the name of the time column; those of a scan, and of a spool.
    pub async fn events_spine(
        &self,
        commit: &CommitId,
        store: &OfflineStore,
        layout: &ViewLayout,
        time_column: &str,
        total_bytes: u64,
    ) -> Result<Spooled> {
        let (order, request) = SpineOrder::of_events(layout, time_column)?;
        let rows = match store.find_table(commit, &request.table).await? {
            Some(_) => store.scan(commit, &request).await?,
            None => stream::empty().boxed(),
        };
        self.in_order(order, rows, total_bytes).await
    }

    async fn in_order(&self, mut order: SpineOrder, mut rows: BatchStream, total_bytes: u64) -> Result<Spooled> {
        let (share, reserve) = room(&self.runtime);
        let (mut held, mut held_bytes) = (Vec::new(), 0_usize);
        while let Some(batch) = rows.try_next().await? {
            let keyed;
            (keyed, order) = spawn_blocking(move || (order.keyed(&batch), order)).await.map_err(|_| Error::Closing)?;
            let keyed = keyed?;
            let bytes = slice_bytes(&keyed);
            held_bytes = held_bytes.saturating_add(bytes);
            held.push(keyed);
            if held_bytes > share / SORTED_SHARE || !reserve(bytes) {
                // The sort reserves what it holds.
                drop(reserve);
                return self.sorted_on_disk(order, held, rows, total_bytes).await;
            }
        }
        let mut spool = self.spool(Arc::clone(order.schema()), total_bytes);
        for batch in spawn_blocking(move || order.sorted(&held)).await.map_err(|_| Error::Closing)?? {
            spool = spool.take(batch).await?;
        }
        Ok(spool.finish()?)
    }

    async fn sorted_on_disk(&self, order: SpineOrder, held: Vec<RecordBatch>, rows: BatchStream, total_bytes: u64) -> Result<Spooled> {
        let keyed = Arc::clone(order.keyed_schema());
        let place = keyed.fields().len() - 1;
        let of_spine: Vec<usize> = (0..place).collect();
        let schema = Arc::clone(order.schema());
        let (order, taken) = (Arc::new(Mutex::new(order)), Arc::new(AtomicU64::new(0)));
        let keying = Arc::clone(&order);
        let rest = rows.and_then(move |batch| {
            let order = Arc::clone(&keying);
            async move { spawn_blocking(move || lock(&order).keyed(&batch)).await.map_err(|_| Error::Closing)? }
        });
        // What comes out is counted too; this ends a sort whose outcome will be refused before it fills the disk.
        let counted = stream::iter(held.into_iter().map(Ok)).chain(rest).and_then(move |batch| {
            let bytes = batch.project(&of_spine).map_or(0, |rows| slice_bytes(&rows)) as u64;
            let over = taken.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > total_bytes;
            async move { if over { Err(JoinError::SpoolTooLarge { limit: total_bytes }.into()) } else { Ok(batch) } }
        });
        let mut sorted = self.sort(keyed, place, counted.boxed())?;
        let mut spool = self.spool(schema, total_bytes);
        while let Some(batch) = sorted.try_next().await.map_err(of_query)? {
            let batch = lock(&order).of_spine(&batch)?;
            spool = spool.take(batch).await?;
        }
        Ok(spool.finish()?)
    }

    /// Rows by the bytes in a column, which spills beyond the memory there is.
    fn sort(&self, schema: SchemaRef, place: usize, rows: BoxStream<'static, Result<RecordBatch>>) -> Result<SendableRecordBatchStream> {
        let by =
            PhysicalSortExpr::new(Arc::new(Column::new(schema.field(place).name(), place)), SortOptions { descending: false, nulls_first: true });
        let merging = match self.runtime.memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => MERGE_BYTES.min(bytes / 16),
            MemoryLimit::Infinite | MemoryLimit::Unknown => MERGE_BYTES,
        };
        let config = SessionConfig::new().with_sort_spill_reservation_bytes(merging);
        let context = TaskContext::default().with_session_config(config).with_runtime(Arc::clone(&self.runtime));
        let input = Arc::new(Input { schema: Arc::clone(&schema), rows: Mutex::new(Some(rows)) });
        let input = StreamingTableExec::try_new(schema, vec![input], None, [], false, None).map_err(of_query)?;
        SortExec::new(LexOrdering::from([by]), Arc::new(input)).execute(0, Arc::new(context)).map_err(of_query)
    }
}

fn lock(order: &Mutex<SpineOrder>) -> MutexGuard<'_, SpineOrder> {
    order.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows that are sorted, once.
struct Input {
    schema: SchemaRef,
    rows: Mutex<Option<BoxStream<'static, Result<RecordBatch>>>>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| stream::empty().boxed());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.map_err(failed)))
    }
}
