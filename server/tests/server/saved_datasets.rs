//! Datasets that are saved: their rows, names, splits, refreshes and differences, over every face.

use std::sync::Arc;

use anabranch_proto::v1;
use anabranch_proto::v1::dataset_spine::Source;
use anabranch_proto::v1::datasets_client::DatasetsClient;
use anabranch_proto::v1::flight_command::Command;
use anabranch_server::auth::AllowLoopback;
use arrow::array::{AsArray, RecordBatch};
use arrow_flight::Ticket;
use futures::TryStreamExt;
use serde_json::{Value as Json, json};
use tonic::Status;

use crate::support::{TestServer, WEATHER, at, command, config, decoded, floats, historical, kind, spine};

const ROWS: &str = r#"[{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 0, "wind": 10},
                       {"origin": "JFK", "at": "2024-01-01T02:00:00Z", "temp": 2, "wind": 12},
                       {"origin": "EWR", "at": "2024-01-01T01:00:00Z", "temp": 5, "wind": 15}]"#;

async fn server() -> TestServer {
    let server = TestServer::with_weather().await;
    server.push(ROWS).await;
    server.flush().await;
    server
}

fn saved_as(name: &str) -> v1::HistoricalCommand {
    v1::HistoricalCommand { save_as: name.into(), ..historical(&["weather"]) }
}

fn events() -> Option<v1::DatasetSpine> {
    Some(v1::DatasetSpine { source: Some(Source::Events("weather".into())) })
}

impl TestServer {
    fn datasets(&self) -> DatasetsClient<tonic::transport::Channel> {
        DatasetsClient::new(self.channel.clone())
    }

    async fn fetched(&self, wanted: Command) -> Result<RecordBatch, Status> {
        let messages = self.flight().do_get(Ticket { ticket: command(wanted).into() }).await?.into_inner();
        Ok(decoded(messages.try_collect().await?).await)
    }

    async fn dataset(&self, name: &str, split: &str) -> Result<RecordBatch, Status> {
        self.fetched(Command::Dataset(v1::DatasetCommand { name: name.into(), split: split.into(), ..v1::DatasetCommand::default() })).await
    }

    async fn create(&self, command: v1::HistoricalCommand) -> Result<Json, Status> {
        let reply = self.datasets().create_dataset(v1::CreateDatasetRequest { historical: Some(command) }).await?;
        Ok(serde_json::from_str::<Json>(&reply.into_inner().manifest).unwrap()["spec"].take())
    }

    async fn refresh(&self, name: &str, save_as: &str) -> Result<Json, Status> {
        let request = v1::RefreshDatasetRequest { name: name.into(), save_as: save_as.into(), ..v1::RefreshDatasetRequest::default() };
        let reply = self.datasets().refresh_dataset(request).await?;
        Ok(serde_json::from_str::<Json>(&reply.into_inner().manifest).unwrap()["spec"].take())
    }

    async fn main_head(&self) -> Json {
        self.http("GET", "/v1/branches/show?name=main", "").await.1["commit"].take()
    }
}

