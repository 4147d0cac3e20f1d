//! Point-in-time datasets over Flight.

use anabranch_proto::v1;
use anabranch_proto::v1::datasets_client::DatasetsClient;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::Ticket;
use futures::TryStreamExt;
use serde_json::Value as Json;

use crate::support::{TestServer, at, command, decoded, floats, historical, spine};

const ROWS: &str = r#"[{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 0, "wind": 10},
                       {"origin": "JFK", "at": "2024-01-01T02:00:00Z", "temp": 2, "wind": 12},
                       {"origin": "EWR", "at": "2024-01-01T01:00:00Z", "temp": 5, "wind": 15}]"#;

async fn server() -> TestServer {
    let server = TestServer::with_weather().await;
    server.push(ROWS).await;
    server.flush().await;
    server
}

#[tokio::test]
async fn each_row_of_the_spine_gets_what_was_true_at_its_time() {
    let server = server().await;
    let (joined, footer) = server.historical(historical(&["weather"]), spine(&["JFK", "JFK", "EWR", "LGA"], &[1, 2, 0, 3])).await.unwrap();
    let names: Vec<_> = joined.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["origin", "event_timestamp", "temp", "wind"]);
    assert_eq!(floats(&joined, "temp"), [Some(0.0), Some(2.0), None, None]);
    assert_eq!(footer["rows"], 4);
    assert_eq!(footer["manifest"]["spec"]["content_digest"], footer["content_digest"]);
    let strict = v1::HistoricalCommand { strict: true, full_names: true, ..historical(&["weather:temp"]) };
    let (joined, _) = server.historical(strict, spine(&["JFK"], &[2])).await.unwrap();
    assert_eq!(floats(&joined, "weather__temp"), [Some(0.0)]);
}

#[tokio::test]
async fn the_same_commit_gives_the_same_digest_whatever_came_later() {
    let server = server().await;
    let ask = |reference: String| v1::HistoricalCommand { target: at(&reference), ..historical(&["weather"]) };
    let (_, before) = server.historical(ask(String::new()), spine(&["JFK"], &[5])).await.unwrap();
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T03:00:00Z", "temp": 30}"#).await;
    server.flush().await;
    let (_, after) = server.historical(ask(String::new()), spine(&["JFK"], &[5])).await.unwrap();
    let commit = format!("commit:{}", before["commit"].as_str().unwrap());
    let (_, again) = server.historical(ask(commit), spine(&["JFK"], &[5])).await.unwrap();
    assert_ne!(before["content_digest"], after["content_digest"]);
    assert_eq!(before["content_digest"], again["content_digest"]);
}

#[tokio::test]
async fn a_token_is_waited_for_until_its_rows_are_in_a_commit() {
    let server = TestServer::with_weather().await;
    let token = server.push(ROWS).await.token;
    let ask = v1::HistoricalCommand { at_least: token.clone(), ..historical(&["weather:temp"]) };
    let (joined, _) = server.historical(ask, spine(&["EWR"], &[1])).await.unwrap();
    assert_eq!(floats(&joined, "temp"), [Some(5.0)]);
    let head = server.flush().await;
    let ask = v1::HistoricalCommand { target: at(&format!("commit:{head}")), at_least: token, ..historical(&["weather:temp"]) };
    let error = server.historical(ask, spine(&["EWR"], &[1])).await.unwrap_err();
    assert_eq!(crate::support::kind(&error), "failed_precondition", "{error}");
}

#[tokio::test]
async fn a_dataset_is_kept_under_its_name_by_a_commit() {
    let server = server().await;
    let ask = v1::HistoricalCommand { save_as: "train".into(), author: "ada".into(), ..historical(&["weather:temp"]) };
    let (_, footer) = server.historical(ask, spine(&["JFK"], &[5])).await.unwrap();
    let mut datasets = DatasetsClient::new(server.channel.clone());
    let listed = datasets.list_datasets(v1::ListDatasetsRequest { target: None }).await.unwrap().into_inner().datasets;
    assert_eq!(listed.iter().map(|dataset| dataset.name.as_str()).collect::<Vec<_>>(), ["train"]);
    let request = v1::DescribeDatasetRequest { target: None, name: "train".into() };
    let described: Json = serde_json::from_str(&datasets.describe_dataset(request).await.unwrap().into_inner().manifest).unwrap();
    assert_eq!(described, footer["manifest"]);
    let (_, log) = server.http("GET", "/v1/log?limit=1", "").await;
    assert_eq!((log["commits"][0]["author"].as_str(), log["commits"][0]["message"].as_str()), (Some("ada"), Some("keep dataset train")));
    let request = v1::DescribeDatasetRequest { target: None, name: "trian".into() };
    let error = datasets.describe_dataset(request).await.unwrap_err();
    assert!(error.message().contains("trian") && error.code() == tonic::Code::NotFound, "{error}");
}

#[tokio::test]
async fn a_view_s_rows_are_read_at_a_ref() {
    let server = server().await;
    let read = v1::ReadCommand { view: "weather".into(), columns: vec!["origin".into(), "temp".into()], ..v1::ReadCommand::default() };
    let ticket = Ticket { ticket: command(Command::Read(read)).into() };
    let messages = server.flight().do_get(ticket).await.unwrap().into_inner().try_collect().await.unwrap();
    let rows = decoded(messages).await;
    assert_eq!((rows.num_rows(), rows.num_columns()), (3, 2));
    let mut temps: Vec<_> = floats(&rows, "temp").into_iter().flatten().collect();
    temps.sort_by(f64::total_cmp);
    assert_eq!(temps, [0.0, 2.0, 5.0]);
}
