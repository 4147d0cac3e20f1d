use anabranch_core::columns::{column_of, value_at};
use anabranch_core::packed::{Packer, Sections};
use anabranch_core::{DataType, Position, Scalar, SourceId, Value};
use arrow::array::{Array, ArrayRef};
use arrow::buffer::{BooleanBuffer, Buffer};
use proptest::prelude::*;

use super::*;
use crate::Layout;

fn order() -> RowOrder {
    RowOrder {
        event_time: Timestamp(-1),
        known_time: Timestamp(2),
        arrival: Timestamp(3),
        source: SourceId::new(4).unwrap(),
        position: Position::new(5).unwrap(),
    }
}

fn layout(fields: &[(i32, &str)]) -> Layout {
    Layout::new(fields.iter().map(|(id, text)| (*id, text.parse().unwrap())).collect()).unwrap()
}

fn encode(layout: &Layout, values: &[Value]) -> Vec<u8> {
    let columns: Vec<_> = layout.fields().iter().zip(values).map(|((_, data_type), value)| column_of(*data_type, [value]).unwrap()).collect();
    let mut out = Vec::new();
    RowEncoder::new(layout, &columns).unwrap().encode(0, order(), &mut out).unwrap();
    out
}

fn decode(layout: &Layout, wanted: &[(i32, DataType)], bytes: &[u8]) -> Result<Vec<Value>> {
    let types: Vec<_> = wanted.iter().map(|(_, data_type)| *data_type).collect();
    let (mut packer, mut valid) = (Packer::new(types.iter().copied(), 1), vec![true; types.len()]);
    RowReader::new(layout, wanted)?.read(PackedRow::parse(bytes)?, &mut packer, 0, 0, |place| valid[place] = false)?;
    let values = Buffer::from(packer.finish());
    let columns = Sections::new(&types, 1, &values)?.arrays(&values, |place| Some(BooleanBuffer::from(vec![valid[place]])))?;
    Ok(columns.iter().zip(types).map(|(column, data_type)| value_at(column, data_type, 0).unwrap()).collect())
}

fn scalar_value(scalar: Scalar) -> BoxedStrategy<Value> {
    match scalar {
        Scalar::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Scalar::I32 => any::<i32>().prop_map(Value::I32).boxed(),
        Scalar::I64 => any::<i64>().prop_map(Value::I64).boxed(),
        Scalar::F32 => any::<f32>().prop_map(Value::F32).boxed(),
        Scalar::F64 => any::<f64>().prop_map(Value::F64).boxed(),
        Scalar::String => ".{0,6}".prop_map(Value::String).boxed(),
        Scalar::Bytes => proptest::collection::vec(any::<u8>(), 0..6).prop_map(Value::Bytes).boxed(),
        Scalar::Timestamp => any::<i64>().prop_map(|t| Value::Timestamp(Timestamp(t))).boxed(),
    }
}

fn scalar() -> impl Strategy<Value = Scalar> {
    use Scalar::{Bool, Bytes, F32, F64, I32, I64, String, Timestamp};
    proptest::sample::select(vec![Bool, I32, I64, F32, F64, String, Bytes, Timestamp])
}

fn field() -> impl Strategy<Value = (DataType, Value)> {
    let typed = prop_oneof![
        3 => scalar().prop_flat_map(|scalar| scalar_value(scalar).prop_map(move |value| (DataType::Scalar(scalar), value))),
        2 => scalar().prop_flat_map(|scalar| {
            proptest::collection::vec(scalar_value(scalar), 0..4).prop_map(move |items| (DataType::List(scalar), Value::List(items)))
        }),
        1 => proptest::collection::vec(any::<f32>(), 1..5).prop_map(|items| (DataType::Vector(items.len() as u32), Value::Vector(items))),
    ];
    (typed, proptest::bool::weighted(0.2)).prop_map(|((data_type, value), null)| (data_type, if null { Value::Null } else { value }))
}

fn rows() -> impl Strategy<Value = (Layout, Vec<Value>)> {
    proptest::collection::vec(field(), 0..20).prop_map(|fields| {
        let ids = fields.iter().enumerate().map(|(id, (data_type, _))| (id as i32 * 3 - 5, *data_type)).collect();
        (Layout::new(ids).unwrap(), fields.into_iter().map(|(_, value)| value).collect())
    })
}

