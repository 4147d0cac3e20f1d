//! Rows as bytes: all columns of a row side by side, so that a row is read at once wherever it lies.
//!
//! A block of rows is its fixed parts, one behind the other, and a heap for what has no fixed width. Numbers are in the machine's own order: blocks live
//! no longer than the process that made them.
//!
//! ```text
//! fixed part   one bit a column, set where it is null, filled up to bytes
//!              for each column: bool 1 byte | i32, f32 4 bytes | i64, f64, timestamp 8 bytes | vector<n> 4n bytes
//!                               | string, bytes, list: u32, its bytes in the heap
//!              where there are columns of the last kind: u64, where the row's part of the heap begins
//! heap         row by row, column by column: text or bytes | a list's items, bools of 1 byte, texts behind their u32 length
//! ```

use std::sync::Arc;

use anabranch_core::columns::conform;
use anabranch_core::types::{DataType, Scalar, UTC};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeListArray, ListArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType as ArrowType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
};

use super::BatchesError;

/// A column of packed rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
}

/// Where each column lies in a row.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    columns: Vec<Slot>,
    /// Bytes of the fixed part.
    pub(super) stride: usize,
    /// Where the fixed part says where the row's heap begins.
    heap_slot: Option<usize>,
}

#[derive(Debug, Clone)]
struct Slot {
    name: String,
    data_type: DataType,
    at: usize,
    width: usize,
}

/// Rows that are being packed, or have been.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) fixed: Vec<u8>,
    pub(super) heap: Vec<u8>,
}

/// Rows picked from blocks, in the order in which they go out.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) rows: usize,
    pub(super) fixed: Vec<u8>,
    pub(super) heap: Vec<u8>,
    /// Where each row's part of `heap` begins; empty where no column needs it.
    pub(super) heap_at: Vec<usize>,
}

impl Layout {
    pub(super) fn new(columns: &[PackedColumn]) -> Self {
        let mut at = columns.len().div_ceil(8);
        let mut slots = Vec::with_capacity(columns.len());
        for PackedColumn { name, data_type } in columns {
            let width = fixed_width(*data_type).unwrap_or(size_of::<u32>());
            slots.push(Slot { name: name.clone(), data_type: *data_type, at, width });
            at += width;
        }
        let heap_slot = slots.iter().any(Slot::has_heap).then_some(at);
        Self { columns: slots, stride: at + heap_slot.map_or(0, |_| size_of::<u64>()), heap_slot }
    }

    /// The columns of some names, all where there are none.
    pub(super) fn select(&self, names: &[String]) -> Result<Vec<usize>, BatchesError> {
        if names.is_empty() {
            return Ok((0..self.columns.len()).collect());
        }
        let known = || self.columns.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>().join(", ");
        let find = |name: &String| {
            let found = self.columns.iter().position(|slot| slot.name == *name);
            found.ok_or_else(|| BatchesError::Invalid { what: "columns", reason: format!("the dataset has no column {name:?}: it has {}", known()) })
        };
        names.iter().map(find).collect()
    }

