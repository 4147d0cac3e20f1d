use std::sync::Arc;

use anabranch_core::definition::{Column, Partition, Role};
use anabranch_core::{DataType, Scalar, Timestamp};
use anabranch_offline_store::join::{ScanHint, ViewScan};
use anabranch_offline_store::{ScanRequest, TableName, TableRows, TableShape, quarantine_shape, schema_of};
use anabranch_versioning::{RefSpec, Scan, scan_all};
use arrow::array::{Array, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use futures::TryStreamExt;

use crate::support::{DAY, World, batch, clicks, clicks_append, expected, interval, layout, source, texts};

async fn rows_come_back_on(world: World) {
    world.create(&layout(Partition::None)).await;
    let empty = world.head("main").await;
    let first = world.append("main", batch(1, 0..40)).await.committed.commit;
    world.repository.create_branch("fix", &RefSpec::branch("main"), "test").await.unwrap();
    world.repository.create_tag("v1", &RefSpec::branch("main")).await.unwrap();
    let on_branch = world.append("fix", batch(2, 0..10)).await.committed.commit;
    let on_main = world.append("main", batch(1, 40..50)).await.committed.commit;

    assert!(world.clicks(&empty).await.is_empty());
    assert_eq!(world.clicks(&first).await, expected(&[batch(1, 0..40)]));
    assert_eq!(world.clicks(&on_branch).await, expected(&[batch(1, 0..40), batch(2, 0..10)]));
    assert_eq!(world.clicks(&on_main).await, expected(&[batch(1, 0..50)]));
    let tagged = world.repository.resolve(&RefSpec::tag("v1")).await.unwrap().commit;
    assert_eq!(world.clicks(&tagged).await, expected(&[batch(1, 0..40)]));
    assert_eq!(world.store.tables(&on_main, anabranch_offline_store::Namespace::Features).await.unwrap(), [clicks()]);
}

#[tokio::test]
async fn rows_come_back_at_any_ref_and_branches_are_apart_in_memory() {
    rows_come_back_on(World::memory().await).await;
}

#[tokio::test]
async fn rows_come_back_at_any_ref_and_branches_are_apart_on_disk() {
    rows_come_back_on(World::local().await).await;
}

#[tokio::test]
async fn the_same_commit_gives_the_same_rows_in_the_same_order() {
    let world = World::memory().await;
    world.create(&layout(Partition::Month)).await;
    world.append("main", batch(1, 0..90)).await;
    let commit = world.append("main", batch(2, 0..90)).await.committed.commit;
    let request = ScanRequest::all(clicks(), layout(Partition::None).table_columns());
    let other = world.another();
    let one: Vec<_> = world.store.scan(&commit, &request).await.unwrap().try_collect().await.unwrap();
    let two: Vec<_> = other.scan(&commit, &request).await.unwrap().try_collect().await.unwrap();
    assert_eq!(one, two);
    assert_eq!(texts(&one, &request.columns), expected(&[batch(1, 0..90), batch(2, 0..90)]));
}

#[tokio::test]
async fn partitions_part_the_files_and_each_is_sorted_by_key_and_event_time() {
    for (partition, files) in [(Partition::None, 1), (Partition::Month, 3), (Partition::Day, 80)] {
        let world = World::memory().await;
        world.create(&layout(partition)).await;
        let appended = world.append("main", batch(1, 0..80)).await;
        assert_eq!(appended.tables[0].files.len(), files);
        assert_eq!(world.clicks(&appended.committed.commit).await, expected(&[batch(1, 0..80)]));
        let request = ScanRequest::all(clicks(), layout(partition).table_columns());
        for file in &appended.tables[0].files {
            let stream = world.store.scan_files(&appended.committed.commit, &request, std::slice::from_ref(file)).await.unwrap();
            let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
            let keys: Vec<_> = batches.iter().flat_map(keys).collect();
            assert!(keys.is_sorted(), "{keys:?}");
            assert_eq!(keys.len() as u64, file.rows);
        }
    }
}

fn keys(batch: &RecordBatch) -> Vec<(String, i64, i64)> {
    let region = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap().clone();
    let user = batch.column(1).as_any().downcast_ref::<Int64Array>().unwrap().clone();
    let at = arrow::compute::cast(batch.column(2), &arrow::datatypes::DataType::Int64).unwrap();
    let at = at.as_any().downcast_ref::<Int64Array>().unwrap().clone();
    (0..batch.num_rows()).map(|row| (region.value(row).to_owned(), user.value(row), at.value(row))).collect()
}

#[tokio::test]
async fn a_bounded_scan_leaves_out_what_cannot_matter_and_nothing_else() {
    let world = World::memory().await;
    world.create(&layout(Partition::Day)).await;
    let commit = world.append("main", batch(1, 0..60)).await.committed.commit;
    let mut request = ScanRequest::all(clicks(), layout(Partition::None).table_columns());
    (request.min_event_time, request.max_event_time) = (Some(Timestamp(10 * DAY + 5)), Some(Timestamp(12 * DAY + 5)));
    assert_eq!(world.rows(&commit, &request).await, expected(&[batch(1, 10..13)]));
    request.min_event_time = Some(Timestamp(12 * DAY + 6));
    assert!(world.rows(&commit, &request).await.is_empty());
}

#[tokio::test]
async fn columns_come_in_the_order_asked_for_and_unknown_ones_are_null() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let commit = world.append("main", batch(1, 1..3)).await.committed.commit;
    let column = |name: &str, scalar, role| Column { name: name.into(), data_type: DataType::Scalar(scalar), role };
    let columns = vec![
        column("later", Scalar::Bytes, Role::Feature),
        column("user_id", Scalar::I64, Role::Key),
        column("count", Scalar::I64, Role::Feature),
        column("user_id", Scalar::I64, Role::Key),
    ];
    assert_eq!(world.rows(&commit, &ScanRequest::all(clicks(), columns)).await, ["[null,1,1,1]", "[null,2,2,2]"]);
}

