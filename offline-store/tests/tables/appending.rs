use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::definition::Partition;
use anabranch_core::{Kinded, Span, Timestamp};
use anabranch_offline_store::{Append, Error, OfflineStoreOptions, TableName, TableRows, TableShape, quarantine_shape};
use anabranch_versioning::{Change, Expect, Key, KeyKind, MetadataWrite};
use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use futures::TryStreamExt;
use iceberg::spec::{FormatVersion, ManifestList, TableMetadata};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::support::{World, batch, clicks, clicks_append, clicks_view, expected, layout, layout_of};

fn offset() -> Key {
    Key::new(KeyKind::Offset, &[b"branch", b"pipeline", b"source"]).unwrap()
}

#[tokio::test]
async fn many_tables_an_offset_and_metadata_are_one_commit() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let mut other = clicks_view();
    other.name = "other".into();
    world.create(&layout_of(other)).await;
    let refused = TableName::quarantine("clicks");
    let changes = world.store.create_table(&refused, &quarantine_shape()).await.unwrap();
    let before = world.commit("main", changes).await;

    let rows = |table: TableName, batches| TableRows { table, batches, intervals: vec![] };
    let payload = RecordBatch::try_from_iter([("format", Arc::new(StringArray::from(vec!["json"])) as Arc<dyn Array>)]).unwrap();
    let append = |expect| Append {
        author: "ada".into(),
        message: "batch 7".into(),
        metadata: [("batch".to_owned(), "7".to_owned())].into(),
        tables: vec![
            rows(clicks(), vec![batch(1, 0..5), batch(1, 5..6)]),
            rows(TableName::features("other"), vec![batch(1, 0..2)]),
            rows(refused.clone(), vec![payload.clone()]),
        ],
        extra: vec![Change::Put { key: offset(), value: "6".into(), expect }],
        metadata_writes: vec![MetadataWrite::RaiseMark { name: "published".into(), to: 9 }],
        ..Append::default()
    };
    // An offset that is not where the writer thought: nothing of the batch is visible.
    let error = world.store.append("main", append(Expect::Value("5".into()))).await.unwrap_err();
    assert_eq!(error.kind(), anabranch_core::ErrorKind::Conflict, "{error}");
    assert_eq!(world.head("main").await, before);
    assert!(world.clicks(&before).await.is_empty());

    let appended = world.store.append("main", append(Expect::Absent)).await.unwrap();
    let commit = appended.committed.commit;
    assert_eq!((appended.committed.previous, appended.tables.len()), (before, 3));
    assert_eq!(world.clicks(&commit).await, expected(&[batch(1, 0..6)]));
    assert_eq!(world.repository.get(&commit, &offset()).await.unwrap().unwrap(), "6");
    assert_eq!(world.repository.metadata().mark("published").await.unwrap(), 9);
    let info = world.repository.commit_info(&commit).await.unwrap();
    assert_eq!((info.commit.author.as_str(), info.commit.message.as_str(), info.commit.metadata["batch"].as_str()), ("ada", "batch 7", "7"));
}

#[tokio::test]
async fn an_append_without_rows_makes_only_the_other_changes() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let append = Append { extra: vec![Change::put(offset(), "1")], ..clicks_append(batch(1, 0..0)) };
    let appended = world.store.append("main", append).await.unwrap();
    assert!(appended.tables.is_empty());
    let state = world.store.table(&appended.committed.commit, &clicks()).await.unwrap();
    assert_eq!(state.entry().current_snapshot, None);
}