    /// The Arrow schema of some columns.
    pub(super) fn schema(&self, columns: &[usize]) -> SchemaRef {
        let field = |column: &usize| Field::new(&self.columns[*column].name, self.columns[*column].data_type.to_arrow(), true);
        Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The columns of a batch in canonical form, found by their place.
    pub(super) fn canonical(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, BatchesError> {
        let wrong = |reason: String| BatchesError::Rows { reason };
        if batch.num_columns() != self.columns.len() {
            return Err(wrong(format!("there are {} columns, not {}", batch.num_columns(), self.columns.len())));
        }
        let mut columns = Vec::with_capacity(self.columns.len());
        for (slot, (field, array)) in self.columns.iter().zip(batch.schema_ref().fields().iter().zip(batch.columns())) {
            if *field.name() != slot.name {
                return Err(wrong(format!("column {:?} stands where {:?} should be", field.name(), slot.name)));
            }
            let conformed = conform(array, slot.data_type).map_err(|error| wrong(format!("column {:?}: {error}", slot.name)))?;
            if conformed.misfits.is_some_and(|misfits| misfits.count_set_bits() > 0) {
                return Err(wrong(format!("column {:?} has values that are no {}", slot.name, slot.data_type)));
            }
            columns.push(conformed.column);
        }
        Ok(columns)
    }

    /// Appends rows to a block; `nulls` learns which columns have some.
    pub(super) fn pack(&self, columns: &[ArrayRef], nulls: &mut [bool], block: &mut Block) -> Result<(), BatchesError> {
        let (begin, rows) = (block.fixed.len(), columns.first().map_or(0, |column| column.len()));
        block.fixed.resize(begin + rows * self.stride, 0);
        let fixed = &mut block.fixed[begin..];
        for (index, (slot, column)) in self.columns.iter().zip(columns).enumerate() {
            if let Some(valid) = column.nulls().filter(|valid| valid.null_count() > 0) {
                nulls[index] = true;
                let null = (0..rows).filter(|row| valid.is_null(*row));
                null.for_each(|row| fixed[row * self.stride + index / 8] |= 1 << (index % 8));
            }
            match slot.data_type {
                _ if slot.has_heap() => {}
                DataType::Scalar(Scalar::Bool) => {
                    let values = column.as_boolean().values();
                    (0..rows).for_each(|row| fixed[row * self.stride + slot.at] = u8::from(values.value(row)));
                }
                data_type => match slot.width {
                    4 => scatter::<4>(value_bytes(data_type, column), fixed, self.stride, slot.at),
                    8 => scatter::<8>(value_bytes(data_type, column), fixed, self.stride, slot.at),
                    width => {
                        let values = value_bytes(data_type, column).chunks_exact(width);
                        values.enumerate().for_each(|(row, value)| fixed[row * self.stride + slot.at..][..width].copy_from_slice(value));
                    }
                },
            }
        }
        let Some(heap_slot) = self.heap_slot else { return Ok(()) };
        let heaped: Vec<_> = self.columns.iter().zip(columns).filter(|(slot, _)| slot.has_heap()).map(|(s, c)| (s, c, Heaped::of(c))).collect();
        for row in 0..rows {
            let fixed = &mut fixed[row * self.stride..][..self.stride];
            fixed[heap_slot..].copy_from_slice(&(block.heap.len() as u64).to_ne_bytes());
            for (slot, column, values) in &heaped {
                let begin = block.heap.len();
                if column.is_valid(row) {
                    values.append(row, &mut block.heap);
                }
                let length = u32::try_from(block.heap.len() - begin);
                let length = length.map_err(|_| BatchesError::Rows { reason: format!("column {:?} has a value of over 4 GiB", slot.name) })?;
                fixed[slot.at..][..4].copy_from_slice(&length.to_ne_bytes());
            }
        }
        Ok(())
    }

    /// Where a row's part of its block's heap lies; nothing where no column needs it.
    pub(super) fn heap_range(&self, fixed: &[u8]) -> Option<(u64, usize)> {
        let at = self.heap_slot?;
        let begin = u64::from_ne_bytes(array_of(&fixed[at..]));
        Some((begin, self.columns.iter().filter(|slot| slot.has_heap()).map(|slot| length_of(fixed, slot)).sum()))
    }

    /// Picked rows as Arrow columns; `nulls` says which columns have some at all.
    pub(super) fn unpack(&self, picked: &Picked, columns: &[usize], nulls: &[bool]) -> Result<RecordBatch, BatchesError> {
        // Where the next column's value begins in the heap, by row.
        let mut heap_at = picked.heap_at.clone();
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        for (index, slot) in self.columns.iter().enumerate() {
            let wanted = columns.contains(&index);
            if !wanted && !slot.has_heap() {
                continue;
            }
            let values: Vec<&[u8]> = if slot.has_heap() { self.heaped(picked, slot, &mut heap_at)? } else { Vec::new() };
            if wanted {
                let valid = nulls[index].then(|| self.validity(picked, index));
                arrays[index] = Some(self.array(picked, slot, &values, valid)?);
            }
        }
        let arrays =
            columns.iter().map(|column| arrays[*column].clone().ok_or(BatchesError::Damaged("a column is missing"))).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(picked.rows));
        Ok(RecordBatch::try_new_with_options(self.schema(columns), arrays, &options)?)
    }

    fn validity(&self, picked: &Picked, index: usize) -> NullBuffer {
        let (byte, bit) = (index / 8, 1 << (index % 8));
        BooleanBuffer::collect_bool(picked.rows, |row| picked.fixed[row * self.stride + byte] & bit == 0).into()
    }

    /// The bytes of a column's values in the heap, by row.
    fn heaped<'a>(&self, picked: &'a Picked, slot: &Slot, heap_at: &mut [usize]) -> Result<Vec<&'a [u8]>, BatchesError> {
        let mut values = Vec::with_capacity(picked.rows);
        for (fixed, at) in picked.fixed.chunks_exact(self.stride).zip(heap_at) {
            let end = *at + length_of(fixed, slot);
            values.push(picked.heap.get(*at..end).ok_or(BatchesError::Damaged("a value lies beyond its heap"))?);
            *at = end;
        }
        Ok(values)
    }

    fn array(&self, picked: &Picked, slot: &Slot, values: &[&[u8]], valid: Option<NullBuffer>) -> Result<ArrayRef, BatchesError> {
        let (fixed, rows, stride) = (&picked.fixed, picked.rows, self.stride);
        let dense = || match slot.width {
            4 => gather::<4>(fixed, stride, slot.at),
            8 => gather::<8>(fixed, stride, slot.at),
            width => {
                let mut bytes = MutableBuffer::with_capacity(rows * width);
                fixed.chunks_exact(stride).for_each(|row| bytes.extend_from_slice(&row[slot.at..][..width]));
                bytes.into()
            }
        };
        Ok(match slot.data_type {
            DataType::Scalar(scalar) => match scalar {
                Scalar::Bool => Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(rows, |row| fixed[row * stride + slot.at] != 0), valid)),
                Scalar::I32 => primitive::<Int32Type>(dense(), rows, valid),
                Scalar::I64 => primitive::<Int64Type>(dense(), rows, valid),
                Scalar::F32 => primitive::<Float32Type>(dense(), rows, valid),
                Scalar::F64 => primitive::<Float64Type>(dense(), rows, valid),
                Scalar::Timestamp => {
                    Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(ScalarBuffer::new(dense(), 0, rows), valid).with_timezone(UTC))
                }
                Scalar::String => {
                    let (offsets, bytes) = joined(values)?;
                    Arc::new(StringArray::try_new(offsets, bytes, valid)?)
                }
                Scalar::Bytes => {
                    let (offsets, bytes) = joined(values)?;
                    Arc::new(BinaryArray::try_new(offsets, bytes, valid)?)
                }
            },
            DataType::Vector(n) => {
                let items = primitive::<Float32Type>(dense(), rows * n as usize, None);
                let (field, size) = (item_field(slot.data_type)?, i32::try_from(n).map_err(|_| BatchesError::Damaged("a vector is too long"))?);
                Arc::new(FixedSizeListArray::try_new_with_length(field, size, items, valid, rows)?)
            }
            DataType::List(scalar) => {
                let (lengths, items) = list_items(scalar, values)?;
                let offsets = offsets_of(lengths)?;
                Arc::new(ListArray::try_new(item_field(slot.data_type)?, offsets, items, valid)?)
            }
        })
    }
}

