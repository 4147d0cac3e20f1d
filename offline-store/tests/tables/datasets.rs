//! Datasets over a real repository: rows that are stored and read back, spines of events, and refreshes that equal the full join.

use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::definition::{Definition, DefinitionDigest, Definitions, Entity, FeatureView};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, Kinded, Scalar, Span, Timestamp, Value};
use anabranch_offline_store::dataset::refresh::{Changed, SelectedAt, Sources, assemble, changed_rows};
use anabranch_offline_store::dataset::{
    CommitName, ContentHasher, DatasetColumn, DatasetManifest, DatasetRows, DatasetSelection, GROUP_ROWS, PART_ROWS, SpineSource, SplitSpec, Splits,
    canonical_rows, content_digest, digest_of_rows, write_rows,
};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Joined, Knowledge, Spine, Spool, SpoolLimits, Spooled, join};
use anabranch_versioning::{CommitId, ObjectChange, ObjectCommit, ObjectCondition};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType as ArrowType, Int64Type, SchemaRef};
use futures::TryStreamExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::engine::engine;
use crate::support::{World, batch, batch_of, clicks_view, layout};
use anabranch_core::definition::Partition;

fn columns_of(schema: &SchemaRef) -> Vec<DatasetColumn> {
    let hasher = ContentHasher::new(schema).unwrap();
    hasher.columns().map(|(name, data_type)| DatasetColumn { name: name.to_owned(), data_type }).collect()
}

/// A manifest of rows that were written.
fn manifest(schema: &SchemaRef, batches: &[RecordBatch]) -> DatasetManifest {
    DatasetManifest {
        name: "train".to_owned(),
        commit: CommitName::new("0".repeat(64)).unwrap(),
        definitions: DefinitionDigest([0; 32]),
        spine_digest: content_digest(schema, batches).unwrap(),
        time_column: "at".to_owned(),
        selection: DatasetSelection::Service("model".to_owned()),
        options: JoinOptions::default(),
        columns: columns_of(schema),
        rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
        content_digest: content_digest(schema, batches).unwrap(),
        created: Timestamp(0),
        spine: SpineSource::Table,
        spine_columns: schema.fields().len(),
        parts: Vec::new(),
        splits: None,
        statistics: Vec::new(),
        base: None,
    }
}

impl World {
    /// Stores rows as those of a dataset.
    async fn store_rows(&self, schema: &SchemaRef, batches: &[RecordBatch]) -> (CommitId, DatasetManifest) {
        let mut manifest = manifest(schema, batches);
        let written = write_rows(&self.repository, manifest.content_digest, &manifest.columns, &batches.to_vec().into()).await.unwrap();
        manifest.parts = written.parts;
        let commit = self.repository.commit_objects("main", ObjectCommit::new("test", "rows", written.changes)).await.unwrap().commit;
        (commit, manifest)
    }

    fn rows_of(&self, commit: CommitId, manifest: &DatasetManifest) -> DatasetRows {
        DatasetRows::new(Arc::clone(&self.repository), commit, manifest).unwrap()
    }
}

#[tokio::test]
async fn rows_of_every_type_come_back_as_they_were() {
    let world = World::memory().await;
    let rows = batch(1, 0..50);
    let (commit, manifest) = world.store_rows(&rows.schema(), std::slice::from_ref(&rows)).await;
    let stored = world.rows_of(commit, &manifest);
    let read: Vec<RecordBatch> = stored.stream(None).try_collect().await.unwrap();
    assert_eq!(content_digest(stored.schema(), &read).unwrap(), manifest.content_digest);
    let chosen = stored.read_part(0, Some(&[4, 0])).await.unwrap();
    assert_eq!(chosen[0].schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["count", "region"]);
    assert_eq!(chosen[0].column(1), read[0].column(0));
    for refused in [stored.read_part(1, None).await, stored.read_part(0, Some(&[99])).await] {
        assert_eq!(refused.unwrap_err().kind().name(), "invalid_argument");
    }
    let none = DatasetManifest { parts: Vec::new(), ..manifest };
    let refused = DatasetRows::new(Arc::clone(&world.repository), commit, &none).unwrap_err();
    assert!(refused.to_string().contains("save it again"), "{refused}");
}

