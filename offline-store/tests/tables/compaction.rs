//! Compaction changes no row, whatever it meets.

mod gate;
mod laws;
mod merging;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView, Partition};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, ErrorKind, Kinded, Scalar};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Knowledge, Spine, join};
use anabranch_offline_store::{
    CompactOptions, Compaction, CompactionOutcome, CompactionScope, Error, OfflineStoreOptions, ScanRequest, TableName, TableRows, TableShape,
    quarantine_shape,
};
use anabranch_versioning::{CommitId, RefSpec};
use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use futures::TryStreamExt;
use iceberg::Catalog;
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use object_store::ObjectStore;

use crate::evolution::{evolve, widened};
use crate::faults::Failing;
use crate::support::{DAY, World, batch, clicks, clicks_append, clicks_view, expected, interval, layout, layout_of, source};

pub(crate) fn full() -> CompactOptions {
    CompactOptions { scope: CompactionScope::Full, ..CompactOptions::default() }
}

pub(crate) async fn compact(world: &World, options: &CompactOptions) -> Compaction {
    world.store.compact("main", &clicks(), options).await.unwrap()
}

/// A table of so many commits of ten rows.
pub(crate) async fn many_small(world: &World, partition: Partition, commits: u64) -> Vec<String> {
    world.create(&layout(partition)).await;
    for step in 0..commits {
        world.append("main", batch(1, step * 10..step * 10 + 10)).await;
    }
    expected(&[batch(1, 0..commits * 10)])
}

#[tokio::test]
async fn small_files_become_one_and_ten_compactions_do_nothing_after_the_first() {
    for scope in [CompactionScope::Small, CompactionScope::Full] {
        let world = World::memory().await;
        let rows = many_small(&world, Partition::None, 12).await;
        let before = world.head("main").await;
        let options = CompactOptions { scope, ..CompactOptions::default() };
        let done = compact(&world, &options).await;
        assert_eq!((&done.outcome, done.files_before, done.files_after, done.rows), (&CompactionOutcome::Compacted, 12, 1, 120));
        assert!(done.bytes_after < done.bytes_before && done.commits.len() == 1, "{done:?}");
        let head = world.head("main").await;
        assert_eq!(done.commits, [head]);
        assert_eq!(world.clicks(&head).await, rows);
        // Nothing was taken from the commits before.
        assert_eq!(world.clicks(&before).await, rows);
        for _ in 0..10 {
            let again = compact(&world, &options).await;
            assert_eq!((again.outcome, again.files_before, again.files_after), (CompactionOutcome::Nothing, 1, 1));
        }
        assert_eq!(world.head("main").await, head);
    }
}

#[tokio::test]
async fn each_partition_is_compacted_by_itself_and_a_full_one_leaves_what_is_settled() {
    let world = World::memory().await;
    let mut rows = many_small(&world, Partition::Month, 9).await;
    let done = compact(&world, &full()).await;
    assert_eq!((done.files_after, done.commits.len()), (3, 3));
    // Only the month that got more is done again.
    world.append("main", batch(2, 0..5)).await;
    rows.extend(expected(&[batch(2, 0..5)]));
    rows.sort();
    let again = compact(&world, &full()).await;
    assert_eq!((again.files_before, again.files_after, again.commits.len()), (4, 3, 1));
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
    assert_eq!(compact(&world, &full()).await.outcome, CompactionOutcome::Nothing);
}