#[tokio::test]
async fn rows_that_do_not_fit_are_refused_with_the_column() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let before = world.head("main").await;
    let ints: Arc<dyn Array> = Arc::new(Int64Array::from(vec![1, i64::MAX]));
    let text: Arc<dyn Array> = Arc::new(StringArray::from(vec!["a", "b"]));
    let full = batch(1, 1..3);
    let with = |name: &str, column: &Arc<dyn Array>| {
        let schema = full.schema();
        let columns = schema.fields().iter().zip(full.columns()).map(|(field, old)| {
            let column = if field.name() == name { column } else { old };
            (field.name().clone(), Arc::clone(column))
        });
        RecordBatch::try_from_iter(columns.collect::<Vec<_>>()).unwrap()
    };
    let mut keyless = full.clone();
    keyless.remove_column(0);
    for (rows, message) in [
        (with("count", &text), r#"column "count": expected i32, found Utf8"#),
        (with("count", &ints), r#"column "count": the value in row 1 does not fit i32"#),
        (keyless, r#"column "region": row 0 has none, and it is required"#),
        (RecordBatch::try_from_iter([("odd", text.clone())]).unwrap(), r#"the table has no column "odd""#),
    ] {
        let error = world.store.append("main", clicks_append(rows)).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind(), anabranch_core::ErrorKind::InvalidArgument);
    }
    let missing = Append { tables: vec![TableRows { table: TableName::features("none"), batches: vec![], intervals: vec![] }], ..Append::default() };
    assert!(matches!(world.store.append("main", missing).await, Err(Error::NoTable(_))));
    let twice = Append { tables: [clicks_append(full.clone()).tables, clicks_append(full.clone()).tables].concat(), ..Append::default() };
    assert!(matches!(world.store.append("main", twice).await, Err(Error::Rows { .. })));
    assert_eq!(world.head("main").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_two_servers_lose_no_row_and_never_fail_each_other() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for (id, store) in [Arc::clone(&world.store), world.another()].into_iter().enumerate() {
        for writer in 0..2 {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                for step in 0..8 {
                    let rows = batch(id as u32 * 2 + writer, step * 3..step * 3 + 3);
                    store.append("main", clicks_append(rows)).await.unwrap();
                }
            });
        }
    }
    tasks.join_all().await;
    let head = world.head("main").await;
    let all: Vec<_> = (0..4).map(|id| batch(id, 0..24)).collect();
    assert_eq!(world.clicks(&head).await, expected(&all));
    let state = world.store.table(&head, &clicks()).await.unwrap();
    assert_eq!(state.entry().last_sequence_number, 32);
}

#[tokio::test]
async fn a_clock_that_runs_backwards_gives_snapshots_in_order() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.append("main", batch(1, 0..1)).await;
    world.clock.set(Timestamp(1_000));
    world.append("main", batch(1, 1..2)).await;
    world.clock.advance(Span::seconds(1));
    let head = world.append("main", batch(1, 2..3)).await.committed.commit;
    let metadata = world.store.table_metadata(&head, &clicks()).await.unwrap();
    assert!(metadata.history().windows(2).all(|pair| pair[0].timestamp_ms <= pair[1].timestamp_ms));
    assert_eq!(metadata.history().len(), 3);
}

async fn manifests(world: &World, metadata: &TableMetadata) -> ManifestList {
    let list = metadata.current_snapshot().unwrap().manifest_list().to_owned();
    let path = Path::parse(world.store.locations().path(&list).unwrap()).unwrap();
    let bytes = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
    ManifestList::parse_with_version(&bytes, FormatVersion::V2).unwrap()
}

#[tokio::test]
async fn merging_manifests_keeps_their_number_small_and_every_row() {
    let options = OfflineStoreOptions { merge_manifests: 3, ..OfflineStoreOptions::default() };
    let world = World::memory_with(options, |objects| objects).await;
    world.create(&layout(Partition::None)).await;
    let mut rows = Vec::new();
    for step in 0..60 {
        rows.push(batch(1, step..step + 1));
        let commit = world.append("main", rows[step as usize].clone()).await.committed.commit;
        let metadata = world.store.table_metadata(&commit, &clicks()).await.unwrap();
        let list = manifests(&world, &metadata).await;
        // At most two of each of four tiers, and the new one.
        assert!(list.entries().len() <= 9, "{} manifests after {step} commits", list.entries().len());
        let files: u32 = list.entries().iter().map(|m| m.added_files_count.unwrap_or(0) + m.existing_files_count.unwrap_or(0)).sum();
        assert_eq!(u64::from(files), step + 1);
        if step % 20 == 19 {
            assert_eq!(world.clicks(&commit).await, expected(&rows));
        }
    }
    // What was inherited stays what it was: each file has the sequence number and the snapshot of its own commit.
    let head = world.head("main").await;
    let metadata = world.store.table_metadata(&head, &clicks()).await.unwrap();
    let io = world.io();
    let mut seen = BTreeSet::new();
    for manifest in manifests(&world, &metadata).await.entries() {
        for entry in manifest.load_manifest(&io).await.unwrap().entries() {
            let snapshot = metadata.snapshot_by_id(entry.snapshot_id().unwrap()).unwrap();
            assert_eq!(entry.sequence_number(), Some(snapshot.sequence_number()));
            assert!(manifest.min_sequence_number <= snapshot.sequence_number());
            seen.insert(snapshot.sequence_number());
        }
    }
    assert_eq!(seen, (1..=60).collect());
}

