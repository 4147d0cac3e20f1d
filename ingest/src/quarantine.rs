//! Rows that the checks refuse: what is kept of them.
//!
//! A refused row keeps its original bytes, where it stood in its source, when it arrived and every check that it failed, so that it can be shown, mended
//! and replayed. The failures are a JSON array of `{"check", "column", "reason"}`. Replayed rows come in under a source of their own.

use std::sync::Arc;

use anabranch_core::definition::{Role, ViewLayout};
use anabranch_core::types::UTC;
use anabranch_core::{Position, SourceId, Timestamp};
use anabranch_offline_store::quarantine_shape;
use anabranch_offline_store::scan::schema_of;
use anabranch_validation::{Failure, Verdicts};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int32Array, Int64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;

use crate::decode::{Decoded, Originals};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// A row that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The view that it was meant for.
    pub view: String,
    /// How the payload is written: `json`, `arrow` or `csv`.
    pub format: String,
    /// Its original bytes.
    pub payload: Bytes,
    /// Every check that it failed.
    pub failures: Vec<Failure>,
    /// Its event time, where it had one.
    pub event_time: Option<Timestamp>,
    /// When we had it.
    pub arrival: Timestamp,
    /// Where it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
    /// Whether it was a tombstone.
    pub tombstone: bool,
}

/// The refused rows of a decoded batch: those of which the verdicts say something.
///
/// # Errors
/// [`Error::Malformed`] where a row's original cannot be written.
pub fn refused_rows(
    layout: &ViewLayout,
    decoded: &Decoded,
    verdicts: &Verdicts,
    arrival: Timestamp,
    source: SourceId,
) -> Result<Vec<QuarantinedRow>> {
    let event_time = layout.columns().iter().position(|column| column.role == Role::EventTime).map(|at| decoded.batch.column(at));
    let times = event_time.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let refused = verdicts.failures().map(|(row, failures)| {
        let (format, payload) = decoded.originals.row(row)?;
        Ok(QuarantinedRow {
            view: layout.name().to_owned(),
            format: format.name().to_owned(),
            payload,
            failures: failures.to_vec(),
            event_time: times.filter(|times| times.is_valid(row)).map(|times| Timestamp(times.value(row))),
            arrival,
            source,
            position: decoded.position(row),
            tombstone: decoded.kind == RecordKind::Tombstones,
        })
    });
    refused.collect()
}

/// Rows that were refused before they could be decoded, each with one failure.
///
/// # Errors
/// As [`refused_rows`].
pub fn refused_unread(
    view: &str,
    failures: Vec<Failure>,
    originals: &Originals,
    kind: RecordKind,
    arrival: Timestamp,
    source: SourceId,
    first: Position,
) -> Result<Vec<QuarantinedRow>> {
    let refused = failures.into_iter().enumerate().map(|(row, failure)| {
        let (format, payload) = originals.row(row)?;
        Ok(QuarantinedRow {
            view: view.to_owned(),
            format: format.name().to_owned(),
            payload,
            failures: vec![failure],
            event_time: None,
            arrival,
            source,
            position: Position::new(first.get() + row as u64)?,
            tombstone: kind == RecordKind::Tombstones,
        })
    });
    refused.collect()
}

/// The rows as a batch of a quarantine table.
///
/// # Errors
/// [`Error::Malformed`] where the table has other columns than these, which is a defect.
pub fn to_batch(rows: &[QuarantinedRow]) -> Result<RecordBatch> {
    let (mut payloads, mut formats, mut failures, mut views) =
        (BinaryBuilder::new(), StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        payloads.append_value(&row.payload);
        formats.append_value(&row.format);
        failures.append_value(serde_json::to_string(&row.failures).map_err(|error| malformed(&error))?);
        views.append_value(&row.view);
    }
    let times = |times: Vec<Option<i64>>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_timezone(UTC)) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(payloads.finish()),
        Arc::new(formats.finish()),
        Arc::new(failures.finish()),
        Arc::new(views.finish()),
        times(rows.iter().map(|row| row.event_time.map(Timestamp::micros)).collect()),
        times(rows.iter().map(|row| Some(row.arrival.micros())).collect()),
        Arc::new(rows.iter().map(|row| row.source.as_i32()).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.position.as_i64()).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.tombstone)).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(schema_of(quarantine_shape().columns()), columns).map_err(|error| malformed(&error))
}

fn malformed(error: &dyn std::error::Error) -> Error {
    Error::Malformed { what: "quarantine batch", reason: error.to_string() }
}