#[tokio::test]
async fn rows_beyond_the_memory_are_sorted_on_disk_and_cut_into_files_that_are_apart() {
    let world = World::memory().await;
    let layout = wide();
    world.create(&layout).await;
    let name = TableName::features("wide");
    let columns = layout.table_columns();
    let rows = |step: i64| {
        let keys: Vec<i64> = (0..8_000).map(|row| (row * 7_919 + step * 31) % 1_000).collect();
        let times: Vec<i64> = (0..8_000).map(|row| (row * 104_729 + step) % 1_000_000).collect();
        let text: Vec<String> = (0..8_000).map(|row| format!("{:064}", row * step)).collect();
        RecordBatch::try_from_iter([
            ("user_id", Arc::new(Int64Array::from(keys)) as _),
            ("at", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) as _),
            ("text", Arc::new(StringArray::from(text)) as _),
        ])
        .unwrap()
    };
    for step in 0..8 {
        let tables = vec![TableRows { table: name.clone(), batches: vec![rows(step)], intervals: vec![interval(1, 0, 9)] }];
        world.store.append("main", anabranch_offline_store::Append { tables, ..clicks_append(batch(1, 0..0)) }).await.unwrap();
    }
    let before = world.rows(&world.head("main").await, &ScanRequest::all(name.clone(), columns.clone())).await;
    // Some 8 MB of rows through 4 MiB.
    let spill = tempfile::tempdir().unwrap();
    let options = CompactOptions { memory_bytes: 8 << 20, target_bytes: 16 << 10, spill: Some(spill.path().join("spill")), ..full() };
    let done = world.store.compact("main", &name, &options).await.unwrap();
    assert!(done.files_after > 4, "{done:?}");
    let head = world.head("main").await;
    assert_eq!(world.rows(&head, &ScanRequest::all(name.clone(), columns.clone())).await, before);
    // Whatever was spilled is gone.
    let left: Vec<_> = walk(spill.path());
    assert!(left.is_empty(), "{left:?}");
    // The files are apart: in the order in which they were written, no key lies before one of an earlier file.
    let batches: Vec<RecordBatch> = world.store.scan(&head, &ScanRequest::all(name, columns)).await.unwrap().try_collect().await.unwrap();
    let mut spans: Vec<(i64, i64)> = Vec::new();
    for batch in &batches {
        let keys = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values();
        assert!(keys.is_sorted());
        spans.push((keys[0], keys[keys.len() - 1]));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
}

