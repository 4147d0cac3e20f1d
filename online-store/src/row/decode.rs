//! From packed rows straight into the buffers of Arrow columns.

use std::sync::Arc;

use anabranch_core::types::UTC;
use anabranch_core::{DataType, Scalar};
use arrow::array::builder::{BooleanBufferBuilder, NullBufferBuilder};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType as ArrowType;
use arrow::error::ArrowError;

use super::PackedRow;
use crate::layout::width;
use crate::{Error, Layout, Result};

/// Reads some fields of rows of one layout; fields that it lacks are null, and `i32` and `f32` are widened where `i64` and `f64` are wanted.
#[derive(Debug, Clone)]
pub struct RowReader {
    fingerprint: u64,
    null_bytes: usize,
    slot_bytes: usize,
    steps: Vec<Option<Step>>,
}

/// Where a wanted field lies.
#[derive(Debug, Clone, Copy)]
struct Step {
    field: usize,
    at: usize,
    width: Option<usize>,
    begins: Option<usize>,
    data_type: DataType,
}

impl RowReader {
    /// Prepares to read `wanted`, field ids with the types that their columns are to have, from rows of `layout`.
    ///
    /// # Errors
    /// [`Error::Layout`] where a field has a type there that does not widen to the one wanted.
    pub fn new(layout: &Layout, wanted: &[(i32, DataType)]) -> Result<Self> {
        let step = |(id, want): &(i32, DataType)| {
            let Some(field) = layout.position(*id) else {
                return Ok(None);
            };
            let (_, data_type) = layout.fields()[field];
            if data_type != *want && !data_type.widens_to(*want) {
                let reason = format!("field {id} is {data_type} in it, which does not widen to {want}");
                return Err(Error::Layout { fingerprint: layout.fingerprint(), reason });
            }
            let slot = layout.slots()[field];
            Ok(Some(Step { field, at: slot.at, width: slot.width, begins: slot.begins, data_type }))
        };
        let steps = wanted.iter().map(step).collect::<Result<_>>()?;
        Ok(Self { fingerprint: layout.fingerprint(), null_bytes: layout.null_bytes(), slot_bytes: layout.slot_bytes(), steps })
    }

    /// The layout whose rows are read.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Appends the wanted fields of a row, one to each sink in their order. A tombstone appends nulls.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the row is not of the layout; some sinks may have been appended to.
    pub fn read(&self, row: PackedRow<'_>, sinks: &mut [ColumnSink]) -> Result<()> {
        if row.is_tombstone() {
            sinks.iter_mut().for_each(ColumnSink::push_null);
            return Ok(());
        }
        if row.fingerprint() != self.fingerprint {
            return Err(Error::corrupt_row("it is read by another layout than its own"));
        }
        let (nulls, rest) = row.body().split_at_checked(self.null_bytes).ok_or_else(cut_short)?;
        let (slots, heap) = rest.split_at_checked(self.slot_bytes).ok_or_else(cut_short)?;
        for (step, sink) in self.steps.iter().zip(sinks) {
            match step {
                Some(step) if nulls[step.field / 8] & (1 << (step.field % 8)) == 0 => sink.push(step.data_type, step.value(slots, heap)?)?,
                _ => sink.push_null(),
            }
        }
        Ok(())
    }
}

impl Step {
    fn value<'a>(&self, slots: &'a [u8], heap: &'a [u8]) -> Result<&'a [u8]> {
        if let Some(width) = self.width {
            return slots.get(self.at..self.at + width).ok_or_else(cut_short);
        }
        let begin = self.begins.map_or(Ok(0), |at| word(slots, at))?;
        let end = word(slots, self.at)?;
        heap.get(begin..end).ok_or_else(|| Error::corrupt_row("a value lies outside of the heap"))
    }
}

/// A column that grows by cells of packed rows.
#[derive(Debug)]
pub struct ColumnSink {
    data_type: DataType,
    nulls: NullBufferBuilder,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    Bool(BooleanBufferBuilder),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Timestamp(Vec<i64>),
    Text { ends: Vec<i32>, bytes: Vec<u8>, utf8: bool },
    List { ends: Vec<i32>, items: Box<Cells> },
    Vector { length: u32, items: Vec<f32> },
}

