//! The rows of a spine that was made anew are found among those of an earlier dataset, and both kinds come together in its order.

use std::collections::HashSet;
use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::dataset::refresh::{Sources, assemble};
use anabranch_offline_store::dataset::{canonical_schema, columns_of, digest_of_rows};
use anabranch_offline_store::join::{JoinedRows, Spine, Spool, SpoolLimits, Spooled};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{data_type, table};

/// A row of a spine: its time and its user.
type Row = (i64, i64);

fn spine_of(rows: &[Row]) -> RecordBatch {
    let users: Vec<_> = rows.iter().map(|(_, user)| Value::I64(*user)).collect();
    let times: Vec<_> = rows.iter().map(|(time, _)| Value::Timestamp(Timestamp(*time))).collect();
    table(vec![("user", column_of(data_type("i64"), &users).unwrap()), ("at", column_of(data_type("timestamp"), &times).unwrap())])
}

/// A spine with a feature, which is text that tells the row, and whether it was joined again.
fn dataset_of(rows: &[Row], again: impl Fn(&Row) -> bool) -> RecordBatch {
    let spine = spine_of(rows);
    let texts: Vec<_> = rows.iter().map(|row| Value::String(format!("{row:?} {}", again(row)))).collect();
    let [user, at] = spine.columns() else { panic!("a spine has two columns") };
    table(vec![("user", Arc::clone(user)), ("at", Arc::clone(at)), ("x", column_of(data_type("string"), &texts).unwrap())])
}

fn spool(schema: &SchemaRef, memory_bytes: usize) -> Spool {
    let limits = SpoolLimits { memory_bytes, total_bytes: u64::MAX, reserve: None, files: Arc::new(tempfile::tempfile) };
    Spool::new(Arc::clone(schema), limits)
}

fn spooled(batch: &RecordBatch, batch_rows: usize, memory_bytes: usize) -> Spooled {
    let mut spool = spool(&batch.schema(), memory_bytes);
    for at in (0..batch.num_rows()).step_by(batch_rows) {
        spool.push(batch.slice(at, batch_rows.min(batch.num_rows() - at))).unwrap();
    }
    spool.finish().unwrap()
}

/// Refreshes; how many rows were joined again.
fn refreshed(then: &[Row], now: &[Row], changed: &HashSet<Row>, in_order_of_all: bool, batch_rows: usize, memory_bytes: usize) -> u64 {
    let is_changed = |row: &Row| changed.contains(row);
    let earlier = spooled(&dataset_of(then, |_| false), batch_rows, memory_bytes);
    let spine = Spine::spooled(spooled(&spine_of(now), batch_rows, memory_bytes), "at").unwrap();
    let columns = columns_of(spine.schema()).unwrap();
    let marks: Vec<bool> = now.iter().map(is_changed).collect();
    let sources = Sources::of_derived(&columns, &earlier, &spine, &marks, in_order_of_all).unwrap();
    let again = sources.to_join(&spine, spool(spine.schema(), memory_bytes)).unwrap();
    assert_eq!(again.rows() as u64, sources.joined());
    // What a row is does not depend on whether it was joined again, but for those that changed.
    let rows: Vec<Row> = JoinedRows::from(again).collect().unwrap().iter().flat_map(rows_of).collect();
    let joined = vec![dataset_of(&rows, is_changed)].into();
    let schema = canonical_schema(&columns_of(&dataset_of(now, is_changed).schema()).unwrap());
    let whole = assemble(&earlier, &joined, &sources, spool(&schema, memory_bytes)).unwrap();
    let expected: JoinedRows = vec![dataset_of(now, is_changed)].into();
    assert_eq!(digest_of_rows(&schema, &whole.into()).unwrap(), digest_of_rows(&schema, &expected).unwrap());
    sources.joined()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let value = |column: usize, of: &str, row: usize| match anabranch_core::columns::value_at(batch.column(column), data_type(of), row).unwrap() {
        Value::I64(x) => x,
        Value::Timestamp(x) => x.micros(),
        other => panic!("{other:?}"),
    };
    (0..batch.num_rows()).map(|row| (value(1, "timestamp", row), value(0, "i64", row))).collect()
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    vec((0..6_i64, 0..4_i64), 0..40)
}

fn memory() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(usize::MAX)]
}

proptest! {
    #[test]
    fn rows_of_a_query_are_joined_again_only_where_they_changed_or_are_new(
        mut then in rows(), mut now in rows(), changed in rows(), batch_rows in 1_usize..9, memory_bytes in memory(),
    ) {
        then.sort_unstable();
        now.sort_unstable();
        let changed: HashSet<Row> = changed.into_iter().collect();
        let joined = refreshed(&then, &now, &changed, true, batch_rows, memory_bytes);
        let known: HashSet<&Row> = then.iter().collect();
        let expected = now.iter().filter(|row| changed.contains(*row) || !known.contains(row)).count();
        prop_assert_eq!(joined, expected as u64);
    }

    #[test]
    fn events_are_joined_again_only_where_they_changed_or_were_added(
        mut now in vec(((0..6_i64, 0..4_i64), any::<bool>()), 0..40), changed in rows(), batch_rows in 1_usize..9, memory_bytes in memory(),
    ) {
        // What decides among events of one time is told by no column.
        now.sort_by_key(|((time, _), _)| *time);
        let then: Vec<Row> = now.iter().filter(|(_, is_new)| !is_new).map(|(row, _)| *row).collect();
        let now: Vec<Row> = now.into_iter().map(|(row, _)| row).collect();
        let changed: HashSet<Row> = changed.into_iter().collect();
        let joined = refreshed(&then, &now, &changed, false, batch_rows, memory_bytes);
        let most = now.len() - then.len() + now.iter().filter(|row| changed.contains(*row)).count();
        prop_assert!(joined <= most as u64, "{} of {}", joined, most);
    }

    #[test]
    fn events_that_are_gone_cost_time_and_change_nothing(
        mut then in rows(), mut now in rows(), changed in rows(), batch_rows in 1_usize..9, memory_bytes in memory(),
    ) {
        then.sort_by_key(|(time, _)| *time);
        now.sort_by_key(|(time, _)| *time);
        refreshed(&then, &now, &changed.into_iter().collect(), false, batch_rows, memory_bytes);
    }
}
