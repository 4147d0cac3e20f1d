//! Finding the parts of the buffer again.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType as ArrowType;

use super::{cell_bytes, scalar_bytes};
use crate::types::UTC;
use crate::{DataType, Error, Scalar};

/// The columns of a buffer of packed columns.
#[derive(Debug, Clone)]
pub struct Sections {
    columns: Vec<Section>,
    rows: usize,
}

/// The parts of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The column's type.
    pub data_type: DataType,
    /// Offsets of the rows; empty where the width is fixed.
    offsets: Range<usize>,
    /// Offsets of the items of a list of texts; empty for others.
    items: Range<usize>,
    /// Cells, items or bytes.
    bytes: Range<usize>,
}

/// One cell, or one item of a list.
#[derive(Debug, Clone, Copy)]
pub enum Cells<'a> {
    /// Scalars of one width, one after the other.
    Fixed(&'a [u8]),
    /// Offsets of four bytes each, the first 0, and what they cut up.
    Texts(&'a [u8], &'a [u8]),
}

impl Sections {
    /// Takes a buffer apart.
    ///
    /// # Errors
    /// [`Error::Malformed`] where it does not hold so many rows of these types.
    pub fn new(types: &[DataType], rows: usize, values: &[u8]) -> Result<Self, Error> {
        let mut rest = Rest { values, at: 0 };
        let mut columns: Vec<Option<Section>> = Vec::with_capacity(types.len());
        for data_type in types {
            columns.push(match cell_bytes(*data_type) {
                Some(width) => Some(Section { data_type: *data_type, offsets: 0..0, items: 0..0, bytes: rest.take(rows, width)? }),
                None => None,
            });
        }
        let found = |(column, data_type): (Option<Section>, &DataType)| column.map_or_else(|| rest.variable(*data_type, rows), Ok);
        let columns = columns.into_iter().zip(types).map(found).collect::<Result<_, _>>()?;
        if rest.at < values.len() {
            return Err(malformed(format!("{} bytes are left over", values.len() - rest.at)));
        }
        Ok(Self { columns, rows })
    }

    /// The columns, in the order of their types.
    pub fn columns(&self) -> &[Section] {
        &self.columns
    }

    /// Arrow columns over the same memory where it is aligned; a row is null unless `valid` says of it (by column and row) that it has a value.
    ///
    /// # Errors
    /// [`Error::Malformed`] where a text is not UTF-8, or the buffer is another than that which was taken apart.
    pub fn arrays(&self, values: &Buffer, valid: impl Fn(usize) -> Option<BooleanBuffer>) -> Result<Vec<ArrayRef>, Error> {
        let values = if values.as_ptr().align_offset(8) == 0 { values.clone() } else { Buffer::from_slice_ref(values.as_slice()) };
        if self.columns.iter().any(|column| [&column.offsets, &column.items, &column.bytes].iter().any(|part| part.end > values.len())) {
            return Err(malformed("the buffer is another".to_owned()));
        }
        let column = |(place, section): (usize, &Section)| {
            let nulls = valid(place).filter(|valid| valid.len() == self.rows).map(NullBuffer::new);
            section.array(&values, nulls)
        };
        self.columns.iter().enumerate().map(column).collect()
    }
}