#[tokio::test]
async fn rows_are_cut_into_parts_and_groups_of_a_fixed_size() {
    let world = World::memory().await;
    for rows in [0, 1, PART_ROWS, PART_ROWS + GROUP_ROWS + 1] {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let (commit, manifest) = world.store_rows(&batch.schema(), &[batch]).await;
        let expected = if rows > PART_ROWS { vec![PART_ROWS as u64, (rows - PART_ROWS) as u64] } else { vec![rows as u64] };
        assert_eq!(manifest.parts.iter().map(|part| part.rows).collect::<Vec<_>>(), expected);
        assert!(manifest.parts.iter().enumerate().all(|(part, of)| of.path == format!("dataset-rows/{}/{part:05}.parquet", manifest.content_digest)));
        let read: Vec<RecordBatch> = world.rows_of(commit, &manifest).stream(None).try_collect().await.unwrap();
        assert!(read.iter().all(|batch| batch.num_rows() <= GROUP_ROWS));
        let numbers = read.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        assert!(numbers.eq(0..rows as i64), "{rows}");
    }
}

#[tokio::test]
async fn the_bytes_of_parts_depend_on_the_rows_alone() {
    let world = World::memory().await;
    let of = |layout: &ArrowType, nan: f64, cut: usize| {
        let rows = GROUP_ROWS + 1_000;
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("t{}", row % 1_999))));
        let floats: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| if row % 7 == 0 { nan } else { row as f64 })));
        let batch = RecordBatch::try_from_iter([("t", cast(&texts, layout).unwrap()), ("x", floats)]).unwrap();
        (batch.schema(), vec![batch.slice(0, cut), batch.slice(cut, rows - cut)])
    };
    let (schema, batches) = of(&ArrowType::Utf8, f64::NAN, 0);
    let (_, first) = world.store_rows(&schema, &batches).await;
    let dictionary = ArrowType::Dictionary(Box::new(ArrowType::UInt16), Box::new(ArrowType::Utf8));
    for (layout, cut) in [(ArrowType::LargeUtf8, 1), (ArrowType::Utf8View, GROUP_ROWS), (dictionary, 12_345)] {
        let (schema, batches) = of(&layout, -f64::from_bits(0x7ff8_0000_0000_beef), cut);
        let (_, again) = world.store_rows(&schema, &batches).await;
        assert_eq!(again.parts, first.parts, "{layout}");
    }
}

#[tokio::test]
async fn a_file_in_the_place_of_a_part_is_damage() {
    let world = World::memory().await;
    let rows = batch(1, 0..5);
    let (_, manifest) = world.store_rows(&rows.schema(), std::slice::from_ref(&rows)).await;
    let path = manifest.parts[0].path.clone();
    let mut writer = world.repository.object_writer(&path, "").unwrap();
    writer.write(b"PAR1 of somebody else").await.unwrap();
    let put = ObjectChange::Put { path: path.clone(), entry: writer.finish().await.unwrap(), condition: ObjectCondition::Any };
    let commit = world.repository.commit_objects("main", ObjectCommit::new("test", "", vec![put])).await.unwrap().commit;
    let error = world.rows_of(commit, &manifest).read_part(0, None).await.unwrap_err();
    assert!(error.to_string().contains(&path) && error.to_string().contains("checksum"), "{error}");
}

#[tokio::test]
async fn splits_part_the_rows_and_are_read_one_by_one() {
    let world = World::memory().await;
    let rows = batch(1, 0..500);
    let (commit, mut manifest) = world.store_rows(&rows.schema(), std::slice::from_ref(&rows)).await;
    let spec = SplitSpec::parse("train=0.6,valid=0.2,test=0.2", vec!["user_id".to_owned(), "at".to_owned()], 3).unwrap();
    let names: Vec<String> = manifest.columns.iter().map(|column| column.name.clone()).collect();
    let rule = spec.rule(&names, &[], "at").unwrap();
    manifest.splits = Some(Splits::count(&spec, rule, &manifest.columns, &vec![rows.clone()].into()).unwrap());
    let stored = world.rows_of(commit, &manifest);
    let place = names.iter().position(|name| name == "_position").unwrap();
    let mut seen = Vec::new();
    for split in &manifest.splits.as_ref().unwrap().parts {
        let only = stored.clone().of_split(&manifest, &split.name).unwrap();
        let read: Vec<RecordBatch> = only.stream(Some(vec![place])).try_collect().await.unwrap();
        let positions: Vec<i64> = read.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(positions.len() as u64, split.rows);
        assert!(split.rows > 50 && positions.is_sorted_by(|a, b| a > b), "{split:?}");
        seen.extend(positions);
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..500));
    let refused = stored.of_split(&manifest, "tst").unwrap_err();
    assert!(refused.to_string().contains("it has train, valid, test"), "{refused}");
}

