//! Arrow batches, from IPC streams or readers, brought into the form of a view.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anabranch_core::Position;
use anabranch_core::columns::{conform, null_column};
use anabranch_core::definition::{Column, Role, ViewLayout};
use anabranch_validation::{TYPE, Verdicts};
use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::array_value_to_string;
use bytes::Bytes;

use super::{Decoded, Originals, SCHEMA, failure, nullable_schema};
use crate::wal::{MAX_ROWS, RecordKind};
use crate::{Error, Result};

/// The batches of an IPC stream.
pub(super) fn read(payload: &Bytes) -> Result<Vec<RecordBatch>> {
    let malformed = |reason: String| Error::Payload { format: "arrow", reason };
    // The decoder trusts the message headers in places and panics where they lie; a lying payload is bad input all the same.
    let read = catch_unwind(AssertUnwindSafe(|| read_stream(payload)));
    read.map_err(|_| malformed("its message headers contradict themselves".to_owned()))?.map_err(|error| malformed(error.to_string()))
}

fn read_stream(payload: &Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut buffer = Buffer::from(payload.clone());
    let (mut batches, mut rows) = (Vec::new(), 0);
    while !buffer.is_empty() {
        if let Some(batch) = decoder.decode(&mut buffer)? {
            rows += batch.num_rows();
            if rows > MAX_ROWS as usize {
                return Err(ArrowError::IpcError(format!("it holds more than {MAX_ROWS} rows")));
            }
            batches.push(batch);
        }
    }
    decoder.finish()?;
    Ok(batches)
}

pub(super) fn concat(batches: &[RecordBatch]) -> Result<RecordBatch> {
    let malformed = |reason: String| Error::Payload { format: "arrow", reason };
    let first = batches.first().ok_or_else(|| malformed("it holds no batch".to_owned()))?;
    arrow::compute::concat_batches(first.schema_ref(), batches).map_err(|error| malformed(error.to_string()))
}

/// An IPC stream of one batch.
pub(super) fn encode(batch: &RecordBatch) -> Result<Bytes> {
    let write = || -> Result<Vec<u8>, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
        writer.write(batch)?;
        writer.into_inner()
    };
    write().map(Bytes::from).map_err(|error| Error::Malformed { what: "arrow row", reason: error.to_string() })
}

pub(super) fn decode(layout: &ViewLayout, kind: RecordKind, payload: &Bytes, first: Position) -> Result<Decoded> {
    conform_batch(layout, kind, &concat(&read(payload)?)?, first)
}

/// Whether batches of this schema can be rows of the view; otherwise why not and what to do.
pub(super) fn check_columns(layout: &ViewLayout, schema: &Schema, ignore_unknown: bool) -> Result<(), String> {
    let (view, known) = (layout.name(), layout.columns());
    for (i, field) in schema.fields().iter().enumerate() {
        if schema.fields()[..i].iter().any(|other| other.name() == field.name()) {
            return Err(format!("column {:?} is there twice: rename one", field.name()));
        }
        let Some(column) = known.iter().find(|column| &column.name == field.name()) else {
            if ignore_unknown {
                continue;
            }
            return Err(format!(
                "feature view {view:?} has no column {:?}: leave it out, add it to the view, or ignore unknown columns",
                field.name()
            ));
        };
        let empty = arrow::array::new_empty_array(field.data_type());
        if let Err(error) = conform(&empty, column.data_type) {
            return Err(format!("column {:?} cannot be used: {error}", field.name()));
        }
    }
    match known.iter().find(|column| !column.nullable() && schema.field_with_name(&column.name).is_err()) {
        None => Ok(()),
        Some(column) => Err(format!("{} column {:?} of feature view {view:?} is missing", role(column), column.name)),
    }
}

pub(super) fn role(column: &Column) -> &'static str {
    match column.role {
        Role::Key => "key",
        Role::EventTime => "event time",
        Role::KnownTime => "known time",
        Role::Feature | Role::Reserved => "feature",
    }
}

/// Brings a batch into the form of the view; what does not fit is told row by row.
pub(super) fn conform_batch(layout: &ViewLayout, kind: RecordKind, source: &RecordBatch, first: Position) -> Result<Decoded> {
    let rows = source.num_rows();
    let mut verdicts = Verdicts::default();
    let mut columns = Vec::with_capacity(layout.columns().len());
    for column in layout.columns() {
        let Some(given) = source.column_by_name(&column.name) else {
            columns.push(null_column(column.data_type, rows));
            let known_later = kind == RecordKind::Tombstones && column.role == Role::KnownTime;
            if !column.nullable() && !known_later {
                (0..rows).for_each(|row| verdicts.add(row, failure(SCHEMA, &column.name, "the row leaves it out")));
            }
            continue;
        };
        match conform(given, column.data_type) {
            Ok(conformed) => {
                for row in conformed.misfits.iter().flat_map(|misfits| misfits.set_indices()) {
                    let cell = array_value_to_string(given, row).unwrap_or_else(|_| "it".to_owned());
                    verdicts.add(row, failure(TYPE, &column.name, format!("{cell} does not fit {}", column.data_type)));
                }
                columns.push(conformed.column);
            }
            Err(error) => {
                columns.push(null_column(column.data_type, rows));
                (0..rows).filter(|row| given.is_valid(*row)).for_each(|row| verdicts.add(row, failure(TYPE, &column.name, error.to_string())));
            }
        }
    }
    for field in source.schema_ref().fields() {
        if !layout.columns().iter().any(|column| &column.name == field.name()) {
            let reason = format!("feature view {:?} has no such column", layout.name());
            (0..rows).for_each(|row| verdicts.add(row, failure(SCHEMA, field.name(), reason.clone())));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(nullable_schema(layout), columns, &options);
    let batch = batch.map_err(|error| Error::Malformed { what: "batch of rows", reason: error.to_string() })?;
    Ok(Decoded { batch, kind, first, verdicts, originals: Originals::Batch(source.clone()) })
}
