use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView};
use anabranch_core::{ErrorKind, Kinded, Scalar, Value};

use super::*;
use crate::PackedRow;

fn view(known: bool) -> Arc<ViewLayout> {
    let mut view = FeatureView::new("trips", "at")
        .entity("driver")
        .field("distance", DataType::Scalar(Scalar::F64))
        .field("tags", DataType::List(Scalar::String));
    if known {
        view = view.known_timestamp("known");
    }
    let entity = Entity::new("driver", "id", Scalar::I32).join_key("fleet", Scalar::String);
    [Definition::Entity(entity), Definition::FeatureView(view)]
        .into_iter()
        .map(|d| d.normalized().unwrap())
        .collect::<Definitions>()
        .layout("trips")
        .unwrap()
}

fn packed() -> Layout {
    Layout::new(vec![(5, DataType::Scalar(Scalar::F64)), (6, DataType::List(Scalar::String))]).unwrap()
}

fn time(t: i64) -> Value {
    Value::Timestamp(Timestamp(t))
}

fn text(t: &str) -> Value {
    Value::String(t.to_owned())
}

/// A batch of the table from rows of values in the order of its columns.
fn batch(view: &ViewLayout, rows: &[Vec<Value>]) -> RecordBatch {
    let columns = view.table_columns();
    let column = |i: usize| column_of(columns[i].data_type, rows.iter().map(|row| &row[i])).unwrap();
    // Without the schema's own nullability: what a foreign file brings is to be refused by us.
    RecordBatch::try_from_iter_with_nullable(columns.iter().enumerate().map(|(i, c)| (c.name.clone(), column(i), true))).unwrap()
}

fn good() -> Vec<Value> {
    vec![
        text("north"),
        Value::I32(7),
        time(10),
        time(11),
        Value::F64(1.5),
        Value::List(vec![text("a")]),
        time(12),
        Value::I32(3),
        Value::I64(4),
        Value::Null,
    ]
}

#[test]
fn rows_carry_key_order_and_features() {
    let view = view(true);
    let mut deleted = good();
    deleted[9] = Value::Bool(true);
    let rows = rows_of(&batch(&view, &[good(), deleted]), &view, &packed(), Generation(8)).unwrap();
    assert_eq!(rows.len(), 2);
    let key = anabranch_core::EntityKey::encode(&[text("north"), Value::I64(7)]).unwrap().unwrap();
    assert!(rows.iter().all(|write| write.key == key && write.generation == Generation(8)));
    let row = PackedRow::parse(&rows[0].row).unwrap();
    let order = row.order().unwrap();
    assert_eq!([order.event_time, order.known_time, order.arrival], [10, 11, 12].map(Timestamp));
    assert_eq!((order.source.get(), order.position.get(), row.fingerprint()), (3, 4, packed().fingerprint()));
    assert!(!row.is_tombstone() && PackedRow::parse(&rows[1].row).unwrap().is_tombstone());
}

#[test]
fn without_a_known_time_it_is_the_event_time() {
    let view = view(false);
    let mut row = good();
    row.remove(3);
    let rows = rows_of(&batch(&view, &[row]), &view, &packed(), Generation(1)).unwrap();
    assert_eq!(PackedRow::parse(&rows[0].row).unwrap().order().unwrap().known_time, Timestamp(10));
}

#[test]
fn a_row_without_a_place_in_the_order_is_refused_by_number() {
    let view = view(true);
    let faults = [
        (0, Value::Null),
        (2, Value::Null),
        (3, Value::Null),
        (6, Value::Null),
        (7, Value::Null),
        (7, Value::I32(-1)),
        (8, Value::Null),
        (8, Value::I64(-1)),
    ];
    for (column, value) in faults {
        let mut bad = good();
        bad[column] = value;
        let error = rows_of(&batch(&view, &[good(), bad]), &view, &packed(), Generation(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("\"trips\": row 1: "), "{error}");
    }
}

#[test]
fn a_batch_of_another_table_is_refused() {
    let view = view(true);
    let rows = batch(&view, &[good()]);
    let narrower = rows.project(&(0..9).collect::<Vec<_>>()).unwrap();
    assert!(rows_of(&narrower, &view, &packed(), Generation(1)).is_err());
    let mixed = rows.project(&[1, 0, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    assert!(rows_of(&mixed, &view, &packed(), Generation(1)).unwrap_err().to_string().contains("\"fleet\""));
    let other = Layout::new(vec![(5, DataType::Scalar(Scalar::F64))]).unwrap();
    assert!(rows_of(&rows, &view, &other, Generation(1)).is_err());
}

#[test]
fn a_key_over_the_limit_is_refused_by_row() {
    let view = view(true);
    let mut long = good();
    long[0] = text(&"x".repeat(crate::MAX_KEY_BYTES));
    let error = rows_of(&batch(&view, &[good(), long]), &view, &packed(), Generation(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().starts_with("feature view \"trips\", row 1: an entity key"), "{error}");
}
