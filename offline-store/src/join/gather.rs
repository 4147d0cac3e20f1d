//! From matches to output columns: a feature's values, read chunk by chunk, go straight to their places in the output.
//!
//! Values of a fixed width are copied as they are decoded; text, bytes and lists are first taken batch by batch and put into the spine's order at the end.
//! A column belongs to one task, so nothing is shared while it is written. All columns of a view share one bitmap of the rows that matched, unless a
//! matched row is null there.
//!
//! A batch of the spine is one batch of the output, unless its text, bytes or lists together outgrow 32-bit offsets; then it is cut in two, and again.

use std::ops::Range;
use std::sync::Arc;

use anabranch_core::types::DataType;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, FixedSizeListArray, Float32Array, PrimitiveArray, RecordBatch, RecordBatchOptions,
    UInt32Array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, MutableBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::{concat, interleave, take};
use arrow::datatypes::{DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::util::bit_util::{set_bit, unset_bit};

use super::JoinError;
use super::matching::Hit;
use super::stored::{Presence, StoredPage, StoredValues};

/// Arrow's `interleave` spells out the place of every item of every list, 16 bytes each, so long columns of lists are made in parts of so many rows.
const LIST_ROWS: usize = 4_096;

/// A feature's values in the order of the spine, while they come in.
pub(super) struct Gathering {
    values: Values,
    /// The rows that matched.
    matched: NullBuffer,
    /// The same less those that matched a null; none until there is one.
    valid: Option<MutableBuffer>,
}

enum Values {
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Time(Vec<i64>),
    Bool(MutableBuffer),
    Vector {
        width: usize,
        values: Vec<f32>,
    },
    /// Taken batch by batch; each row's part and its place there.
    Taken {
        parts: Vec<ArrayRef>,
        at: Vec<(u32, u32)>,
    },
}

/// A feature's values in the order of the spine.
#[derive(Debug)]
pub(super) enum Gathered {
    Whole(ArrayRef),
    /// Parts, the first of which is one null, and where each row's value lies.
    Taken {
        parts: Vec<ArrayRef>,
        at: Vec<(u32, u32)>,
    },
}

/// A bitmap of the rows that matched.
pub(super) fn matched<'a>(rows: usize, hits: impl Iterator<Item = &'a Hit>) -> NullBuffer {
    let mut bits = MutableBuffer::from_len_zeroed(rows.div_ceil(8));
    for hit in hits {
        set_bit(bits.as_slice_mut(), hit.out as usize);
    }
    NullBuffer::new(BooleanBuffer::new(bits.into(), 0, rows))
}

impl Gathering {
    pub(super) fn new(data_type: DataType, matched: NullBuffer) -> Self {
        let rows = matched.len();
        let values = match data_type.to_arrow() {
            ArrowType::Int32 => Values::I32(vec![0; rows]),
            ArrowType::Int64 => Values::I64(vec![0; rows]),
            ArrowType::Float32 => Values::F32(vec![0.0; rows]),
            ArrowType::Float64 => Values::F64(vec![0.0; rows]),
            ArrowType::Timestamp(..) => Values::Time(vec![0; rows]),
            ArrowType::Boolean => Values::Bool(MutableBuffer::from_len_zeroed(rows.div_ceil(8))),
            ArrowType::FixedSizeList(_, width) => {
                let width = usize::try_from(width).unwrap_or_default();
                Values::Vector { width, values: vec![0.0; rows * width] }
            }
            other => Values::Taken { parts: vec![new_null_array(&other, 1)], at: vec![(0, 0); rows] },
        };
        Self { values, matched, valid: None }
    }

