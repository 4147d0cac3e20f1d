//! What lookups were answered, as a table of their service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::definition::{Column, Definition, FeatureService, FeatureView, Projection};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, ErrorKind, Kinded, RandomIds, Scalar, Span, Timestamp};
use anabranch_ingest::{ServedLookup, ServingLog, ServingLogConfig, ServingLogCounts, Visibility};
use anabranch_offline_store::{CompactOptions, CompactionOutcome, CompactionScope, ScanRequest, TableName};
use anabranch_online_store::{Answer, Lookup, Target};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use crate::world::{LONG, World, definitions, weather};

/// The views of every world, and a service of which a part is logged.
fn logged(rate: f64) -> Vec<Definition> {
    let service = FeatureService::new("model").with(Projection::all("weather")).logged(rate);
    definitions(60).into_iter().chain([Definition::FeatureService(service)]).collect()
}

/// Never by itself: only where a test asks.
fn patient() -> ServingLogConfig {
    ServingLogConfig { commit_every: Span::seconds(3_600), ..ServingLogConfig::default() }
}

fn begin(world: &World, seed: u64, config: ServingLogConfig) -> ServingLog {
    ServingLog::begin(&world.ingest, Arc::new(RandomIds::seeded(seed)), config).unwrap()
}

async fn world_with(folder: &std::path::Path, rate: f64) -> World {
    let world = World::with_views(folder).await;
    world.apply(logged(rate)).await.unwrap();
    let pushed = world.push("weather", weather("JFK", 1_000, 1.5, 1)).await.unwrap();
    world.push("weather", r#"{"origin":"EWR","hour":2000,"temp":null,"n":2}"#).await.unwrap();
    world.ingest.wait_visible(&pushed.token, Visibility::Online, LONG).await.unwrap();
    world.ingest.flush("main").await.unwrap();
    world
}

/// Looks origins up and logs the lookup if it is drawn, as a server does.
async fn look_up(world: &World, log: &ServingLog, origins: &[Option<&str>]) -> Option<Answer> {
    let served = world.ingest.served().unwrap();
    let sample = log.draw(&served, "model")?;
    let selected = Selection::Service("model".into()).resolve(&served.definitions, &[], false).unwrap();
    let target = |view: anabranch_core::selection::SelectedView| {
        let served = &served.views[view.layout.name()];
        Target { generation: served.generation, layout: Arc::clone(&served.packed), view }
    };
    let lookup = Arc::new(Lookup::new(selected.into_iter().map(target).collect(), Arc::clone(&world.layouts)).unwrap());
    let column: ArrayRef = Arc::new(StringArray::from(origins.to_vec()));
    let keys = lookup.keys(&[Arc::clone(&column)]).unwrap();
    let answer = lookup.run(served.store.as_ref(), &keys, Timestamp(5_000)).await.unwrap();
    let (definitions, commit) = (Arc::clone(&served.definitions), served.commit);
    let keys = Box::new(move || Some(vec![column]));
    log.log(ServedLookup { sample, definitions, commit, lookup, keys, answer: answer.clone() });
    Some(answer)
}

async fn columns(world: &World) -> Vec<Column> {
    world.offline.table(&world.head().await, &TableName::served("model")).await.unwrap().columns()
}

/// The whole table.
async fn rows(world: &World) -> RecordBatch {
    let request = ScanRequest::all(TableName::served("model"), columns(world).await);
    let batches = world.scan(&request).await;
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

#[tokio::test]
async fn what_was_served_is_a_row_of_the_table_of_its_service() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 1.0).await;
    let log = begin(&world, 1, patient());
    let served = world.ingest.served().unwrap().commit;
    look_up(&world, &log, &[Some("JFK"), Some("EWR"), Some("XXX"), None]).await.unwrap();
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    log.flush().await;
    assert_eq!(log.counts(), ServingLogCounts { logged: 5, full: 0, failed: 0 });
    let batch = rows(&world).await;
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let own = ["_served_at", "_request", "_row", "_sample_rate", "_commit"];
    assert_eq!(names, [&own[..], &["origin", "temp", "n", "temp__status", "n__status", "weather__event_time"]].concat());
    let some = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect::<Vec<_>>();
    let origins = texts(&batch, "origin");
    assert_eq!(origins.iter().filter(|origin| origin.as_deref() == Some("JFK")).count(), 2);
    // Rows of one instant keep the order in which they came.
    assert_eq!(origins[1..4], [Some("EWR".to_owned()), Some("XXX".to_owned()), None]);
    assert_eq!(texts(&batch, "temp__status"), some(&["PRESENT", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND", "PRESENT"]));
    let temps: Vec<_> = batch.column_by_name("temp").unwrap().as_primitive::<Float64Type>().iter().collect();
    assert_eq!(temps, [Some(1.5), None, None, None, Some(1.5)]);
    let counts: Vec<_> = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>().iter().collect();
    assert_eq!(counts, [Some(1), Some(2), None, None, Some(1)]);
    let times = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().iter().collect::<Vec<_>>();
    assert_eq!(times("weather__event_time"), [Some(1_000), Some(2_000), None, None, Some(1_000)]);
    assert_eq!(times("_served_at"), vec![Some(5_000); 5]);
    assert_eq!(batch.column_by_name("_row").unwrap().as_primitive::<Int32Type>().values(), &[0, 1, 2, 3, 0]);
    assert!(batch.column_by_name("_sample_rate").unwrap().as_primitive::<Float64Type>().iter().all(|rate| rate == Some(1.0)));
    assert_eq!(texts(&batch, "_commit"), vec![Some(served.to_string()); 5]);
    assert_eq!(texts(&batch, "_request").into_iter().collect::<BTreeSet<_>>().len(), 2);
    // What is served answers for the commit of the log, too.
    world.check_law().await;
    world.end().await;
}

#[tokio::test]
async fn as_many_lookups_are_drawn_as_the_service_says_and_the_same_for_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 0.25).await;
    let served = world.ingest.served().unwrap();
    let drawn = |seed| {
        let log = begin(&world, seed, patient());
        (0..4_000).map(|_| log.draw(&served, "model").is_some()).collect::<Vec<_>>()
    };
    let first = drawn(3);
    let count = first.iter().filter(|drawn| **drawn).count();
    assert!((900..1_100).contains(&count), "{count}");
    assert_eq!(drawn(3), first);
    assert_ne!(drawn(4), first);
    let log = begin(&world, 3, patient());
    assert_eq!(log.draw(&served, "another"), None);
    for (rate, all) in [(1.0, true), (0.0, false)] {
        world.apply(logged(rate)).await.unwrap();
        let served = world.ingest.served().unwrap();
        assert!((0..1_000).all(|_| log.draw(&served, "model").is_some() == all));
    }
}

#[tokio::test]
async fn a_full_buffer_drops_and_counts_and_takes_again_when_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 1.0).await;
    let log = begin(&world, 1, ServingLogConfig { buffer_bytes: 2 << 10, ..patient() });
    for _ in 0..10 {
        look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    }
    // One that is larger than the whole buffer.
    look_up(&world, &log, &[Some("JFK"); 100]).await.unwrap();
    log.flush().await;
    assert_eq!(log.counts(), ServingLogCounts { logged: 2, full: 108, failed: 0 });
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    log.close(LONG).await;
    assert_eq!(rows(&world).await.num_rows(), 3);
    // Whoever is late is counted, too.
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    assert_eq!(log.counts(), ServingLogCounts { logged: 3, full: 109, failed: 0 });
    let nothing = ServingLogConfig { commit_rows: 0, ..patient() };
    let refused = ServingLog::begin(&world.ingest, Arc::new(RandomIds::seeded(1)), nothing);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn rows_are_committed_when_there_are_enough_or_when_they_are_old() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 1.0).await;
    let written = async |log: &ServingLog, rows: u64| {
        let done = async {
            while log.counts().logged < rows {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, done).await.unwrap();
    };
    let many = begin(&world, 1, ServingLogConfig { commit_rows: 3, ..patient() });
    for _ in 0..2 {
        look_up(&world, &many, &[Some("JFK"), None]).await.unwrap();
    }
    written(&many, 4).await;
    let old = begin(&world, 2, ServingLogConfig { commit_every: Span(1_000), ..patient() });
    look_up(&world, &old, &[Some("JFK")]).await.unwrap();
    written(&old, 1).await;
    // A lookup that nobody flushed is lost with the process, and only that.
    look_up(&world, &many, &[Some("JFK")]).await.unwrap();
    drop(many);
    let world = world.restart().await;
    assert_eq!(rows(&world).await.num_rows(), 5);
}