fn wide() -> Arc<anabranch_core::definition::ViewLayout> {
    let view = FeatureView::new("wide", "at").entity("user").field("text", DataType::Scalar(Scalar::String));
    let user = Entity::new("user", "user_id", Scalar::I64);
    [Definition::Entity(user), Definition::FeatureView(view)].into_iter().collect::<Definitions>().layout("wide").unwrap()
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn what_came_since_a_commit_is_what_was_appended_and_positions_stay_in() {
    let world = World::memory().await;
    many_small(&world, Partition::None, 3).await;
    let mut append = clicks_append(batch(2, 0..5));
    // Positions 5 to 9 were refused on the way.
    append.tables[0].intervals = vec![interval(2, 0, 9)];
    let before = world.store.append("main", append).await.unwrap().committed.commit;
    let compacted = compact(&world, &full()).await.commits[0];
    let after = world.append("main", batch(3, 0..4)).await.committed.commit;
    for commit in [before, compacted, after] {
        assert_eq!(world.store.intervals(&commit, &clicks(), source(1)).await.unwrap(), [interval(1, 0, 29)]);
        assert_eq!(world.store.intervals(&commit, &clicks(), source(2)).await.unwrap(), [interval(2, 0, 9)]);
    }
    // The new file alone says so, too.
    let entry = snapshot_at(&world, &compacted).await;
    assert!(entry.only_rewrites());
    assert_eq!(entry.files.len(), 1);
    assert_eq!((entry.files[0].rows, &entry.files[0].intervals), (35, &vec![interval(1, 0, 29), interval(2, 0, 9)]));

    let added = |from: Option<CommitId>, to: CommitId| {
        let store = Arc::clone(&world.store);
        async move { store.added_files(from.as_ref(), &to, &clicks()).await.unwrap() }
    };
    let none = added(Some(before), compacted).await;
    assert!(none.files.is_empty() && !none.removed);
    let back = added(Some(compacted), before).await;
    assert!(back.files.is_empty() && !back.removed);
    let one = added(Some(before), after).await;
    assert_eq!((one.files.len(), one.files[0].rows, one.removed), (1, 4, false));
    let all = added(None, after).await;
    assert_eq!(all.files.iter().map(|file| file.rows).sum::<u64>(), 39);
    // Each of these files reads, though none but the last is in the table's current snapshot.
    let request = ScanRequest::all(clicks(), layout(Partition::None).table_columns());
    let batches: Vec<RecordBatch> = world.store.scan_files(&after, &request, &all.files).await.unwrap().try_collect().await.unwrap();
    assert_eq!(crate::support::texts(&batches, &request.columns), world.clicks(&after).await);
}

pub(crate) async fn snapshot_at(world: &World, commit: &CommitId) -> anabranch_offline_store::SnapshotEntry {
    let table = world.store.table(commit, &clicks()).await.unwrap();
    let key = anabranch_offline_store::entry::snapshot_key(table.entry().uuid, table.entry().current_snapshot.unwrap()).unwrap();
    let bytes = world.repository.get(commit, &key).await.unwrap().unwrap();
    anabranch_offline_store::SnapshotEntry::decode(&bytes).unwrap()
}

#[tokio::test]
async fn rows_of_an_outside_engine_get_their_reserved_columns_written_out() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.append("main", batch(1, 0..3)).await;
    let catalog = crate::outside::catalog(&world, "main");
    let table = catalog.load_table(&crate::outside::ident()).await.unwrap();
    let files = [crate::outside::write_bare(&table, "a", &[8, 7]).await, crate::outside::write_bare(&table, "b", &[9]).await].concat();
    let transaction = Transaction::new(&table);
    let transaction = transaction.fast_append().add_data_files(files).apply(transaction).unwrap();
    transaction.commit(&catalog).await.unwrap();
    let rows = world.clicks(&world.head("main").await).await;

    // Small or not: their files are not in the table's own form.
    let done = compact(&world, &CompactOptions { small_bytes: 0, ..CompactOptions::default() }).await;
    assert_eq!((done.files_before, done.files_after, done.rows), (3, 2, 3));
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
    // Iceberg's own reader, which knows of no entry of ours, reads the same now.
    let table = catalog.load_table(&crate::outside::ident()).await.unwrap();
    assert_eq!(crate::outside::read_by_iceberg(&table).await, rows);
    assert_eq!(compact(&world, &CompactOptions { small_bytes: 0, ..CompactOptions::default() }).await.outcome, CompactionOutcome::Nothing);
}

#[tokio::test]
async fn icebergs_own_reader_reads_the_result_and_appends_go_on_behind_it() {
    let world = World::memory_with(OfflineStoreOptions { merge_manifests: 2, ..OfflineStoreOptions::default() }, |objects| objects).await;
    let mut rows = many_small(&world, Partition::Month, 6).await;
    let mut step = 0;
    for round in 0..3 {
        compact(&world, &full()).await;
        for _ in 0..4 {
            rows.extend(expected(&[batch(5, step..step + 3)]));
            world.append("main", batch(5, step..step + 3)).await;
            step += 3;
        }
        rows.sort();
        let table = crate::outside::catalog(&world, "main").load_table(&crate::outside::ident()).await.unwrap();
        assert_eq!(crate::outside::read_by_iceberg(&table).await, rows, "round {round}");
        assert_eq!(world.clicks(&world.head("main").await).await, rows);
    }
}

#[tokio::test]
async fn pyiceberg_reads_the_result_at_every_commit() {
    let world = World::local().await;
    many_small(&world, Partition::Month, 5).await;
    let before = world.head("main").await;
    evolve(&world, "main", widened()).await;
    let mut narrow = batch(2, 0..20);
    narrow.remove_column(6);
    world.append("main", narrow).await;
    compact(&world, &full()).await;
    let after = world.head("main").await;
    for (commit, layout) in [(before, layout(Partition::None)), (after, layout_of(widened()))] {
        let columns = layout.table_columns();
        let ours = world.rows(&commit, &ScanRequest::all(clicks(), columns.clone())).await;
        let metadata = world.store.metadata_json(&commit, &clicks()).await.unwrap();
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        let theirs = crate::pyiceberg::read_by_pyiceberg(&world, &metadata, &names);
        assert_eq!(theirs, crate::pyiceberg::canonical(&ours), "at {commit}");
    }
}