    /// Takes a batch that begins at `first` among the rows that are read; `hits` are those of it, with rows counted like `first`.
    pub(super) fn take(&mut self, first: usize, column: &ArrayRef, hits: &[Hit]) -> Result<(), ArrowError> {
        let from = |hit: &Hit| hit.row as usize - first;
        if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
            let valid = self.valid();
            for hit in hits.iter().filter(|hit| nulls.is_null(from(hit))) {
                unset_bit(valid.as_slice_mut(), hit.out as usize);
            }
        }
        match &mut self.values {
            Values::I32(out) => copy::<Int32Type>(out, column, hits, from),
            Values::I64(out) => copy::<Int64Type>(out, column, hits, from),
            Values::F32(out) => copy::<Float32Type>(out, column, hits, from),
            Values::F64(out) => copy::<Float64Type>(out, column, hits, from),
            Values::Time(out) => copy::<TimestampMicrosecondType>(out, column, hits, from),
            Values::Bool(out) => {
                let column = column.as_boolean();
                for hit in hits.iter().filter(|hit| column.value(from(hit))) {
                    set_bit(out.as_slice_mut(), hit.out as usize);
                }
            }
            Values::Vector { width, values } => {
                let column = column.as_fixed_size_list();
                let items = column.values().as_primitive::<Float32Type>().values();
                for hit in hits {
                    let (to, from) = (hit.out as usize * *width, column.value_offset(from(hit)) as usize);
                    values[to..to + *width].copy_from_slice(&items[from..from + *width]);
                }
            }
            Values::Taken { parts, at } => {
                let rows = UInt32Array::from_iter_values(hits.iter().map(|hit| from(hit) as u32));
                for (row, hit) in hits.iter().enumerate() {
                    at[hit.out as usize] = (parts.len() as u32, row as u32);
                }
                parts.push(take(column, &rows, None)?);
            }
        }
        Ok(())
    }

    /// Takes a page that begins at `first` among the rows that are read; `hits` are those of it. Gives whether its values can be of this column.
    pub(super) fn take_page(&mut self, first: usize, page: &StoredPage, hits: &[Hit]) -> bool {
        let present = page.presence.as_ref().map(|presence| self.present(first, presence, hits));
        // The row of a hit becomes the place of its value.
        let (first, hits) = present.as_ref().map_or((first, hits), |present| (0, present.as_slice()));
        match &mut self.values {
            Values::I32(out) => copy_page(out, i32::from_le_bytes, first, page, hits),
            Values::I64(out) | Values::Time(out) => copy_page(out, i64::from_le_bytes, first, page, hits),
            Values::F32(out) => copy_page(out, f32::from_le_bytes, first, page, hits),
            Values::F64(out) => copy_page(out, f64::from_le_bytes, first, page, hits),
            _ => false,
        }
    }

    /// The hits of rows that have a value, each with the place of that; the others are null.
    fn present(&mut self, first: usize, presence: &Presence, hits: &[Hit]) -> Vec<Hit> {
        let valid = self.valid().as_slice_mut();
        let mut present = Vec::with_capacity(hits.len());
        for hit in hits {
            match presence.place(hit.row as usize - first) {
                Some(place) => present.push(Hit { row: place as u32, out: hit.out }),
                None => unset_bit(valid, hit.out as usize),
            }
        }
        present
    }

    /// The rows that matched and are not null, which from here on are not the same as those that matched.
    fn valid(&mut self) -> &mut MutableBuffer {
        let matched = &self.matched;
        self.valid.get_or_insert_with(|| {
            let mut copy = MutableBuffer::new(matched.buffer().len());
            copy.extend_from_slice(matched.buffer().as_slice());
            copy
        })
    }

    pub(super) fn finish(self, data_type: DataType) -> Gathered {
        let rows = self.matched.len();
        let nulls = match self.valid {
            Some(valid) => NullBuffer::new(BooleanBuffer::new(valid.into(), 0, rows)),
            None => self.matched,
        };
        let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
        Gathered::Whole(match self.values {
            Values::I32(values) => primitive::<Int32Type>(values, nulls),
            Values::I64(values) => primitive::<Int64Type>(values, nulls),
            Values::F32(values) => primitive::<Float32Type>(values, nulls),
            Values::F64(values) => primitive::<Float64Type>(values, nulls),
            Values::Time(values) => {
                let times = PrimitiveArray::<TimestampMicrosecondType>::new(values.into(), nulls);
                Arc::new(times.with_timezone(anabranch_core::types::UTC))
            }
            Values::Bool(values) => Arc::new(BooleanArray::new(BooleanBuffer::new(values.into(), 0, rows), nulls)),
            Values::Vector { width, values } => match data_type.to_arrow() {
                ArrowType::FixedSizeList(item, _) => {
                    let values = Arc::new(Float32Array::new(ScalarBuffer::from(values), None));
                    Arc::new(FixedSizeListArray::new(item, width as i32, values, nulls))
                }
                other => new_null_array(&other, rows),
            },
            Values::Taken { parts, at } => return Gathered::Taken { parts, at },
        })
    }
}

