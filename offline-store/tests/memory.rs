//! A dataset several times as large as the memory that it is made in. Alone in its process, whose peak is what is looked at.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::ops::Range;
use std::sync::Arc;

use anabranch_core::Timestamp;
use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView, Role};
use anabranch_core::selection::Selection;
use anabranch_core::types::Scalar;
use anabranch_offline_store::dataset::{columns_of, digest_of_rows, statistics, statistics::KeyRoom};
use anabranch_offline_store::join::{
    Chunk, ChunkInfo, ColumnReader, JoinLimits, JoinOptions, JoinPlan, ScanError, Spine, Spool, SpoolLimits, ViewChunks, ViewRows, ViewScan,
    join_within,
};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;

const ROWS: i64 = 3_000_000;
const BATCH: i64 = 1 << 16;
const USERS: i64 = 10_000;
/// What may be held beside what a join says that it needs at least.
const SLACK: u64 = 32 << 20;

/// One row of every user.
#[derive(Debug)]
struct Users;

#[derive(Debug)]
struct AllUsers(Vec<ArrayRef>);

#[async_trait]
impl ViewRows for Users {
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError> {
        let times = || Arc::new(TimestampMicrosecondArray::from(vec![0; USERS as usize]).with_timezone("UTC")) as ArrayRef;
        let column = |name: &str, role: Role| -> ArrayRef {
            match (name, role) {
                (_, Role::Key) | ("_position", _) => Arc::new(Int64Array::from_iter_values(0..USERS)),
                (_, Role::Feature) => Arc::new(Float32Array::from_iter_values((0..USERS).map(|user| user as f32))),
                ("_source", _) => Arc::new(Int32Array::from(vec![0; USERS as usize])),
                ("_tombstone", _) => Arc::new(BooleanArray::new_null(USERS as usize)),
                _ => times(),
            }
        };
        let chunk = AllUsers(scan.columns.iter().map(|of| column(&of.name, of.role)).collect());
        Ok(ViewChunks { chunks: vec![Arc::new(chunk)], files: 1, files_kept: 1, chunks_seen: 1, rows: USERS as u64 })
    }
}

#[async_trait]
impl Chunk for AllUsers {
    fn info(&self) -> ChunkInfo {
        let at = Timestamp(0);
        ChunkInfo { rows: USERS as usize, file: 0, sorted: true, min_event_time: at, max_event_time: at, tombstones: false }
    }

    fn stored_bytes(&self, _: &[usize]) -> u64 {
        0
    }

    async fn read(&self, columns: &[usize], rows: Option<&[Range<usize>]>, _: usize) -> Result<ColumnReader, ScanError> {
        let part = |range: &Range<usize>| Ok(columns.iter().map(|place| self.0[*place].slice(range.start, range.len())).collect());
        let parts: Vec<_> = rows.map_or_else(|| vec![part(&(0..USERS as usize))], |rows| rows.iter().map(part).collect());
        Ok(Box::new(parts.into_iter()))
    }
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("user", DataType::Int64, true),
        Field::new("event_timestamp", time, true),
        Field::new("note", DataType::Utf8, true),
    ]))
}

fn batch(first: i64, schema: &SchemaRef) -> RecordBatch {
    let rows = first..(first + BATCH).min(ROWS);
    let users: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| row * 7_919 % USERS)));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(rows.clone()).with_timezone("UTC"));
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values(rows.map(|row| format!("the row of number {row:020}"))));
    RecordBatch::try_new(Arc::clone(schema), vec![users, times, notes]).unwrap()
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn definitions() -> Definitions {
    let view = FeatureView::new("view", "at").entity("user").field("x", "f32".parse().unwrap());
    [Definition::Entity(Entity::new("user", "user", Scalar::I64)), Definition::FeatureView(view)].into_iter().collect()
}

#[tokio::test]
async fn a_dataset_is_made_in_a_part_of_the_memory_that_it_would_take() {
    let (before, schema) = (peak_bytes(), schema());
    let files = || Arc::new(tempfile::tempfile) as anabranch_offline_store::join::SpillFiles;
    let limits = SpoolLimits { memory_bytes: 8 << 20, total_bytes: u64::MAX, reserve: None, files: files() };
    let mut spool = Spool::new(Arc::clone(&schema), limits);
    for first in (0..ROWS).step_by(BATCH as usize) {
        spool.push(batch(first, &schema)).unwrap();
    }
    let spine = Spine::spooled(spool.finish().unwrap(), "event_timestamp").unwrap();
    let selection = Selection::Features(vec!["view:x".to_owned()]);
    let plan = Arc::new(JoinPlan::new(spine, &selection, &definitions(), JoinOptions::default()).unwrap());
    let memory_bytes = plan.least_memory_bytes();
    let joined = join_within(plan, Arc::new(Users), &JoinLimits { memory_bytes, part_rows: usize::MAX, spill: files() }).await.unwrap();
    assert_eq!((joined.report.spine_rows, joined.report.views[0].matched), (ROWS as u64, ROWS as u64));
    digest_of_rows(&joined.schema, &joined.rows).unwrap();
    let room = KeyRoom { keys: 1 << 20, files: files() };
    let columns = columns_of(&joined.schema).unwrap();
    let of = statistics(&columns, &joined.rows, Some(&room)).unwrap();
    assert_eq!((of[1].distinct, of[2].distinct, of[3].distinct), (ROWS as u64, ROWS as u64, USERS as u64));
    let (took, may) = (peak_bytes() - before, memory_bytes as u64 + SLACK);
    // The spine alone is over 150 MB.
    assert!(took < may, "{took} bytes, where {may} were to be enough: {:?}", joined.report);
    let mut row = 0;
    for batch in joined.rows.batches() {
        for x in batch.unwrap().column(3).as_primitive::<Float32Type>().values() {
            assert_eq!(*x, (row * 7_919 % USERS) as f32);
            row += 1;
        }
    }
    assert_eq!(row, ROWS);
}