#[tokio::test]
async fn the_rows_of_a_saved_dataset_are_what_was_joined_whatever_came_later() {
    let server = server().await;
    let (joined, footer) = server.historical(saved_as("train"), spine(&["JFK", "EWR", "LGA"], &[1, 2, 3])).await.unwrap();
    let spec = &footer["manifest"]["spec"];
    assert_eq!((&spec["spine"], &spec["spine_columns"], &spec["parts"][0]["rows"]), (&json!("table"), &json!(2), &json!(3)));
    assert_eq!(spec["statistics"][2]["nulls"], 1);
    assert_eq!((&footer["report"]["spine_rows"], &footer["report"]["views"][0]["matched"]), (&json!(3), &json!(2)));
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:30:00Z", "temp": 30}"#).await;
    server.flush().await;
    let stored = server.dataset("train", "").await.unwrap();
    assert_eq!(floats(&stored, "temp"), floats(&joined, "temp"));
    let some = v1::DatasetCommand { name: "train".into(), columns: vec!["wind".into(), "origin".into()], ..v1::DatasetCommand::default() };
    let some = server.fetched(Command::Dataset(some)).await.unwrap();
    assert_eq!((some.num_columns(), floats(&some, "wind")), (2, floats(&joined, "wind")));
    for (name, split, said) in [("trian", "", "trian"), ("train", "test", "it has none")] {
        let error = server.dataset(name, split).await.unwrap_err();
        assert!(kind(&error) == "not_found" && error.message().contains(said), "{error}");
    }
    let odd = v1::DatasetCommand { name: "train".into(), columns: vec!["gust".into()], ..v1::DatasetCommand::default() };
    assert!(server.fetched(Command::Dataset(odd)).await.unwrap_err().message().contains("there are origin, event_timestamp, temp, wind"));
}

