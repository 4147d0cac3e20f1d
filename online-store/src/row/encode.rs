//! From Arrow columns to packed rows, without a value of its own for each cell.

use anabranch_core::{DataType, RowOrder, Scalar};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use super::{HEADER, MAX_ROW_BYTES, TOMBSTONE, VERSION};
use crate::{Error, Layout, Result};

/// Packs rows of columns that are in canonical form.
#[derive(Debug)]
pub struct RowEncoder<'a> {
    layout: &'a Layout,
    columns: Vec<Input<'a>>,
}

impl<'a> RowEncoder<'a> {
    /// Takes one column for each field of the layout.
    ///
    /// # Errors
    /// [`Error::InvalidLayout`] where there are more or fewer columns than fields, [`Error::Core`] where one is not of its field's type.
    pub fn new(layout: &'a Layout, columns: &'a [ArrayRef]) -> Result<Self> {
        if columns.len() != layout.fields().len() {
            return Err(Error::InvalidLayout(format!("it has {} fields and is given {} columns", layout.fields().len(), columns.len())));
        }
        let columns = layout.fields().iter().zip(columns).map(|((_, data_type), column)| Input::new(*data_type, column)).collect::<Result<_>>()?;
        Ok(Self { layout, columns })
    }

    /// Appends the packed form of a row to `out`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where it is longer than [`MAX_ROW_BYTES`]; `out` is as it was.
    pub fn encode(&self, row: usize, order: RowOrder, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        header(order, 0, self.layout.fingerprint(), out);
        let nulls = out.len();
        let slots = nulls + self.layout.null_bytes();
        let heap = slots + self.layout.slot_bytes();
        out.resize(heap, 0);
        for (i, (column, slot)) in self.columns.iter().zip(self.layout.slots()).enumerate() {
            let at = slots + slot.at;
            if column.is_null(row) {
                out[nulls + i / 8] |= 1 << (i % 8);
            } else if slot.width.is_some() {
                column.fixed(row, |bytes| out[at..at + bytes.len()].copy_from_slice(bytes));
            } else {
                column.append(row, out);
            }
            if slot.width.is_none() {
                // A row over the limit is refused below, so that the end that is kept fits.
                let end = (out.len() - heap) as u32;
                out[at..at + 4].copy_from_slice(&end.to_le_bytes());
            }
        }
        let bytes = out.len() - start;
        if bytes > MAX_ROW_BYTES {
            out.truncate(start);
            return Err(Error::TooLarge { what: "a packed row's number of bytes".to_owned(), bytes: bytes as u64, limit: MAX_ROW_BYTES as u64 });
        }
        Ok(())
    }
}

/// Appends a packed row that says that its entity has no features as of its event time.
pub fn encode_tombstone(order: RowOrder, layout: &Layout, out: &mut Vec<u8>) {
    header(order, TOMBSTONE, layout.fingerprint(), out);
}

fn header(order: RowOrder, flags: u8, fingerprint: u64, out: &mut Vec<u8>) {
    out.reserve(HEADER);
    out.extend(order.to_bytes());
    out.extend([VERSION, flags]);
    out.extend(fingerprint.to_le_bytes());
}

