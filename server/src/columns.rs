//! Typed columns on the wire and in Arrow.
//!
//! A wire column gives its type by name, its values densely (the type's zero where a row is null) and the places of its nulls, ascending. What does not
//! fit together is refused by the column's name, never guessed.

use std::sync::Arc;

use anabranch_core::types::{DataType, Scalar, UTC};
use anabranch_proto::v1::column::Values;
use anabranch_proto::v1::{BoolValues, BytesValues, Column, DoubleValues, FloatValues, Int32Values, Int64Values, ListValues, StringValues};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use bytes::Bytes;

use crate::error::{Error, Result};

/// The Arrow column of a wire column, with its type.
///
/// # Errors
/// [`Error::Argument`] where the parts of the column do not fit together.
pub(crate) fn to_arrow(column: &Column) -> Result<(DataType, ArrayRef)> {
    let refuse = |reason: String| Error::argument(format!("column {:?}", column.name), reason);
    let data_type: DataType = column.r#type.parse().map_err(|error: anabranch_core::Error| refuse(error.to_string()))?;
    let values = column.values.as_ref().ok_or_else(|| refuse("it has no values".to_owned()))?;
    let rows = rows(data_type, values).ok_or_else(|| refuse(format!("its values are not of type {data_type}")))?;
    let nulls = nulls(&column.nulls, rows).map_err(refuse)?;
    let array = match (data_type, values) {
        (DataType::List(scalar), Values::Lists(lists)) => list_array(scalar, lists, nulls).map_err(refuse)?,
        (DataType::Vector(n), Values::Vectors(values)) => vector_array(n, &values.values, nulls).map_err(refuse)?,
        (_, values) => scalar_array(values, nulls),
    };
    Ok((data_type, array))
}

/// How many rows the values are; `None` where they are not of the type.
fn rows(data_type: DataType, values: &Values) -> Option<usize> {
    let DataType::Scalar(scalar) = data_type else {
        return match (data_type, values) {
            (DataType::List(_), Values::Lists(lists)) => Some(lists.lengths.len()),
            (DataType::Vector(n), Values::Vectors(floats)) if floats.values.len() % n as usize == 0 => Some(floats.values.len() / n as usize),
            _ => None,
        };
    };
    match (scalar, values) {
        (Scalar::Bool, Values::Bools(list)) => Some(list.values.len()),
        (Scalar::I32, Values::I32s(list)) => Some(list.values.len()),
        (Scalar::I64, Values::I64s(list)) | (Scalar::Timestamp, Values::Timestamps(list)) => Some(list.values.len()),
        (Scalar::F32, Values::F32s(list)) => Some(list.values.len()),
        (Scalar::F64, Values::F64s(list)) => Some(list.values.len()),
        (Scalar::String, Values::Strings(list)) => Some(list.values.len()),
        (Scalar::Bytes, Values::Bytes(list)) => Some(list.values.len()),
        _ => None,
    }
}

fn nulls(nulls: &[u32], rows: usize) -> Result<Option<NullBuffer>, String> {
    if nulls.is_empty() {
        return Ok(None);
    }
    if nulls.windows(2).any(|pair| pair[0] >= pair[1]) || nulls.last().is_some_and(|last| *last as usize >= rows) {
        return Err(format!("its nulls must be ascending row numbers under {rows}"));
    }
    let mut valid = vec![true; rows];
    nulls.iter().for_each(|row| valid[*row as usize] = false);
    Ok(Some(NullBuffer::new(BooleanBuffer::from(valid))))
}

fn scalar_array(values: &Values, nulls: Option<NullBuffer>) -> ArrayRef {
    match values {
        Values::Bools(list) => Arc::new(BooleanArray::new(BooleanBuffer::from(list.values.as_slice()), nulls)),
        Values::I32s(list) => Arc::new(Int32Array::new(list.values.clone().into(), nulls)),
        Values::I64s(list) => Arc::new(Int64Array::new(list.values.clone().into(), nulls)),
        Values::F32s(list) | Values::Vectors(list) => Arc::new(Float32Array::new(list.values.clone().into(), nulls)),
        Values::F64s(list) => Arc::new(Float64Array::new(list.values.clone().into(), nulls)),
        Values::Timestamps(list) => Arc::new(TimestampMicrosecondArray::new(list.values.clone().into(), nulls).with_timezone(UTC)),
        Values::Strings(list) => Arc::new(masked(&list.values, nulls.as_ref()).collect::<StringArray>()),
        Values::Bytes(list) => Arc::new(masked(&list.values, nulls.as_ref()).collect::<BinaryArray>()),
        Values::Lists(_) => arrow::array::new_null_array(&ArrowType::Null, 0),
    }
}

