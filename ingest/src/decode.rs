//! From bytes to rows: payloads of the log, batches of bulk streams, and files become batches in the form of a view.
//!
//! Decoding is a pure function of the bytes and the view's layout, so that a replay repeats it. What is wrong with *one row* (an unknown column, a cell
//! of another type) is a failure of that row, told beside the batch, and the row keeps its place there, with nulls where a cell did not fit; the row
//! checks come afterwards. What is wrong with *a whole file* (truncated, not UTF-8, without a key column) is a typed error before any row is taken.
//!
//! Rules that decoding itself keeps, named like checks: `_type` (a cell is of its column's type), `_schema` (a row has the view's columns and no
//! others), `_payload` (the bytes are what their format says), `_view` (there is such a view; see [`of_unknown_view`]). A feature that a row leaves out
//! is null.

mod arrow_batch;
mod csv;
mod file;
mod json;
mod rows;

use std::sync::Arc;

use anabranch_core::Position;
use anabranch_core::definition::ViewLayout;
use anabranch_validation::{Failure, Verdicts};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;

pub use file::{FileInput, FileOptions, FileRows, open_file};

use crate::wal::{LogRecord, PayloadFormat, RecordKind};
use crate::{Error, Result};

/// The rule that a row has the view's columns and no others.
pub const SCHEMA: &str = "_schema";
/// The rule that the bytes are what their format says.
pub const PAYLOAD: &str = "_payload";
/// The rule that there is such a view.
pub const VIEW: &str = "_view";

/// Rows in the form of a view, not yet checked.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The columns of [`ViewLayout::arrow_schema`], all nullable.
    pub batch: RecordBatch,
    /// Whether they are rows or tombstones.
    pub kind: RecordKind,
    /// The position of the first row; the others follow it.
    pub first: Position,
    /// What is wrong with single rows.
    pub verdicts: Verdicts,
    /// The bytes that the rows came in.
    pub originals: Originals,
}

impl Decoded {
    /// The position of a row.
    pub fn position(&self, row: usize) -> Position {
        Position::new(self.first.get() + row as u64).unwrap_or(self.first)
    }
}

/// How the original bytes of a row are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginalFormat {
    /// A JSON object, or what should have been one.
    Json,
    /// An Arrow IPC stream of one row.
    Arrow,
    /// A header line and a record.
    Csv,
}

impl OriginalFormat {
    /// The name, as quarantine keeps it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Arrow => "arrow",
            Self::Csv => "csv",
        }
    }
}

/// The bytes that rows came in, made out row by row where one is needed.
#[derive(Debug, Clone)]
pub enum Originals {
    /// The text of each row, behind a header that all share.
    Texts {
        /// What it is.
        format: OriginalFormat,
        /// What stands before each text.
        header: Bytes,
        /// The texts.
        rows: Vec<Bytes>,
    },
    /// The rows of a batch as it came.
    Batch(RecordBatch),
    /// A payload that could not be taken apart; the first row stands for all of it.
    Whole {
        /// What it should have been.
        format: OriginalFormat,
        /// The payload.
        payload: Bytes,
    },
}

impl Originals {
    /// The original bytes of a row.
    ///
    /// # Errors
    /// [`Error::Malformed`] where an Arrow row cannot be written by itself.
    pub fn row(&self, row: usize) -> Result<(OriginalFormat, Bytes)> {
        match self {
            Self::Texts { format, header, rows } => {
                let text = rows.get(row).cloned().unwrap_or_default();
                if header.is_empty() { Ok((*format, text)) } else { Ok((*format, [header.as_ref(), text.as_ref()].concat().into())) }
            }
            Self::Batch(batch) => Ok((OriginalFormat::Arrow, arrow_batch::encode(&batch.slice(row, 1))?)),
            Self::Whole { format, payload } => Ok((*format, if row == 0 { payload.clone() } else { Bytes::new() })),
        }
    }
}

/// How many rows a payload holds.
///
/// # Errors
/// [`Error::Payload`] where it is not what its format says, so that it can be refused before it is logged.
pub fn count_rows(format: PayloadFormat, payload: &Bytes) -> Result<u32> {
    let rows = match format {
        PayloadFormat::Json => json::split(payload)?.len(),
        PayloadFormat::Arrow => arrow_batch::read(payload)?.iter().map(RecordBatch::num_rows).sum(),
    };
    match u32::try_from(rows) {
        Ok(rows @ 1..=crate::wal::MAX_ROWS) => Ok(rows),
        Ok(0) => Err(Error::Payload { format: format.name(), reason: "it holds no rows".to_owned() }),
        _ => Err(Error::TooLarge {
            what: "the push".to_owned(),
            size: format!("{rows} rows"),
            limit: format!("{} rows", crate::wal::MAX_ROWS),
            advice: "split it, or load it as a file or over Flight",
        }),
    }
}