#[tokio::test]
async fn events_come_in_the_total_order_and_tombstones_are_none() {
    let (world, folder) = (World::memory().await, TempDir::new().unwrap());
    let (engine, layout) = (engine(&folder, None), layout(Partition::None));
    let nothing = engine.events_spine(&world.head("main").await, &world.store, &layout, "event_timestamp", u64::MAX).await.unwrap();
    assert_eq!(nothing.rows(), 0);
    world.create(&layout).await;
    for positions in [14..21, 0..7, 7..14] {
        world.append("main", batch(1, positions)).await;
    }
    let head = world.head("main").await;
    let events = engine.events_spine(&head, &world.store, &layout, "event_timestamp", u64::MAX).await.unwrap();
    let (schema, batches) = (events.schema(), events.batches(None).collect::<Result<Vec<_>, _>>().unwrap());
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["region", "user_id", "event_timestamp"]);
    let all = concat_batches(schema, &batches).unwrap();
    // One position a day, and every seventh row is a tombstone.
    let expected: Vec<i64> = (0..21).filter(|position| position % 7 != 6).map(|position| position % 5).collect();
    assert_eq!(all.column(1).as_primitive::<Int64Type>().values().to_vec(), expected);
    let refused = engine.events_spine(&head, &world.store, &layout, "user_id", u64::MAX).await.unwrap_err();
    assert!(refused.to_string().contains("another name"), "{refused}");
}

