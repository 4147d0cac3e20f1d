//! Key columns from the wire to Arrow.
//!
//! A wire column has a value for every row (any value where a row is null) and the places of its nulls, ascending. What does not fit together is refused
//! by the column's name, never guessed.

use std::sync::Arc;

use anabranch_core::types::UTC;
use anabranch_proto::v1::KeyColumn;
use anabranch_proto::v1::key_column::Values;
use arrow::array::{ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};

use crate::error::{Error, Result};

/// The Arrow column of a key column.
///
/// # Errors
/// [`Error::Argument`] where the parts of the column do not fit together.
pub(crate) fn to_arrow(column: &KeyColumn) -> Result<ArrayRef> {
    let refuse = |reason: String| Error::argument(format!("column {:?}", column.name), reason);
    let values = column.values.as_ref().ok_or_else(|| refuse("it has no values".to_owned()))?;
    let rows = match values {
        Values::Bools(list) => list.values.len(),
        Values::I32s(list) => list.values.len(),
        Values::I64s(list) | Values::Timestamps(list) => list.values.len(),
        Values::Strings(list) => list.values.len(),
        Values::Bytes(list) => list.values.len(),
    };
    let nulls = nulls(&column.nulls, rows).map_err(refuse)?;
    Ok(match values {
        Values::Bools(list) => Arc::new(BooleanArray::new(BooleanBuffer::from(list.values.as_slice()), nulls)),
        Values::I32s(list) => Arc::new(Int32Array::new(list.values.clone().into(), nulls)),
        Values::I64s(list) => Arc::new(Int64Array::new(list.values.clone().into(), nulls)),
        Values::Timestamps(list) => Arc::new(TimestampMicrosecondArray::new(list.values.clone().into(), nulls).with_timezone(UTC)),
        Values::Strings(list) => Arc::new(masked(&list.values, nulls.as_ref()).collect::<StringArray>()),
        Values::Bytes(list) => Arc::new(masked(&list.values, nulls.as_ref()).collect::<BinaryArray>()),
    })
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

fn masked<'a, T>(values: &'a [T], nulls: Option<&'a NullBuffer>) -> impl Iterator<Item = Option<&'a T>> {
    values.iter().enumerate().map(move |(row, value)| nulls.is_none_or(|nulls| nulls.is_valid(row)).then_some(value))
}

#[cfg(test)]
mod tests {
    use anabranch_core::columns::column_of;
    use anabranch_core::{Timestamp, Value};
    use anabranch_proto::v1::{BoolValues, BytesValues, Int32Values, Int64Values, StringValues};

    use super::*;

    fn column(nulls: &[u32], values: Option<Values>) -> KeyColumn {
        KeyColumn { name: "user".into(), nulls: nulls.to_vec(), values }
    }

    #[test]
    fn every_type_of_key_arrives_with_its_nulls() {
        let text = |text: &str| Value::String(text.to_owned());
        let time = |us| Value::Timestamp(Timestamp(us));
        for (data_type, values, expected) in [
            ("bool", Values::Bools(BoolValues { values: vec![true, true] }), [Value::Bool(true), Value::Null]),
            ("i32", Values::I32s(Int32Values { values: vec![-1, 7] }), [Value::I32(-1), Value::Null]),
            ("i64", Values::I64s(Int64Values { values: vec![i64::MAX, 0] }), [Value::I64(i64::MAX), Value::Null]),
            ("string", Values::Strings(StringValues { values: vec!["hä".into(), "x".into()] }), [text("hä"), Value::Null]),
            ("bytes", Values::Bytes(BytesValues { values: vec![vec![0, 255].into(), vec![].into()] }), [Value::Bytes(vec![0, 255]), Value::Null]),
            ("timestamp", Values::Timestamps(Int64Values { values: vec![-7, 7] }), [time(-7), Value::Null]),
        ] {
            let arrived = to_arrow(&column(&[1], Some(values))).unwrap();
            assert_eq!(&arrived, &column_of(data_type.parse().unwrap(), &expected).unwrap(), "{data_type}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        let two = || Some(Values::I64s(Int64Values { values: vec![1, 2] }));
        for column in [column(&[2], two()), column(&[1, 1], two()), column(&[1, 0], two()), column(&[], None)] {
            let message = to_arrow(&column).unwrap_err().to_string();
            assert!(message.contains("\"user\""), "{message}");
        }
    }
}