#[tokio::test]
async fn intervals_say_what_is_in_a_table_at_a_commit() {
    let world = World::memory().await;
    world.create(&layout(Partition::Day)).await;
    let first = world.append("main", batch(1, 0..10)).await.committed.commit;
    let mut append = clicks_append(batch(1, 12..15));
    append.tables[0].intervals = vec![interval(1, 10, 19), interval(3, 0, 4)];
    let second = world.store.append("main", append).await.unwrap().committed.commit;
    let third = world.append("main", batch(2, 5..6)).await.committed.commit;

    assert_eq!(world.store.intervals(&first, &clicks(), source(1)).await.unwrap(), [interval(1, 0, 9)]);
    assert_eq!(world.store.intervals(&second, &clicks(), source(1)).await.unwrap(), [interval(1, 0, 19)]);
    assert_eq!(world.store.intervals(&third, &clicks(), source(3)).await.unwrap(), [interval(3, 0, 4)]);
    assert_eq!(world.store.intervals(&third, &clicks(), source(2)).await.unwrap(), [interval(2, 5, 5)]);
    assert!(world.store.intervals(&first, &clicks(), source(2)).await.unwrap().is_empty());
    assert!(world.store.intervals(&first, &TableName::features("none"), source(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_commit_adds_can_be_read_alone() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let empty = world.head("main").await;
    let first = world.append("main", batch(1, 0..10)).await.committed.commit;
    world.append("main", batch(1, 10..20)).await;
    let third = world.append("main", batch(1, 20..30)).await.committed.commit;
    let request = ScanRequest::all(clicks(), layout(Partition::None).table_columns());

    for (from, rows) in [(None, 0..30), (Some(&empty), 0..30), (Some(&first), 10..30), (Some(&third), 30..30)] {
        let added = world.store.added_files(from, &third, &clicks()).await.unwrap();
        let batches: Vec<_> = world.store.scan_files(&third, &request, &added.files).await.unwrap().try_collect().await.unwrap();
        assert_eq!(texts(&batches, &request.columns), expected(&[batch(1, rows)]));
        assert!(!added.removed);
    }
    let back = world.store.added_files(Some(&third), &first, &clicks()).await.unwrap();
    assert!(back.removed && back.files.is_empty());
}

#[tokio::test]
async fn a_dropped_table_is_gone_at_the_head_and_there_before() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let before = world.append("main", batch(1, 0..10)).await.committed.commit;
    let mut changes = world.store.drop_table(&before, &clicks()).await.unwrap();
    let gone = world.commit("main", changes.split_off(0)).await;
    assert!(world.store.table(&gone, &clicks()).await.unwrap_err().to_string().contains("no table features.clicks"));
    assert!(scan_all(&world.repository.at(&gone).await.unwrap(), Scan::all()).await.unwrap().is_empty());
    assert_eq!(world.clicks(&before).await.len(), 10);

    // Made anew it is another table: nothing of the old one comes back.
    world.create(&layout(Partition::None)).await;
    let anew = world.head("main").await;
    assert!(world.clicks(&anew).await.is_empty());
    let difference = world.store.added_files(Some(&before), &anew, &clicks()).await.unwrap();
    assert!(difference.removed && difference.files.is_empty());
}

#[tokio::test]
async fn quarantine_keeps_the_original_bytes() {
    let world = World::memory().await;
    let name = TableName::quarantine("clicks");
    let changes = world.store.create_table(&name, &quarantine_shape()).await.unwrap();
    world.commit("main", changes).await;
    let rows = RecordBatch::try_from_iter([
        ("payload", Arc::new(BinaryArray::from(vec![Some(&b"\0\xff{"[..]), Some(b"{}")])) as Arc<dyn Array>),
        ("format", Arc::new(StringArray::from(vec!["json", "json"]))),
        ("failures", Arc::new(StringArray::from(vec!["[]", "[1]"]))),
        ("_source", Arc::new(Int64Array::from(vec![4, 4]))),
        ("_position", Arc::new(Int64Array::from(vec![8, 7]))),
    ])
    .unwrap();
    let append = anabranch_offline_store::Append {
        tables: vec![TableRows { table: name.clone(), batches: vec![rows], intervals: vec![] }],
        ..clicks_append(batch(1, 0..0))
    };
    let commit = world.store.append("main", append).await.unwrap().committed.commit;
    let request = ScanRequest::all(name.clone(), quarantine_shape().columns().to_vec());
    assert_eq!(
        world.rows(&commit, &request).await,
        [r#"["AP97","json","[]",null,null,null,4,8,null]"#, r#"["e30=","json","[1]",null,null,null,4,7,null]"#]
    );
    assert_eq!(world.store.intervals(&commit, &name, source(4)).await.unwrap(), [interval(4, 7, 8)]);
}

#[tokio::test]
async fn a_join_reads_a_view_through_its_provider() {
    let world = World::memory().await;
    let layout = layout(Partition::None);
    world.create(&layout).await;
    let commit = world.append("main", batch(1, 0..20)).await.committed.commit;
    let hint = ScanHint { min_event_time: None, max_event_time: Timestamp::MAX, keys: None };
    let scan = ViewScan { name: "alias".into(), layout: Arc::clone(&layout), columns: layout.table_columns(), hint };
    let all: Vec<usize> = (0..scan.columns.len()).collect();
    let mut batches = Vec::new();
    for chunk in world.store.view_rows(commit).chunks(&scan).await.unwrap().chunks {
        assert!(chunk.info().sorted);
        for columns in chunk.read(&all, None, 8).await.unwrap() {
            batches.push(RecordBatch::try_new(schema_of(&scan.columns), columns.unwrap()).unwrap());
        }
    }
    assert_eq!(texts(&batches, &scan.columns), expected(&[batch(1, 0..20)]));
}

#[tokio::test]
async fn a_chunk_says_whether_a_row_of_it_may_be_a_tombstone() {
    let world = World::memory().await;
    let layout = layout(Partition::None);
    world.create(&layout).await;
    let hint = ScanHint { min_event_time: None, max_event_time: Timestamp::MAX, keys: None };
    let scan = ViewScan { name: "clicks".into(), layout: Arc::clone(&layout), columns: layout.table_columns(), hint };
    // The tombstones of each file, and in how many of all files there may be some by then.
    let files = [
        ([None, None], 0),
        ([Some(false), Some(false)], 0),
        ([Some(false), None], 0),
        ([Some(true), Some(true)], 1),
        ([Some(false), Some(true)], 2),
        ([None, Some(true)], 3),
    ];
    for (first, (tombstones, expected)) in (0..).step_by(2).zip(files) {
        let rows = batch(1, first..first + 2);
        let mut columns = rows.columns().to_vec();
        *columns.last_mut().unwrap() = Arc::new(BooleanArray::from(tombstones.to_vec()));
        let commit = world.append("main", RecordBatch::try_new(rows.schema(), columns).unwrap()).await.committed.commit;
        let chunks = world.store.view_rows(commit).chunks(&scan).await.unwrap().chunks;
        assert_eq!(chunks.iter().filter(|chunk| chunk.info().tombstones).count(), expected, "{tombstones:?}");
    }
}

#[tokio::test]
async fn the_shape_of_a_view_is_its_columns_and_the_reserved_ones() {
    let layout = layout(Partition::Day);
    assert_eq!(TableShape::from(layout.as_ref()).columns(), layout.table_columns());
}
