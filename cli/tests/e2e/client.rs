//! The Rust client against a server within this process.

use std::sync::Arc;

use anabranch_client::{
    BulkOptions, Changes, DefinitionKind, Error, ErrorKind, FeatureStatus, FeatureView, FileOptions, HistoricalQuery, Kinded, OnlineQuery,
    PushOptions, ReadQuery, Rows,
};
use anabranch_core::selection::Selection;
use anabranch_core::testkit::free_port;
use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, RecordBatchIterator, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Float64Type;
use arrow::error::ArrowError;

use super::{client_of, definitions, server};

const HOUR: i64 = 3_600_000_000;

fn features() -> Selection {
    Selection::Features(vec!["weather".into()])
}

fn keys(origins: &[&str]) -> RecordBatch {
    RecordBatch::try_from_iter([("origin", Arc::new(StringArray::from(origins.to_vec())) as ArrayRef)]).unwrap()
}

fn rows(time_name: &str, origins: &[&str], hours: &[i64]) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values(hours.iter().map(|hour| hour * HOUR)).with_timezone("UTC");
    RecordBatch::try_from_iter([("origin", Arc::new(StringArray::from(origins.to_vec())) as ArrayRef), (time_name, Arc::new(times))]).unwrap()
}

fn observed(origins: &[&str], hours: &[i64], temps: &[f64]) -> RecordBatch {
    let (schema, mut columns, _) = rows("time", origins, hours).into_parts();
    columns.push(Arc::new(Float64Array::from(temps.to_vec())));
    let fields = schema.fields().iter().cloned().chain([Arc::new(arrow::datatypes::Field::new("temp", arrow::datatypes::DataType::Float64, true))]);
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

fn temps(batch: &RecordBatch) -> Vec<Option<f64>> {
    batch.column_by_name("temp").unwrap().as_primitive::<Float64Type>().iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_row_is_looked_up_and_joined_and_the_same_commit_gives_the_same_digest() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), "127.0.0.1:0").await;
    let client = client_of(&server).await;
    let plan = client.plan(&definitions()).await.unwrap();
    assert!(plan.changes && !plan.breaking);
    client.apply(&definitions(), false, "first").await.unwrap();
    assert!(!client.plan(&definitions()).await.unwrap().changes);

    let batch = observed(&["JFK", "LGA"], &[1, 1], &[39.0, 38.0]);
    let options = PushOptions { idempotency_key: "once".into(), batch_number: 0 };
    let push = Rows::arrow(&batch.schema(), std::slice::from_ref(&batch)).unwrap();
    let first = client.push_with("weather", push.clone(), &options).await.unwrap();
    assert_eq!((first.rows, first.duplicate), (2, false));
    assert!(client.push_with("weather", push, &options).await.unwrap().duplicate);
    client.push("weather", Rows::json(r#"{"origin": "JFK", "time": "1970-01-01T02:00:00Z", "temp": 41.0}"#)).await.unwrap();

    let query = OnlineQuery { at_least: first.token.clone(), ..OnlineQuery::new(features()) };
    let found = client.get_online_features(&query, &keys(&["LGA", "XXX"])).await.unwrap();
    assert_eq!(temps(&found.batch), [Some(38.0), None]);
    assert_eq!(found.statuses(0).collect::<Vec<_>>(), [FeatureStatus::Present, FeatureStatus::NotFound]);
    assert_eq!(found.statuses(1).collect::<Vec<_>>(), [FeatureStatus::NullValue, FeatureStatus::NotFound]);
    assert_eq!(found.event_times(0).next().flatten().unwrap().micros(), HOUR);

    let commit = client.flush().await.unwrap();
    let query = HistoricalQuery { save_as: "train".into(), ..HistoricalQuery::new(features()) };
    let spine = rows("event_timestamp", &["JFK", "JFK", "LGA", "JFK"], &[1, 2, 0, 3]);
    let dataset = client.get_historical_features_of(&query, spine.clone()).await.unwrap();
    let joined: Vec<_> = dataset.table.batches.iter().flat_map(temps).collect();
    assert_eq!(joined, [Some(39.0), Some(41.0), None, Some(41.0)]);
    assert_eq!(dataset.commit, commit);
    client.push("weather", Rows::json(r#"{"origin": "JFK", "time": "1970-01-01T02:30:00Z", "temp": 0.0}"#)).await.unwrap();
    client.flush().await.unwrap();
    let then = client.at(commit.as_str()).get_historical_features_of(&HistoricalQuery::new(features()), spine.clone()).await.unwrap();
    let now = client.get_historical_features_of(&HistoricalQuery::new(features()), spine).await.unwrap();
    assert_eq!(then.content_digest, dataset.content_digest);
    assert_ne!(now.content_digest, dataset.content_digest);
    assert_eq!(client.list_datasets().await.unwrap()[0].name, "train");
    assert_eq!(client.describe_dataset("train").await.unwrap().name, "train");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_rows_and_files_are_in_once() {
    let data = tempfile::tempdir().unwrap();
    let server = server(&data.path().join("server"), "127.0.0.1:0").await;
    let client = client_of(&server).await;
    client.apply(&definitions(), false, "").await.unwrap();
    let batch = observed(&["JFK", "LGA"], &[1, 1], &[1.0, 2.0]);
    let reader = || Box::new(RecordBatchIterator::new([Ok(batch.clone())], batch.schema()));
    let options = BulkOptions { stream_id: "night".into(), ..BulkOptions::default() };
    let first = client.bulk("weather", reader(), &options).await.unwrap();
    assert_eq!((first.rows, first.duplicates), (2, 0));
    let again = client.bulk("weather", reader(), &options).await.unwrap();
    assert_eq!((again.rows, again.duplicates), (0, 2));

    let path = data.path().join("rows.csv");
    std::fs::write(&path, "origin,time,temp,wind\nEWR,1970-01-01T05:00:00Z,5,1\n").unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let progress = move |sent| sender.send(sent).unwrap();
    let ingested = client.ingest_path("weather", &path, &FileOptions::default(), progress).await.unwrap();
    assert_eq!((ingested.rows, receiver.iter().last()), (1, Some(std::fs::metadata(&path).unwrap().len())));
    let table = client.read_view(&ReadQuery { view: "weather".into(), ..ReadQuery::default() }).await.unwrap();
    assert_eq!(table.rows(), 3);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_half_way_leaves_nothing_behind_and_its_reason_arrives() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), "127.0.0.1:0").await;
    let client = client_of(&server).await;
    client.apply(&definitions(), false, "").await.unwrap();
    let head = client.commit().await.unwrap().id;
    let batch = observed(&["JFK"], &[1], &[1.0]);
    let torn = || {
        let batches = vec![Ok(batch.clone()), Err(ArrowError::ComputeError("the disk is gone".into()))];
        Box::new(RecordBatchIterator::new(batches, batch.schema()))
    };
    let error = client.bulk("weather", torn(), &BulkOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    let error = client.get_historical_features(&HistoricalQuery::new(features()), torn()).await.unwrap_err();
    assert!(matches!(error, Error::Arrow(_)), "{error}");
    let reader = Torn(b"origin,time,temp,wind\nEWR,1970-01-01T05:00:00Z,5,1\n");
    let error = client.ingest_file("weather", "rows.csv", reader, &FileOptions::default(), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("rows.csv"), "{error}");
    client.flush().await.unwrap();
    let table = client.read_view(&ReadQuery { view: "weather".into(), ..ReadQuery::default() }).await.unwrap();
    assert_eq!(table.rows(), 0);
    assert_eq!(client.commit().await.unwrap().id, head);
}

/// A file whose end cannot be read.
struct Torn(&'static [u8]);

impl tokio::io::AsyncRead for Torn {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return std::task::Poll::Ready(Err(std::io::Error::other("a bad sector")));
        }
        into.put_slice(bytes);
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_arrives_with_its_kind() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), "127.0.0.1:0").await;
    let client = client_of(&server).await;
    client.apply(&definitions(), false, "").await.unwrap();
    let kind = |error: Error| error.kind();
    assert_eq!(kind(client.at("nowhere").commit().await.unwrap_err()), ErrorKind::NotFound);
    assert_eq!(kind(client.repository("nowhere").commit().await.unwrap_err()), ErrorKind::NotFound);
    client.create_branch("fix", "").await.unwrap();
    assert_eq!(kind(client.create_branch("fix", "").await.unwrap_err()), ErrorKind::Conflict);
    assert_eq!(kind(client.push("weather", Rows::json("{")).await.unwrap_err()), ErrorKind::InvalidArgument);
    let narrowed = FeatureView::new("weather", "time").entity("airport").field("temp", "f64".parse().unwrap());
    let narrowed = Changes::new().define(anabranch_client::Definition::FeatureView(narrowed));
    assert!(client.plan(&narrowed).await.unwrap().breaking);
    assert_eq!(kind(client.apply(&narrowed, false, "").await.unwrap_err()), ErrorKind::FailedPrecondition);
    client.at("fix").apply(&narrowed, true, "").await.unwrap();
    assert_eq!(client.definitions(Some(DefinitionKind::FeatureView), None).await.unwrap().definitions[0].spec["fields"].as_array().unwrap().len(), 2);
    let no_spine_time = client.get_historical_features_of(&HistoricalQuery::new(features()), keys(&["JFK"])).await.unwrap_err();
    assert_eq!(kind(no_spine_time), ErrorKind::InvalidArgument);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_can_be_repeated_outlives_a_restart_of_the_server() {
    let data = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let first = server(data.path(), &address).await;
    let client = client_of(&first).await;
    let started = client.info().await.unwrap().started;
    first.shutdown().await.unwrap();
    let second = server(data.path(), &address).await;
    assert!(client.info().await.unwrap().started > started);
    second.shutdown().await.unwrap();
    let error = client.info().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}