/// As text, in which a NaN equals a NaN and 0 does not equal −0.
fn text(values: &[Value]) -> String {
    format!("{values:?}")
}

proptest! {
    #[test]
    fn rows_round_trip_and_equal_rows_have_equal_bytes((layout, values) in rows()) {
        let bytes = encode(&layout, &values);
        let row = PackedRow::parse(&bytes).unwrap();
        prop_assert_eq!((row.order().unwrap(), row.event_time(), row.fingerprint()), (order(), Timestamp(-1), layout.fingerprint()));
        let read = decode(&layout, layout.fields(), &bytes).unwrap();
        prop_assert_eq!(text(&read), text(&values));
        prop_assert_eq!(encode(&layout, &read), bytes);
    }

    #[test]
    fn any_fields_are_read_in_any_order((layout, values) in rows(), picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5)) {
        prop_assume!(!values.is_empty());
        let picks: Vec<_> = picks.iter().map(|pick| pick.index(values.len())).collect();
        let wanted: Vec<_> = picks.iter().map(|pick| layout.fields()[*pick]).collect();
        let expected: Vec<_> = picks.iter().map(|pick| values[*pick].clone()).collect();
        prop_assert_eq!(text(&decode(&layout, &wanted, &encode(&layout, &values)).unwrap()), text(&expected));
    }

    #[test]
    fn damaged_rows_decode_or_are_refused((layout, values) in rows(), damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6), cut in any::<proptest::sample::Index>(), cuts in any::<bool>()) {
        let mut bytes = encode(&layout, &values);
        for (at, byte) in damage {
            // The fingerprint stays, so that the body is looked at.
            let at = HEADER + at.index(bytes.len() - HEADER + 1);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        if cuts {
            bytes.truncate(HEADER + cut.index(bytes.len() - HEADER + 1));
        }
        let _ = decode(&layout, layout.fields(), &bytes);
    }

    #[test]
    fn any_bytes_decode_or_are_refused((layout, _) in rows(), mut bytes in proptest::collection::vec(any::<u8>(), 0..200), well_begun in any::<bool>()) {
        if well_begun && bytes.len() >= HEADER {
            bytes[36..38].copy_from_slice(&[VERSION, 0]);
            bytes[38..46].copy_from_slice(&layout.fingerprint().to_le_bytes());
        }
        let _ = decode(&layout, layout.fields(), &bytes);
    }
}

#[test]
fn older_rows_are_read_by_field_id_and_widened() {
    let old = layout(&[(1, "i32"), (2, "f32"), (3, "string"), (4, "list<i32>"), (9, "bool")]);
    let list = |items: &[i32]| Value::List(items.iter().map(|i| Value::I32(*i)).collect());
    let bytes = encode(&old, &[Value::I32(-7), Value::F32(0.5), Value::String("hä".into()), list(&[1, 2]), Value::Bool(true)]);
    let now = layout(&[(4, "list<i64>"), (3, "string"), (8, "vector<2>"), (2, "f64"), (1, "i64")]);
    let read = decode(&old, now.fields(), &bytes).unwrap();
    let widened = Value::List(vec![Value::I64(1), Value::I64(2)]);
    assert_eq!(read, [widened, Value::String("hä".into()), Value::Null, Value::F64(0.5), Value::I64(-7)]);
}

#[test]
fn a_type_that_does_not_widen_is_refused_before_a_row_is_read() {
    let old = layout(&[(1, "i64")]);
    assert!(matches!(RowReader::new(&old, &[(1, DataType::Scalar(Scalar::I32))]), Err(Error::Layout { .. })));
    assert!(matches!(RowReader::new(&layout(&[(1, "vector<2>")]), &[(1, DataType::Vector(3))]), Err(Error::Layout { .. })));
}

#[test]
fn a_tombstone_has_no_body_and_reads_as_nulls() {
    let layout = layout(&[(1, "i64"), (2, "vector<2>")]);
    let mut bytes = Vec::new();
    encode_tombstone(order(), &layout, &mut bytes);
    assert_eq!(bytes.len(), HEADER);
    assert!(PackedRow::parse(&bytes).unwrap().is_tombstone());
    assert_eq!(decode(&layout, layout.fields(), &bytes).unwrap(), [Value::Null, Value::Null]);
}

