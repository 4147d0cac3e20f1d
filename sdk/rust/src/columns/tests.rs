use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::{Timestamp, Value};
use arrow::array::{DictionaryArray, Float64Array, LargeStringArray, UInt64Array};

use super::*;

fn texts(values: &[&str]) -> Values {
    Values::Strings(v1::StringValues { values: values.iter().map(|text| (*text).to_owned()).collect() })
}

#[test]
fn keys_are_sent_by_their_types_with_the_places_of_nulls() {
    for (scalar, values, expected) in [
        (Scalar::Bool, vec![Value::Bool(true), Value::Null], Values::Bools(v1::BoolValues { values: vec![true, false] })),
        (Scalar::I32, vec![Value::I32(-7), Value::Null], Values::I32s(v1::Int32Values { values: vec![-7, 0] })),
        (Scalar::I64, vec![Value::I64(i64::MIN), Value::Null], Values::I64s(v1::Int64Values { values: vec![i64::MIN, 0] })),
        (Scalar::String, vec![Value::String("ä".into()), Value::Null], texts(&["ä", ""])),
        (
            Scalar::Bytes,
            vec![Value::Bytes(vec![0, 255]), Value::Null],
            Values::Bytes(v1::BytesValues { values: vec![vec![0, 255].into(), Bytes::new()] }),
        ),
        (Scalar::Timestamp, vec![Value::Timestamp(Timestamp(-1)), Value::Null], Values::Timestamps(v1::Int64Values { values: vec![-1, 0] })),
    ] {
        let sent = key_column("k", &column_of(DataType::Scalar(scalar), &values).unwrap()).unwrap();
        assert_eq!((sent.values, sent.nulls), (Some(expected), vec![1]), "{}", scalar.name());
    }
}

#[test]
fn foreign_key_columns_are_brought_into_form() {
    let strings: ArrayRef = Arc::new(LargeStringArray::from(vec!["JFK"]));
    assert_eq!(key_column("k", &strings).unwrap().values, Some(texts(&["JFK"])));
    let dictionary: ArrayRef = Arc::new(["a", "b"].into_iter().collect::<DictionaryArray<Int32Type>>());
    assert_eq!(key_column("k", &dictionary).unwrap().values, Some(texts(&["a", "b"])));
    let with_gaps: ArrayRef = Arc::new(Float64Array::from(vec![Some(3.0), None]));
    let sent = key_column("k", &with_gaps).unwrap();
    assert_eq!((sent.values, sent.nulls), (Some(Values::I64s(v1::Int64Values { values: vec![3, 0] })), vec![1]));
}

#[test]
fn columns_that_are_no_keys_are_refused_by_name() {
    let large: ArrayRef = Arc::new(UInt64Array::from(vec![0, u64::MAX]));
    assert!(key_column("k", &large).unwrap_err().to_string().contains("\"k\", row 1"));
    let half: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    assert!(key_column("k", &half).is_err());
    let list = column_of(DataType::List(Scalar::I64), &[Value::List(vec![])]).unwrap();
    assert!(key_column("k", &list).unwrap_err().to_string().contains("is List"));
}
