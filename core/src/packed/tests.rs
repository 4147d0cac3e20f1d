use arrow::array::Array;
use arrow::buffer::{BooleanBuffer, Buffer};
use proptest::prelude::*;

use super::*;
use crate::columns::value_at;
use crate::{Timestamp, Value};

fn of(text: &str) -> DataType {
    text.parse().unwrap()
}

/// Packs columns of values cell by cell.
fn pack(columns: &[(DataType, Vec<Value>)], rows: usize) -> Vec<u8> {
    let mut packer = Packer::new(columns.iter().map(|(data_type, _)| *data_type), rows);
    for (column, (_, values)) in columns.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            match packer.cell(column, row) {
                Some(cell) if !value.is_null() => cell.copy_from_slice(&bytes(value)),
                Some(_) => {}
                None => {
                    let variable = packer.variable(column).unwrap();
                    match value {
                        Value::List(items) => {
                            for item in items {
                                variable.extend(&bytes(item));
                                variable.end_item().unwrap();
                            }
                        }
                        value => variable.extend(&bytes(value)),
                    }
                    variable.end_row().unwrap();
                }
            }
        }
    }
    packer.finish()
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Bool(b) => vec![u8::from(*b)],
        Value::I32(i) => i.to_le_bytes().into(),
        Value::I64(i) | Value::Timestamp(Timestamp(i)) => i.to_le_bytes().into(),
        Value::F32(x) => x.to_le_bytes().into(),
        Value::F64(x) => x.to_le_bytes().into(),
        Value::String(text) => text.clone().into(),
        Value::Bytes(bytes) => bytes.clone(),
        Value::Vector(items) => items.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Value::Null | Value::List(_) => vec![],
    }
}

fn unpack(types: &[DataType], rows: usize, values: &Buffer, valid: &[Vec<bool>]) -> Result<Vec<Vec<Value>>, crate::Error> {
    let sections = Sections::new(types, rows, values)?;
    let arrays = sections.arrays(values, |column| valid.get(column).map(|valid| BooleanBuffer::from(valid.clone())))?;
    let read = |(array, data_type): (&arrow::array::ArrayRef, &DataType)| {
        assert_eq!(array.len(), rows);
        (0..rows).map(|row| value_at(array, *data_type, row).unwrap()).collect()
    };
    Ok(arrays.iter().zip(types).map(read).collect())
}

fn samples() -> Vec<(DataType, Vec<Value>)> {
    let text = |text: &str| Value::String(text.to_owned());
    vec![
        (of("string"), vec![text("hä"), Value::Null, text("")]),
        (of("bool"), vec![Value::Bool(true), Value::Null, Value::Bool(false)]),
        (of("i32"), vec![Value::I32(-1), Value::Null, Value::I32(7)]),
        (of("list<i64>"), vec![Value::List(vec![Value::I64(1), Value::I64(2)]), Value::Null, Value::List(vec![])]),
        (of("i64"), vec![Value::I64(i64::MAX), Value::I64(0), Value::Null]),
        (of("f32"), vec![Value::Null, Value::F32(0.5), Value::F32(-0.5)]),
        (of("list<string>"), vec![Value::Null, Value::List(vec![text("a"), text(""), text("bc")]), Value::List(vec![])]),
        (of("f64"), vec![Value::F64(-0.25), Value::F64(1e300), Value::Null]),
        (of("list<bool>"), vec![Value::List(vec![Value::Bool(true)]), Value::Null, Value::List(vec![Value::Bool(false)])]),
        (of("bytes"), vec![Value::Bytes(vec![0, 255]), Value::Null, Value::Bytes(vec![])]),
        (of("timestamp"), vec![Value::Timestamp(Timestamp(-7)), Value::Null, Value::Timestamp(Timestamp(7))]),
        (of("vector<3>"), vec![Value::Vector(vec![1.0, 2.0, 3.0]), Value::Null, Value::Vector(vec![0.0, -1.0, 0.5])]),
    ]
}

fn valid(columns: &[(DataType, Vec<Value>)]) -> Vec<Vec<bool>> {
    columns.iter().map(|(_, values)| values.iter().map(|value| !value.is_null()).collect()).collect()
}

#[test]
fn every_type_comes_back_at_any_alignment() {
    let columns = samples();
    let types: Vec<_> = columns.iter().map(|(data_type, _)| *data_type).collect();
    let packed = pack(&columns, 3);
    for shift in [0, 1, 4] {
        let shifted = Buffer::from([vec![9; shift], packed.clone()].concat()).slice(shift);
        let read = unpack(&types, 3, &shifted, &valid(&columns)).unwrap();
        assert_eq!(read, columns.iter().map(|(_, values)| values.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn cells_are_found_one_by_one() {
    let columns = samples();
    let types: Vec<_> = columns.iter().map(|(data_type, _)| *data_type).collect();
    let packed = pack(&columns, 3);
    let sections = Sections::new(&types, 3, &packed).unwrap();
    for (section, (data_type, values)) in sections.columns().iter().zip(&columns) {
        for (row, value) in values.iter().enumerate().filter(|(_, value)| !value.is_null()) {
            match (section.cell(&packed, row).unwrap(), value) {
                (Cells::Texts(offsets, _), Value::List(items)) => assert_eq!(offsets.len() / 4, items.len() + 1),
                (Cells::Fixed(cell), Value::List(items)) => assert_eq!(cell, items.iter().flat_map(bytes).collect::<Vec<_>>()),
                (Cells::Fixed(cell), value) => assert_eq!(cell, bytes(value), "{data_type}"),
                (cells, value) => panic!("{cells:?} {value:?}"),
            }
        }
        assert!(section.cell(&packed, 3).is_none());
    }
}

#[test]
fn no_rows_and_no_columns_are_little_or_nothing() {
    assert!(Packer::new([], 5).finish().is_empty());
    let types = [of("f64"), of("list<string>")];
    let packed = Packer::new(types, 0).finish();
    assert_eq!(unpack(&types, 0, &Buffer::from(packed), &[]).unwrap(), [vec![], vec![]] as [Vec<Value>; 2]);
}

#[test]
fn bytes_are_as_recorded() {
    let columns = vec![
        (of("string"), vec![Value::String("ab".into()), Value::String("c".into())]),
        (of("i32"), vec![Value::I32(1), Value::I32(-1)]),
        (of("bool"), vec![Value::Bool(true), Value::Bool(false)]),
    ];
    let hex: String = pack(&columns, 2).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "01000000ffffffff0100000000000000000000000200000003000000000000006162630000000000");
}

proptest! {
    #[test]
    fn damaged_buffers_are_read_or_refused(cuts in 0..64_usize, damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6)) {
        let columns = samples();
        let types: Vec<_> = columns.iter().map(|(data_type, _)| *data_type).collect();
        let mut packed = pack(&columns, 3);
        for (at, byte) in damage {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        packed.truncate(packed.len().saturating_sub(cuts));
        let _ = unpack(&types, 3, &Buffer::from(packed), &[]);
    }
}
