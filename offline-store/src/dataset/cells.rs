//! The cells of a dataset: which of our types a column has, and the bytes of one value (drawn in [`super::digest`]).

use anabranch_core::types::{DataType, MAX_VECTOR, Scalar};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType, UInt64Type,
};

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
pub(super) fn inexact(array: &ArrayRef) -> Option<usize> {
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
            out.extend(if x.is_nan() { 0x7fc0_0000_u32 } else { x.to_bits() }.to_be_bytes());
        }
        Scalar::F64 => {
            let x = column.as_primitive::<Float64Type>().value(row);
            out.extend(if x.is_nan() { 0x7ff8_0000_0000_0000_u64 } else { x.to_bits() }.to_be_bytes());
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
