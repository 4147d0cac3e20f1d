use std::sync::Arc;

use crate::{Error, RowChecks, Verdicts};
use anabranch_core::columns::column_of;
use anabranch_core::definition::{Check, Definition, Definitions, Entity, FeatureView, Rule, ViewLayout};
use anabranch_core::{DataType, Kinded, Scalar, Timestamp, Value};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const FEATURES: [&str; 10] = ["bool", "i32", "i64", "f32", "f64", "string", "bytes", "timestamp", "list<i64>", "vector<2>"];

/// Two keys, event and known time, and a feature of every type, named `x0`, `x1`, … after [`FEATURES`].
fn layout() -> Arc<ViewLayout> {
    let entity = Entity::new("pair", "a", Scalar::String).join_key("b", Scalar::I64);
    let mut view = FeatureView::new("v", "at").entity("pair").known_timestamp("known");
    for (i, data_type) in FEATURES.iter().enumerate() {
        view = view.field(format!("x{i}"), data_type.parse().unwrap());
    }
    let definitions: Definitions = [Definition::Entity(entity), Definition::FeatureView(view)].into_iter().collect();
    definitions.layout("v").unwrap()
}

fn batch(layout: &ViewLayout, rows: &[Vec<Value>]) -> RecordBatch {
    let columns = layout.columns().iter().enumerate().map(|(i, column)| column_of(column.data_type, rows.iter().map(|row| &row[i])).unwrap());
    let fields: Vec<_> = layout.columns().iter().map(|column| Field::new(&column.name, column.data_type.to_arrow(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect()).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("ab".to_owned()), "[abc\n]{0,3}", "[aäz]{1,2}"]
}

fn value(data_type: DataType) -> BoxedStrategy<Value> {
    let some = match data_type {
        DataType::Scalar(Scalar::Bool) => any::<bool>().prop_map(Value::Bool).boxed(),
        DataType::Scalar(Scalar::I32) => prop_oneof![-3..4, Just(i32::MIN), Just(i32::MAX)].prop_map(Value::I32).boxed(),
        DataType::Scalar(Scalar::I64) => {
            // Integers that an f64 cannot tell apart.
            prop_oneof![-3..4_i64, Just(i64::MAX), Just(i64::MAX - 1), Just(1 << 53), Just((1 << 53) + 1)].prop_map(Value::I64).boxed()
        }
        DataType::Scalar(Scalar::F32) => {
            prop_oneof![Just(0.1_f32), Just(-0.0), Just(0.0), Just(f32::NAN), Just(f32::INFINITY), -2.0..2.0_f32].prop_map(Value::F32).boxed()
        }
        DataType::Scalar(Scalar::F64) => {
            prop_oneof![Just(0.1), Just(-0.0), Just(0.0), Just(f64::NAN), Just(f64::NEG_INFINITY), -2.0..2.0_f64].prop_map(Value::F64).boxed()
        }
        DataType::Scalar(Scalar::String) => text().prop_map(Value::String).boxed(),
        DataType::Scalar(Scalar::Bytes) => proptest::collection::vec(0..3_u8, 0..3).prop_map(Value::Bytes).boxed(),
        DataType::Scalar(Scalar::Timestamp) => {
            prop_oneof![-3..4_i64, Just(600_000_000), Just(600_000_001)].prop_map(|t| Value::Timestamp(Timestamp(t))).boxed()
        }
        DataType::List(_) => proptest::collection::vec((0..3_i64).prop_map(Value::I64), 0..3).prop_map(Value::List).boxed(),
        DataType::Vector(n) => proptest::collection::vec(-1.0..1.0_f32, n as usize).prop_map(Value::Vector).boxed(),
    };
    prop_oneof![1 => Just(Value::Null), 4 => some].boxed()
}

fn bound(data_type: DataType) -> impl Strategy<Value = Json> {
    value(data_type).prop_filter_map("null is no bound", |value| (!value.is_null()).then(|| value.to_json()))
}

fn rule(data_type: DataType) -> BoxedStrategy<Rule> {
    let not_null = Just(Rule::NotNull {}).boxed();
    let DataType::Scalar(scalar) = data_type else { return not_null };
    let one_of = proptest::collection::vec(bound(data_type), 1..4).prop_map(|values| Rule::OneOf { values }).boxed();
    let range = (bound(data_type), bound(data_type), 0..3).prop_map(|(min, max, which)| match which {
        0 => Rule::Range { min: Some(min), max: None },
        1 => Rule::Range { min: None, max: Some(max) },
        _ => Rule::Range { min: Some(min), max: Some(max) },
    });
    match scalar {
        Scalar::Bool | Scalar::Bytes => prop_oneof![not_null, one_of].boxed(),
        Scalar::String => {
            let pattern =
                prop_oneof![Just("a|ab"), Just("[ab]*"), Just("."), Just("(?x) a b # both")].prop_map(|regex| Rule::Pattern { regex: regex.into() });
            prop_oneof![not_null, one_of, range, pattern].boxed()
        }
        _ => prop_oneof![not_null, one_of, range].boxed(),
    }
}

fn rows() -> impl Strategy<Value = Vec<Vec<Value>>> {
    let row: Vec<_> = layout().columns().iter().map(|column| value(column.data_type)).collect();
    proptest::collection::vec(row, 0..80)
}

fn checks() -> impl Strategy<Value = Vec<Check>> {
    let check = (0..layout().columns().len()).prop_flat_map(|column| {
        let column = layout().columns()[column].clone();
        rule(column.data_type).prop_map(move |rule| Check::new("", "v", &column.name, rule))
    });
    proptest::collection::vec(check, 0..6).prop_map(|mut checks| {
        for (i, check) in checks.iter_mut().enumerate() {
            check.name = format!("c{}", 9 - i);
        }
        checks
    })
}

/// Whether one value keeps a rule, by the words of the rule's documentation.
fn keeps(rule: &Rule, data_type: DataType, value: &Value) -> bool {
    let read = |json: &Json| Value::from_json(data_type, json).unwrap();
    match (rule, value) {
        (Rule::NotNull {}, value) => !value.is_null(),
        (_, Value::Null) => true,
        (Rule::Range { min, max }, value) => {
            let least = min.as_ref().is_none_or(|min| at_most(&read(min), value));
            least && max.as_ref().is_none_or(|max| at_most(value, &read(max)))
        }
        (Rule::OneOf { values }, value) => values.iter().any(|json| same(&read(json), value)),
        (Rule::Pattern { regex }, Value::String(text)) => match regex.as_str() {
            "a|ab" => text == "a" || text == "ab",
            "[ab]*" => text.chars().all(|c| c == 'a' || c == 'b'),
            "." => text.chars().count() == 1 && text != "\n",
            _ => text == "ab",
        },
        (Rule::Pattern { .. }, _) => false,
    }
}

fn at_most(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::I32(a), Value::I32(b)) => a <= b,
        (Value::I64(a), Value::I64(b)) => a <= b,
        (Value::F32(a), Value::F32(b)) => a <= b,
        (Value::F64(a), Value::F64(b)) => a <= b,
        (Value::String(a), Value::String(b)) => a.as_bytes() <= b.as_bytes(),
        (Value::Timestamp(a), Value::Timestamp(b)) => a <= b,
        _ => false,
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => a == b || a.is_nan() && b.is_nan(),
        (Value::F64(a), Value::F64(b)) => a == b || a.is_nan() && b.is_nan(),
        _ => a == b,
    }
}