#[tokio::test]
async fn a_name_is_for_ever_and_the_same_again_makes_no_commit() {
    let server = server().await;
    server.historical(saved_as("train"), spine(&["JFK"], &[1])).await.unwrap();
    let head = server.main_head().await;
    let (_, again) = server.historical(saved_as("train"), spine(&["JFK"], &[1])).await.unwrap();
    assert_eq!((again["manifest"]["spec"]["name"].as_str(), server.main_head().await), (Some("train"), head.clone()));
    for (command, rows, differs) in [
        (saved_as("train"), spine(&["JFK"], &[3]), "content, spine"),
        (v1::HistoricalCommand { strict: true, ..saved_as("train") }, spine(&["JFK"], &[1]), "another options"),
        (v1::HistoricalCommand { splits: "a=0.5,b=0.5".into(), ..saved_as("train") }, spine(&["JFK"], &[1]), "another splits"),
    ] {
        let error = server.historical(command, rows).await.unwrap_err();
        assert!(kind(&error) == "conflict" && error.message().contains(differs) && error.message().contains("\"train\""), "{error}");
    }
    assert_eq!(server.main_head().await, head);
    let (_, other) = server.historical(saved_as("also"), spine(&["JFK"], &[1])).await.unwrap();
    let (_, listed) = server.http("GET", "/v1/objects?prefix=dataset-rows/", "").await;
    assert_eq!(other["manifest"]["spec"]["parts"], again["manifest"]["spec"]["parts"], "parts are shared");
    assert_eq!(listed["objects"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn splits_are_counted_and_fetched_one_by_one() {
    let server = server().await;
    let names: Vec<String> = (0..60).map(|place| format!("A{:02}", place % 20)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hours: Vec<i64> = (0..60).collect();
    let by_key = v1::HistoricalCommand { splits: "train=0.7,test=0.3".into(), without_rows: true, ..saved_as("keyed") };
    let (sent, footer) = server.historical(by_key, spine(&names, &hours)).await.unwrap();
    assert_eq!((sent.num_rows(), &footer["rows"]), (0, &json!(60)));
    let rule = &footer["manifest"]["spec"]["splits"]["rule"]["hash"];
    assert_eq!((&rule["columns"], &rule["shares"]), (&json!(["origin"]), &json!([700_000, 300_000])));
    let (train, test) = (server.dataset("keyed", "train").await.unwrap(), server.dataset("keyed", "test").await.unwrap());
    assert_eq!(train.num_rows() + test.num_rows(), 60);
    let origins =
        |batch: &RecordBatch| batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert!(origins(&train).is_disjoint(&origins(&test)) && !origins(&test).is_empty());
    let by_time = v1::HistoricalCommand { splits: "train<2024-01-02,test".into(), ..saved_as("timed") };
    server.historical(by_time, spine(&names, &hours)).await.unwrap();
    assert_eq!(server.dataset("timed", "train").await.unwrap().num_rows(), 24);
    for (splits, name, said) in [("train=0.7", "x", "splits"), ("a=0.5,b=0.5", "", "give it a name")] {
        let command = v1::HistoricalCommand { splits: splits.into(), ..saved_as(name) };
        let error = server.historical(command, spine(&["JFK"], &[1])).await.unwrap_err();
        assert!(kind(&error) == "invalid_argument" && error.message().contains(said), "{error}");
    }
}

#[tokio::test]
async fn every_event_of_a_view_is_a_spine() {
    let server = server().await;
    let command = v1::HistoricalCommand { spine: events(), ..historical(&["weather"]) };
    let rows = server.fetched(Command::Historical(command.clone())).await.unwrap();
    assert_eq!(floats(&rows, "temp"), [Some(0.0), Some(5.0), Some(2.0)]);
    let strict = v1::HistoricalCommand { strict: true, save_as: "lagged".into(), ..command.clone() };
    let spec = server.create(strict).await.unwrap();
    assert_eq!((&spec["rows"], &spec["spine"]), (&json!(3), &json!({"events": "weather"})));
    assert_eq!(floats(&server.dataset("lagged", "").await.unwrap(), "temp"), [None, None, Some(0.0)]);
    let body = json!({"name": "posted", "features": ["weather:temp"], "spine": {"events": "weather"}, "strict": true, "splits": "a=0.5,b=0.5"});
    let (status, posted) = server.http("POST", "/v1/datasets", &body.to_string()).await;
    assert_eq!((status, &posted["manifest"]["spec"]["rows"]), (200, &json!(3)), "{posted}");
    assert_eq!(server.http("GET", "/v1/datasets/show?name=posted", "").await.1, posted);
    assert_eq!(server.http("GET", "/v1/datasets", "").await.1["datasets"].as_array().unwrap().len(), 2);
    let unknown = v1::HistoricalCommand { spine: Some(v1::DatasetSpine { source: Some(Source::Events("wether".into())) }), ..command.clone() };
    assert!(server.fetched(Command::Historical(unknown)).await.unwrap_err().message().contains("wether"));
    assert_eq!(kind(&server.create(command).await.unwrap_err()), "invalid_argument");
    let both = v1::HistoricalCommand { spine: events(), ..saved_as("x") };
    assert!(server.historical(both, spine(&["JFK"], &[1])).await.unwrap_err().message().contains("the server makes it"));
}

#[tokio::test]
async fn a_query_is_a_spine_in_one_order_and_is_asked_anew_by_a_refresh() {
    let server = server().await;
    let sql = |query: &str| Some(v1::DatasetSpine { source: Some(Source::Sql(query.to_owned())) });
    let query = "SELECT origin, at AS event_timestamp, temp AS label FROM weather WHERE temp > 1 ORDER BY temp DESC";
    let spec = server.create(v1::HistoricalCommand { spine: sql(query), ..saved_as("asked") }).await.unwrap();
    assert_eq!((&spec["rows"], &spec["spine"], &spec["spine_columns"]), (&json!(2), &json!({"sql": query}), &json!(3)));
    let rows = server.dataset("asked", "").await.unwrap();
    assert_eq!((floats(&rows, "label"), floats(&rows, "temp")), (vec![Some(5.0), Some(2.0)], vec![Some(5.0), Some(2.0)]));
    server.push(r#"{"origin": "EWR", "at": "2024-01-01T00:30:00Z", "temp": 7}"#).await;
    server.flush().await;
    let refreshed = server.refresh("asked", "again").await.unwrap();
    assert_eq!((&refreshed["rows"], &refreshed["base"]["recomputed"]), (&json!(3), &json!(2)));
    let full = server.create(v1::HistoricalCommand { spine: sql(query), ..saved_as("full") }).await.unwrap();
    assert_eq!(refreshed["content_digest"], full["content_digest"]);
    let timeless = server.create(v1::HistoricalCommand { spine: sql("SELECT origin FROM weather"), ..saved_as("x") }).await.unwrap_err();
    assert!(timeless.message().contains("event_timestamp"), "{timeless}");
}

#[tokio::test]
async fn a_refresh_is_the_full_dataset_and_joins_only_what_can_have_changed() {
    let server = server().await;
    let rows = || spine(&["JFK", "JFK", "EWR", "LGA"], &[1, 8, 8, 8]);
    let split = v1::HistoricalCommand { splits: "a=0.5,b=0.5".into(), ..saved_as("first") };
    server.historical(split, rows()).await.unwrap();
    let same = server.refresh("first", "same").await.unwrap();
    assert_eq!((&same["base"]["recomputed"], &same["base"]["name"]), (&json!(0), &json!("first")));
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T05:00:00Z", "temp": 31}"#).await;
    server.flush().await;
    let refreshed = server.refresh("first", "second").await.unwrap();
    assert_eq!((&refreshed["base"]["recomputed"], &refreshed["base"]["reason"]), (&json!(1), &Json::Null));
    let (full, footer) = server.historical(historical(&["weather"]), rows()).await.unwrap();
    assert_eq!(refreshed["content_digest"], footer["content_digest"]);
    assert_eq!(refreshed["splits"]["parts"][0]["name"], "a");
    assert_eq!(floats(&server.dataset("second", "").await.unwrap(), "temp"), floats(&full, "temp"));
    let renamed = WEATHER.replace("event_timestamp: at\n", "event_timestamp: at\nlookback: 1h\n");
    server.apply(&renamed).await.unwrap();
    let third = server.refresh("second", "third").await.unwrap();
    assert_eq!(third["base"]["recomputed"], 4);
    assert!(third["base"]["reason"].as_str().unwrap().contains("another lookback"), "{third}");
    let error = server.refresh("first", "second").await.map(drop).unwrap_err();
    assert_eq!(kind(&error), "conflict", "{error}");
}

#[tokio::test]
async fn a_spine_of_events_is_made_anew_by_a_refresh() {
    let server = server().await;
    server.create(v1::HistoricalCommand { spine: events(), strict: true, ..saved_as("first") }).await.unwrap();
    server.push(r#"{"origin": "EWR", "at": "2024-01-01T00:00:00Z", "temp": 4}"#).await;
    server.flush().await;
    let refreshed = server.refresh("first", "second").await.unwrap();
    // The new event, and the one of its airport that comes after it.
    assert_eq!((&refreshed["rows"], &refreshed["base"]["recomputed"]), (&json!(4), &json!(2)));
    let full = server.create(v1::HistoricalCommand { spine: events(), strict: true, ..saved_as("full") }).await.unwrap();
    assert_eq!(refreshed["content_digest"], full["content_digest"]);
}

#[tokio::test]
async fn a_difference_tells_what_was_asked_defined_added_and_moved() {
    let server = server().await;
    let names: Vec<&str> = [["JFK", "EWR"]; 40].concat();
    let hours: Vec<i64> = (4..84).collect();
    server.historical(saved_as("one"), spine(&names, &hours)).await.unwrap();
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T03:00:00Z", "temp": 50}"#).await;
    server.flush().await;
    server.apply(&WEATHER.replace("event_timestamp: at\n", "event_timestamp: at\nlookback: 30d\n")).await.unwrap();
    server.historical(v1::HistoricalCommand { strict: true, ..saved_as("two") }, spine(&names, &hours)).await.unwrap();
    let request = v1::DiffDatasetsRequest { left: "one".into(), right: "two".into(), ..v1::DiffDatasetsRequest::default() };
    let diff: Json = serde_json::from_str(&server.datasets().diff_datasets(request).await.unwrap().into_inner().diff).unwrap();
    assert_eq!(diff["same_content"], false);
    assert_eq!(diff["request"], json!([{"path": "options.strict", "left": false, "right": true}]));
    assert_eq!((&diff["definitions"][0]["name"], &diff["definitions"][0]["fields"][0]["path"]), (&json!("weather"), &json!("lookback")));
    assert_eq!((&diff["data"][0]["view"], &diff["data"][0]["rows_added"]), (&json!("weather"), &json!(1)));
    let changes: Vec<_> = diff["columns"].as_array().unwrap().iter().map(|column| column["change"].as_str().unwrap()).collect();
    assert_eq!(changes, ["same", "same", "moved", "moved"]);
    let temp = &diff["columns"][2];
    assert!(temp["psi"].as_f64().unwrap() > 0.5 && (temp["ks"].as_f64().unwrap() - 0.5).abs() < 1e-9, "{temp}");
    assert_eq!((&temp["left"]["mean"], &temp["right"]["mean"]), (&json!(3.5), &json!(27.5)));
    let (_, over_http) = server.http("GET", "/v1/datasets/diff?left=one&right=two", "").await;
    assert_eq!(over_http, diff);
    let (_, itself) = server.http("GET", "/v1/datasets/diff?left=one&right=one", "").await;
    assert_eq!((&itself["same_content"], &itself["data"], &itself["columns"][2]["ks"]), (&json!(true), &json!([]), &json!(0.0)));
    let missing = v1::DiffDatasetsRequest { left: "one".into(), right: "six".into(), target: at("main"), ..v1::DiffDatasetsRequest::default() };
    assert!(server.datasets().diff_datasets(missing).await.unwrap_err().message().contains("six"));
}

/// A spine of so many rows that asks for three airports, one of which is not there, over and over.
fn many(rows: i64) -> RecordBatch {
    let origins: Vec<_> = (0..rows).map(|n| ["JFK", "EWR", "LGA"][n as usize % 3]).collect();
    spine(&origins, &(0..rows).map(|n| n * 7 % 24).collect::<Vec<_>>())
}

#[tokio::test]
async fn datasets_larger_than_memory_are_joined_saved_and_refreshed_to_the_same_content() {
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let mut digests = Vec::new();
    for memory_bytes in [4 << 30, (cores * 24 + 8) << 20] {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut config = config(folder.path());
        config.engine.memory_bytes = memory_bytes;
        config.limits.push_bytes = 8 << 20;
        let spill = config.data.join("spill");
        let server = TestServer::start_as(config, folder, Arc::new(AllowLoopback)).await;
        server.apply(WEATHER).await.unwrap();
        server.push(ROWS).await;
        server.flush().await;
        let split = v1::HistoricalCommand { splits: "a=0.5,b=0.5".into(), split_by: vec!["event_timestamp".into()], ..saved_as("first") };
        let (rows, footer) = server.historical(split, many(100_000)).await.unwrap();
        assert_eq!((rows.num_rows(), &footer["rows"]), (100_000, &json!(100_000)));
        assert_eq!(footer["report"]["spilled_bytes"].as_u64().unwrap() > 0, memory_bytes < 4 << 30, "{footer}");
        server.push(r#"{"origin": "JFK", "at": "2024-01-01T20:00:00Z", "temp": 31}"#).await;
        server.flush().await;
        let refreshed = server.refresh("first", "second").await.unwrap();
        let (full, again) = server.historical(historical(&["weather"]), many(100_000)).await.unwrap();
        assert_eq!(refreshed["content_digest"], again["content_digest"]);
        assert_eq!(floats(&server.dataset("second", "").await.unwrap(), "temp"), floats(&full, "temp"));
        let expected = (0..100_000_i64).filter(|n| n % 3 == 0 && n * 7 % 24 >= 20).count();
        assert_eq!(refreshed["base"]["recomputed"], json!(expected));
        digests.push(
            [&footer["content_digest"], &footer["manifest"]["spec"]["spine_digest"], &refreshed["content_digest"], &refreshed["splits"]]
                .map(Json::clone),
        );
        // Nothing is left in the folder that is spilled to.
        let left: Vec<_> = std::fs::read_dir(&spill).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(digests[0], digests[1]);
}