#[tokio::test]
async fn a_join_gives_the_same_rows_before_and_after() {
    let world = World::memory().await;
    many_small(&world, Partition::Month, 8).await;
    // Ties in everything but arrival, source and position.
    world.append("main", batch(2, 0..80)).await;
    let before = world.head("main").await;
    compact(&world, &full()).await;
    let after = world.head("main").await;
    let (one, two) = (joined(&world, before).await, joined(&world, after).await);
    assert_eq!(one, two);
    assert!(one.iter().any(|batch| batch.columns().last().unwrap().null_count() < batch.num_rows()));
}

async fn joined(world: &World, commit: CommitId) -> Vec<RecordBatch> {
    let user = Entity::new("user", "user_id", Scalar::I64).join_key("region", Scalar::String);
    let definitions: Definitions = [Definition::Entity(user), Definition::FeatureView(clicks_view())].into_iter().collect();
    let times: Vec<i64> = (0..400).map(|row| row * DAY / 4 + 7).collect();
    let users: Vec<i64> = (0..400).map(|row| row % 6).collect();
    let regions: Vec<_> = (0..400).map(|row| ["eu", "us"][row % 2]).collect();
    let time = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    let schema = Arc::new(Schema::new(vec![
        Field::new("user_id", arrow::datatypes::DataType::Int64, false),
        Field::new("region", arrow::datatypes::DataType::Utf8, false),
        Field::new(Spine::DEFAULT_TIME_COLUMN, time.data_type().clone(), false),
    ]));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(users)), Arc::new(StringArray::from(regions)), time]).unwrap();
    let spine = Spine::new(schema, vec![batch], Spine::DEFAULT_TIME_COLUMN).unwrap();
    let options = JoinOptions { knowledge: Knowledge::Spine, strict: false, full_names: false };
    let selection = Selection::Features(vec!["clicks".to_owned()]);
    let plan = JoinPlan::new(spine, &selection, &definitions, options).unwrap();
    join(Arc::new(plan), world.store.view_rows(commit)).await.unwrap().rows.collect().unwrap()
}

#[tokio::test]
async fn columns_that_came_widened_or_went_between_the_inputs_are_as_they_read() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.append("main", batch(1, 0..20)).await;
    evolve(&world, "main", widened()).await;
    let mut narrow = batch(2, 0..20);
    narrow.remove_column(6);
    world.append("main", narrow).await;
    // `tags` comes again, as another column.
    evolve(&world, "main", widened().field("tags", "list<string>".parse().unwrap())).await;
    let before = world.append("main", batch(3, 0..20)).await.committed.commit;
    let view = widened().field("tags", "list<string>".parse().unwrap());
    let request = ScanRequest::all(clicks(), layout_of(view).table_columns());
    let rows = world.rows(&before, &request).await;
    assert_eq!(compact(&world, &full()).await.files_after, 1);
    let head = world.head("main").await;
    assert_eq!(world.rows(&head, &request).await, rows);
    assert_eq!(world.rows(&before, &request).await, rows);
}

#[tokio::test]
async fn files_of_other_partitions_get_those_of_now() {
    let world = World::memory().await;
    many_small(&world, Partition::None, 4).await;
    evolve(&world, "main", FeatureView { partition: Partition::Month, ..clicks_view() }).await;
    world.append("main", batch(2, 0..40)).await;
    let rows = world.clicks(&world.head("main").await).await;
    let done = compact(&world, &CompactOptions::default()).await;
    assert_eq!((done.files_before, done.files_after), (6, 2));
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
    assert_eq!(compact(&world, &CompactOptions::default()).await.outcome, CompactionOutcome::Nothing);
}