/// The rows of a record of the log. Whatever the payload is, there are as many as the record says.
///
/// A tombstone for a view with a known time that leaves it out is known when it arrived.
pub fn decode_record(layout: &ViewLayout, record: &LogRecord) -> Decoded {
    let push = &record.push;
    let decoded = match push.format {
        PayloadFormat::Json => json::decode(layout, push.kind, &push.payload, record.first),
        PayloadFormat::Arrow => arrow_batch::decode(layout, push.kind, &push.payload, record.first),
    };
    let decoded = match decoded {
        Ok(decoded) if decoded.batch.num_rows() == push.rows as usize => decoded,
        Ok(decoded) => {
            let reason = format!("it holds {} rows, and the log says {}", decoded.batch.num_rows(), push.rows);
            undecodable(layout, record, PAYLOAD, &reason)
        }
        Err(error) => undecodable(layout, record, PAYLOAD, &error.to_string()),
    };
    if push.kind == RecordKind::Tombstones { rows::fill_known_time(layout, decoded, record.arrival) } else { decoded }
}

/// The failures of the rows of a record whose view the judging definitions do not have, and the bytes they came in.
pub fn of_unknown_view(record: &LogRecord) -> (Vec<Failure>, Originals) {
    let reason = format!("there is no feature view {:?} in the definitions that judge these rows", record.push.view);
    let failure = Failure { check: VIEW.to_owned(), column: String::new(), reason };
    let format = original_format(record.push.format);
    let originals = match record.push.format {
        PayloadFormat::Json => json::split(&record.push.payload).map(|rows| Originals::Texts { format, header: Bytes::new(), rows }),
        PayloadFormat::Arrow => arrow_batch::read(&record.push.payload).and_then(|batches| arrow_batch::concat(&batches)).map(Originals::Batch),
    };
    let whole = Originals::Whole { format, payload: record.push.payload.clone() };
    (vec![failure; record.push.rows as usize], originals.unwrap_or(whole))
}

/// One batch of a bulk stream.
///
/// # Errors
/// [`Error::Invalid`] where its columns can never be rows of the view.
pub fn decode_batch(layout: &ViewLayout, batch: &RecordBatch, first: Position) -> Result<Decoded> {
    arrow_batch::check_columns(layout, batch.schema_ref(), false).map_err(|reason| Error::invalid("bulk stream", reason))?;
    arrow_batch::conform_batch(layout, RecordKind::Rows, batch, first)
}

/// The columns of a view's rows before they are checked: each may be null.
pub fn nullable_schema(layout: &ViewLayout) -> SchemaRef {
    let field = |column: &anabranch_core::definition::Column| Field::new(&column.name, column.data_type.to_arrow(), true);
    Arc::new(Schema::new(layout.columns().iter().map(field).collect::<Vec<_>>()))
}

fn original_format(format: PayloadFormat) -> OriginalFormat {
    match format {
        PayloadFormat::Json => OriginalFormat::Json,
        PayloadFormat::Arrow => OriginalFormat::Arrow,
    }
}

fn undecodable(layout: &ViewLayout, record: &LogRecord, check: &str, reason: &str) -> Decoded {
    let rows = record.push.rows as usize;
    let mut verdicts = Verdicts::default();
    for row in 0..rows {
        let reason = if row == 0 { reason.to_owned() } else { format!("as row {}, which has the whole payload: {reason}", record.first) };
        verdicts.add(row, Failure { check: check.to_owned(), column: String::new(), reason });
    }
    let originals = Originals::Whole { format: original_format(record.push.format), payload: record.push.payload.clone() };
    Decoded { batch: null_rows(layout, rows), kind: record.push.kind, first: record.first, verdicts, originals }
}

fn null_rows(layout: &ViewLayout, rows: usize) -> RecordBatch {
    let schema = nullable_schema(layout);
    let columns: Vec<ArrayRef> = schema.fields().iter().map(|field| new_null_array(field.data_type(), rows)).collect();
    RecordBatch::try_new(Arc::clone(&schema), columns).unwrap_or_else(|_| RecordBatch::new_empty(schema))
}

fn failure(check: &str, column: &str, reason: impl Into<String>) -> Failure {
    Failure { check: check.to_owned(), column: column.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
