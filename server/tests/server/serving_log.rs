//! What lookups were answered, logged for a service that asks for it, whatever face they come by.

use std::sync::Arc;

use anabranch_core::{Span, Timestamp};
use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use anabranch_proto::v1::online_client::OnlineClient;
use anabranch_server::auth::AllowLoopback;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use arrow_flight::Ticket;
use futures::TryStreamExt;
use serde_json::{Value as Json, json};

use crate::support::{TestServer, WEATHER, at, command, config, decoded, kind};

/// The weather, with a part of the lookups of `model` logged.
fn logged(rate: &str) -> String {
    format!("{WEATHER}logging: {{sample_rate: {rate}}}\n")
}

/// A server that logs only when it is asked to flush, or is shut down.
async fn server(rate: &str) -> TestServer {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut config = config(folder.path());
    config.serving_log.commit_every = Span::seconds(3_600);
    let server = TestServer::start_as(config, folder, Arc::new(AllowLoopback)).await;
    server.apply(&logged(rate)).await.unwrap();
    let rows = r#"[{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 3.5, "wind": 9.0}, {"origin": "EWR", "at": "2024-01-01T01:00:00Z", "temp": null, "wind": 1.0}]"#;
    server.push(rows).await;
    server.flush().await;
    server
}

async fn look_up(server: &TestServer, body: Json) -> Json {
    let (status, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    reply
}

async fn sql(server: &TestServer, reference: &str, sql: &str) -> Result<RecordBatch, tonic::Status> {
    let query = v1::QueryCommand { target: at(reference), sql: sql.to_owned() };
    let ticket = Ticket::new(command(Command::Query(query)));
    Ok(decoded(server.flight().do_get(ticket).await?.into_inner().try_collect().await?).await)
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

fn times(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let times = batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>();
    times.iter().map(|time| time.map(|time| Timestamp(time).to_string())).collect()
}

async fn metric(server: &TestServer, outcome: &str) -> u64 {
    let (_, text) = server.http_raw("GET", "/metrics", "", b"").await;
    let wanted = format!("anabranch_serving_log_rows_total{{repository=\"default\",outcome=\"{outcome}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&*wanted)).unwrap_or_else(|| panic!("{wanted}\n{text}")).parse().unwrap()
}

const ALL: &str =
    "SELECT origin, temp, temp__status, weather__event_time, _served_at, _row, _sample_rate, _commit FROM served.model ORDER BY _served_at, _row";

#[tokio::test]
async fn lookups_of_every_face_are_logged_as_they_were_answered() {
    let server = server("1").await;
    let replies = [
        look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK", "EWR", "XXX", null]}})).await,
        look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK"]}, "full_names": true})).await,
    ];
    assert_eq!(replies[1]["columns"][0]["name"], "weather__temp");
    let feast = json!({"feature_service": "model", "entities": {"origin": ["EWR"]}}).to_string();
    assert_eq!(server.http("POST", "/get-online-features", &feast).await.0, 200);
    let values = v1::key_column::Values::Strings(v1::StringValues { values: vec!["JFK".into()] });
    let keys = vec![v1::KeyColumn { name: "origin".into(), nulls: vec![], values: Some(values) }];
    let selection = Some(v1::Selection { of: Some(v1::selection::Of::Service("model".into())) });
    let request = v1::OnlineRequest { selection, keys, ..v1::OnlineRequest::default() };
    OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap();
    // Features that are named are of no service.
    look_up(&server, json!({"features": ["weather"], "keys": {"origin": ["JFK"]}})).await;
    server.flush().await;
    let rows = sql(&server, "", ALL).await.unwrap();
    let some = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect::<Vec<_>>();
    assert_eq!(texts(&rows, "origin"), [some(&["JFK", "EWR", "XXX"]), vec![None], some(&["JFK", "EWR", "JFK"])].concat());
    let temps: Vec<_> = rows.column_by_name("temp").unwrap().as_primitive::<Float64Type>().iter().collect();
    assert_eq!(temps, [Some(3.5), None, None, None, Some(3.5), None, Some(3.5)]);
    let statuses = ["PRESENT", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND", "PRESENT", "NULL_VALUE", "PRESENT"];
    assert_eq!(texts(&rows, "temp__status"), some(&statuses));
    let (served_at, event_times) = (times(&rows, "_served_at"), times(&rows, "weather__event_time"));
    for (row, reply) in [(0, &replies[0]), (4, &replies[1])] {
        let column = &reply["columns"][0];
        assert_eq!((json!(temps[row]), json!(statuses[row])), (column["values"][0].clone(), column["statuses"][0].clone()));
        assert_eq!((json!(served_at[row]), json!(event_times[row])), (reply["as_of"].clone(), column["event_times"][0].clone()));
    }
    assert!(rows.column_by_name("_sample_rate").unwrap().as_primitive::<Float64Type>().iter().all(|rate| rate == Some(1.0)));
    let commit = texts(&rows, "_commit")[0].clone().unwrap();
    assert_eq!(server.http("GET", &format!("/v1/definitions?ref=commit:{commit}"), "").await.0, 200);
    assert_eq!((metric(&server, "logged").await, metric(&server, "dropped_full").await), (7, 0));
    // The table's files, for readers that are not us: one for each commit, of which there may be several.
    let (status, reply) = server.http("GET", "/v1/tables/files?view=served.model", "").await;
    let rows = reply["files"].as_array().into_iter().flatten().map(|file| file["rows"].as_u64().unwrap_or_default()).sum::<u64>();
    assert_eq!((status, rows), (200, 7), "{reply}");
}

#[tokio::test]
async fn what_is_not_drawn_and_what_another_branch_answers_leaves_no_trace() {
    let server = server("0").await;
    look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK"]}})).await;
    server.flush().await;
    assert_eq!(metric(&server, "logged").await, 0);
    let error = sql(&server, "", ALL).await.unwrap_err();
    assert!(kind(&error) == "invalid_argument" && error.message().contains("served.model"), "{error}");
    server.apply(&logged("1")).await.unwrap();
    server.http("POST", "/v1/branches", r#"{"name": "side"}"#).await;
    server.http("POST", "/v1/online/serve", r#"{"branch": "side"}"#).await;
    let body = json!({"service": "model", "keys": {"origin": ["JFK"]}, "ref": "side"}).to_string();
    while server.http("POST", "/v1/online-features", &body).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    server.flush().await;
    assert_eq!(metric(&server, "logged").await, 0);
    look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK"]}, "ref": "branch:main"})).await;
    server.flush().await;
    assert_eq!(metric(&server, "logged").await, 1);
}

#[tokio::test]
async fn a_shutdown_logs_what_was_drawn() {
    let server = server("1").await;
    look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK", "EWR"]}})).await;
    let server = server.restart().await;
    assert_eq!(sql(&server, "", ALL).await.unwrap().num_rows(), 2);
    // A branch that forks from here has it, and merges though main logs on.
    server.http("POST", "/v1/branches", r#"{"name": "later"}"#).await;
    assert_eq!(sql(&server, "later", ALL).await.unwrap().num_rows(), 2);
    let row = r#"{"origin": "JFK", "at": "2024-01-02T00:00:00Z", "temp": 4.5, "wind": 9.0}"#;
    assert_eq!(server.http("POST", "/v1/push?view=weather&ref=later", row).await.0, 200);
    assert_eq!(server.http("POST", "/v1/flush?ref=later", "").await.0, 200);
    look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK"]}})).await;
    server.flush().await;
    let (status, reply) = server.http("POST", "/v1/merge", r#"{"source": "later", "into": "main"}"#).await;
    assert_eq!(status, 200, "{reply}");
    let reply = look_up(&server, json!({"service": "model", "keys": {"origin": ["JFK"]}})).await;
    assert_eq!(reply["columns"][0]["values"][0], json!(4.5));
    server.flush().await;
    assert_eq!(sql(&server, "", ALL).await.unwrap().num_rows(), 4);
}