fn masked<'a, T>(values: &'a [T], nulls: Option<&'a NullBuffer>) -> impl Iterator<Item = Option<&'a T>> {
    values.iter().enumerate().map(move |(row, value)| nulls.is_none_or(|nulls| nulls.is_valid(row)).then_some(value))
}

fn list_array(scalar: Scalar, lists: &ListValues, nulls: Option<NullBuffer>) -> Result<ArrayRef, String> {
    let items = lists.items.as_ref().ok_or("it has no items")?;
    let (data_type, items) = to_arrow(items).map_err(|error| error.to_string())?;
    if data_type != DataType::Scalar(scalar) || items.null_count() > 0 {
        return Err(format!("its items must be {} without nulls", scalar.name()));
    }
    let total: u64 = lists.lengths.iter().map(|length| u64::from(*length)).sum();
    if total != items.len() as u64 || total > i32::MAX as u64 {
        return Err(format!("its lengths add up to {total}, it has {} items", items.len()));
    }
    let offsets = OffsetBuffer::from_lengths(lists.lengths.iter().map(|length| *length as usize));
    let field = Arc::new(Field::new("element", scalar.to_arrow(), false));
    ListArray::try_new(field, offsets, items, nulls).map(|list| Arc::new(list) as ArrayRef).map_err(|error| error.to_string())
}

fn vector_array(n: u32, values: &[f32], nulls: Option<NullBuffer>) -> Result<ArrayRef, String> {
    let field = Arc::new(Field::new("element", ArrowType::Float32, false));
    let size = i32::try_from(n).map_err(|error| error.to_string())?;
    let items = Arc::new(Float32Array::new(values.to_vec().into(), None));
    FixedSizeListArray::try_new(field, size, items, nulls).map(|list| Arc::new(list) as ArrayRef).map_err(|error| error.to_string())
}