impl Section {
    /// The cell of a row of the buffer that the section was found in; for a vector and a list, its items.
    pub fn cell<'a>(&self, values: &'a [u8], row: usize) -> Option<Cells<'a>> {
        let bytes = values.get(self.bytes.clone())?;
        if let Some(width) = cell_bytes(self.data_type) {
            return bytes.get(row * width..(row + 1) * width).map(Cells::Fixed);
        }
        let offsets = values.get(self.offsets.clone())?;
        let range = word(offsets, row)?..word(offsets, row + 1)?;
        match self.data_type {
            DataType::List(scalar) => match scalar_bytes(scalar) {
                Some(width) => bytes.get(range.start * width..range.end * width).map(Cells::Fixed),
                None => values.get(self.items.clone())?.get(range.start * 4..(range.end + 1) * 4).map(|items| Cells::Texts(items, bytes)),
            },
            _ => bytes.get(range).map(Cells::Fixed),
        }
    }

    fn array(&self, values: &Buffer, nulls: Option<NullBuffer>) -> Result<ArrayRef, Error> {
        let arrow = |error: arrow::error::ArrowError| malformed(error.to_string());
        Ok(match self.data_type {
            DataType::Scalar(scalar) if scalar_bytes(scalar).is_some() => self.fixed(values, scalar, nulls),
            DataType::Scalar(scalar) => texts(scalar, offsets(values, &self.offsets), self.part(values), nulls).map_err(arrow)?,
            DataType::Vector(_) => {
                let items = self.fixed(values, Scalar::F32, None);
                let ArrowType::FixedSizeList(field, length) = self.data_type.to_arrow() else { return Err(malformed("no vector".to_owned())) };
                Arc::new(FixedSizeListArray::try_new(field, length, items, nulls).map_err(arrow)?)
            }
            DataType::List(scalar) => {
                let rows = offsets(values, &self.offsets);
                let items = match scalar_bytes(scalar) {
                    Some(_) => self.fixed(values, scalar, None),
                    None => texts(scalar, offsets(values, &self.items), self.part(values), None).map_err(arrow)?,
                };
                let ArrowType::List(field) = self.data_type.to_arrow() else { return Err(malformed("no list".to_owned())) };
                Arc::new(ListArray::try_new(field, rows, items, nulls).map_err(arrow)?)
            }
        })
    }

    fn part(&self, values: &Buffer) -> Buffer {
        values.slice_with_length(self.bytes.start, self.bytes.len())
    }

    /// Scalars of one width; the length of the nulls was looked at.
    fn fixed(&self, values: &Buffer, scalar: Scalar, nulls: Option<NullBuffer>) -> ArrayRef {
        let part = self.part(values);
        match scalar {
            Scalar::I32 => Arc::new(Int32Array::new(part.into(), nulls)),
            Scalar::I64 => Arc::new(Int64Array::new(part.into(), nulls)),
            Scalar::F32 => Arc::new(Float32Array::new(part.into(), nulls)),
            Scalar::F64 => Arc::new(Float64Array::new(part.into(), nulls)),
            Scalar::Timestamp => Arc::new(TimestampMicrosecondArray::new(part.into(), nulls).with_timezone(UTC)),
            // Texts never come here: their width varies.
            Scalar::Bool | Scalar::String | Scalar::Bytes => {
                Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(part.len(), |row| part[row] != 0), nulls))
            }
        }
    }
}

fn texts(scalar: Scalar, offsets: OffsetBuffer<i32>, bytes: Buffer, nulls: Option<NullBuffer>) -> Result<ArrayRef, arrow::error::ArrowError> {
    Ok(match scalar {
        Scalar::String => Arc::new(StringArray::try_new(offsets, bytes, nulls)?),
        _ => Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?),
    })
}

/// Offsets that were looked at when the buffer was taken apart.
fn offsets(values: &Buffer, part: &Range<usize>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::new(values.clone(), part.start / 4, part.len() / 4))
}

/// What is left of a buffer.
struct Rest<'a> {
    values: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    /// The next part: so many cells of a width.
    fn take(&mut self, cells: usize, width: usize) -> Result<Range<usize>, Error> {
        let end = cells.checked_mul(width).and_then(|bytes| self.at.checked_add(bytes)).filter(|end| *end <= self.values.len());
        let end = end.ok_or_else(|| malformed(format!("{} bytes are too few", self.values.len())))?;
        let part = self.at..end;
        self.at = end.next_multiple_of(8);
        if self.at > self.values.len() {
            return Err(malformed("it ends within a part".to_owned()));
        }
        Ok(part)
    }

    /// The next offsets, ascending from 0, and the last of them.
    fn offsets(&mut self, cells: usize) -> Result<(Range<usize>, usize), Error> {
        let part = self.take(cells.saturating_add(1), 4)?;
        let mut last = 0;
        for (place, bytes) in self.values[part.clone()].as_chunks::<4>().0.iter().enumerate() {
            let offset = u32::from_le_bytes(*bytes);
            if offset < last || (place == 0 && offset != 0) || offset > i32::MAX.cast_unsigned() {
                return Err(malformed("its offsets do not ascend from 0".to_owned()));
            }
            last = offset;
        }
        Ok((part, last as usize))
    }

    fn variable(&mut self, data_type: DataType, rows: usize) -> Result<Section, Error> {
        let (offsets, last) = self.offsets(rows)?;
        let width = match data_type {
            DataType::List(scalar) => scalar_bytes(scalar),
            _ => Some(1),
        };
        match width {
            Some(width) => Ok(Section { data_type, offsets, items: 0..0, bytes: self.take(last, width)? }),
            None => {
                let (items, last) = self.offsets(last)?;
                Ok(Section { data_type, offsets, items, bytes: self.take(last, 1)? })
            }
        }
    }
}

fn word(offsets: &[u8], place: usize) -> Option<usize> {
    let bytes = offsets.get(place * 4..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes) as usize)
}

fn malformed(reason: String) -> Error {
    Error::Malformed { what: "packed columns", reason }
}
