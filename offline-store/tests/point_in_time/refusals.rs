//! What the join refuses, before it reads anything, and what it says when a provider fails it.

use std::ops::Range;
use std::sync::Arc;

use anabranch_core::selection::Selection;
use anabranch_core::types::Scalar;
use anabranch_core::{Error as CoreError, ErrorKind, Kinded, Timestamp, Value};
use anabranch_offline_store::join::{
    Chunk, ChunkInfo, ColumnReader, JoinError, JoinOptions, JoinPlan, KeyHint, Knowledge, ScanError, Spine, ViewChunks, ViewRows, ViewScan, join,
};
use arrow::array::{
    ArrayRef, AsArray, Date32Array, Float64Array, Int64Array, NullArray, RecordBatch, StringArray, TimestampMicrosecondArray, TimestampSecondArray,
    UInt8Array, UInt64Array,
};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;

use crate::world::{self, Memory, Row, Use, ViewSpec, data_type, definitions, table};

fn views() -> Vec<ViewSpec> {
    let view =
        |name, key, scalar| ViewSpec { name, keys: vec![(key, scalar)], known: true, lookback: Some(10), features: vec![("x", data_type("i64"))] };
    vec![view("numbers", "user", Scalar::I32), view("texts", "airport", Scalar::String)]
}

fn uses() -> Vec<Use> {
    vec![Use { view: 0, alias: None, columns: vec!["user"] }, Use { view: 1, alias: None, columns: vec!["airport"] }]
}

fn rows() -> Vec<Vec<Row>> {
    let row =
        |key, x| Row { key: vec![key], event: 5, known: None, arrival: 0, source: 0, position: 0, tombstone: None, features: vec![Value::I64(x)] };
    vec![vec![row(Value::I32(7), 70)], vec![row(Value::String("JFK".into()), 80)]]
}

fn times(times: &[Option<i64>]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times.to_vec()))
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn plan_of(spine: Result<Spine, JoinError>, features: &[&str]) -> Result<JoinPlan, JoinError> {
    let selection = Selection::Features(features.iter().map(|text| (*text).to_owned()).collect());
    JoinPlan::new(spine?, &selection, &definitions(&views(), &uses()), JoinOptions::default())
}

fn plan<const N: usize>(columns: [(&str, ArrayRef); N], features: &[&str]) -> Result<JoinPlan, JoinError> {
    plan_of(world::spine(&table(columns), 2), features)
}

/// The message of a refusal that the caller can mend.
fn refusal<const N: usize>(columns: [(&str, ArrayRef); N], features: &[&str]) -> String {
    let batch = table(columns);
    let error = plan_of(world::spine(&batch, 2), features).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    // A row on disk is judged when the join reads it, and refused in the same words.
    let on_disk = match plan_of(world::spooled_spine(&batch, 1, 0), features) {
        Err(refused) => refused,
        Ok(plan) => world::run_within(plan, Memory::new(&views(), &rows()), usize::MAX, 1).unwrap_err(),
    };
    assert_eq!(on_disk.to_string(), error.to_string());
    error.to_string()
}

/// The column `x` of the output; null is `None`.
fn join_x(plan: JoinPlan) -> Vec<Option<i64>> {
    let joined = world::run(plan, Memory::new(&views(), &rows())).unwrap();
    let of = |batch: &RecordBatch| batch.column_by_name("x").unwrap().as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    joined.rows.collect().unwrap().iter().flat_map(of).collect()
}

#[test]
fn a_missing_column_is_named_with_what_is_there() {
    assert_eq!(
        refusal([("user", integers(&[7]))], &["numbers"]),
        r#"the spine has no column "event_timestamp", which is the time of each row; it has user"#
    );
    assert_eq!(
        refusal([("event_timestamp", times(&[Some(5)])), ("usr", integers(&[7]))], &["numbers:x"]),
        r#"the spine has no column "user", which is join key "user" of feature view "numbers"; it has event_timestamp, usr"#
    );
}

