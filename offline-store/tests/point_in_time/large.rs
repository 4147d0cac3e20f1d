//! More rows than one block of kept rows and one part of a list column hold, and than a memory limit allows at once.

use std::sync::{Arc, Mutex};

use anabranch_core::columns::{column_of, value_at};
use anabranch_core::selection::Selection;
use anabranch_core::types::Scalar;
use anabranch_core::{ErrorKind, Kinded, Timestamp, Value};
use anabranch_offline_store::join::{
    JoinError, JoinLimits, JoinPlan, Joined, KeyHint, Knowledge, ScanError, Spine, ViewChunks, ViewRows, ViewScan, join_within,
};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use async_trait::async_trait;

use crate::world::{self, Memory, Row, Use, ViewSpec, data_type, definitions, table};

const ENTITIES: i64 = 90_000;
const ASKED: i64 = 80_000;

fn list(user: i64) -> Value {
    Value::List((0..user % 4).map(|i| Value::I64(user + i)).collect())
}

/// A spine of every asked entity, the last one first, and the rows that it matches.
fn world() -> (JoinPlan, Memory) {
    world_in(50_000)
}

fn world_in(spine_batch: usize) -> (JoinPlan, Memory) {
    let (spine, memory) = spine_and_rows();
    (plan(world::spine(&spine, spine_batch).unwrap()), memory)
}

fn plan(spine: Spine) -> JoinPlan {
    JoinPlan::new(spine, &Selection::Service("all".to_owned()), &definitions(&[view()], &uses()), world::options(Knowledge::Spine, false)).unwrap()
}

fn view() -> ViewSpec {
    let features = vec![("x", data_type("i64")), ("list", data_type("list<i64>"))];
    ViewSpec { name: "view", keys: vec![("user", Scalar::I64)], known: false, lookback: None, features }
}

fn uses() -> [Use; 1] {
    [Use { view: 0, alias: None, columns: vec!["user"] }]
}

fn spine_and_rows() -> (RecordBatch, Memory) {
    let row = |user: i64, event: i64, features: Vec<Value>| Row {
        key: vec![Value::I64(user)],
        event,
        known: None,
        arrival: 0,
        source: 0,
        position: user,
        tombstone: None,
        features,
    };
    // Each entity has an older row too, which is held for a while and must give way.
    let old = (0..ENTITIES).map(|user| row(user, 1, vec![Value::Null, Value::Null]));
    let new = (0..ENTITIES).map(|user| row(user, 5, vec![Value::I64(user * 10), list(user)]));
    let rows = vec![old.chain(new).collect::<Vec<_>>()];

    let users: Vec<_> = (0..ASKED).rev().map(Value::I64).collect();
    let times = vec![Value::Timestamp(Timestamp(9)); users.len()];
    let spine =
        table([("event_timestamp", column_of(data_type("timestamp"), &times).unwrap()), ("user", column_of(data_type("i64"), &users).unwrap())]);
    (spine, Memory { batch_rows: 5_000, ..Memory::new(&[view()], &rows) })
}

fn assert_whole(joined: &Joined) {
    let mut user = ASKED;
    for batch in joined.rows.batches() {
        let batch = batch.unwrap();
        for place in 0..batch.num_rows() {
            user -= 1;
            assert_eq!(value_at(batch.column(2), data_type("i64"), place).unwrap(), Value::I64(user * 10));
            assert_eq!(value_at(batch.column(3), data_type("list<i64>"), place).unwrap(), list(user));
        }
    }
    assert_eq!(user, 0);
}

#[test]
fn rows_find_their_own_features_across_blocks_and_parts() {
    let (plan, memory) = world();
    let joined = world::run(plan, memory).unwrap();
    assert_eq!((joined.report.parts, joined.report.spilled_bytes), (1, 0));
    assert_whole(&joined);
}