impl ColumnSink {
    /// An empty column with room for so many rows.
    pub fn new(data_type: DataType, rows: usize) -> Self {
        let cells = match data_type {
            DataType::Scalar(scalar) => Cells::scalar(scalar, rows),
            DataType::List(scalar) => Cells::List { ends: ends(rows), items: Box::new(Cells::scalar(scalar, rows)) },
            DataType::Vector(length) => Cells::Vector { length, items: Vec::new() },
        };
        Self { data_type, nulls: NullBufferBuilder::new(rows), cells }
    }

    /// Appends a null.
    pub fn push_null(&mut self) {
        self.nulls.append_null();
        self.cells.push_default();
    }

    fn push(&mut self, from: DataType, value: &[u8]) -> Result<()> {
        self.nulls.append_non_null();
        match (&mut self.cells, from) {
            (Cells::List { ends, items }, DataType::List(scalar)) => {
                items.push_all(scalar, value)?;
                ends.push(length(items.len())?);
                Ok(())
            }
            (Cells::Vector { length, items }, DataType::Vector(n)) => {
                if n != *length || value.len() != n as usize * 4 {
                    return Err(Error::corrupt_row(format!("a vector<{n}> has {} bytes", value.len())));
                }
                items.extend(value.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                Ok(())
            }
            (cells, DataType::Scalar(scalar)) => cells.push(scalar, value),
            _ => Err(Error::corrupt_row("a field is not of the type wanted")),
        }
    }

    /// The column.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a text is not UTF-8.
    pub fn finish(mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        self.cells.finish(self.data_type, nulls).map_err(|error| Error::corrupt_row(error.to_string()))
    }
}

impl Cells {
    fn scalar(scalar: Scalar, rows: usize) -> Self {
        match scalar {
            Scalar::Bool => Self::Bool(BooleanBufferBuilder::new(rows)),
            Scalar::I32 => Self::I32(Vec::with_capacity(rows)),
            Scalar::I64 => Self::I64(Vec::with_capacity(rows)),
            Scalar::F32 => Self::F32(Vec::with_capacity(rows)),
            Scalar::F64 => Self::F64(Vec::with_capacity(rows)),
            Scalar::Timestamp => Self::Timestamp(Vec::with_capacity(rows)),
            Scalar::String => Self::Text { ends: ends(rows), bytes: Vec::new(), utf8: true },
            Scalar::Bytes => Self::Text { ends: ends(rows), bytes: Vec::new(), utf8: false },
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Bool(cells) => cells.len(),
            Self::I32(cells) => cells.len(),
            Self::I64(cells) | Self::Timestamp(cells) => cells.len(),
            Self::F32(cells) => cells.len(),
            Self::F64(cells) => cells.len(),
            Self::Text { ends, .. } | Self::List { ends, .. } => ends.len() - 1,
            Self::Vector { length, items } => items.len() / *length as usize,
        }
    }

    fn push_default(&mut self) {
        match self {
            Self::Bool(cells) => cells.append(false),
            Self::I32(cells) => cells.push(0),
            Self::I64(cells) | Self::Timestamp(cells) => cells.push(0),
            Self::F32(cells) => cells.push(0.0),
            Self::F64(cells) => cells.push(0.0),
            Self::Text { ends, .. } | Self::List { ends, .. } => ends.extend_from_within(ends.len() - 1..),
            Self::Vector { length, items } => items.resize(items.len() + *length as usize, 0.0),
        }
    }

    fn push(&mut self, from: Scalar, value: &[u8]) -> Result<()> {
        match (self, from) {
            (Self::Bool(cells), Scalar::Bool) => cells.append(bool_of(value)?),
            (Self::I32(cells), Scalar::I32) => cells.push(i32::from_le_bytes(chunk(value)?)),
            (Self::I64(cells), Scalar::I64) => cells.push(i64::from_le_bytes(chunk(value)?)),
            (Self::I64(cells), Scalar::I32) => cells.push(i64::from(i32::from_le_bytes(chunk(value)?))),
            (Self::F32(cells), Scalar::F32) => cells.push(f32::from_le_bytes(chunk(value)?)),
            (Self::F64(cells), Scalar::F64) => cells.push(f64::from_le_bytes(chunk(value)?)),
            (Self::F64(cells), Scalar::F32) => cells.push(f64::from(f32::from_le_bytes(chunk(value)?))),
            (Self::Timestamp(cells), Scalar::Timestamp) => cells.push(i64::from_le_bytes(chunk(value)?)),
            (Self::Text { ends, bytes, utf8: true }, Scalar::String) | (Self::Text { ends, bytes, utf8: false }, Scalar::Bytes) => {
                bytes.extend_from_slice(value);
                ends.push(length(bytes.len())?);
            }
            _ => return Err(Error::corrupt_row("a field is not of the type wanted")),
        }
        Ok(())
    }

