//! The wire's typed columns, to and from Arrow.

use std::sync::Arc;

use anabranch_core::columns::{conform, empty_column};
use anabranch_core::types::UTC;
use anabranch_core::{DataType, Scalar};
use anabranch_proto::v1;
use anabranch_proto::v1::column::Values;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::boolean::is_null;
use arrow::datatypes::{DataType as ArrowType, Field, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;

use crate::Error;

/// A key column for the wire, from any Arrow column that can be one.
pub(crate) fn key_column(name: &str, column: &ArrayRef) -> Result<v1::Column, Error> {
    let scalar = key_type(column.data_type()).ok_or_else(|| {
        Error::Argument(format!("key column {name:?} is {}: a key is an integer, string, bytes, bool or timestamp", column.data_type()))
    })?;
    let conformed = conform(column, DataType::Scalar(scalar)).map_err(|error| Error::Argument(format!("key column {name:?}: {error}")))?;
    if let Some(row) = conformed.misfits.and_then(|misfits| misfits.set_indices().next()) {
        return Err(Error::Argument(format!("key column {name:?}, row {row}: the value is no {}", scalar.name())));
    }
    let column = conformed.column;
    let nulls = match column.null_count() {
        0 => Vec::new(),
        _ => is_null(&column)?.values().set_indices().filter_map(|row| u32::try_from(row).ok()).collect(),
    };
    Ok(v1::Column { name: name.to_owned(), r#type: scalar.name().to_owned(), nulls, values: Some(key_values(scalar, &column)) })
}

fn key_type(arrow: &ArrowType) -> Option<Scalar> {
    match data_type_of(arrow)? {
        // Data frames make floats of integers with gaps; whole ones are integers again.
        DataType::Scalar(Scalar::F32 | Scalar::F64) => Some(Scalar::I64),
        DataType::Scalar(scalar) => Some(scalar),
        DataType::List(_) | DataType::Vector(_) => None,
    }
}

/// The type of ours whose columns hold what columns of an Arrow type hold (but for integers beyond 63 bits), where there is one.
pub fn data_type_of(arrow: &ArrowType) -> Option<DataType> {
    let scalar = match arrow {
        ArrowType::Boolean => Scalar::Bool,
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32 | ArrowType::UInt8 | ArrowType::UInt16 => Scalar::I32,
        ArrowType::Int64 | ArrowType::UInt32 | ArrowType::UInt64 => Scalar::I64,
        ArrowType::Float16 | ArrowType::Float32 => Scalar::F32,
        ArrowType::Float64 => Scalar::F64,
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View | ArrowType::Null => Scalar::String,
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView | ArrowType::FixedSizeBinary(_) => Scalar::Bytes,
        ArrowType::Timestamp(..) | ArrowType::Date32 | ArrowType::Date64 => Scalar::Timestamp,
        ArrowType::Dictionary(_, values) => return data_type_of(values),
        ArrowType::FixedSizeList(item, n) if item.data_type() == &ArrowType::Float32 => return u32::try_from(*n).ok().map(DataType::Vector),
        ArrowType::List(item) | ArrowType::LargeList(item) | ArrowType::FixedSizeList(item, _) => match data_type_of(item.data_type())? {
            DataType::Scalar(scalar) => return Some(DataType::List(scalar)),
            DataType::List(_) | DataType::Vector(_) => return None,
        },
        _ => return None,
    };
    Some(DataType::Scalar(scalar))
}

/// The values of a canonical column; null rows have the type's zero.
fn key_values(scalar: Scalar, column: &ArrayRef) -> Values {
    match scalar {
        Scalar::Bool => Values::Bools(v1::BoolValues { values: column.as_boolean().iter().map(Option::unwrap_or_default).collect() }),
        Scalar::I32 => Values::I32s(v1::Int32Values { values: zeroed(column.as_primitive::<Int32Type>().iter()) }),
        Scalar::I64 => Values::I64s(v1::Int64Values { values: zeroed(column.as_primitive::<Int64Type>().iter()) }),
        Scalar::Timestamp => Values::Timestamps(v1::Int64Values { values: zeroed(column.as_primitive::<TimestampMicrosecondType>().iter()) }),
        Scalar::Bytes => {
            let bytes = |value: Option<&[u8]>| Bytes::copy_from_slice(value.unwrap_or_default());
            Values::Bytes(v1::BytesValues { values: column.as_binary::<i32>().iter().map(bytes).collect() })
        }
        Scalar::String | Scalar::F32 | Scalar::F64 => {
            let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
            Values::Strings(v1::StringValues { values: column.as_string::<i32>().iter().map(text).collect() })
        }
    }
}

fn zeroed<T: Default>(values: impl Iterator<Item = Option<T>>) -> Vec<T> {
    values.map(Option::unwrap_or_default).collect()
}

/// An Arrow column in canonical form from one of the wire.
pub(crate) fn array_of(column: v1::Column, rows: usize) -> Result<ArrayRef, Error> {
    let broken = |reason: &str| Error::Protocol(format!("column {:?}: {reason}", column.name));
    let data_type: DataType = column.r#type.parse().map_err(|_| broken("its type is not known to this version"))?;
    let nulls = nulls(&column.nulls, rows).ok_or_else(|| broken("a null lies beyond its end"))?;
    let Some(values) = column.values else {
        return if rows == 0 { Ok(empty_column(data_type)) } else { Err(broken("it has no values")) };
    };
    let array = match (data_type, values) {
        (DataType::Scalar(scalar), values) => scalars(scalar, values, nulls),
        (DataType::List(scalar), Values::Lists(lists)) => list(scalar, *lists, nulls),
        (DataType::Vector(n), Values::Vectors(floats)) => vectors(n, floats.values, nulls),
        _ => None,
    };
    let array = array.ok_or_else(|| broken("its values are not of its type"))?;
    if array.len() != rows {
        return Err(broken(&format!("{} values for {rows} rows", array.len())));
    }
    Ok(array)
}

fn nulls(at: &[u32], rows: usize) -> Option<Option<NullBuffer>> {
    if at.is_empty() {
        return Some(None);
    }
    let mut valid = vec![true; rows];
    for row in at {
        *valid.get_mut(*row as usize)? = false;
    }
    Some(Some(NullBuffer::from(valid)))
}

fn scalars(scalar: Scalar, values: Values, nulls: Option<NullBuffer>) -> Option<ArrayRef> {
    // An array of another length than its nulls would be refused by a panic.
    let fits = |rows: usize| nulls.as_ref().is_none_or(|nulls| nulls.len() == rows);
    Some(match (scalar, values) {
        (Scalar::Bool, Values::Bools(v)) if fits(v.values.len()) => Arc::new(BooleanArray::new(v.values.into(), nulls)),
        (Scalar::I32, Values::I32s(v)) if fits(v.values.len()) => Arc::new(Int32Array::new(v.values.into(), nulls)),
        (Scalar::I64, Values::I64s(v)) if fits(v.values.len()) => Arc::new(Int64Array::new(v.values.into(), nulls)),
        (Scalar::F32, Values::F32s(v)) if fits(v.values.len()) => Arc::new(Float32Array::new(v.values.into(), nulls)),
        (Scalar::F64, Values::F64s(v)) if fits(v.values.len()) => Arc::new(Float64Array::new(v.values.into(), nulls)),
        (Scalar::Timestamp, Values::Timestamps(v)) if fits(v.values.len()) => {
            Arc::new(TimestampMicrosecondArray::new(v.values.into(), nulls).with_timezone(UTC))
        }
        (Scalar::String, Values::Strings(v)) if fits(v.values.len()) => {
            let (offsets, data, _) = StringArray::from_iter_values(v.values).into_parts();
            Arc::new(StringArray::new(offsets, data, nulls))
        }
        (Scalar::Bytes, Values::Bytes(v)) if fits(v.values.len()) => {
            let (offsets, data, _) = BinaryArray::from_iter_values(v.values).into_parts();
            Arc::new(BinaryArray::new(offsets, data, nulls))
        }
        _ => return None,
    })
}

fn list(scalar: Scalar, lists: v1::ListValues, nulls: Option<NullBuffer>) -> Option<ArrayRef> {
    let total = lists.lengths.iter().try_fold(0_i32, |sum, length| sum.checked_add(i32::try_from(*length).ok()?))?;
    let items = match lists.items {
        Some(items) => array_of(*items, usize::try_from(total).ok()?).ok()?,
        None if total == 0 => empty_column(DataType::Scalar(scalar)),
        None => return None,
    };
    let field = Arc::new(Field::new("element", scalar.to_arrow(), false));
    let offsets = OffsetBuffer::from_lengths(lists.lengths.iter().map(|length| *length as usize));
    Some(Arc::new(ListArray::try_new(field, offsets, items, nulls).ok()?))
}

fn vectors(n: u32, floats: Vec<f32>, nulls: Option<NullBuffer>) -> Option<ArrayRef> {
    let field = Arc::new(Field::new("element", ArrowType::Float32, false));
    Some(Arc::new(FixedSizeListArray::try_new(field, i32::try_from(n).ok()?, Arc::new(Float32Array::from(floats)), nulls).ok()?))
}

#[cfg(test)]
mod tests;
