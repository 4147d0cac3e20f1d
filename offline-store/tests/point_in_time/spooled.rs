//! Rows that are put aside: they come back as they went in, within their limits, and leave nothing behind.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::selection::Selection;
use anabranch_core::{ErrorKind, Kinded, Scalar, Timestamp, Value};
use anabranch_offline_store::join::{JoinError, JoinLimits, JoinOptions, JoinPlan, SpillFiles, Spine, Spool, SpoolLimits, join_within};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::DataType as ArrowType;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{self, Memory, Use, ViewSpec, cut, data_type, definitions, table};

fn spool(batch: &RecordBatch, memory_bytes: usize, total_bytes: u64, files: SpillFiles) -> Spool {
    Spool::new(batch.schema(), SpoolLimits { memory_bytes, total_bytes, reserve: None, files })
}

fn on_disk() -> SpillFiles {
    Arc::new(tempfile::tempfile)
}

/// A device that is always full.
fn full() -> SpillFiles {
    Arc::new(|| File::options().read(true).write(true).open("/dev/full"))
}

fn rows(texts: &[Option<String>]) -> RecordBatch {
    let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::String);
    let texts: ArrayRef = column_of(data_type("string"), &texts.iter().map(text).collect::<Vec<_>>()).unwrap();
    let numbers = column_of(data_type("i64"), &(0..texts.len() as i64).map(Value::I64).collect::<Vec<_>>()).unwrap();
    let lists = (0..texts.len() as i64).map(|n| if n % 3 == 0 { Value::Null } else { Value::List((0..n % 5).map(Value::I64).collect()) });
    let dictionary = ArrowType::Dictionary(Box::new(ArrowType::Int16), Box::new(ArrowType::Utf8));
    table([
        ("number", numbers),
        ("view", cast(&texts, &ArrowType::Utf8View).unwrap()),
        ("dictionary", cast(&texts, &dictionary).unwrap()),
        ("list", column_of(data_type("list<i64>"), &lists.collect::<Vec<_>>()).unwrap()),
        ("text", texts),
    ])
}

proptest! {
    #[test]
    fn rows_come_back_as_they_went_in_whatever_the_memory(
        texts in vec(proptest::option::weighted(0.9, "[a-z]{0,20}"), 1..200),
        batch_rows in 1_usize..50,
        memory_bytes in prop_oneof![Just(0), 0_usize..20_000, Just(usize::MAX)],
    ) {
        let batch = rows(&texts);
        let mut spool = spool(&batch, memory_bytes, u64::MAX, on_disk());
        for batch in cut(&batch, batch_rows) {
            spool.push(batch).unwrap();
        }
        let spooled = spool.finish().unwrap();
        prop_assert_eq!(spooled.rows(), texts.len());
        prop_assert!(spooled.held().is_none() || memory_bytes > 0);
        prop_assert!(spooled.held().is_some() || memory_bytes < usize::MAX);
        for columns in [None, Some(vec![1_usize, 3]), Some(vec![2]), Some(vec![])] {
            let expected = columns.as_ref().map_or_else(|| batch.clone(), |columns| batch.project(columns).unwrap());
            let read: Vec<_> = spooled.batches(columns.as_deref()).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), texts.len());
            if expected.num_columns() > 0 {
                prop_assert_eq!(concat_batches(&expected.schema(), &read).unwrap(), expected);
            }
        }
    }
}

#[test]
fn more_than_is_allowed_is_refused_wherever_it_lies() {
    let batch = rows(&vec![Some("abc".to_owned()); 100]);
    for memory_bytes in [0, usize::MAX] {
        let mut spool = spool(&batch, memory_bytes, 20_000, on_disk());
        let refused = (0..100).find_map(|_| spool.push(batch.clone()).err()).unwrap();
        assert!(matches!(refused, JoinError::SpoolTooLarge { limit: 20_000 }), "{refused:?}");
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
    }
}