    /// Appends the items of a list.
    fn push_all(&mut self, from: Scalar, value: &[u8]) -> Result<()> {
        if let Some(width) = width(from) {
            let items = value.chunks_exact(width);
            if !items.remainder().is_empty() {
                return Err(Error::corrupt_row("a list ends within an item"));
            }
            return items.into_iter().try_for_each(|item| self.push(from, item));
        }
        let count = word(value, 0)?;
        let ends = count.checked_mul(4).and_then(|bytes| value.get(4..4 + bytes)).ok_or_else(cut_short)?;
        let texts = &value[4 + ends.len()..];
        let mut begin = 0;
        for end in ends.as_chunks::<4>().0 {
            let end = u32::from_le_bytes(*end) as usize;
            self.push(from, texts.get(begin..end).ok_or_else(|| Error::corrupt_row("an item lies outside of its list"))?)?;
            begin = end;
        }
        Ok(())
    }

    fn finish(self, data_type: DataType, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Bool(mut cells) => Arc::new(BooleanArray::new(cells.finish(), nulls)),
            Self::I32(cells) => Arc::new(Int32Array::try_new(cells.into(), nulls)?),
            Self::I64(cells) => Arc::new(Int64Array::try_new(cells.into(), nulls)?),
            Self::F32(cells) => Arc::new(Float32Array::try_new(cells.into(), nulls)?),
            Self::F64(cells) => Arc::new(Float64Array::try_new(cells.into(), nulls)?),
            Self::Timestamp(cells) => Arc::new(TimestampMicrosecondArray::try_new(cells.into(), nulls)?.with_timezone(UTC)),
            Self::Text { ends, bytes, utf8: true } => Arc::new(StringArray::try_new(OffsetBuffer::new(ends.into()), bytes.into(), nulls)?),
            Self::Text { ends, bytes, utf8: false } => Arc::new(BinaryArray::try_new(OffsetBuffer::new(ends.into()), bytes.into(), nulls)?),
            Self::List { ends, items } => {
                let (DataType::List(scalar), ArrowType::List(field)) = (data_type, data_type.to_arrow()) else {
                    return Err(ArrowError::SchemaError(format!("{data_type} is no list")));
                };
                let items = items.finish(DataType::Scalar(scalar), None)?;
                Arc::new(ListArray::try_new(field, OffsetBuffer::new(ends.into()), items, nulls)?)
            }
            Self::Vector { items, .. } => {
                let ArrowType::FixedSizeList(field, length) = data_type.to_arrow() else {
                    return Err(ArrowError::SchemaError(format!("{data_type} is no vector")));
                };
                Arc::new(FixedSizeListArray::try_new(field, length, Arc::new(Float32Array::from(items)), nulls)?)
            }
        })
    }
}

fn ends(rows: usize) -> Vec<i32> {
    let mut ends = Vec::with_capacity(rows + 1);
    ends.push(0);
    ends
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>).ok_or_else(cut_short)?;
    Ok(u32::from_le_bytes(*word) as usize)
}

fn chunk<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|_| cut_short())
}

fn bool_of(value: &[u8]) -> Result<bool> {
    match value {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Error::corrupt_row("a bool is neither 0 nor 1")),
    }
}

fn length(length: usize) -> Result<i32> {
    i32::try_from(length).map_err(|_| Error::TooLarge {
        what: "one column's number of bytes or items in one answer".to_owned(),
        bytes: length as u64,
        limit: i32::MAX as u64,
    })
}

fn cut_short() -> Error {
    Error::corrupt_row("it is cut short")
}