#[tokio::test]
async fn outside_readers_are_shown_the_newest_snapshots_only() {
    let options = OfflineStoreOptions { listed_snapshots: 4, ..OfflineStoreOptions::default() };
    let world = World::memory_with(options, |objects| objects).await;
    world.create(&layout(Partition::None)).await;
    for step in 0..7 {
        world.append("main", batch(1, step..step + 1)).await;
    }
    let head = world.head("main").await;
    let metadata = world.store.table_metadata(&head, &clicks()).await.unwrap();
    let listed: BTreeSet<_> = metadata.snapshots().map(|snapshot| snapshot.sequence_number()).collect();
    assert_eq!((listed, metadata.last_sequence_number()), ((4..=7).collect(), 7));
    let summary = &metadata.current_snapshot().unwrap().summary().additional_properties;
    assert_eq!((summary["total-records"].as_str(), summary["added-records"].as_str()), ("7", "1"));
}

/// Objects and bytes that lie in a store.
async fn size(objects: &dyn ObjectStore) -> (usize, u64) {
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    (all.len(), all.iter().map(|meta| meta.size).sum())
}

#[tokio::test]
async fn a_commit_costs_what_it_adds_however_long_the_history() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let mut costs = Vec::new();
    let mut before = size(world.objects.as_ref()).await;
    for step in 0..400 {
        world.append("main", batch(1, step % 8..step % 8 + 1)).await;
        let now = size(world.objects.as_ref()).await;
        costs.push((now.0 - before.0, now.1 - before.1));
        before = now;
    }
    let median = |range: std::ops::Range<usize>| {
        let (mut objects, mut bytes): (Vec<_>, Vec<_>) = costs[range].iter().copied().unzip();
        objects.sort_unstable();
        bytes.sort_unstable();
        (objects[objects.len() / 2], bytes[bytes.len() / 2])
    };
    // A round of 64 commits merges eight times in the lowest tier and once in the next. The first commits are left out: a map that is one node costs less.
    let total = |range: std::ops::Range<usize>| costs[range].iter().map(|(_, bytes)| bytes).sum::<u64>();
    let (early, late) = (median(48..112), median(336..400));
    println!("objects and bytes of a commit: {early:?} early, {late:?} late; of 64 commits: {} and {}", total(48..112), total(336..400));
    assert_eq!(early.0, late.0, "objects of a commit");
    assert!(late.1 * 2 <= early.1 * 3, "{} bytes late, {} early", late.1, early.1);
    assert!(total(336..400) * 2 <= total(48..112) * 3);
    assert_eq!(world.store.table(&world.head("main").await, &clicks()).await.unwrap().entry().last_sequence_number, 400);
}

#[tokio::test]
async fn creating_a_table_that_is_there_is_refused() {
    let world = World::memory().await;
    let shape = TableShape::from(layout(Partition::None).as_ref());
    let (one, two) = (world.store.create_table(&clicks(), &shape).await.unwrap(), world.store.create_table(&clicks(), &shape).await.unwrap());
    world.commit("main", one).await;
    let request = anabranch_versioning::CommitRequest::new("test", "again", two);
    assert!(matches!(world.repository.commit("main", request).await, Err(anabranch_versioning::Error::Expect { .. })));
}
