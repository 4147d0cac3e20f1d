//! From a table's batch to packed rows: the one way in which both the stream and the files of a commit come online.
//!
//! A batch has the columns of [`ViewLayout::table_columns`], in that order and in canonical form or in one that conforms without loss. Rows that were
//! appended without arrival, source or position must have been given those of their snapshot before; a row that has none here is refused.

use anabranch_core::columns::{KeyColumns, conform};
use anabranch_core::definition::{Role, ViewLayout};
use anabranch_core::key::KeyWriter;
use anabranch_core::{DataType, Generation, Position, RowOrder, SourceId, Timestamp};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use crate::row::{RowEncoder, encode_tombstone};
use crate::{Error, Layout, Result, Write};

/// Packs every row of a batch for a generation of its view. `packed` has the field ids of the view's features, in their order.
///
/// # Errors
/// [`Error::Batch`] where the batch is not of the view's table, or a row has no key, event time, arrival, source or position; [`Error::TooLarge`] where
/// a row or key is over the limits.
pub fn rows_of(batch: &RecordBatch, view: &ViewLayout, packed: &Layout, generation: Generation) -> Result<Vec<Write>> {
    let table = Table::new(batch, view, packed)?;
    let encoder = RowEncoder::new(packed, &table.features)?;
    let mut bytes = Vec::with_capacity(batch.num_rows() * 128);
    let mut rows = Vec::with_capacity(batch.num_rows());
    let mut writer = KeyWriter::default();
    for row in 0..batch.num_rows() {
        if !table.keys.write(row, &mut writer) {
            return Err(table.at(row, "its key has a null"));
        }
        let order = table.order(row)?;
        let start = bytes.len();
        if table.tombstone.is_valid(row) && table.tombstone.value(row) {
            encode_tombstone(order, packed, &mut bytes);
        } else {
            encoder.encode(row, order, &mut bytes).map_err(|error| table.too_large(row, error))?;
        }
        rows.push((writer.to_key(), start..bytes.len()));
    }
    let bytes = Bytes::from(bytes);
    let write = |(row, (key, range))| {
        let write = Write { generation, key, row: bytes.slice(range) };
        write.check().map_err(|error| table.too_large(row, error)).map(|()| write)
    };
    rows.into_iter().enumerate().map(write).collect()
}

/// The columns of a batch by what they are for.
struct Table<'a> {
    view: &'a ViewLayout,
    keys: KeyColumns,
    event: PrimitiveArray<TimestampMicrosecondType>,
    known: Option<PrimitiveArray<TimestampMicrosecondType>>,
    features: Vec<ArrayRef>,
    arrival: PrimitiveArray<TimestampMicrosecondType>,
    source: PrimitiveArray<Int32Type>,
    position: PrimitiveArray<Int64Type>,
    tombstone: BooleanArray,
}

impl<'a> Table<'a> {
    fn new(batch: &RecordBatch, view: &'a ViewLayout, packed: &Layout) -> Result<Self> {
        let refuse = |reason: String| Error::Batch { view: view.name().to_owned(), reason };
        let wanted = view.table_columns();
        if batch.num_columns() != wanted.len() {
            return Err(refuse(format!("the batch has {} columns where its table has {}", batch.num_columns(), wanted.len())));
        }
        if !view.view().fields.iter().map(|field| field.data_type).eq(packed.fields().iter().map(|(_, data_type)| *data_type)) {
            return Err(refuse("the layout to pack by has not the types of its features".to_owned()));
        }
        let (mut keys, mut times, mut known, mut features, mut reserved) = (Vec::new(), Vec::new(), None, Vec::new(), Vec::new());
        for (column, array) in wanted.iter().zip(batch.columns()) {
            let conformed = conform(array, column.data_type).map_err(|error| refuse(format!("column {:?}: {error}", column.name)))?;
            if let Some(misfits) = conformed.misfits {
                let row = misfits.iter().position(|misfit| misfit).unwrap_or(0);
                return Err(refuse(format!("column {:?}, row {row}: the value does not fit {}", column.name, column.data_type)));
            }
            let array = conformed.column;
            match (column.role, column.data_type) {
                (Role::Key, DataType::Scalar(scalar)) => keys.push((scalar, array)),
                (Role::EventTime, _) => times.push(array),
                (Role::KnownTime, _) => known = Some(array.as_primitive().clone()),
                (Role::Reserved, _) => reserved.push(array),
                (Role::Key | Role::Feature, _) => features.push(array),
            }
        }
        let ([event], [arrival, source, position, tombstone]) = (&times[..], &reserved[..]) else {
            return Err(refuse("its table lacks the event time or a reserved column".to_owned()));
        };
        Ok(Self {
            view,
            keys: KeyColumns::new(keys)?,
            event: event.as_primitive().clone(),
            known,
            features,
            arrival: arrival.as_primitive().clone(),
            source: source.as_primitive().clone(),
            position: position.as_primitive().clone(),
            tombstone: tombstone.as_boolean().clone(),
        })
    }

    fn order(&self, row: usize) -> Result<RowOrder> {
        let event_time = Timestamp(self.value(&self.event, row, "event time")?);
        let known_time = match &self.known {
            Some(known) => Timestamp(self.value(known, row, "known time")?),
            None => event_time,
        };
        let source = self.value(&self.source, row, "_source")?;
        let position = self.value(&self.position, row, "_position")?;
        Ok(RowOrder {
            event_time,
            known_time,
            arrival: Timestamp(self.value(&self.arrival, row, "_arrival")?),
            source: u32::try_from(source).ok().and_then(|id| SourceId::new(id).ok()).ok_or_else(|| self.at(row, "its _source is negative"))?,
            position: u64::try_from(position).ok().and_then(|at| Position::new(at).ok()).ok_or_else(|| self.at(row, "its _position is negative"))?,
        })
    }

    fn value<T: ArrowPrimitiveType>(&self, column: &PrimitiveArray<T>, row: usize, what: &str) -> Result<T::Native> {
        if column.is_null(row) {
            return Err(self.at(row, &format!("it has no {what}")));
        }
        Ok(column.value(row))
    }

    /// Says where a row or key over its limit stands.
    fn too_large(&self, row: usize, error: Error) -> Error {
        match error {
            Error::TooLarge { what, bytes, limit } => {
                Error::TooLarge { what: format!("feature view {:?}, row {row}: {what}", self.view.name()), bytes, limit }
            }
            error => error,
        }
    }

    fn at(&self, row: usize, reason: &str) -> Error {
        Error::Batch { view: self.view.name().to_owned(), reason: format!("row {row}: {reason}") }
    }
}

#[cfg(test)]
mod tests;
