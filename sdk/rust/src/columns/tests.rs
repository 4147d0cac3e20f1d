use anabranch_core::columns::{column_of, value_at};
use anabranch_core::{Timestamp, Value};
use arrow::array::{DictionaryArray, LargeStringArray, UInt64Array};

use super::*;

fn wire(data_type: &str, nulls: Vec<u32>, values: Values) -> v1::Column {
    v1::Column { name: "c".into(), r#type: data_type.into(), nulls, values: Some(values) }
}

fn read(data_type: &str, array: &ArrayRef) -> Vec<Value> {
    (0..array.len()).map(|row| value_at(array, data_type.parse().unwrap(), row).unwrap()).collect()
}

#[test]
fn keys_arrive_as_they_were_sent() {
    for (scalar, values) in [
        (Scalar::Bool, vec![Value::Bool(true), Value::Null]),
        (Scalar::I32, vec![Value::I32(-7), Value::Null]),
        (Scalar::I64, vec![Value::Null, Value::I64(i64::MIN)]),
        (Scalar::String, vec![Value::String("ä".into()), Value::Null, Value::String(String::new())]),
        (Scalar::Bytes, vec![Value::Null, Value::Bytes(vec![0, 255])]),
        (Scalar::Timestamp, vec![Value::Timestamp(Timestamp(-1)), Value::Null]),
    ] {
        let column = column_of(DataType::Scalar(scalar), &values).unwrap();
        let sent = key_column("k", &column).unwrap();
        assert_eq!(sent.r#type, scalar.name());
        assert_eq!(&array_of(sent, values.len()).unwrap(), &column);
    }
}

#[test]
fn foreign_key_columns_are_brought_into_form() {
    let strings: ArrayRef = Arc::new(LargeStringArray::from(vec!["JFK"]));
    assert_eq!(key_column("k", &strings).unwrap().r#type, "string");
    let dictionary: ArrayRef = Arc::new(["a", "b"].into_iter().collect::<DictionaryArray<Int32Type>>());
    assert_eq!(key_column("k", &dictionary).unwrap().r#type, "string");
    let with_gaps: ArrayRef = Arc::new(Float64Array::from(vec![Some(3.0), None]));
    let sent = key_column("k", &with_gaps).unwrap();
    assert_eq!((sent.r#type.as_str(), sent.nulls.as_slice()), ("i64", [1].as_slice()));
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

#[test]
fn lists_and_vectors_are_read() {
    let items = wire("i64", vec![], Values::I64s(v1::Int64Values { values: vec![1, 2, 3] }));
    let lists = v1::ListValues { lengths: vec![2, 0, 1], items: Some(Box::new(items)) };
    let array = array_of(wire("list<i64>", vec![1], Values::Lists(Box::new(lists))), 3).unwrap();
    let expected = [Value::List(vec![Value::I64(1), Value::I64(2)]), Value::Null, Value::List(vec![Value::I64(3)])];
    assert_eq!(read("list<i64>", &array), expected);
    let vectors = wire("vector<2>", vec![], Values::Vectors(v1::FloatValues { values: vec![1.0, 2.0] }));
    assert_eq!(read("vector<2>", &array_of(vectors, 1).unwrap()), [Value::Vector(vec![1.0, 2.0])]);
}

#[test]
fn columns_that_contradict_themselves_are_refused_without_a_panic() {
    let two = || Values::I64s(v1::Int64Values { values: vec![1, 2] });
    for (column, rows) in [
        (wire("i64", vec![], two()), 3),
        (wire("i64", vec![9], two()), 2),
        (wire("i64", vec![2], two()), 3),
        (wire("f64", vec![], two()), 2),
        (wire("i65", vec![], two()), 2),
        (wire("list<i64>", vec![], Values::Lists(Box::new(v1::ListValues { lengths: vec![2], items: None }))), 1),
        (wire("vector<3>", vec![], Values::Vectors(v1::FloatValues { values: vec![1.0] })), 1),
        (v1::Column { name: "c".into(), r#type: "i64".into(), nulls: vec![], values: None }, 1),
    ] {
        assert!(array_of(column.clone(), rows).is_err(), "{column:?}");
    }
}