#[tokio::test]
async fn a_table_follows_its_service() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 1.0).await;
    let log = begin(&world, 1, patient());
    let weather_with = |fields: &[(&str, Scalar)]| {
        let view = FeatureView::new("weather", "hour").entity("airport");
        let view = fields.iter().fold(view, |view, (name, scalar)| view.field(*name, DataType::Scalar(*scalar)));
        let with = |definition: Definition| if definition.name() == "weather" { Definition::FeatureView(view.clone()) } else { definition };
        logged(1.0).into_iter().map(with).collect::<Vec<_>>()
    };
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    log.flush().await;
    let earlier = world.head().await;
    // A feature comes, under lookups of before and after.
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    world.apply(weather_with(&[("temp", Scalar::F64), ("n", Scalar::I64), ("rain", Scalar::I32)])).await.unwrap();
    world.push_through("weather", r#"{"origin":"JFK","hour":3000,"temp":2.5,"n":3,"rain":7}"#).await;
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    log.flush().await;
    let batch = rows(&world).await;
    let rain = |batch: &RecordBatch| batch.column_by_name("rain").unwrap().as_primitive::<Int32Type>().iter().collect::<Vec<_>>();
    assert_eq!((rain(&batch), batch.num_columns()), (vec![None, None, Some(7)], 13));
    // It goes; its column stays.
    world.apply(logged(1.0)).await.unwrap();
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    log.flush().await;
    let batch = rows(&world).await;
    assert_eq!((rain(&batch), batch.num_columns()), (vec![None, None, Some(7), None], 13));
    // One of another type begins anew under its name, and what it held is there at the commit of before.
    world.apply(weather_with(&[("temp", Scalar::F64), ("n", Scalar::String)])).await.unwrap();
    world.push_through("weather", r#"{"origin":"JFK","hour":4000,"temp":2.5,"n":"few"}"#).await;
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    log.flush().await;
    let few = texts(&rows(&world).await, "n");
    assert_eq!(few.iter().flatten().collect::<Vec<_>>(), ["few"]);
    let table = TableName::served("model");
    let before = world.offline.table(&earlier, &table).await.unwrap().columns();
    let before = world.scan_at(&earlier, &ScanRequest::all(table, before)).await;
    assert_eq!(before[0].column_by_name("n").unwrap().as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(log.counts(), ServingLogCounts { logged: 5, full: 0, failed: 0 });
    world.check_law().await;
}

#[tokio::test]
async fn a_table_of_what_was_served_is_compacted_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 1.0).await;
    let log = begin(&world, 1, patient());
    for _ in 0..4 {
        look_up(&world, &log, &[Some("JFK"), Some("EWR")]).await.unwrap();
        log.flush().await;
    }
    let options = CompactOptions { scope: CompactionScope::Full, ..CompactOptions::default() };
    let done = world.offline.compact("main", &TableName::served("model"), &options).await.unwrap();
    assert!(matches!(done.outcome, CompactionOutcome::Compacted) && done.files_after == 1, "{done:?}");
    let batch = rows(&world).await;
    assert_eq!((batch.num_rows(), batch.column_by_name("temp").unwrap().null_count()), (8, 4));
}

#[tokio::test]
async fn rows_that_cannot_be_committed_are_dropped_and_counted_and_hold_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let world = world_with(folder.path(), 1.0).await;
    let log = begin(&world, 1, patient());
    look_up(&world, &log, &[Some("JFK")]).await.unwrap();
    world.repository.close().await;
    tokio::time::timeout(Duration::from_secs(60), log.flush()).await.unwrap();
    assert_eq!(log.counts(), ServingLogCounts { logged: 0, full: 0, failed: 1 });
}