impl Slot {
    fn has_heap(&self) -> bool {
        fixed_width(self.data_type).is_none()
    }
}

/// Bytes of a value in the fixed part; none where it has no fixed width.
const fn fixed_width(data_type: DataType) -> Option<usize> {
    match data_type {
        DataType::Scalar(scalar) => scalar_width(scalar),
        DataType::Vector(n) => Some(n as usize * 4),
        DataType::List(_) => None,
    }
}

const fn scalar_width(scalar: Scalar) -> Option<usize> {
    match scalar {
        Scalar::Bool => Some(1),
        Scalar::I32 | Scalar::F32 => Some(4),
        Scalar::I64 | Scalar::F64 | Scalar::Timestamp => Some(8),
        Scalar::String | Scalar::Bytes => None,
    }
}

fn length_of(fixed: &[u8], slot: &Slot) -> usize {
    u32::from_ne_bytes(array_of(&fixed[slot.at..])) as usize
}

fn array_of<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// The values of a column of fixed width, one behind the other.
fn value_bytes(data_type: DataType, column: &ArrayRef) -> &[u8] {
    match data_type {
        DataType::Vector(_) => column.as_fixed_size_list().values().as_primitive::<Float32Type>().values().inner().as_slice(),
        DataType::Scalar(scalar) | DataType::List(scalar) => scalar_bytes(scalar, column),
    }
}