/// The names of the checks that each row fails, in order.
fn naive(layout: &ViewLayout, checks: &[Check], rows: &[Vec<Value>], arrivals: &[i64]) -> Vec<Vec<String>> {
    let mut sorted: Vec<_> = checks.iter().collect();
    sorted.sort_by_key(|check| &check.name);
    let judge = |(row, arrival): (&Vec<Value>, &i64)| {
        let mut failed = Vec::new();
        for (cell, check) in row.iter().zip(["_key", "_key", "_event_time", "_known_time"]) {
            if cell.is_null() {
                failed.push(check.to_owned());
            }
        }
        if matches!(row[2], Value::Timestamp(t) if i128::from(t.micros()) > i128::from(*arrival) + 600_000_000) {
            failed.push("_max_future".to_owned());
        }
        for check in &sorted {
            let column = layout.columns().iter().position(|column| column.name == check.column).unwrap();
            if !keeps(&check.rule, layout.columns()[column].data_type, &row[column]) {
                failed.push(check.name.clone());
            }
        }
        failed
    };
    rows.iter().zip(arrivals).map(judge).collect()
}

fn names(verdicts: &Verdicts, rows: usize) -> Vec<Vec<String>> {
    (0..rows).map(|row| verdicts.of_row(row).iter().map(|failure| failure.check.clone()).collect()).collect()
}

proptest! {
    #[test]
    fn verdicts_are_those_of_a_naive_evaluator(rows in rows(), checks in checks(), arrivals in proptest::collection::vec(prop_oneof![-2..2_i64, Just(i64::MAX), Just(i64::MIN)], 80)) {
        let layout = layout();
        let compiled = RowChecks::compile(&layout, &checks).unwrap();
        let arrivals = &arrivals[..rows.len()];
        let verdicts = compiled.judge(&batch(&layout, &rows), arrivals).unwrap();
        prop_assert_eq!(names(&verdicts, rows.len()), naive(&layout, &checks, &rows, arrivals));
    }

    #[test]
    fn a_verdict_does_not_depend_on_the_batch(rows in rows(), checks in checks(), cut in 0.0..1.0_f64) {
        let layout = layout();
        let compiled = RowChecks::compile(&layout, &checks).unwrap();
        let arrivals = vec![0; rows.len()];
        let whole = batch(&layout, &rows);
        let all = compiled.judge(&whole, &arrivals).unwrap();
        let cut = (rows.len() as f64 * cut) as usize;
        // A slice keeps the buffers of the whole, so offsets are tried as well.
        let tail = compiled.judge(&whole.slice(cut, rows.len() - cut), &arrivals[cut..]).unwrap();
        for row in cut..rows.len() {
            prop_assert_eq!(all.of_row(row), tail.of_row(row - cut));
        }
    }
}

