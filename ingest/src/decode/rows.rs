//! Building a batch row by row, for the formats that are text.

use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::definition::{Role, ViewLayout};
use anabranch_core::{Error as CoreError, Position, Timestamp, Value};
use anabranch_validation::{TYPE, Verdicts};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;

use super::{Decoded, Originals, failure, nullable_schema};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// The cells of a view's columns, gathered row by row.
#[derive(Debug)]
pub(super) struct RowsBuilder<'a> {
    layout: &'a ViewLayout,
    columns: Vec<Vec<Value>>,
    rows: usize,
    pub(super) verdicts: Verdicts,
}

impl<'a> RowsBuilder<'a> {
    pub(super) fn new(layout: &'a ViewLayout) -> Self {
        Self { layout, columns: vec![Vec::new(); layout.columns().len()], rows: 0, verdicts: Verdicts::default() }
    }

    /// The row being built.
    pub(super) fn row(&self) -> usize {
        self.rows
    }

    /// Sets a cell of the row being built, or tells what is wrong with it and leaves it null.
    pub(super) fn set(&mut self, column: usize, value: Result<Value, CoreError>) {
        match value {
            Ok(value) => self.columns[column].push(value),
            Err(error) => self.verdicts.add(self.rows, failure(TYPE, &self.layout.columns()[column].name, error.to_string())),
        }
    }

    /// Ends the row; cells that were not set are null.
    pub(super) fn end_row(&mut self) {
        self.rows += 1;
        for column in &mut self.columns {
            column.resize(self.rows, Value::Null);
        }
    }

    pub(super) fn finish(self, kind: RecordKind, first: Position, originals: Originals) -> Result<Decoded> {
        let columns: Result<Vec<ArrayRef>, CoreError> =
            self.layout.columns().iter().zip(&self.columns).map(|(column, values)| column_of(column.data_type, values)).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(nullable_schema(self.layout), columns?, &options);
        let batch = batch.map_err(|error| Error::Malformed { what: "batch of rows", reason: error.to_string() })?;
        Ok(Decoded { batch, kind, first, verdicts: self.verdicts, originals })
    }
}

/// Gives rows without a known time their arrival as one, in views that have a known time.
pub(super) fn fill_known_time(layout: &ViewLayout, mut decoded: Decoded, arrival: Timestamp) -> Decoded {
    let Some(known) = layout.columns().iter().position(|column| column.role == Role::KnownTime) else { return decoded };
    let given = decoded.batch.column(known);
    if given.null_count() == 0 {
        return decoded;
    }
    let times = given.as_primitive::<TimestampMicrosecondType>();
    let times: TimestampMicrosecondArray = times.iter().map(|time| Some(time.unwrap_or(arrival.micros()))).collect();
    let mut columns = decoded.batch.columns().to_vec();
    columns[known] = Arc::new(times.with_timezone(anabranch_core::types::UTC));
    if let Ok(batch) = RecordBatch::try_new(decoded.batch.schema(), columns) {
        decoded.batch = batch;
    }
    decoded
}
