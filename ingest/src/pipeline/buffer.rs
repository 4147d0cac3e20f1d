//! Rows that are judged and in no commit yet.

use std::collections::BTreeMap;

use anabranch_core::Timestamp;
use anabranch_offline_store::{TableName, TableRows};
use anabranch_online_store::Incarnation;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use crate::quarantine::{self, QuarantinedRow};
use crate::{Error, Result};

/// Small batches are put together when there are so many.
const COALESCE: usize = 64;

/// The table of refused rows whose view is not known; no view can have this name.
const UNKNOWN_VIEW: &str = "_unknown";

/// Rows of one view.
#[derive(Debug, Default)]
struct ViewRows {
    rows: Vec<RecordBatch>,
    refused: Vec<QuarantinedRow>,
}

/// Rows of all views from one position of the log to another.
#[derive(Debug)]
pub(super) struct Buffer {
    views: BTreeMap<String, ViewRows>,
    pub(super) rows: usize,
    pub(super) refused: usize,
    pub(super) bytes: usize,
    /// The position behind the last row.
    pub(super) next: u64,
    pub(super) last_arrival: Timestamp,
    /// What the online store was before the first of them was written to it; none where none was.
    pub(super) incarnation: Option<Incarnation>,
    /// When the first row came; by the runtime's clock.
    pub(super) since: Option<tokio::time::Instant>,
}

impl Buffer {
    pub(super) fn new(next: u64, last_arrival: Timestamp) -> Self {
        Self { views: BTreeMap::new(), rows: 0, refused: 0, bytes: 0, next, last_arrival, incarnation: None, since: None }
    }

    pub(super) fn add_rows(&mut self, view: &str, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.rows += rows.num_rows();
        self.bytes += rows.get_array_memory_size();
        let batches = &mut self.views.entry(view.to_owned()).or_default().rows;
        batches.push(rows);
        if batches.len() >= COALESCE && batches.iter().rev().take(COALESCE).all(|batch| batch.num_rows() < 1_024) {
            let tail = batches.split_off(batches.len() - COALESCE);
            let whole = concat_batches(&tail[0].schema(), &tail);
            batches.push(whole.map_err(|error| Error::Malformed { what: "buffered rows", reason: error.to_string() })?);
        }
        Ok(())
    }

    pub(super) fn add_refused(&mut self, view: Option<&str>, refused: Vec<QuarantinedRow>) {
        if refused.is_empty() {
            return;
        }
        self.refused += refused.len();
        self.bytes += refused.iter().map(|row| row.payload.len() + 256).sum::<usize>();
        self.views.entry(view.unwrap_or(UNKNOWN_VIEW).to_owned()).or_default().refused.extend(refused);
    }

    /// The quarantine tables that the rows need.
    pub(super) fn quarantines(&self) -> Vec<TableName> {
        let refused = self.views.iter().filter(|(_, rows)| !rows.refused.is_empty());
        refused.map(|(view, _)| TableName::quarantine(view)).collect()
    }

    /// The views that have rows.
    pub(super) fn views(&self) -> usize {
        self.views.values().filter(|rows| !rows.rows.is_empty()).count()
    }

    /// What each table gets. The rows stay here until they are committed.
    pub(super) fn tables(&self) -> Result<Vec<TableRows>> {
        let mut tables = Vec::new();
        for (view, rows) in &self.views {
            if !rows.rows.is_empty() {
                tables.push(TableRows { table: TableName::features(view), batches: rows.rows.clone(), intervals: Vec::new() });
            }
            if !rows.refused.is_empty() {
                let batches = vec![quarantine::to_batch(&rows.refused)?];
                tables.push(TableRows { table: TableName::quarantine(view), batches, intervals: Vec::new() });
            }
        }
        Ok(tables)
    }
}