#[test]
fn a_column_of_an_unlike_type_is_named() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["7"]));
    let message = refusal([("event_timestamp", times(&[Some(5)])), ("user", Arc::clone(&text))], &["numbers"]);
    assert!(message.contains(r#"column "user" of the spine is Utf8, but join key "user" of feature view "numbers" is i64"#), "{message}");
    let message = refusal([("event_timestamp", times(&[Some(5)])), ("airport", integers(&[7]))], &["texts"]);
    assert!(message.contains(r#"column "airport" of the spine is Int64"#), "{message}");
    for unlike in [text, integers(&[5])] {
        let message = refusal([("event_timestamp", unlike), ("user", integers(&[7]))], &["numbers"]);
        assert!(message.contains(r#"column "event_timestamp" of the spine is "#) && message.contains("is timestamp"), "{message}");
    }
}

#[test]
fn an_unlike_type_is_refused_even_without_rows() {
    let text: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
    refusal([("event_timestamp", times(&[])), ("user", text)], &["numbers"]);
}

#[test]
fn a_null_time_names_its_row_across_batches() {
    let message = refusal([("event_timestamp", times(&[Some(1), Some(2), Some(3), None])), ("user", integers(&[7, 7, 7, 7]))], &["numbers"]);
    assert_eq!(message, r#"row 3 of the spine has no time: column "event_timestamp" is null; drop the row or give it one"#);
    let message = refusal([("event_timestamp", Arc::new(NullArray::new(1)) as ArrayRef), ("user", integers(&[7]))], &["numbers"]);
    assert!(message.starts_with("row 0 of the spine has no time"), "{message}");
}

#[test]
fn a_value_that_does_not_fit_names_its_row() {
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![0, 1, i64::MAX / 2]));
    let message = refusal([("event_timestamp", seconds), ("user", integers(&[7, 7, 7]))], &["numbers"]);
    assert_eq!(message, r#"row 2 of the spine: the value of column "event_timestamp" does not fit timestamp"#);
    let halves: ArrayRef = Arc::new(Float64Array::from(vec![7.0, 7.5]));
    let huge: ArrayRef = Arc::new(UInt64Array::from(vec![7, u64::MAX]));
    for key in [halves, huge] {
        let message = refusal([("event_timestamp", times(&[Some(5), Some(5)])), ("user", key)], &["numbers"]);
        assert_eq!(message, r#"row 1 of the spine: the value of column "user" does not fit i64"#);
    }
}

#[test]
fn what_does_not_exist_or_would_have_one_name_is_refused() {
    let columns = || [("event_timestamp", times(&[Some(5)])), ("user", integers(&[7]))];
    assert!(refusal(columns(), &["numbers:y"]).contains(r#"no feature "y""#));
    assert!(refusal(columns(), &["number:x"]).contains(r#"did you mean "numbers"?"#));
    let twice = RecordBatch::try_from_iter([("event_timestamp", times(&[Some(5)])), ("a", integers(&[1])), ("a", integers(&[1]))]).unwrap();
    let error = Spine::of(twice, "event_timestamp").unwrap_err();
    assert_eq!(error.to_string(), r#"the spine has two columns called "a"; rename one of them"#);
    let other = table([("event_timestamp", times(&[Some(5)]))]);
    let one = table([("event_timestamp", times(&[Some(5)])), ("user", integers(&[7]))]);
    assert!(matches!(Spine::new(one.schema(), vec![one, other], "event_timestamp"), Err(JoinError::SpineSchema { batch: 1 })));
}

#[test]
fn integers_of_every_width_and_whole_floats_are_one_key_space() {
    let narrow: ArrayRef = Arc::new(UInt8Array::from(vec![Some(7), Some(8), None]));
    let whole: ArrayRef = Arc::new(Float64Array::from(vec![Some(7.0), Some(8.0), None]));
    let wide = Arc::new(Int64Array::from(vec![Some(7), Some(1 << 40), None])) as ArrayRef;
    for key in [narrow, whole, wide] {
        let plan = plan([("event_timestamp", times(&[Some(5), Some(5), Some(5)])), ("user", key)], &["numbers"]).unwrap();
        assert_eq!(join_x(plan), [Some(70), None, None]);
    }
}

#[test]
fn dates_are_midnights() {
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![0, 1]));
    let plan = plan([("event_timestamp", dates), ("user", integers(&[7, 7]))], &["numbers"]).unwrap();
    assert_eq!(join_x(plan), [None, None], "the one row is 5 µs after the first midnight, and older than the lookback at the second");
}

#[test]
fn a_spine_without_rows_gives_the_columns() {
    let empty = table([("event_timestamp", times(&[])), ("user", integers(&[]))]);
    for batches in [vec![], vec![empty.clone()]] {
        let count = batches.len();
        let plan = plan_of(Spine::new(empty.schema(), batches, "event_timestamp"), &["numbers"]).unwrap();
        let joined = world::run(plan, Memory::new(&views(), &rows())).unwrap();
        assert_eq!(joined.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["event_timestamp", "user", "x"]);
        assert_eq!(
            (joined.rows.collect().unwrap().len(), joined.rows.collect().unwrap().iter().map(RecordBatch::num_rows).sum::<usize>()),
            (count, 0)
        );
    }
}

#[test]
fn the_hint_spans_the_rows_that_have_a_key() {
    let key: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(7)]));
    let plan = plan([("event_timestamp", times(&[Some(100), Some(9_000), Some(300)])), ("user", key)], &["numbers"]).unwrap();
    let hint = &plan.scans().next().unwrap().hint;
    assert_eq!((hint.min_event_time.map(|time| time.micros()), hint.max_event_time.micros()), (Some(90), 300));
    assert_eq!(hint.keys.as_deref(), Some(&KeyHint::Integers(vec![7])));
}

/// Answers every scan with the same two chunks, which are broken in one way.
#[derive(Debug, Clone)]
enum Broken {
    Refuses,
    Fails,
    Lacks(&'static str),
    Replaces(&'static str, ArrayRef),
}

#[async_trait]
impl ViewRows for Broken {
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError> {
        assert_eq!(scan.name, "numbers");
        if matches!(self, Self::Refuses) {
            return Err(cut_short());
        }
        let batch = world::batch(&views()[0], &rows()[0][..1]);
        let good = scan.columns.iter().map(|column| (column.name.clone(), Arc::clone(batch.column_by_name(&column.name).unwrap())));
        // Rows that tie in their times, so that all of the total order is read.
        let chunk = BrokenChunk { columns: good.collect(), broken: self.clone() };
        Ok(ViewChunks { chunks: vec![Arc::new(chunk.clone()), Arc::new(chunk)], ..ViewChunks::default() })
    }
}

fn cut_short() -> ScanError {
    ScanError::from(CoreError::Malformed { what: "file", reason: "it is cut short".to_owned() })
}

#[derive(Debug, Clone)]
struct BrokenChunk {
    columns: Vec<(String, ArrayRef)>,
    broken: Broken,
}

#[async_trait]
impl Chunk for BrokenChunk {
    fn info(&self) -> ChunkInfo {
        let (min_event_time, max_event_time) = (Timestamp::MIN, Timestamp::MAX);
        ChunkInfo { rows: 1, file: 0, sorted: false, min_event_time, max_event_time, tombstones: true }
    }

    fn stored_bytes(&self, _: &[usize]) -> u64 {
        0
    }

    async fn read(&self, columns: &[usize], _: Option<&[Range<usize>]>, _: usize) -> Result<ColumnReader, ScanError> {
        let wanted = columns.iter().map(|place| &self.columns[*place]);
        let column = |(name, good): &(String, ArrayRef)| match &self.broken {
            Broken::Replaces(other, with) if other == name => Some(Arc::clone(with)),
            Broken::Lacks(other) if other == name => None,
            _ => Some(Arc::clone(good)),
        };
        Ok(Box::new(std::iter::once(match self.broken {
            Broken::Fails => Err(cut_short()),
            _ => Ok(wanted.filter_map(column).collect()),
        })))
    }
}

#[test]
fn a_provider_that_fails_is_told_apart_from_one_that_is_wrong() {
    let fail = |broken: Broken| {
        let plan = plan([("event_timestamp", times(&[Some(5)])), ("user", integers(&[7]))], &["numbers"]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(join(Arc::new(plan), Arc::new(broken))).unwrap_err()
    };
    for broken in [Broken::Refuses, Broken::Fails] {
        let error = fail(broken);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(r#"feature view "numbers""#), "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("cut short"));
    }
    for (broken, reason) in [
        (Broken::Lacks("event"), "2 columns where 3 were asked for"),
        (Broken::Lacks("_source"), "2 columns where 3 were asked for"),
        (Broken::Lacks("x"), "0 columns where 1 were asked for"),
        (Broken::Replaces("event", times(&[None])), r#"column "event" is null"#),
        (Broken::Replaces("event", times(&[Some(1), Some(2)])), "a chunk of 1 rows gave 2"),
        (Broken::Replaces("_arrival", times(&[None])), r#"column "_arrival" is null"#),
        (Broken::Replaces("_position", integers(&[-1])), "unlawful source or position"),
        (Broken::Replaces("x", times(&[Some(1)])), r#"column "x""#),
    ] {
        let error = fail(broken);
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn nothing_is_read_where_no_row_has_a_key() {
    let key: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    let plan = plan([("event_timestamp", times(&[Some(5)])), ("user", key)], &["numbers"]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let joined = runtime.block_on(join(Arc::new(plan), Arc::new(Broken::Refuses))).unwrap();
    assert!(joined.rows.collect().unwrap()[0].column_by_name("x").unwrap().is_null(0));
}

#[test]
fn the_default_is_what_was_known_at_the_time() {
    assert_eq!(JoinOptions::default(), world::options(Knowledge::Spine, false));
}