/// As [`value_bytes`], of a scalar that is neither a bool nor without fixed width.
fn scalar_bytes(scalar: Scalar, column: &ArrayRef) -> &[u8] {
    match scalar {
        Scalar::I32 => column.as_primitive::<Int32Type>().values().inner().as_slice(),
        Scalar::I64 => column.as_primitive::<Int64Type>().values().inner().as_slice(),
        Scalar::F32 => column.as_primitive::<Float32Type>().values().inner().as_slice(),
        Scalar::F64 => column.as_primitive::<Float64Type>().values().inner().as_slice(),
        Scalar::Timestamp => column.as_primitive::<TimestampMicrosecondType>().values().inner().as_slice(),
        Scalar::Bool | Scalar::String | Scalar::Bytes => &[],
    }
}

fn scatter<const WIDTH: usize>(values: &[u8], fixed: &mut [u8], stride: usize, at: usize) {
    let (values, _) = values.as_chunks::<WIDTH>();
    for (row, value) in fixed.chunks_exact_mut(stride).zip(values) {
        row[at..at + WIDTH].copy_from_slice(value);
    }
}

fn gather<const WIDTH: usize>(fixed: &[u8], stride: usize, at: usize) -> Buffer {
    let mut bytes = MutableBuffer::from_len_zeroed(fixed.len() / stride * WIDTH);
    let (values, _) = bytes.as_slice_mut().as_chunks_mut::<WIDTH>();
    for (row, value) in fixed.chunks_exact(stride).zip(values) {
        value.copy_from_slice(&row[at..at + WIDTH]);
    }
    bytes.into()
}

fn primitive<T: ArrowPrimitiveType>(values: Buffer, rows: usize, valid: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::new(values, 0, rows), valid))
}

fn item_field(data_type: DataType) -> Result<Arc<Field>, BatchesError> {
    match data_type.to_arrow() {
        ArrowType::List(field) | ArrowType::FixedSizeList(field, _) => Ok(field),
        _ => Err(BatchesError::Damaged("a scalar has no items")),
    }
}

fn offsets_of(lengths: impl IntoIterator<Item = usize>) -> Result<OffsetBuffer<i32>, BatchesError> {
    let (mut end, mut offsets) = (0_i32, vec![0_i32]);
    for length in lengths {
        let next = i32::try_from(length).ok().and_then(|length| end.checked_add(length));
        end = next.ok_or_else(|| BatchesError::Invalid {
            what: "batch_size",
            reason: "a column of a batch has over 2 GiB: ask for smaller batches".to_owned(),
        })?;
        offsets.push(end);
    }
    Ok(OffsetBuffer::new(offsets.into()))
}

fn joined(values: &[&[u8]]) -> Result<(OffsetBuffer<i32>, Buffer), BatchesError> {
    let offsets = offsets_of(values.iter().map(|value| value.len()))?;
    Ok((offsets, Buffer::from_vec(values.concat())))
}

