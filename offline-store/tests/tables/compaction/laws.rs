//! The law: a compaction changes no row, whatever the rows, the partitions, the order of things and its own settings.

use anabranch_core::definition::{Column, FeatureView, Partition};
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::{CompactOptions, CompactionOutcome, CompactionScope, ScanRequest};
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::evolution::evolve;
use crate::support::{DAY, World, batch_of, clicks, clicks_append, clicks_view, layout_of};

#[derive(Debug, Clone)]
enum Step {
    /// Rows: region, user, event day, known, feature, arrival, position, whether reserved columns are there, tombstone.
    Append(Vec<RandomRow>),
    Compact(Settings),
    /// A column is there from now on, or not.
    Column(bool),
    Partition(Partition),
}

#[derive(Debug, Clone)]
struct RandomRow {
    region: bool,
    user: i64,
    event: i64,
    known: i64,
    count: Option<i32>,
    extra: Option<i64>,
    reserved: Option<(i64, i64)>,
    tombstone: Option<bool>,
}

#[derive(Debug, Clone)]
struct Settings {
    full: bool,
    small_bytes: u64,
    target_bytes: u64,
}

fn row() -> impl Strategy<Value = RandomRow> {
    let reserved = prop_oneof![Just(None), (0_i64..3, 0_i64..4).prop_map(Some)];
    let times = (0_i64..100, 0_i64..4);
    (any::<bool>(), 0_i64..3, times, proptest::option::of(0..5), proptest::option::of(0_i64..5), reserved, proptest::option::of(any::<bool>()))
        .prop_map(|(region, user, (event, late), count, extra, reserved, tombstone)| {
            // Few instants, so that they tie.
            let event = event / 20 * 20;
            RandomRow { region, user, event, known: event + late, count, extra, reserved, tombstone }
        })
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = || prop_oneof![Just(0_u64), Just(2_000), Just(8_000), Just(1 << 30)];
    let settings = (any::<bool>(), sizes(), sizes()).prop_map(|(full, small_bytes, target_bytes)| Settings { full, small_bytes, target_bytes });
    let partition = prop_oneof![Just(Partition::None), Just(Partition::Month), Just(Partition::Day)];
    prop_oneof![
        6 => vec(row(), 1..12).prop_map(Step::Append),
        3 => settings.prop_map(Step::Compact),
        1 => any::<bool>().prop_map(Step::Column),
        1 => partition.prop_map(Step::Partition),
    ]
}

/// The view as it is after some steps.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    extra: bool,
    partition: Partition,
}

impl Shape {
    fn view(self) -> FeatureView {
        let view = FeatureView { partition: self.partition, ..clicks_view() };
        if self.extra { view.field("extra", "i64".parse().unwrap()) } else { view }
    }

    fn columns(self) -> Vec<Column> {
        layout_of(self.view()).table_columns()
    }

    fn batch(self, rows: &[RandomRow]) -> RecordBatch {
        let time = |micros| Value::Timestamp(Timestamp(micros));
        let cell = |row: &RandomRow, column: &Column| match column.name.as_str() {
            "region" => Value::String(if row.region { "eu" } else { "us" }.to_owned()),
            "user_id" => Value::I64(row.user),
            "at" => time(row.event * DAY),
            "known" => time(row.known * DAY),
            "count" => row.count.map_or(Value::Null, Value::I32),
            "score" => row.count.map_or(Value::Null, |count| Value::F32(count as f32 / 3.0)),
            "tags" => row.extra.map_or(Value::Null, |count| Value::List(vec![Value::String("x".repeat(count as usize))])),
            "embedding" => row.count.map_or(Value::Null, |count| Value::Vector(vec![count as f32, 0.5])),
            "extra" => row.extra.map_or(Value::Null, Value::I64),
            "_arrival" => row.reserved.map_or(Value::Null, |(arrival, _)| time(arrival)),
            "_source" => row.reserved.map_or(Value::Null, |_| Value::I32(1)),
            "_position" => row.reserved.map_or(Value::Null, |(_, position)| Value::I64(position)),
            "_tombstone" => row.tombstone.map_or(Value::Null, Value::Bool),
            other => panic!("{other}"),
        };
        let columns = self.columns();
        let rows: Vec<_> = rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
        batch_of(&columns, &rows)
    }
}

async fn rows_at(world: &World, commit: &CommitId, shape: Shape) -> Vec<String> {
    world.rows(commit, &ScanRequest::all(clicks(), shape.columns())).await
}

async fn holds(steps: Vec<Step>) {
    let world = World::memory().await;
    let mut shape = Shape { extra: false, partition: Partition::None };
    world.create(&layout_of(shape.view())).await;
    let mut seen: Vec<(CommitId, Shape, Vec<String>)> = Vec::new();
    for step in steps {
        match step {
            Step::Append(rows) => {
                world.store.append("main", clicks_append(shape.batch(&rows))).await.unwrap();
            }
            Step::Column(extra) => shape = change(&world, shape, Shape { extra, ..shape }).await,
            Step::Partition(partition) => shape = change(&world, shape, Shape { partition, ..shape }).await,
            Step::Compact(settings) => compact(&world, shape, &settings).await,
        }
        let head = world.head("main").await;
        let rows = rows_at(&world, &head, shape).await;
        seen.push((head, shape, rows));
    }
    for (commit, shape, rows) in seen {
        assert_eq!(rows_at(&world, &commit, shape).await, rows);
    }
}

async fn change(world: &World, shape: Shape, to: Shape) -> Shape {
    if shape != to {
        evolve(world, "main", to.view()).await;
    }
    to
}

async fn compact(world: &World, shape: Shape, settings: &Settings) {
    let scope = if settings.full { CompactionScope::Full } else { CompactionScope::Small };
    let options = CompactOptions {
        scope,
        small_bytes: settings.small_bytes,
        target_bytes: settings.target_bytes,
        memory_bytes: 8 << 20,
        ..CompactOptions::default()
    };
    let before = world.head("main").await;
    let rows = rows_at(world, &before, shape).await;
    let done = world.store.compact("main", &clicks(), &options).await.unwrap();
    let head = world.head("main").await;
    assert_eq!(rows_at(world, &head, shape).await, rows, "{done:?}");
    assert_eq!(rows_at(world, &before, shape).await, rows);
    assert!(!matches!(done.outcome, CompactionOutcome::Superseded(_)));
    let added = world.store.added_files(Some(&before), &head, &clicks()).await.unwrap();
    assert!(added.files.is_empty() && !added.removed);
    let live = world.store.table_files(&head, &clicks()).await.unwrap();
    assert_eq!((live.len() as u64, live.iter().map(|file| file.bytes).sum::<u64>()), (done.files_after, done.bytes_after));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_compaction_changes_no_row(steps in vec(step(), 1..14)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(holds(steps));
    }
}