#[derive(Debug)]
enum Input<'a> {
    Bool(&'a BooleanArray),
    I32(&'a Int32Array),
    I64(&'a Int64Array),
    F32(&'a Float32Array),
    F64(&'a Float64Array),
    Timestamp(&'a TimestampMicrosecondArray),
    String(&'a StringArray),
    Bytes(&'a BinaryArray),
    List(&'a ListArray, Box<Input<'a>>),
    Vector(&'a FixedSizeListArray, &'a Float32Array),
}

impl<'a> Input<'a> {
    fn new(data_type: DataType, column: &'a ArrayRef) -> Result<Self> {
        if column.data_type() != &data_type.to_arrow() {
            let (expected, found) = (data_type.to_string(), column.data_type().to_string());
            return Err(anabranch_core::Error::Type { expected, found }.into());
        }
        Ok(match data_type {
            DataType::Scalar(scalar) => Self::scalar(scalar, column),
            DataType::List(scalar) => {
                let list = column.as_list::<i32>();
                Self::List(list, Box::new(Self::scalar(scalar, list.values())))
            }
            DataType::Vector(_) => {
                let vectors = column.as_fixed_size_list();
                Self::Vector(vectors, vectors.values().as_primitive::<Float32Type>())
            }
        })
    }

    fn scalar(scalar: Scalar, column: &'a ArrayRef) -> Self {
        match scalar {
            Scalar::Bool => Self::Bool(column.as_boolean()),
            Scalar::I32 => Self::I32(column.as_primitive::<Int32Type>()),
            Scalar::I64 => Self::I64(column.as_primitive::<Int64Type>()),
            Scalar::F32 => Self::F32(column.as_primitive::<Float32Type>()),
            Scalar::F64 => Self::F64(column.as_primitive::<Float64Type>()),
            Scalar::Timestamp => Self::Timestamp(column.as_primitive::<TimestampMicrosecondType>()),
            Scalar::String => Self::String(column.as_string::<i32>()),
            Scalar::Bytes => Self::Bytes(column.as_binary::<i32>()),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Bool(a) => a.is_null(row),
            Self::I32(a) => a.is_null(row),
            Self::I64(a) => a.is_null(row),
            Self::F32(a) => a.is_null(row),
            Self::F64(a) => a.is_null(row),
            Self::Timestamp(a) => a.is_null(row),
            Self::String(a) => a.is_null(row),
            Self::Bytes(a) => a.is_null(row),
            Self::List(a, _) => a.is_null(row),
            Self::Vector(a, _) => a.is_null(row),
        }
    }

    /// Gives the bytes of a value of fixed width; nothing for one that varies.
    fn fixed(&self, row: usize, mut put: impl FnMut(&[u8])) {
        match self {
            Self::Bool(a) => put(&[u8::from(a.value(row))]),
            Self::I32(a) => put(&a.value(row).to_le_bytes()),
            Self::I64(a) => put(&a.value(row).to_le_bytes()),
            Self::F32(a) => put(&a.value(row).to_le_bytes()),
            Self::F64(a) => put(&a.value(row).to_le_bytes()),
            Self::Timestamp(a) => put(&a.value(row).to_le_bytes()),
            Self::String(_) | Self::Bytes(_) | Self::List(..) | Self::Vector(..) => {}
        }
    }

    /// The bytes of a text or of bytes; empty for others.
    fn text(&self, row: usize) -> &[u8] {
        match self {
            Self::String(a) => a.value(row).as_bytes(),
            Self::Bytes(a) => a.value(row),
            _ => &[],
        }
    }

    /// Appends a value of varying width to the heap.
    fn append(&self, row: usize, heap: &mut Vec<u8>) {
        match self {
            Self::Vector(vectors, items) => {
                let length = vectors.value_length() as usize;
                let start = vectors.value_offset(row) as usize;
                heap.extend(items.values()[start..start + length].iter().flat_map(|x| x.to_le_bytes()));
            }
            Self::List(lists, items) => {
                let offsets = lists.value_offsets();
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                match **items {
                    Self::String(_) | Self::Bytes(_) => items.append_texts(range, heap),
                    _ => range.for_each(|i| items.fixed(i, |bytes| heap.extend_from_slice(bytes))),
                }
            }
            _ => heap.extend_from_slice(self.text(row)),
        }
    }

    fn append_texts(&self, range: std::ops::Range<usize>, heap: &mut Vec<u8>) {
        heap.extend((range.len() as u32).to_le_bytes());
        let mut end = 0_u32;
        for i in range.clone() {
            end = end.saturating_add(self.text(i).len() as u32);
            heap.extend(end.to_le_bytes());
        }
        range.for_each(|i| heap.extend_from_slice(self.text(i)));
    }
}
