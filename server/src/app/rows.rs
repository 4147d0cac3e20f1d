//! Reading rows of tables at a ref: features, and rows that checks refused.

use anabranch_core::definition::Column;
use anabranch_core::name::reserved;
use anabranch_core::{Position, SourceId, Timestamp};
use anabranch_ingest::quarantine::QuarantinedRow;
use anabranch_offline_store::scan::BatchStream;
use anabranch_offline_store::{Namespace, ScanRequest, TableName, quarantine_shape};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use futures::TryStreamExt;

use super::Scope;
use crate::error::{Error, Result};

const DEFAULT_QUARANTINE: usize = 100;

/// Rows on their way out.
pub(crate) struct Rows {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: BatchStream,
}

impl Scope {
    /// The rows of a view, of its quarantine, or of another table by its namespace and name, in these columns; none named means all.
    pub(crate) async fn rows(&self, view: &str, columns: &[String], quarantine: bool) -> Result<Rows> {
        let (commit, definitions) = self.definitions().await?;
        let table = if quarantine { TableName::quarantine(view) } else { TableName::from_text(view) };
        let missing = || Error::Missing(format!("no rows of {table} at {:?}: nothing was ever put there", self.reference));
        let found = self.repo.offline.find_table(&commit, &table).await?;
        let all = match (table.namespace, &found) {
            (Namespace::Features, _) => definitions.layout(view)?.table_columns(),
            (Namespace::Quarantine, _) => quarantine_shape().columns().to_vec(),
            (Namespace::Served, found) => found.as_ref().ok_or_else(missing)?.columns(),
        };
        let columns = chosen(&all, columns)?;
        let schema = anabranch_offline_store::scan::schema_of(&columns);
        if found.is_none() {
            return Err(missing());
        }
        let batches = self.repo.offline.scan(&commit, &ScanRequest::all(table, columns)).await?;
        Ok(Rows { schema, batches })
    }

    /// The rows of a query over the feature views at the scope's ref.
    pub(crate) async fn query(&self, sql: &str) -> Result<Rows> {
        let commit = self.resolve().await?.commit;
        let (schema, batches) = self.app.engine().query(commit, &self.repo.offline, sql).await?;
        Ok(Rows { schema, batches })
    }

    /// Rows that checks refused, at most `limit`, and how many there are; of one view, or of all.
    pub(crate) async fn quarantine(&self, view: &str, limit: u32) -> Result<(Vec<QuarantinedRow>, u64)> {
        let limit = if limit == 0 { DEFAULT_QUARANTINE } else { limit as usize };
        let commit = self.resolve().await?.commit;
        let mut tables = self.repo.offline.tables(&commit, Namespace::Quarantine).await?;
        tables.sort();
        if !view.is_empty() {
            tables.retain(|table| table.name == view);
        }
        let (mut rows, mut total) = (Vec::new(), 0);
        for table in tables {
            let request = ScanRequest::all(table, quarantine_shape().columns().to_vec());
            let mut batches = self.repo.offline.scan(&commit, &request).await?;
            while let Some(batch) = batches.try_next().await? {
                total += batch.num_rows() as u64;
                let wanted = batch.num_rows().min(limit - rows.len());
                for row in 0..wanted {
                    rows.push(refused(&batch, row)?);
                }
            }
        }
        Ok((rows, total))
    }
}

fn chosen(all: &[Column], names: &[String]) -> Result<Vec<Column>> {
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: &String| {
        let known = || all.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
        all.iter()
            .find(|column| column.name == *name)
            .cloned()
            .ok_or_else(|| Error::argument("columns", format!("there is no {name:?}; there are {}", known())))
    };
    names.iter().map(find).collect()
}

/// A row of a quarantine table.
fn refused(batch: &RecordBatch, row: usize) -> Result<QuarantinedRow> {
    use anabranch_offline_store::quarantine::{EVENT_TIME, FAILURES, FORMAT, PAYLOAD, VIEW};
    let damaged = |column: &str| Error::Part {
        kind: anabranch_core::ErrorKind::Internal,
        message: format!("a quarantine table has no readable column {column:?}"),
        details: serde_json::Value::Null,
    };
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| damaged(name));
    let text = |name: &str| Ok::<_, Error>(column(name)?.as_string_opt::<i32>().ok_or_else(|| damaged(name))?.value(row).to_owned());
    let time = |name: &str| {
        let times = column(name)?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| damaged(name))?;
        Ok::<_, Error>(times.is_valid(row).then(|| Timestamp(times.value(row))))
    };
    let source = column(reserved::SOURCE)?.as_primitive_opt::<Int32Type>().ok_or_else(|| damaged(reserved::SOURCE))?.value(row);
    let position = column(reserved::POSITION)?.as_primitive_opt::<Int64Type>().ok_or_else(|| damaged(reserved::POSITION))?.value(row);
    let tombstone = column(reserved::TOMBSTONE)?.as_boolean_opt().ok_or_else(|| damaged(reserved::TOMBSTONE))?;
    let failures = text(FAILURES)?;
    Ok(QuarantinedRow {
        view: text(VIEW)?,
        format: text(FORMAT)?,
        payload: column(PAYLOAD)?.as_binary_opt::<i32>().ok_or_else(|| damaged(PAYLOAD))?.value(row).to_vec().into(),
        failures: serde_json::from_str(&failures).map_err(|_| damaged(FAILURES))?,
        event_time: time(EVENT_TIME)?,
        arrival: time(reserved::ARRIVAL)?.unwrap_or(Timestamp(0)),
        source: SourceId::new(source as u32)?,
        position: Position::new(position as u64)?,
        tombstone: tombstone.is_valid(row) && tombstone.value(row),
    })
}
