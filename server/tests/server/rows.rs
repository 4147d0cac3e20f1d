//! Rows pushed, looked up, deleted, refused.

use std::sync::Arc;

use anabranch_proto::v1;
use anabranch_proto::v1::online_client::OnlineClient;
use anabranch_proto::v1::{Column, Status, StringValues, column::Values};
use serde_json::json;

use crate::support::{TestServer, features, push, weather};

fn origins(names: &[&str], nulls: &[u32]) -> Column {
    let values = names.iter().map(|name| (*name).to_owned()).collect();
    Column { name: "origin".into(), r#type: "string".into(), nulls: nulls.to_vec(), values: Some(Values::Strings(StringValues { values })) }
}

async fn lookup(server: &TestServer, selected: &[&str], keys: Column, at_least: &str) -> v1::OnlineReply {
    let request = v1::OnlineRequest { selection: features(selected), keys: vec![keys], at_least: at_least.into(), ..v1::OnlineRequest::default() };
    OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap().into_inner()
}

fn f64s(column: &v1::FeatureColumn) -> Vec<f64> {
    match column.values.as_ref().unwrap().values.as_ref().unwrap() {
        Values::F64s(list) => list.values.clone(),
        other => panic!("{other:?}"),
    }
}

fn statuses(column: &v1::FeatureColumn) -> Vec<Status> {
    column.statuses.iter().map(|status| Status::try_from(*status).unwrap()).collect()
}

#[tokio::test]
async fn pushed_rows_are_looked_up_with_an_honest_status_each() {
    looks_pushed_rows_up(&TestServer::with_weather().await).await;
}

/// On a server that has the weather definitions and no rows.
pub(crate) async fn looks_pushed_rows_up(server: &TestServer) {
    let rows = r#"[{"origin": "JFK", "at": "2024-01-01T01:00:00Z", "temp": 3.5, "wind": null},
                   {"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1.0, "wind": 9.0}]"#;
    let pushed = server.push(rows).await;
    assert_eq!((pushed.rows, pushed.duplicate), (2, false));
    let reply = lookup(server, &["weather"], origins(&["JFK", "EWR", ""], &[2]), &pushed.token).await;
    let [temp, wind] = &reply.columns[..] else { panic!("{reply:?}") };
    assert_eq!(temp.values.as_ref().unwrap().name, "temp");
    assert_eq!(f64s(temp), [3.5, 0.0, 0.0]);
    assert_eq!(temp.values.as_ref().unwrap().nulls, [1, 2]);
    assert_eq!(statuses(temp), [Status::Present, Status::NotFound, Status::NotFound]);
    assert_eq!(statuses(wind), [Status::NullValue, Status::NotFound, Status::NotFound]);
    assert_eq!(temp.event_times_us, [1_704_070_800_000_000, 0, 0]);
    assert!(wind.event_times_us.is_empty());
}

#[tokio::test]
async fn http_pushes_and_looks_up_like_grpc() {
    let server = TestServer::with_weather().await;
    let (status, reply) = server.http("POST", "/v1/push?view=weather", r#"{"origin": "JFK", "at": "2024-01-01", "temp": 3.5}"#).await;
    assert_eq!((status, &reply["rows"]), (200, &json!(1)), "{reply}");
    let body = json!({"service": "model", "keys": {"origin": ["JFK", null]}, "at_least": reply["token"]});
    let (status, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
    let expected = json!([{
        "name": "temp", "type": "f64", "values": [3.5, null], "statuses": ["PRESENT", "NOT_FOUND"],
        "event_times": ["2024-01-01T00:00:00Z", null],
    }]);
    assert_eq!((status, &reply["columns"]), (200, &expected), "{reply}");
}

#[tokio::test]
async fn arrow_is_pushed_as_well_as_json() {
    let server = TestServer::with_weather().await;
    let batch = weather(&["JFK"], &[1], &[7.0]);
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    let ipc = writer.into_inner().unwrap();
    let rows = Some(v1::push_request::Rows::ArrowIpc(ipc.clone().into()));
    let pushed = server.ingest().push(v1::PushRequest { rows, ..push("") }).await.unwrap().into_inner();
    let reply = lookup(&server, &["weather:temp"], origins(&["JFK"], &[]), &pushed.token).await;
    assert_eq!(f64s(&reply.columns[0]), [7.0]);
    let headers = "Content-Type: application/vnd.apache.arrow.stream\r\n";
    let (status, body) = server.http_raw("POST", "/v1/push?view=weather", headers, &ipc).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_push() {
    let server = TestServer::with_weather().await;
    let request = || v1::PushRequest { idempotency_key: "once".into(), ..push(r#"{"origin": "JFK", "at": "2024-01-01", "temp": 1}"#) };
    let first = server.ingest().push(request()).await.unwrap().into_inner();
    let second = server.ingest().push(request()).await.unwrap().into_inner();
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.token, second.token);
}

#[tokio::test]
async fn a_deleted_entity_is_not_found_and_its_history_stays() {
    deletes_an_entity(&TestServer::with_weather().await).await;
}

/// On a server that has the weather definitions and no rows.
pub(crate) async fn deletes_an_entity(server: &TestServer) {
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await;
    let (status, reply) = server.http("POST", "/v1/delete?view=weather", r#"{"origin": "JFK", "at": "2024-01-01T02:00:00Z"}"#).await;
    assert_eq!(status, 200, "{reply}");
    let found = lookup(server, &["weather:temp"], origins(&["JFK"], &[]), reply["token"].as_str().unwrap()).await;
    assert_eq!(statuses(&found.columns[0]), [Status::NotFound]);
    server.flush().await;
    let spine = crate::support::spine(&["JFK", "JFK"], &[1, 3]);
    let (joined, _) = server.historical(crate::support::historical(&["weather:temp"]), spine).await.unwrap();
    assert_eq!(crate::support::floats(&joined, "temp"), [Some(1.0), None]);
}

#[tokio::test]
async fn rows_that_checks_refuse_are_kept_with_their_bytes_and_reasons() {
    let server = TestServer::with_weather().await;
    let bad = r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 99}"#;
    server.push(bad).await;
    server.flush().await;
    let reply = server.ingest().list_quarantine(v1::ListQuarantineRequest::default()).await.unwrap().into_inner();
    assert_eq!(reply.total, 1);
    let row = &reply.rows[0];
    assert_eq!((row.view.as_str(), row.format.as_str(), row.payload.as_ref()), ("weather", "json", bad.as_bytes()));
    assert_eq!((row.failures[0].check.as_str(), row.failures[0].column.as_str()), ("temp_range", "temp"));
    let (status, reply) = server.http("GET", "/v1/quarantine?view=weather", "").await;
    assert_eq!((status, &reply["rows"][0]["payload"]), (200, &json!(bad)), "{reply}");
    let (_, reply) = server.http("GET", "/v1/quarantine?view=other", "").await;
    assert_eq!(reply["total"], 0);
}

#[tokio::test]
async fn a_flush_makes_status_and_metrics_say_that_all_is_committed() {
    let server = TestServer::with_weather().await;
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await;
    let (_, flushed) = server.http("POST", "/v1/flush", "").await;
    let (_, status) = server.http("GET", "/v1/status", "").await;
    assert_eq!((&status["appended"], &status["committed"], &status["last_error"]), (&json!(1), &json!(1), &json!("")), "{status}");
    assert_eq!(status["commit"], flushed["commit"]);
    let (code, text) = server.http_raw("GET", "/metrics", "", b"").await;
    assert_eq!(code, 200);
    assert!(text.contains(r#"anabranch_pipeline_position_rows{repository="default",stage="committed"} 1"#), "{text}");
    assert!(text.contains(r#"anabranch_rows_pushed_total{repository="default"} 1"#), "{text}");
    assert!(text.contains(r#"anabranch_requests_total{face="http",method="/v1/flush",code="200"} 1"#), "{text}");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let server = TestServer::with_weather().await;
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await;
    let server = server.restart().await;
    let token = server.push(r#"{"origin": "EWR", "at": "2024-01-01T00:00:00Z", "temp": 2}"#).await.token;
    let reply = lookup(&server, &["weather:temp"], origins(&["JFK", "EWR"], &[]), &token).await;
    assert_eq!(f64s(&reply.columns[0]), [1.0, 2.0]);
}

#[tokio::test]
async fn a_view_added_while_serving_is_looked_up_at_once() {
    let server = TestServer::with_weather().await;
    let token = server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await.token;
    lookup(&server, &["weather:temp"], origins(&["JFK"], &[]), &token).await;
    let yaml = "kind: feature_view\nname: sky\nentities: [airport]\nevent_timestamp: at\nfields:\n  - {name: clouds, type: i64}\n";
    server.apply(yaml).await.unwrap();
    let reply = lookup(&server, &["weather:temp", "sky:clouds"], origins(&["JFK"], &[]), "").await;
    assert_eq!(statuses(&reply.columns[0]), [Status::Present]);
    assert_eq!(statuses(&reply.columns[1]), [Status::NotFound]);
}

#[tokio::test]
async fn many_clients_push_and_nothing_is_lost() {
    let server = Arc::new(TestServer::with_weather().await);
    let pushes = (0..32).map(|i| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.push(&format!(r#"{{"origin": "A{i}", "at": "2024-01-01T00:00:00Z", "temp": {i}}}"#)).await })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.unwrap();
    }
    server.flush().await;
    let names: Vec<_> = (0..32).map(|i| format!("A{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (joined, _) = server.historical(crate::support::historical(&["weather:temp"]), crate::support::spine(&names, &[1; 32])).await.unwrap();
    let expected: Vec<_> = (0..32).map(|i| Some(f64::from(i))).collect();
    assert_eq!(crate::support::floats(&joined, "temp"), expected);
}