#[tokio::test]
async fn a_known_time_that_rows_lack_is_not_written_out() {
    let world = World::memory().await;
    let mut before = clicks_view();
    before.known_timestamp = None;
    world.create(&layout_of(before)).await;
    let mut rows = batch(1, 1..5);
    rows.remove_column(3);
    world.append("main", rows).await;
    evolve(&world, "main", clicks_view()).await;
    world.append("main", batch(1, 5..9)).await;
    let table = |commit: CommitId| {
        let store = Arc::clone(&world.store);
        async move {
            // Read as a feature, it shows what is stored.
            let mut columns = layout(Partition::None).table_columns();
            columns[3].role = anabranch_core::definition::Role::Feature;
            let request = ScanRequest::all(clicks(), columns);
            let batches: Vec<_> = store.scan(&commit, &request).await.unwrap().try_collect().await.unwrap();
            crate::support::texts(&batches, &request.columns)
        }
    };
    let stored = table(world.head("main").await).await;
    compact(&world, &full()).await;
    assert_eq!(table(world.head("main").await).await, stored);
}

#[tokio::test]
async fn a_table_of_refused_rows_an_empty_one_and_one_that_is_not_there() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    assert_eq!(compact(&world, &full()).await.outcome, CompactionOutcome::Nothing);
    let error = world.store.compact("main", &TableName::features("none"), &full()).await.unwrap_err();
    assert!(matches!(error, Error::NoTable(_)), "{error}");
    let name = TableName::quarantine("clicks");
    let changes = world.store.create_table(&name, &quarantine_shape()).await.unwrap();
    world.commit("main", changes).await;
    for step in 0..3 {
        let payload = RecordBatch::try_from_iter([("format", Arc::new(StringArray::from(vec![format!("f{step}")])) as _)]).unwrap();
        let tables = vec![TableRows { table: name.clone(), batches: vec![payload], intervals: vec![interval(1, step, step)] }];
        world.store.append("main", anabranch_offline_store::Append { tables, ..clicks_append(batch(1, 0..0)) }).await.unwrap();
    }
    let shape: TableShape = quarantine_shape();
    let request = ScanRequest::all(name.clone(), shape.columns().to_vec());
    let before = world.rows(&world.head("main").await, &request).await;
    assert_eq!(world.store.compact("main", &name, &full()).await.unwrap().files_after, 1);
    assert_eq!(world.rows(&world.head("main").await, &request).await, before);
}

#[tokio::test]
async fn a_compaction_that_fails_at_any_file_changes_nothing_and_can_be_made_again() {
    let puts_left = Arc::new(AtomicI64::new(i64::MAX));
    let left = Arc::clone(&puts_left);
    let world =
        World::memory_with(OfflineStoreOptions::default(), |inner| Arc::new(Failing { inner, puts_left: left }) as Arc<dyn ObjectStore>).await;
    let rows = many_small(&world, Partition::None, 6).await;
    let before = world.head("main").await;
    let mut step = 0;
    loop {
        puts_left.store(step, Ordering::SeqCst);
        let done = world.store.compact("main", &clicks(), &full()).await;
        puts_left.store(i64::MAX, Ordering::SeqCst);
        match done {
            Ok(done) => break assert_eq!(done.files_after, 1),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
                assert_eq!(world.head("main").await, before);
                assert_eq!(world.clicks(&before).await, rows);
            }
        }
        step += 1;
    }
    // A data file, its manifest, those that it empties and a list.
    assert!(step >= 4, "{step}");
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
}

#[tokio::test]
async fn branches_are_compacted_apart() {
    let world = World::memory().await;
    let rows = many_small(&world, Partition::None, 4).await;
    world.repository.create_branch("other", &RefSpec::branch("main"), "test").await.unwrap();
    let done = world.store.compact("other", &clicks(), &full()).await.unwrap();
    assert_eq!(done.files_after, 1);
    let main = world.head("main").await;
    assert_eq!(world.store.compactable_files(&main, &clicks(), &CompactOptions::default()).await.unwrap(), 4);
    assert_eq!(world.clicks(&main).await, rows);
    assert_eq!(world.clicks(&world.head("other").await).await, rows);
}