/// How many items each list has, and the items.
fn list_items(scalar: Scalar, values: &[&[u8]]) -> Result<(Vec<usize>, ArrayRef), BatchesError> {
    if matches!(scalar, Scalar::String | Scalar::Bytes) {
        let (mut lengths, mut texts) = (Vec::with_capacity(values.len()), Vec::new());
        for mut value in values.iter().copied() {
            let before = texts.len();
            while !value.is_empty() {
                let (length, rest) = value.split_at_checked(4).ok_or(BatchesError::Damaged("a text has no length"))?;
                let length = u32::from_ne_bytes(array_of(length)) as usize;
                let (text, rest) = rest.split_at_checked(length).ok_or(BatchesError::Damaged("a text was cut short"))?;
                texts.push(text);
                value = rest;
            }
            lengths.push(texts.len() - before);
        }
        let (offsets, bytes) = joined(&texts)?;
        let items: ArrayRef = match scalar {
            Scalar::String => Arc::new(StringArray::try_new(offsets, bytes, None)?),
            _ => Arc::new(BinaryArray::try_new(offsets, bytes, None)?),
        };
        return Ok((lengths, items));
    }
    let width = scalar_width(scalar).unwrap_or(1);
    let bytes = values.concat();
    let (lengths, count) = (values.iter().map(|value| value.len() / width).collect(), bytes.len() / width);
    // Copied, so that the items lie as their type wants them to.
    let buffer = || Buffer::from_slice_ref(&bytes);
    let items = match scalar {
        Scalar::Bool => Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(count, |i| bytes[i] != 0), None)),
        Scalar::I32 => primitive::<Int32Type>(buffer(), count, None),
        Scalar::I64 => primitive::<Int64Type>(buffer(), count, None),
        Scalar::F32 => primitive::<Float32Type>(buffer(), count, None),
        Scalar::F64 => primitive::<Float64Type>(buffer(), count, None),
        _ => Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(ScalarBuffer::new(buffer(), 0, count), None).with_timezone(UTC)),
    };
    Ok((lengths, items))
}

/// The values of a column without fixed width.
enum Heaped<'a> {
    /// Bytes between offsets that count items of a width.
    Flat {
        offsets: &'a [i32],
        bytes: &'a [u8],
        width: usize,
    },
    Bools {
        offsets: &'a [i32],
        items: &'a BooleanArray,
    },
    Texts {
        offsets: &'a [i32],
        item_offsets: &'a [i32],
        bytes: &'a [u8],
    },
}

impl<'a> Heaped<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        match column.data_type() {
            ArrowType::Utf8 => {
                Self::Flat { offsets: column.as_string::<i32>().value_offsets(), bytes: column.as_string::<i32>().value_data(), width: 1 }
            }
            ArrowType::Binary => {
                Self::Flat { offsets: column.as_binary::<i32>().value_offsets(), bytes: column.as_binary::<i32>().value_data(), width: 1 }
            }
            _ => {
                let list = column.as_list::<i32>();
                let (offsets, items) = (list.value_offsets(), list.values());
                match items.data_type() {
                    ArrowType::Boolean => Self::Bools { offsets, items: items.as_boolean() },
                    ArrowType::Utf8 => {
                        Self::Texts { offsets, item_offsets: items.as_string::<i32>().value_offsets(), bytes: items.as_string::<i32>().value_data() }
                    }
                    ArrowType::Binary => {
                        Self::Texts { offsets, item_offsets: items.as_binary::<i32>().value_offsets(), bytes: items.as_binary::<i32>().value_data() }
                    }
                    ArrowType::Int32 => Self::Flat { offsets, bytes: scalar_bytes(Scalar::I32, items), width: 4 },
                    ArrowType::Int64 => Self::Flat { offsets, bytes: scalar_bytes(Scalar::I64, items), width: 8 },
                    ArrowType::Float32 => Self::Flat { offsets, bytes: scalar_bytes(Scalar::F32, items), width: 4 },
                    ArrowType::Float64 => Self::Flat { offsets, bytes: scalar_bytes(Scalar::F64, items), width: 8 },
                    _ => Self::Flat { offsets, bytes: scalar_bytes(Scalar::Timestamp, items), width: 8 },
                }
            }
        }
    }

    fn append(&self, row: usize, heap: &mut Vec<u8>) {
        let span = |offsets: &[i32]| offsets[row] as usize..offsets[row + 1] as usize;
        match self {
            Self::Flat { offsets, bytes, width } => {
                let span = span(offsets);
                heap.extend_from_slice(&bytes[span.start * width..span.end * width]);
            }
            Self::Bools { offsets, items } => heap.extend(span(offsets).map(|item| u8::from(items.value(item)))),
            Self::Texts { offsets, item_offsets, bytes } => {
                for item in span(offsets) {
                    let text = &bytes[item_offsets[item] as usize..item_offsets[item + 1] as usize];
                    heap.extend((text.len() as u32).to_ne_bytes());
                    heap.extend_from_slice(text);
                }
            }
        }
    }
}
