//! A spine of every event of a view: the keys and the event time of each row at a commit.
//!
//! Rows come in the total order (event time, known time, arrival, source, position), and rows that are equal in all of it by their keys, so the order is the
//! same however the table's files are cut. A tombstone is no event: it says that there is none.

use std::sync::Arc;

use anabranch_core::definition::{Role, ViewLayout};
use anabranch_core::name::reserved;
use anabranch_versioning::CommitId;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use futures::TryStreamExt;
use tokio::task::spawn_blocking;

use super::{DatasetError, GROUP_ROWS};
use crate::scan::ScanRequest;
use crate::table::{OfflineStore, TableName};
use crate::{Error, Result};

/// The events of a view, their time in a column of the name `time_column`; none where nothing was ever put there.
///
/// # Errors
/// [`DatasetError::Rows`] where a key has the name of the time column; those of a scan.
pub async fn view_events(store: &OfflineStore, commit: &CommitId, layout: &ViewLayout, time_column: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    if layout.keys().iter().any(|key| key.name == time_column) {
        let reason = format!("{time_column:?} is a join key of feature view {:?}: give the spine's time column another name", layout.name());
        return Err(DatasetError::Rows { reason }.into());
    }
    let table = TableName::features(layout.name());
    let columns: Vec<_> = layout.table_columns().into_iter().filter(|column| column.role != Role::Feature).collect();
    let event = columns.iter().position(|column| column.role == Role::EventTime).unwrap_or_default();
    let fields = columns[..=event].iter().map(|column| {
        let name = if column.role == Role::EventTime { time_column } else { column.name.as_str() };
        Field::new(name, column.data_type.to_arrow(), false)
    });
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    if store.find_table(commit, &table).await?.is_none() {
        return Ok((schema, Vec::new()));
    }
    // The order: times first, then what the table reserves, then the keys; the tombstone is no part of it.
    let order: Vec<usize> = (event..columns.len()).filter(|place| columns[*place].name != reserved::TOMBSTONE).chain(0..event).collect();
    let batches: Vec<RecordBatch> = store.scan(commit, &ScanRequest::all(table, columns)).await?.try_collect().await?;
    let wanted = Arc::clone(&schema);
    let sorted = spawn_blocking(move || sorted(&wanted, &batches, &order)).await.map_err(|_| Error::Closing)??;
    Ok((schema, sorted))
}

fn sorted(schema: &SchemaRef, batches: &[RecordBatch], order: &[usize]) -> Result<Vec<RecordBatch>> {
    let batches = batches.iter().map(without_tombstones).collect::<Result<Vec<_>>>()?;
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let converter = RowConverter::new(order.iter().map(|place| SortField::new(first.column(*place).data_type().clone())).collect())?;
    let mut keys = Vec::with_capacity(batches.len());
    for batch in &batches {
        keys.push(converter.convert_columns(&order.iter().map(|place| Arc::clone(batch.column(*place))).collect::<Vec<_>>())?);
    }
    let mut rows: Vec<(usize, usize)> =
        batches.iter().enumerate().flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| (batch, row))).collect();
    rows.sort_unstable_by(|a, b| keys[a.0].row(a.1).cmp(&keys[b.0].row(b.1)));
    let column = |place: usize, rows: &[(usize, usize)]| -> Result<ArrayRef> {
        let sources: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(place).as_ref()).collect();
        Ok(interleave(&sources, rows)?)
    };
    rows.chunks(GROUP_ROWS)
        .map(|rows| {
            let columns = (0..schema.fields().len()).map(|place| column(place, rows)).collect::<Result<Vec<_>>>()?;
            Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
        })
        .collect()
}

fn without_tombstones(batch: &RecordBatch) -> Result<RecordBatch> {
    let Some(tombstones) = batch.column_by_name(reserved::TOMBSTONE).and_then(|column| column.as_boolean_opt()) else { return Ok(batch.clone()) };
    let kept: BooleanArray = tombstones.iter().map(|tombstone| Some(tombstone != Some(true))).collect();
    Ok(filter_record_batch(batch, &kept)?)
}