#[test]
fn newer_versions_and_unknown_flags_are_refused() {
    let layout = layout(&[(1, "i64")]);
    let bytes = encode(&layout, &[Value::I64(1)]);
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        decode(&layout, layout.fields(), &bytes).unwrap_err()
    };
    assert!(matches!(with(36, 2), Error::NewerFormat { found: 2, known: 1, .. }));
    assert!(matches!(with(36, 0), Error::Corrupt { .. }));
    assert!(matches!(with(37, 2), Error::Corrupt { .. }));
    assert!(matches!(with(38, bytes[38] ^ 1), Error::Corrupt { .. }));
}

#[test]
fn a_row_over_the_limit_is_refused_and_leaves_nothing_behind() {
    let layout = layout(&[(1, "bytes")]);
    let column = column_of(DataType::Scalar(Scalar::Bytes), &[Value::Bytes(vec![0; MAX_ROW_BYTES])]).unwrap();
    let mut out = vec![1, 2, 3];
    let result = RowEncoder::new(&layout, &[column]).unwrap().encode(0, order(), &mut out);
    assert!(matches!(result, Err(Error::TooLarge { .. })));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn slices_of_columns_are_packed_from_where_they_begin() {
    let layout = layout(&[(1, "list<string>"), (2, "vector<2>"), (3, "bool")]);
    let texts = |items: &[&str]| Value::List(items.iter().map(|text| Value::String((*text).to_owned())).collect());
    let columns = [
        column_of(layout.fields()[0].1, &[texts(&["no"]), texts(&["a", "", "bc"])]).unwrap(),
        column_of(layout.fields()[1].1, &[Value::Vector(vec![0.0, 0.0]), Value::Vector(vec![1.0, 2.0])]).unwrap(),
        column_of(layout.fields()[2].1, &[Value::Bool(false), Value::Bool(true)]).unwrap(),
    ];
    let sliced: Vec<ArrayRef> = columns.iter().map(|column| column.slice(1, 1)).collect();
    let mut bytes = Vec::new();
    RowEncoder::new(&layout, &sliced).unwrap().encode(0, order(), &mut bytes).unwrap();
    let read = decode(&layout, layout.fields(), &bytes).unwrap();
    assert_eq!(read, [texts(&["a", "", "bc"]), Value::Vector(vec![1.0, 2.0]), Value::Bool(true)]);
}

/// The recorded bytes are what stores hold today: where this fails, the format has changed and needs a new version.
#[test]
fn bytes_are_as_recorded() {
    let layout = layout(&[
        (7, "bool"),
        (1, "i32"),
        (2, "i64"),
        (3, "f32"),
        (4, "f64"),
        (5, "string"),
        (6, "bytes"),
        (8, "timestamp"),
        (9, "list<i32>"),
        (10, "list<string>"),
        (11, "vector<2>"),
        (12, "string"),
        (13, "i64"),
    ]);
    let values = [
        Value::Bool(true),
        Value::I32(-2),
        Value::I64(1 << 40),
        Value::F32(0.5),
        Value::F64(-0.25),
        Value::String("hä".into()),
        Value::Bytes(vec![0, 255]),
        Value::Timestamp(Timestamp(1_357_016_400_000_000)),
        Value::List(vec![Value::I32(1), Value::I32(-1)]),
        Value::List(vec![Value::String("a".into()), Value::String(String::new()), Value::String("bc".into())]),
        Value::Vector(vec![1.0, -1.0]),
        Value::Null,
        Value::Null,
    ];
    let mut tombstone = Vec::new();
    encode_tombstone(order(), &layout, &mut tombstone);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let recorded = [("layout", layout.to_bytes()), ("row", encode(&layout, &values)), ("tombstone", tombstone)];
    let text: String = recorded.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
    assert_eq!(text, include_str!("../../tests/golden/packed-row-v1.txt"));
    assert_eq!(decode(&layout, layout.fields(), &recorded[1].1).unwrap(), values);
}
