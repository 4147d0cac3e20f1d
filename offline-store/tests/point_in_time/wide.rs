//! Many views and wide ones, an entity that has nearly all rows, views without rows: the same as the oracle.

use anabranch_core::columns::{column_of, value_at};
use anabranch_core::selection::Selection;
use anabranch_core::types::Scalar;
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::join::{JoinPlan, Knowledge};
use arrow::compute::concat_batches;

use crate::oracle;
use crate::world::{self, Lie, Memory, Row, Use, ViewSpec, data_type, definitions, table};

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// A view with so many features, in turns of every type that values lie side by side in, and of text and lists.
fn view(name: String, features: usize) -> ViewSpec {
    const TYPES: [&str; 8] = ["i64", "f32", "f64", "bool", "timestamp", "string", "list<i32>", "vector<3>"];
    let feature = |n: usize| (leaked(format!("{name}_{n}")), data_type(TYPES[n % TYPES.len()]));
    let features = (0..features).map(feature).collect();
    ViewSpec { name: leaked(name), keys: vec![("user", Scalar::I64)], known: false, lookback: None, features }
}

fn feature(n: i64, place: usize) -> Value {
    let n = n + place as i64;
    if n % 11 == 0 {
        return Value::Null;
    }
    match place % 8 {
        0 => Value::I64(n),
        1 => Value::F32(n as f32),
        2 => Value::F64(n as f64 / 2.0),
        3 => Value::Bool(n % 2 == 0),
        4 => Value::Timestamp(Timestamp(n)),
        5 => Value::String(format!("text {n}")),
        6 => Value::List((0..n % 3).map(|i| Value::I32((n + i) as i32)).collect()),
        _ => Value::Vector(vec![n as f32, 0.5, -1.0]),
    }
}

/// Nearly all rows are of user 7; each instant has several.
fn rows(spec: &ViewSpec, count: i64) -> Vec<Row> {
    let row = |n: i64| Row {
        key: vec![Value::I64(if n % 10 == 0 { n % 5 } else { 7 })],
        event: n * 7 % 40,
        known: None,
        arrival: n % 3,
        source: 1,
        position: n,
        tombstone: (n % 13 == 0).then_some(true),
        features: (0..spec.features.len()).map(|place| feature(n, place)).collect(),
    };
    (0..count).map(row).collect()
}

/// Joins at once and in parts, and compares every cell.
fn assert_as_the_oracle(views: &[ViewSpec], counts: &[i64], spine_rows: i64) {
    let uses: Vec<_> = (0..views.len()).map(|view| Use { view, alias: None, columns: vec!["user"] }).collect();
    let rows: Vec<_> = views.iter().zip(counts).map(|(spec, count)| rows(spec, *count)).collect();
    let spine: Vec<_> = (0..spine_rows).map(|n| (n * 3 % 50 - 2, Value::I64(if n % 4 == 0 { n % 9 } else { 7 }))).collect();
    let times: Vec<_> = spine.iter().map(|(time, _)| Value::Timestamp(Timestamp(*time))).collect();
    let users: Vec<_> = spine.iter().map(|(_, user)| user.clone()).collect();
    let batch =
        table([("event_timestamp", column_of(data_type("timestamp"), &times).unwrap()), ("user", column_of(data_type("i64"), &users).unwrap())]);
    let options = world::options(Knowledge::Spine, false);
    for (lie, part_rows) in [(Lie::Sorted, usize::MAX), (Lie::Anyhow, 17)] {
        let plan =
            JoinPlan::new(world::spine(&batch, 64).unwrap(), &Selection::Service("all".to_owned()), &definitions(views, &uses), options).unwrap();
        let memory = Memory { file_rows: 60, batch_rows: 25, lie, ..Memory::new(views, &rows) };
        let joined = world::run_within(plan, memory, usize::MAX, part_rows).unwrap();
        let output = concat_batches(&joined.schema, &joined.rows.collect().unwrap()).unwrap();
        let mut column = 2;
        for (spec, rows) in views.iter().zip(&rows) {
            let expected: Vec<_> =
                spine.iter().map(|(time, user)| oracle::features(spec, rows, std::slice::from_ref(user), *time, options)).collect();
            for (place, (name, data_type)) in spec.features.iter().enumerate() {
                assert_eq!(output.schema().field(column).name(), name);
                for (row, expected) in expected.iter().enumerate() {
                    assert_eq!(value_at(output.column(column), *data_type, row).unwrap(), expected[place], "{name} in row {row}");
                }
                column += 1;
            }
        }
        assert_eq!(output.num_columns(), column);
    }
}

#[test]
fn a_hundred_views_are_joined_in_one_pass_over_the_spine() {
    let views: Vec<_> = (0..100).map(|n| view(format!("v{n}"), 1 + n % 3)).collect();
    // Every seventh has no rows.
    let counts: Vec<_> = (0..100).map(|n| if n % 7 == 3 { 0 } else { 40 + n }).collect();
    assert_as_the_oracle(&views, &counts, 150);
}

#[test]
fn a_view_of_four_hundred_features_is_joined() {
    assert_as_the_oracle(&[view("wide".to_owned(), 400), view("narrow".to_owned(), 1)], &[300, 120], 200);
}
