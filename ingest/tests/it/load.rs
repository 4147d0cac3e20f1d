use std::sync::Arc;

use anabranch_core::{ErrorKind, Kinded};
use anabranch_ingest::{FileInput, FileLoad, FileOptions, Loaded, Result, StreamLoad, Visibility};
use anabranch_versioning::RefSpec;
use arrow::array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use bytes::Bytes;

use crate::world::{LONG, Parts, World, definitions, weather};

pub(crate) fn csv(range: std::ops::Range<i64>, temp: f64) -> String {
    let rows = range.map(|n| format!("a{},1970-01-01T00:00:{:02},{temp},{n}\n", n % 5, n % 60)).collect::<String>();
    format!("origin,hour,temp,n\n{rows}")
}

pub(crate) async fn load(world: &World, branch: &str, name: &str, content: impl Into<Bytes>) -> Result<Loaded> {
    let input = FileInput::Bytes { name: name.to_owned(), bytes: content.into() };
    let options = FileOptions { batch_rows: 16, ..FileOptions::default() };
    let load = FileLoad { view: "weather".into(), input, options, author: "ada".into(), message: String::new() };
    world.ingest.load_file(branch, load).await
}

fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let hours = TimestampMicrosecondArray::from_iter_values(range.clone()).with_timezone("UTC");
    RecordBatch::try_from_iter([
        ("origin", Arc::new(StringArray::from_iter_values(range.clone().map(|n| format!("a{}", n % 3)))) as Arc<dyn Array>),
        ("hour", Arc::new(hours)),
        ("temp", Arc::new(Float64Array::from_iter_values(range.clone().map(|_| 1.0)))),
        ("n", Arc::new(Int64Array::from_iter_values(range))),
    ])
    .unwrap()
}

#[tokio::test]
async fn a_file_is_committed_and_online_when_it_is_acknowledged_and_never_in_twice() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let content = format!("{}a1,noon,1,100\na2,1970-01-01,99,101\n", csv(0..40, 20.0));
    let loaded = load(&world, "main", "w.csv", content.clone()).await.unwrap();
    assert_eq!((loaded.rows, loaded.quarantined, loaded.duplicates, loaded.token.next), (40, 2, 0, 42));
    assert_eq!(world.ingest.served().unwrap().commit, loaded.commit);
    world.ingest.wait_visible(&loaded.token, Visibility::Online, LONG).await.unwrap();
    let again = load(&world, "main", "renamed.csv", content.clone()).await.unwrap();
    assert_eq!((again.rows, again.quarantined, again.duplicates, again.source, again.commit), (0, 0, 42, loaded.source, loaded.commit));
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await, (0..40).collect::<Vec<_>>());
    // Under other definitions it is another source, and its rows are corrections.
    world.apply(definitions(10)).await.unwrap();
    let other = load(&world, "main", "w.csv", content).await.unwrap();
    assert_ne!(other.source, loaded.source);
    assert_eq!((other.rows, other.quarantined), (0, 42));
    world.check_law().await;
}

#[tokio::test]
async fn a_large_file_is_committed_in_parts_and_one_that_is_damaged_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Parts::in_memory(folder.path());
    parts.config.bulk_bytes = 4_000;
    let world = World::open(parts).await;
    world.apply(definitions(60)).await.unwrap();
    let before = world.head().await;
    let damaged = [csv(0..200, 1.0).as_bytes(), b"a1,1970-01-01,1,\xff\n"].concat();
    let error = load(&world, "main", "bad.csv", damaged).await.unwrap_err();
    assert!(error.to_string().contains("bad.csv") && error.to_string().contains("UTF-8"), "{error}");
    assert_eq!(world.head().await, before, "nothing of it is in");
    let loaded = load(&world, "main", "good.csv", csv(0..200, 1.0)).await.unwrap();
    assert_eq!(loaded.rows, 200);
    assert!(world.repository.log(&anabranch_versioning::LogQuery::new(loaded.commit, 100)).await.unwrap().commits.len() > 4, "in parts");
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_loads_of_one_file_at_once_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let (a, b) = tokio::join!(load(&world, "main", "a.csv", csv(0..50, 1.0)), load(&world, "main", "b.csv", csv(0..50, 1.0)));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.source, a.rows + b.rows, a.duplicates + b.duplicates), (b.source, 50, 50));
    world.check_law().await;
    world.check_positions().await;
}

#[tokio::test]
async fn a_file_loaded_on_a_branch_is_in_after_the_merge() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.repository.create_branch("fix", &RefSpec::branch("main"), "ada").await.unwrap();
    load(&world, "fix", "w.csv", csv(0..20, 1.0)).await.unwrap();
    assert!(world.offline_ids("weather").await.is_empty());
    let request = anabranch_versioning::MergeRequest::new(RefSpec::branch("fix"), "ada");
    world.ingest.merge("main", request).await.unwrap();
    let again = load(&world, "main", "w.csv", csv(0..20, 1.0)).await.unwrap();
    assert_eq!((again.rows, again.duplicates), (0, 20));
    world.check_law().await;
    world.check_positions().await;
}

#[tokio::test]
async fn a_stream_takes_batches_in_order_once_and_again_after_it_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Parts::in_memory(folder.path());
    parts.config.bulk_bytes = 1_000;
    let world = World::open(parts).await;
    world.apply(definitions(60)).await.unwrap();
    let begin = || {
        world
            .ingest
            .load_stream("main", StreamLoad { view: "weather".into(), stream_id: "backfill-1".into(), author: "ada".into(), message: String::new() })
    };
    let mut stream = begin().await.unwrap();
    stream.write(Some(0), batch(0..30)).await.unwrap();
    stream.write(Some(0), batch(0..30)).await.unwrap();
    assert_eq!(stream.write(Some(2), batch(0..1)).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    stream.write(Some(1), batch(30..60)).await.unwrap();
    drop(stream);
    let broken = world.offline_ids("weather").await;
    assert_eq!(broken, (0..60).collect::<Vec<_>>(), "the parts that were committed are in");
    let mut stream = begin().await.unwrap();
    for (number, range) in [(0, 0..30), (1, 30..60), (2, 60..90)] {
        stream.write(Some(number), batch(range)).await.unwrap();
    }
    let loaded = stream.finish().await.unwrap();
    assert_eq!((loaded.rows, loaded.duplicates), (30, 60));
    let mut odd = begin().await.unwrap();
    let unknown = RecordBatch::try_from_iter([("rain", batch(0..1).column(2).clone())]).unwrap();
    assert_eq!(odd.write(None, unknown).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    drop(odd);
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await, (0..90).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_load_beside_a_stream_of_pushes_leaves_both_stores_agreeing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let pushes = async {
        for n in 1000..1060 {
            world.push("weather", weather(&format!("a{}", n % 5), n, 3.0, n)).await.unwrap();
        }
    };
    let loads = async {
        for i in 0..3 {
            load(&world, "main", "w.csv", csv(i * 100..i * 100 + 50, 1.0)).await.unwrap();
        }
    };
    tokio::join!(pushes, loads);
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await.len(), 210);
}
