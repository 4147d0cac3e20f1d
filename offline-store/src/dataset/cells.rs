//! The cells of a dataset: which of our types a column has, its canonical form, and the bytes of one value (drawn in [`super::digest`]).

use std::sync::Arc;

use anabranch_core::columns::conform;
use anabranch_core::types::{DataType, MAX_VECTOR, Scalar};
use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, ListArray};
use arrow::datatypes::{
    DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType, UInt64Type,
};

use super::DatasetError;

const NAN_F32: u32 = 0x7fc0_0000;
const NAN_F64: u64 = 0x7ff8_0000_0000_0000;

/// A column of a dataset in canonical form, every value as exact as it came; `first_row` is where it begins among all rows.
///
/// # Errors
/// [`DatasetError::Misfit`] names the row, [`DatasetError::ColumnType`] the column.
pub(super) fn canonical(name: &str, data_type: DataType, array: &ArrayRef, first_row: u64) -> Result<ArrayRef, DatasetError> {
    let misfit = |row: usize| DatasetError::Misfit { column: name.to_owned(), row: first_row + row as u64, data_type: data_type.to_string() };
    if let Some(row) = inexact(array) {
        return Err(misfit(row));
    }
    let unlike = |_| DatasetError::ColumnType { column: name.to_owned(), found: array.data_type().to_string() };
    let conformed = conform(array, data_type).map_err(unlike)?;
    match conformed.misfits.and_then(|misfits| misfits.set_indices().next()) {
        Some(row) => Err(misfit(row)),
        None => Ok(conformed.column),
    }
}

/// A canonical column whose NaNs are all the one of zero payload, so that equal content has equal bytes in files too.
pub(super) fn with_one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        ArrowType::Float32 => {
            let floats = column.as_primitive::<Float32Type>();
            let odd = floats.values().iter().any(|x| x.is_nan() && x.to_bits() != NAN_F32);
            if odd { Arc::new(floats.unary::<_, Float32Type>(|x| if x.is_nan() { f32::from_bits(NAN_F32) } else { x })) } else { Arc::clone(column) }
        }
        ArrowType::Float64 => {
            let floats = column.as_primitive::<Float64Type>();
            let odd = floats.values().iter().any(|x| x.is_nan() && x.to_bits() != NAN_F64);
            if odd { Arc::new(floats.unary::<_, Float64Type>(|x| if x.is_nan() { f64::from_bits(NAN_F64) } else { x })) } else { Arc::clone(column) }
        }
        ArrowType::List(item) => {
            let (_, offsets, items, nulls) = column.as_list::<i32>().clone().into_parts();
            let items = with_one_nan(&items);
            ListArray::try_new(Arc::clone(item), offsets, items, nulls).map_or_else(|_| Arc::clone(column), |list| Arc::new(list) as ArrayRef)
        }
        ArrowType::FixedSizeList(item, size) => {
            let (_, _, items, nulls) = column.as_fixed_size_list().clone().into_parts();
            let items = with_one_nan(&items);
            FixedSizeListArray::try_new(Arc::clone(item), *size, items, nulls).map_or_else(|_| Arc::clone(column), |list| Arc::new(list) as ArrayRef)
        }
        _ => Arc::clone(column),
    }
}

/// Our type for an Arrow type; `None` where there is none that holds its values.
pub fn canonical_type(arrow: &ArrowType) -> Option<DataType> {
    Some(match arrow {
        ArrowType::Dictionary(_, values) => return canonical_type(values),
        ArrowType::List(item) | ArrowType::LargeList(item) => DataType::List(canonical_scalar(item.data_type())?),
        ArrowType::FixedSizeList(item, n) => match (canonical_scalar(item.data_type())?, u32::try_from(*n)) {
            (Scalar::F32, Ok(n @ 1..=MAX_VECTOR)) => DataType::Vector(n),
            (scalar, _) => DataType::List(scalar),
        },
        scalar => DataType::Scalar(canonical_scalar(scalar)?),
    })
}