#[test]
fn a_join_that_outgrows_its_memory_spills_and_gives_the_same_rows() {
    let (plan, memory) = world();
    let (least, all) = (plan.least_memory_bytes(), plan.memory_bytes());
    let joined = world::run_within(plan, memory, least + (all - least) / 6, usize::MAX).unwrap();
    assert!(joined.report.parts > 3 && joined.report.spilled_bytes > 1 << 20, "{:?}", joined.report);
    // Every pass gives them all.
    assert_whole(&joined);
    assert_whole(&joined);
    assert_eq!(joined.report.views[0].matched, ASKED as u64);
}

#[test]
fn a_spine_on_disk_is_joined_with_less_memory_than_it_takes() {
    let (spine, memory) = spine_and_rows();
    let in_memory = plan(world::spine(&spine, 50_000).unwrap());
    let on_disk = plan(world::spooled_spine(&spine, 50_000, 0).unwrap());
    let least = on_disk.least_memory_bytes();
    assert!(least < in_memory.memory_bytes(), "{least} bytes");
    let joined = world::run_within(on_disk, memory, least, usize::MAX).unwrap();
    assert!(joined.report.parts > 3, "{:?}", joined.report);
    assert_whole(&joined);
    assert_whole(&joined);
    assert_eq!(joined.report.views[0].matched, ASKED as u64);
}

/// Keeps the least and the greatest key that each part asks for.
#[derive(Debug)]
struct Asked {
    rows: Memory,
    ranges: Mutex<Vec<(i64, i64)>>,
}

#[async_trait]
impl ViewRows for Asked {
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError> {
        if let Some(KeyHint::Integers(keys)) = scan.hint.keys.as_deref() {
            self.ranges.lock().unwrap().push((keys[0], keys[keys.len() - 1]));
        }
        self.rows.chunks(scan).await
    }
}

#[test]
fn parts_of_a_spine_on_disk_hold_ranges_of_entities() {
    let (spine, rows) = spine_and_rows();
    // As entities come in a spine that is sorted by time: all over.
    let scattered: Vec<u32> = (0..ASKED as u32).map(|row| row * 7_919 % ASKED as u32).collect();
    let spine = take_record_batch(&spine, &UInt32Array::from(scattered)).unwrap();
    let asked = Arc::new(Asked { rows, ranges: Mutex::default() });
    let plan = Arc::new(plan(world::spooled_spine(&spine, 50_000, 0).unwrap()));
    let limits = JoinLimits { memory_bytes: usize::MAX, part_rows: 10_000, spill: Arc::new(tempfile::tempfile) };
    let joined = world::runtime().block_on(join_within(plan, Arc::clone(&asked) as Arc<dyn ViewRows>, &limits)).unwrap();
    assert_eq!((joined.report.parts, joined.rows.len()), (8, ASKED as usize));
    let ranges = asked.ranges.lock().unwrap();
    assert!(ranges.is_sorted(), "{ranges:?}");
    // Parts are of equally many rows, whatever the ranges are: one begins within its neighbour's last.
    assert!(ranges.iter().all(|(low, high)| high - low < 2 * 10_000), "{ranges:?}");
}

#[test]
fn a_spine_of_slices_counts_what_they_hold_and_not_the_buffer_of_each() {
    let (whole, sliced) = (world_in(ASKED as usize).0, world_in(100).0);
    let (whole, sliced) = (whole.memory_bytes(), sliced.memory_bytes());
    assert!(sliced < whole + whole / 20, "{sliced} bytes, of which one batch takes {whole}");
}

#[test]
fn a_join_is_refused_that_cannot_be_done_with_so_little_memory() {
    let (plan, memory) = world();
    let least = plan.least_memory_bytes();
    let error = world::run_within(plan, memory, least - 1, usize::MAX).unwrap_err();
    assert!(matches!(&error, JoinError::Memory { needed, .. } if *needed == least), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}

#[test]
fn a_spill_that_fails_is_an_error_with_its_cause() {
    let (plan, memory) = world();
    let error = world::run_spilling_to(plan, memory, 10_000, || Err(std::io::ErrorKind::StorageFull.into())).unwrap_err();
    assert!(matches!(error, JoinError::Spill(_)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}
