//! Key columns for the wire, from any Arrow column that can be one.

use anabranch_core::columns::conform;
use anabranch_core::{DataType, Scalar};
use anabranch_proto::v1;
use anabranch_proto::v1::key_column::Values;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::kernels::boolean::is_null;
use arrow::datatypes::{DataType as ArrowType, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;

use crate::Error;

/// A key column for the wire, from any Arrow column that can be one.
pub(crate) fn key_column(name: &str, column: &ArrayRef) -> Result<v1::KeyColumn, Error> {
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
    Ok(v1::KeyColumn { name: name.to_owned(), nulls, values: Some(key_values(scalar, &column)) })
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

#[cfg(test)]
mod tests;