fn canonical_scalar(arrow: &ArrowType) -> Option<Scalar> {
    Some(match arrow {
        ArrowType::Boolean => Scalar::Bool,
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32 | ArrowType::UInt8 | ArrowType::UInt16 => Scalar::I32,
        ArrowType::Int64 | ArrowType::UInt32 | ArrowType::UInt64 => Scalar::I64,
        ArrowType::Float16 | ArrowType::Float32 => Scalar::F32,
        ArrowType::Float64 => Scalar::F64,
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => Scalar::String,
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView | ArrowType::FixedSizeBinary(_) => Scalar::Bytes,
        ArrowType::Timestamp(..) | ArrowType::Date32 | ArrowType::Date64 => Scalar::Timestamp,
        _ => return None,
    })
}

/// The first row with a value that bringing it into canonical form would change or lose, where `conform` does not tell: times finer than
/// microseconds, and what is wrong within a list.
fn inexact(array: &ArrayRef) -> Option<usize> {
    match array.data_type() {
        ArrowType::Timestamp(TimeUnit::Nanosecond, _) => {
            let times = array.as_primitive::<TimestampNanosecondType>();
            (0..times.len()).find(|row| times.is_valid(*row) && times.value(*row) % 1_000 != 0)
        }
        ArrowType::UInt64 => {
            let integers = array.as_primitive::<UInt64Type>();
            (0..integers.len()).find(|row| integers.is_valid(*row) && i64::try_from(integers.value(*row)).is_err())
        }
        ArrowType::Dictionary(_, values) => inexact(&arrow::compute::cast(array, values).ok()?),
        ArrowType::List(_) => inexact_list(array, |row| array.as_list::<i32>().value(row)),
        ArrowType::LargeList(_) => inexact_list(array, |row| array.as_list::<i64>().value(row)),
        ArrowType::FixedSizeList(..) => inexact_list(array, |row| array.as_fixed_size_list().value(row)),
        _ => None,
    }
}

fn inexact_list(array: &ArrayRef, items: impl Fn(usize) -> ArrayRef) -> Option<usize> {
    let wrong = |items: ArrayRef| items.null_count() > 0 || inexact(&items).is_some();
    (0..array.len()).find(|row| array.is_valid(*row) && wrong(items(*row)))
}

/// Writes one cell of a column that is in canonical form.
pub(super) fn write_cell(column: &ArrayRef, data_type: DataType, row: usize, out: &mut Vec<u8>) {
    out.push(u8::from(column.is_valid(row)));
    if column.is_null(row) {
        return;
    }
    match data_type {
        DataType::Scalar(scalar) => write_scalar(column, scalar, row, out),
        DataType::List(scalar) => {
            let items = column.as_list::<i32>().value(row);
            out.extend((items.len() as u64).to_be_bytes());
            (0..items.len()).for_each(|item| write_scalar(&items, scalar, item, out));
        }
        DataType::Vector(_) => {
            let items = column.as_fixed_size_list().value(row);
            (0..items.len()).for_each(|item| write_scalar(&items, Scalar::F32, item, out));
        }
    }
}

fn write_scalar(column: &ArrayRef, scalar: Scalar, row: usize, out: &mut Vec<u8>) {
    match scalar {
        Scalar::Bool => out.push(u8::from(column.as_boolean().value(row))),
        Scalar::I32 => out.extend(column.as_primitive::<Int32Type>().value(row).to_be_bytes()),
        Scalar::I64 => out.extend(column.as_primitive::<Int64Type>().value(row).to_be_bytes()),
        Scalar::F32 => {
            let x = column.as_primitive::<Float32Type>().value(row);
            out.extend(if x.is_nan() { NAN_F32 } else { x.to_bits() }.to_be_bytes());
        }
        Scalar::F64 => {
            let x = column.as_primitive::<Float64Type>().value(row);
            out.extend(if x.is_nan() { NAN_F64 } else { x.to_bits() }.to_be_bytes());
        }
        Scalar::String => write_bytes(column.as_string::<i32>().value(row).as_bytes(), out),
        Scalar::Bytes => write_bytes(column.as_binary::<i32>().value(row), out),
        Scalar::Timestamp => out.extend(column.as_primitive::<TimestampMicrosecondType>().value(row).to_be_bytes()),
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_be_bytes());
    out.extend(bytes);
}