fn good_row() -> Vec<Value> {
    let mut row = vec![Value::String("k".into()), Value::I64(1), Value::Timestamp(Timestamp(0)), Value::Timestamp(Timestamp(0))];
    row.resize(layout().columns().len(), Value::Null);
    row
}

#[test]
fn reasons_name_the_value_and_the_demand() {
    let layout = layout();
    let checks = [
        Check::new("range", "v", "x4", Rule::Range { min: Some(json!(0)), max: Some(json!(10)) }),
        Check::new("set", "v", "x5", Rule::OneOf { values: vec![json!("EWR"), json!("JFK")] }),
        Check::new("there", "v", "x0", Rule::NotNull {}),
        Check::new("upper", "v", "x5", Rule::Pattern { regex: "[A-Z]+".into() }),
    ];
    let mut row = good_row();
    row[2] = Value::Timestamp(Timestamp(601_000_000));
    row[8] = Value::F64(f64::NAN);
    row[9] = Value::String("lga".into());
    let verdicts = RowChecks::compile(&layout, &checks).unwrap().judge(&batch(&layout, &[good_row(), row]), &[0, 0]).unwrap();
    let reasons: Vec<_> = verdicts.of_row(1).iter().map(|f| format!("{} {}: {}", f.check, f.column, f.reason)).collect();
    assert_eq!(
        reasons,
        [
            "_max_future at: 1970-01-01T00:10:01Z is more than 10m after the row's arrival at 1970-01-01T00:00:00Z",
            r#"range x4: "NaN" is not between 0.0 and 10.0"#,
            r#"set x5: "lga" is not one of "EWR", "JFK""#,
            "there x0: it is null",
            r#"upper x5: "lga" does not match [A-Z]+"#,
        ]
    );
    assert_eq!(verdicts.of_row(0).len(), 1, "only the missing bool");
    assert!(RowChecks::compile(&layout, []).unwrap().judge(&batch(&layout, &[good_row()]), &[0]).unwrap().is_clean());
}

#[test]
fn long_values_are_cut_in_reasons() {
    let layout = layout();
    let check = Check::new("c", "v", "x5", Rule::OneOf { values: vec![json!("ä".repeat(500))] });
    let mut row = good_row();
    row[9] = Value::String("ö".repeat(1 << 20));
    let verdicts = RowChecks::compile(&layout, [&check]).unwrap().judge(&batch(&layout, &[row]), &[0]).unwrap();
    assert!(verdicts.of_row(0)[0].reason.chars().count() < 200);
}

#[test]
fn checks_that_do_not_fit_are_refused_by_name() {
    let layout = layout();
    let refuse = |column: &str, rule| RowChecks::compile(&layout, [&Check::new("bad", "v", column, rule)]).unwrap_err();
    let open = refuse("x5", Rule::Pattern { regex: "(a".into() });
    assert!(matches!(&open, Error::Pattern { check, .. } if check == "bad"), "{open}");
    assert_eq!(open.kind(), anabranch_core::ErrorKind::InvalidArgument);
    assert!(matches!(refuse("x5", Rule::Pattern { regex: "a)|(b".into() }), Error::Pattern { .. }));
    for (column, rule) in [
        ("rain", Rule::NotNull {}),
        ("x1", Rule::Range { min: Some(json!(1.5)), max: None }),
        ("x1", Rule::Range { min: None, max: None }),
        ("x1", Rule::OneOf { values: vec![json!("a")] }),
        ("x0", Rule::Range { min: Some(json!(true)), max: None }),
        ("x8", Rule::OneOf { values: vec![json!([1])] }),
        ("x4", Rule::Pattern { regex: "a".into() }),
    ] {
        assert!(matches!(refuse(column, rule.clone()), Error::Misfit { .. }), "{column} {rule:?}");
    }
    let other = Check::new("c", "w", "x0", Rule::NotNull {});
    assert!(matches!(RowChecks::compile(&layout, [&other]), Err(Error::Misfit { .. })));
}

#[test]
fn a_batch_of_another_form_is_refused() {
    let layout = layout();
    let checks = RowChecks::compile(&layout, []).unwrap();
    let good = batch(&layout, &[good_row()]);
    assert!(matches!(checks.judge(&good, &[]), Err(Error::Batch { .. })));
    let narrow = good.project(&[0, 1]).unwrap();
    assert!(matches!(checks.judge(&narrow, &[0]), Err(Error::Batch { .. })));
    let mut order: Vec<_> = (0..good.num_columns()).collect();
    order.swap(0, 1);
    assert!(matches!(checks.judge(&good.project(&order).unwrap(), &[0]), Err(Error::Batch { .. })));
}