#[tokio::test]
async fn spines_that_outgrow_memory_are_in_the_same_order() {
    let (world, folder) = (World::memory().await, TempDir::new().unwrap());
    let layout = layout(Partition::None);
    world.create(&layout).await;
    // A few times the share of a spine in so little memory, and many ties.
    for part in 0..4 {
        world.append("main", batch(1, part * 30_000..(part + 1) * 30_000)).await;
    }
    let head = world.head("main").await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let (all, little) = (engine(&folder, None), engine(&folder, Some((cores * 24 + 8) << 20)));
    let sql = "SELECT user_id, at AS event_timestamp, score, region FROM clicks WHERE _position % 3 > 0";
    let mut spines = Vec::new();
    for engine in [&all, &little] {
        let events = engine.events_spine(&head, &world.store, &layout, "event_timestamp", u64::MAX).await.unwrap();
        spines.push((events, engine.query_spine(head, &world.store, sql, "event_timestamp", u64::MAX).await.unwrap()));
    }
    let digest = |rows: &Spooled| digest_of_rows(rows.schema(), &rows.clone().into()).unwrap();
    let [(events, rows), (events_on_disk, rows_on_disk)] = &spines[..] else { panic!("there are two") };
    assert!(events.held().is_some() && rows.held().is_some());
    assert!(events_on_disk.held().is_none() && rows_on_disk.held().is_none());
    assert_eq!((digest(events), digest(rows)), (digest(events_on_disk), digest(rows_on_disk)));
    let refused = little.query_spine(head, &world.store, sql, "event_timestamp", 100_000).await.unwrap_err();
    assert!(refused.kind() == anabranch_core::ErrorKind::Exhausted && refused.to_string().contains("spine_bytes"), "{refused}");
    // What was put aside has no names, and what was sorted is gone.
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A row of the view, or of the spine: user, event time, and how much later it was known.
type Event = (i64, i64, i64);

fn definitions(lookback: Option<i64>) -> Definitions {
    let user = Entity::new("user", "user_id", Scalar::I64).join_key("region", Scalar::String);
    let view = FeatureView { lookback: lookback.map(Span), ..clicks_view() };
    [Definition::Entity(user), Definition::FeatureView(view)].into_iter().collect()
}

fn clicks_of(events: &[Event], first_position: i64) -> RecordBatch {
    let layout = definitions(None).layout("clicks").unwrap();
    let time = |t: i64| Value::Timestamp(Timestamp(t));
    let row = |(place, (user, at, later)): (usize, &Event)| {
        let position = first_position + place as i64;
        let mut row = vec![Value::String("eu".into()), Value::I64(*user), time(*at), time(at + later), Value::I32(position as i32)];
        row.extend([Value::Null, Value::Null, Value::Null, time(1_000 + position), Value::I32(1), Value::I64(position), Value::Null]);
        row
    };
    batch_of(&layout.table_columns(), &events.iter().enumerate().map(row).collect::<Vec<_>>())
}

fn spine_of(rows: &[(i64, i64)]) -> RecordBatch {
    let column = |data_type: &str, values: Vec<Value>| column_of(data_type.parse::<DataType>().unwrap(), &values).unwrap();
    let regions = column("string", rows.iter().map(|_| Value::String("eu".into())).collect());
    let users = column("i64", rows.iter().map(|(user, _)| Value::I64(*user)).collect());
    let times = column("timestamp", rows.iter().map(|(_, at)| Value::Timestamp(Timestamp(*at))).collect());
    RecordBatch::try_from_iter_with_nullable([("region", regions, true), ("user_id", users, true), ("event_timestamp", times, true)]).unwrap()
}

async fn joined(world: &World, commit: CommitId, definitions: &Definitions, spine: &RecordBatch, options: JoinOptions) -> Joined {
    joined_of(world, commit, definitions, Spine::of(spine.clone(), "event_timestamp").unwrap(), options).await
}

async fn joined_of(world: &World, commit: CommitId, definitions: &Definitions, spine: Spine, options: JoinOptions) -> Joined {
    let plan = JoinPlan::new(spine, &Selection::Features(vec!["clicks:count".into()]), definitions, options).unwrap();
    join(Arc::new(plan), world.store.view_rows(commit)).await.unwrap()
}

/// Refreshes as a server does; the rows that were joined again.
async fn refresh_equals_full(
    then: Vec<Event>,
    added: Vec<Event>,
    rows: Vec<(i64, i64)>,
    lookback: Option<i64>,
    options: JoinOptions,
    memory_bytes: usize,
) -> Vec<bool> {
    let (world, definitions) = (World::memory().await, definitions(lookback));
    world.create(&definitions.layout("clicks").unwrap()).await;
    if !then.is_empty() {
        world.append("main", clicks_of(&then, 0)).await;
    }
    let from = world.head("main").await;
    world.append("main", clicks_of(&added, 100)).await;
    let to = world.head("main").await;

    let batch = spine_of(&rows);
    let earlier = joined(&world, from, &definitions, &batch, options).await;
    let full = joined(&world, to, &definitions, &batch, options).await;
    let (_, earlier) = canonical_rows(&columns_of(&earlier.schema), earlier.rows.collect().unwrap()).unwrap();

    let earlier = spooled(&earlier, memory_bytes);
    let spine = Spine::spooled(spooled(&[batch], memory_bytes), "event_timestamp").unwrap();
    let views = Selection::Features(vec!["clicks:count".into()]).resolve(&definitions, &spine.column_names(), false).unwrap();
    let (then, now) = (SelectedAt { commit: &from, views: &views }, SelectedAt { commit: &to, views: &views });
    // A few of the spine's rows at a time.
    let changed = changed_rows(&world.store, then, now, &spine, options, 7).await.unwrap();
    let Changed::Rows(marks) = changed else { panic!("nothing was taken away") };
    let sources = Sources::of_same(&marks);
    assert_eq!(sources.joined(), marks.iter().filter(|mark| **mark).count() as u64);
    let again = Spine::spooled(sources.to_join(&spine, spool(spine.schema(), memory_bytes)).unwrap(), "event_timestamp").unwrap();
    let again = joined_of(&world, to, &definitions, again, options).await;
    let refreshed = assemble(&earlier, &again.rows, &sources, spool(&full.schema, memory_bytes)).unwrap();
    assert_eq!(digest_of_rows(&full.schema, &refreshed.into()).unwrap(), digest_of_rows(&full.schema, &full.rows).unwrap());
    marks
}

fn spool(schema: &SchemaRef, memory_bytes: usize) -> Spool {
    let limits = SpoolLimits { memory_bytes, total_bytes: u64::MAX, reserve: None, files: Arc::new(tempfile::tempfile) };
    Spool::new(Arc::clone(schema), limits)
}

fn spooled(batches: &[RecordBatch], memory_bytes: usize) -> Spooled {
    let mut spool = spool(&batches.first().map_or_else(|| spine_of(&[]).schema(), RecordBatch::schema), memory_bytes);
    batches.iter().for_each(|batch| spool.push(batch.clone()).unwrap());
    spool.finish().unwrap()
}

/// Whether a row that was added is a candidate for a row of the spine: the law of the join, written anew.
fn touches((user, at, later): &Event, (of, t): &(i64, i64), lookback: Option<i64>, options: JoinOptions) -> bool {
    let true_then = if options.strict { at < t } else { at <= t } && lookback.is_none_or(|lookback| *at >= t - lookback);
    let known = match options.knowledge {
        Knowledge::Spine => at + later <= *t,
        Knowledge::At(time) => at + later <= time.micros(),
        Knowledge::Any => true,
    };
    user == of && true_then && known
}

fn options() -> impl Strategy<Value = JoinOptions> {
    let knowledge = prop_oneof![Just(Knowledge::Spine), Just(Knowledge::Any), (0..30_i64).prop_map(|t| Knowledge::At(Timestamp(t)))];
    (knowledge, any::<bool>()).prop_map(|(knowledge, strict)| JoinOptions { knowledge, strict, full_names: false })
}

fn events(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Event>> {
    vec((0..4_i64, 0..25_i64, 0..5_i64), count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_refresh_equals_the_full_join_and_joins_only_what_can_have_changed(
        then in events(0..10),
        added in events(1..5),
        rows in vec((0..5_i64, 0..35_i64), 0..25),
        lookback in proptest::option::of(0..12_i64),
        options in options(),
        memory_bytes in prop_oneof![Just(0), Just(usize::MAX)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let marks = runtime.block_on(refresh_equals_full(then, added.clone(), rows.clone(), lookback, options, memory_bytes));
        let expected: Vec<bool> = rows.iter().map(|row| added.iter().any(|event| touches(event, row, lookback, options))).collect();
        prop_assert_eq!(marks, expected);
    }
}

#[tokio::test]
async fn another_definition_or_rows_taken_away_change_every_row() {
    let world = World::memory().await;
    let before = definitions(Some(5));
    world.create(&before.layout("clicks").unwrap()).await;
    let empty = world.head("main").await;
    world.append("main", clicks_of(&[(1, 1, 0)], 0)).await;
    let head = world.head("main").await;
    let spine = Spine::of(spine_of(&[(1, 3)]), "event_timestamp").unwrap();
    let select = |definitions: &Definitions, feature: &str| {
        Selection::Features(vec![format!("clicks:{feature}")]).resolve(definitions, &spine.column_names(), false).unwrap()
    };
    let views = select(&before, "count");
    let reason = async |from: &CommitId, then: &[anabranch_core::selection::SelectedView], to: &CommitId| {
        let (then, now) = (SelectedAt { commit: from, views: then }, SelectedAt { commit: to, views: &views });
        match changed_rows(&world.store, then, now, &spine, JoinOptions::default(), usize::MAX).await.unwrap() {
            Changed::All(reason) => reason,
            Changed::Rows(marks) => format!("{marks:?}"),
        }
    };
    assert_eq!(reason(&empty, &views, &head).await, "[true]");
    assert_eq!(reason(&head, &views, &head).await, "[false]");
    assert!(reason(&head, &select(&definitions(Some(6)), "count"), &head).await.contains("another lookback"));
    assert!(reason(&head, &select(&before, "score"), &head).await.contains("other columns"));
    assert!(reason(&head, &[], &head).await.contains("other views"));
    assert!(reason(&head, &views, &empty).await.contains("taken away"));
}