/// The wire column of an Arrow column in canonical form.
///
/// # Errors
/// [`Error::Argument`] where the column is not canonical for the type.
pub(crate) fn from_arrow(name: &str, data_type: DataType, array: &ArrayRef) -> Result<Column> {
    if array.data_type() != &data_type.to_arrow() {
        return Err(Error::argument(format!("column {name:?}"), format!("expected {data_type}, found {}", array.data_type())));
    }
    let nulls = match array.nulls() {
        Some(nulls) if nulls.null_count() > 0 => (0..array.len()).filter(|row| nulls.is_null(*row)).map(|row| row as u32).collect(),
        _ => Vec::new(),
    };
    let values = match data_type {
        DataType::Scalar(scalar) => scalar_values(scalar, array),
        DataType::List(scalar) => list_values(scalar, array)?,
        DataType::Vector(n) => Values::Vectors(FloatValues { values: vector_values(n, array) }),
    };
    Ok(Column { name: name.to_owned(), r#type: data_type.to_string(), nulls, values: Some(values) })
}

/// The values of a primitive column with the type's zero where a row is null.
macro_rules! dense {
    ($array:expr, $primitive:ty) => {{
        let array = $array.as_primitive::<$primitive>();
        match array.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => array.values().to_vec(),
            Some(nulls) => array.values().iter().zip(nulls.iter()).map(|(value, valid)| if valid { *value } else { Default::default() }).collect(),
        }
    }};
}

fn scalar_values(scalar: Scalar, array: &ArrayRef) -> Values {
    match scalar {
        Scalar::Bool => Values::Bools(BoolValues { values: array.as_boolean().iter().map(Option::unwrap_or_default).collect() }),
        Scalar::I32 => Values::I32s(Int32Values { values: dense!(array, Int32Type) }),
        Scalar::I64 => Values::I64s(Int64Values { values: dense!(array, Int64Type) }),
        Scalar::F32 => Values::F32s(FloatValues { values: dense!(array, Float32Type) }),
        Scalar::F64 => Values::F64s(DoubleValues { values: dense!(array, Float64Type) }),
        Scalar::Timestamp => Values::Timestamps(Int64Values { values: dense!(array, TimestampMicrosecondType) }),
        Scalar::String => {
            let values = array.as_string::<i32>().iter().map(|value| value.unwrap_or_default().to_owned()).collect();
            Values::Strings(StringValues { values })
        }
        Scalar::Bytes => {
            let values = array.as_binary::<i32>().iter().map(|value| Bytes::copy_from_slice(value.unwrap_or_default())).collect();
            Values::Bytes(BytesValues { values })
        }
    }
}

fn list_values(scalar: Scalar, array: &ArrayRef) -> Result<Values> {
    let list = array.as_list::<i32>();
    let lengths = (0..list.len()).map(|row| if list.is_null(row) { 0 } else { list.value_length(row) as u32 }).collect();
    let valid: Vec<_> = (0..list.len()).filter(|row| list.is_valid(*row)).map(|row| list.value(row)).collect();
    let parts: Vec<&dyn Array> = valid.iter().map(AsRef::as_ref).collect();
    let items = match parts.as_slice() {
        [] => anabranch_core::columns::empty_column(DataType::Scalar(scalar)),
        parts => arrow::compute::concat(parts).map_err(|error| Error::argument("list", error.to_string()))?,
    };
    let items = from_arrow("", DataType::Scalar(scalar), &items)?;
    Ok(Values::Lists(Box::new(ListValues { lengths, items: Some(Box::new(items)) })))
}

fn vector_values(n: u32, array: &ArrayRef) -> Vec<f32> {
    let list = array.as_fixed_size_list();
    let mut values = Vec::with_capacity(list.len() * n as usize);
    for row in 0..list.len() {
        if list.is_null(row) {
            values.resize(values.len() + n as usize, 0.0);
        } else {
            values.extend_from_slice(list.value(row).as_primitive::<Float32Type>().values());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use anabranch_core::columns::column_of;
    use anabranch_core::{Timestamp, Value};

    use super::*;

    fn samples() -> Vec<(&'static str, Vec<Value>)> {
        let text = |text: &str| Value::String(text.to_owned());
        vec![
            ("bool", vec![Value::Bool(true), Value::Null, Value::Bool(false)]),
            ("i32", vec![Value::I32(-1), Value::Null]),
            ("i64", vec![Value::I64(i64::MAX), Value::I64(0)]),
            ("f32", vec![Value::Null, Value::F32(0.5)]),
            ("f64", vec![Value::F64(-0.25)]),
            ("string", vec![text("hä"), Value::Null, text("")]),
            ("bytes", vec![Value::Bytes(vec![0, 255]), Value::Null]),
            ("timestamp", vec![Value::Timestamp(Timestamp(-7)), Value::Null]),
            ("list<i64>", vec![Value::List(vec![Value::I64(1), Value::I64(2)]), Value::Null, Value::List(vec![])]),
            ("list<string>", vec![Value::Null, Value::List(vec![text("a")])]),
            ("vector<2>", vec![Value::Vector(vec![1.0, 2.0]), Value::Null]),
            ("i64", vec![]),
            ("list<f64>", vec![]),
        ]
    }

    #[test]
    fn columns_survive_the_wire() {
        for (name, values) in samples() {
            let data_type: DataType = name.parse().unwrap();
            let array = column_of(data_type, &values).unwrap();
            let wire = from_arrow("c", data_type, &array).unwrap();
            let (back_type, back) = to_arrow(&wire).unwrap();
            assert_eq!((back_type, back.as_ref()), (data_type, array.as_ref()), "{name}");
            assert_eq!(from_arrow("c", data_type, &back).unwrap(), wire);
        }
    }

    #[test]
    fn sliced_columns_send_only_their_rows() {
        for (name, values) in samples().into_iter().filter(|(_, values)| values.len() > 1) {
            let data_type: DataType = name.parse().unwrap();
            let array = column_of(data_type, &values).unwrap().slice(1, values.len() - 1);
            let (_, back) = to_arrow(&from_arrow("c", data_type, &array).unwrap()).unwrap();
            assert_eq!(back.as_ref(), array.as_ref(), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        let i64s = |nulls: Vec<u32>, data_type: &str| Column {
            name: "user".into(),
            r#type: data_type.into(),
            nulls,
            values: Some(Values::I64s(Int64Values { values: vec![1, 2] })),
        };
        let lists = |lengths: Vec<u32>| Column {
            name: "user".into(),
            r#type: "list<i64>".into(),
            nulls: vec![],
            values: Some(Values::Lists(Box::new(ListValues { lengths, items: Some(Box::new(i64s(vec![], "i64"))) }))),
        };
        let vector = Column { r#type: "vector<3>".into(), values: Some(Values::Vectors(FloatValues { values: vec![0.0; 4] })), ..i64s(vec![], "") };
        let bad = [
            i64s(vec![2], "i64"),
            i64s(vec![1, 1], "i64"),
            i64s(vec![], "string"),
            i64s(vec![], "integer"),
            lists(vec![1]),
            lists(vec![u32::MAX, 3]),
            vector,
            Column { values: None, ..i64s(vec![], "i64") },
        ];
        for column in bad {
            let message = to_arrow(&column).unwrap_err().to_string();
            assert!(message.contains("\"user\""), "{message}");
        }
    }
}