fn copy<T: ArrowPrimitiveType>(out: &mut [T::Native], column: &ArrayRef, hits: &[Hit], from: impl Fn(&Hit) -> usize) {
    let values = column.as_primitive::<T>().values();
    for hit in hits {
        out[hit.out as usize] = values[from(hit)];
    }
}

fn copy_page<T, const WIDTH: usize>(out: &mut [T], of: impl Fn([u8; WIDTH]) -> T, first: usize, page: &StoredPage, hits: &[Hit]) -> bool {
    let count = page.count();
    let place = |hit: &Hit| hit.row as usize - first;
    match &page.values {
        StoredValues::Plain(bytes) => {
            let (values, rest) = bytes.as_chunks::<WIDTH>();
            let whole = values.len() == count && rest.is_empty();
            for hit in hits.iter().filter(|_| whole) {
                out[hit.out as usize] = of(values[place(hit)]);
            }
            whole
        }
        StoredValues::Split(bytes) if bytes.len() == count * WIDTH => {
            for hit in hits {
                let place = place(hit);
                out[hit.out as usize] = of(std::array::from_fn(|stream| bytes[stream * count + place]));
            }
            true
        }
        StoredValues::Split(_) => false,
        StoredValues::Dictionary { dictionary, places } => {
            let (values, _) = dictionary.as_chunks::<WIDTH>();
            let mut places = places.cursor();
            hits.iter().all(|hit| match places.get(place(hit)).and_then(|place| values.get(place as usize)) {
                Some(value) => {
                    out[hit.out as usize] = of(*value);
                    true
                }
                None => false,
            })
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
}

/// Puts a batch of the spine together with its features, which `columns` gives for any of its rows, counted from `first_row`.
pub(super) fn extend(
    joined: &mut Vec<RecordBatch>,
    schema: &SchemaRef,
    batch: &RecordBatch,
    first_row: usize,
    columns: &dyn Fn(Range<usize>) -> Result<Vec<ArrayRef>, ArrowError>,
) -> Result<(), JoinError> {
    let rows = batch.num_rows();
    match columns(first_row..first_row + rows) {
        Ok(columns) => {
            let columns = batch.columns().iter().cloned().chain(columns).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            joined.push(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?);
            Ok(())
        }
        Err(ArrowError::OffsetOverflowError(_)) if rows > 1 => {
            let half = rows / 2;
            extend(joined, schema, &batch.slice(0, half), first_row, columns)?;
            extend(joined, schema, &batch.slice(half, rows - half), first_row + half, columns)
        }
        Err(error) => Err(error.into()),
    }
}

/// The features of some rows.
pub(super) fn rows_of(features: &[Gathered], rows: Range<usize>) -> Result<Vec<ArrayRef>, ArrowError> {
    features.iter().map(|feature| feature.rows(rows.clone())).collect()
}

impl Gathered {
    /// About how many bytes it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Whole(column) => column.get_array_memory_size(),
            Self::Taken { parts, at } => parts.iter().map(|part| part.get_array_memory_size()).sum::<usize>() + size_of_val(at.as_slice()),
        }
    }

    fn rows(&self, rows: Range<usize>) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Whole(column) => Ok(column.slice(rows.start, rows.len())),
            Self::Taken { parts, at } => {
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                let places: Vec<_> = at[rows].iter().map(|(part, row)| (*part as usize, *row as usize)).collect();
                pick(&parts, &places)
            }
        }
    }
}

/// Values from several arrays of one type, each by its array and its place there.
pub(super) fn pick(columns: &[&dyn Array], places: &[(usize, usize)]) -> Result<ArrayRef, ArrowError> {
    if !matches!(columns[0].data_type(), ArrowType::List(_)) || places.len() <= LIST_ROWS {
        return interleave(columns, places);
    }
    let parts = places.chunks(LIST_ROWS).map(|places| interleave(columns, places)).collect::<Result<Vec<_>, _>>()?;
    let items = parts.iter().map(|part| part.as_list::<i32>().values().len()).sum();
    if i32::try_from(items).is_err() {
        return Err(ArrowError::OffsetOverflowError(items));
    }
    concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}