#[test]
fn memory_that_cannot_be_had_sends_rows_to_disk_and_is_given_back() {
    let batch = rows(&vec![Some("abc".to_owned()); 100]);
    let held = Arc::new(());
    let granted = Arc::clone(&held);
    let reserve = move |bytes: usize| Arc::strong_count(&granted) > 0 && bytes < 30_000;
    let limits = SpoolLimits { memory_bytes: usize::MAX, total_bytes: u64::MAX, reserve: Some(Box::new(reserve)), files: on_disk() };
    let mut spool = Spool::new(batch.schema(), limits);
    spool.push(batch.clone()).unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    let large = rows(&vec![Some("abc".to_owned()); 10_000]);
    spool.push(large.clone()).unwrap();
    assert_eq!(Arc::strong_count(&held), 1, "what lies on disk needs no memory");
    let spooled = spool.finish().unwrap();
    let read: Vec<_> = spooled.batches(None).collect::<Result<_, _>>().unwrap();
    assert_eq!(concat_batches(&batch.schema(), &read).unwrap(), concat_batches(&batch.schema(), [&batch, &large]).unwrap());
}

#[test]
fn batches_of_other_columns_are_refused() {
    let batch = rows(&[None]);
    let mut spool = spool(&batch, 0, u64::MAX, on_disk());
    spool.push(batch.clone()).unwrap();
    let refused = spool.push(batch.project(&[0]).unwrap()).unwrap_err();
    assert!(matches!(refused, JoinError::SpineSchema { batch: 1 }), "{refused:?}");
}

fn spine() -> RecordBatch {
    let times: Vec<_> = (0..1_000).map(|t| Value::Timestamp(Timestamp(t))).collect();
    let users: Vec<_> = (0..1_000).map(|n| Value::I64(n % 7)).collect();
    table([("event_timestamp", column_of(data_type("timestamp"), &times).unwrap()), ("user", column_of(data_type("i64"), &users).unwrap())])
}

fn plan(spine: Spine) -> Arc<JoinPlan> {
    let definitions = definitions(&[view()], &[Use { view: 0, alias: None, columns: vec!["user"] }]);
    Arc::new(JoinPlan::new(spine, &Selection::Service("all".to_owned()), &definitions, JoinOptions::default()).unwrap())
}

fn view() -> ViewSpec {
    ViewSpec { name: "view", keys: vec![("user", Scalar::I64)], known: false, lookback: None, features: vec![("x", data_type("i64"))] }
}

#[test]
fn a_full_disk_is_an_error_at_every_step() {
    let batch = spine();
    let mut aside = spool(&batch, 0, u64::MAX, full());
    let pushed = (0..1_000).find_map(|_| aside.push(batch.clone()).err());
    let refused = pushed.or_else(|| aside.finish().err()).unwrap();
    assert_eq!((refused.kind(), matches!(refused, JoinError::Spill(_))), (ErrorKind::Exhausted, true), "{refused:?}");
    // The files in which the keys, and then the features, are put aside.
    for at in 0..2 {
        let made = std::sync::atomic::AtomicUsize::new(0);
        let files = move || match made.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == at {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => tempfile::tempfile(),
        };
        let plan = plan(world::spooled_spine(&batch, 100, 0).unwrap());
        let refused = world::run_spilling_to(plan, Memory::new(&[view()], &[Vec::new()]), 100, files).unwrap_err();
        assert_eq!((refused.kind(), matches!(refused, JoinError::Spill(_))), (ErrorKind::Exhausted, true), "{refused:?}");
    }
}

/// How many files of a folder this process has open, those without names included.
fn open_files(folder: &Path) -> usize {
    let of_folder = |link: io::Result<std::fs::DirEntry>| std::fs::read_link(link.unwrap().path()).is_ok_and(|path| path.starts_with(folder));
    std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|link| of_folder(link).then_some(())).count()
}

#[tokio::test]
async fn a_join_that_is_let_go_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_owned();
    let files: SpillFiles = Arc::new(move || tempfile::tempfile_in(&at));
    let batch = spine();
    let mut aside = spool(&batch, 0, u64::MAX, Arc::clone(&files));
    aside.push(batch.clone()).unwrap();
    let plan = plan(Spine::spooled(aside.finish().unwrap(), Spine::DEFAULT_TIME_COLUMN).unwrap());
    assert_eq!(open_files(folder.path()), 1);
    let limits = JoinLimits { memory_bytes: usize::MAX, part_rows: 100, spill: files };
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let join = tokio::spawn(async move { join_within(plan, Arc::new(world::Silent::new(asked)), &limits).await });
    was_asked.await.unwrap();
    assert!(open_files(folder.path()) > 1, "keys are put aside before a view is asked");
    join.abort();
    assert!(join.await.unwrap_err().is_cancelled());
    assert_eq!((open_files(folder.path()), std::fs::read_dir(folder.path()).unwrap().count()), (0, 0));
}
