//! Rows pushed, looked up, deleted, refused.

use std::sync::Arc;

use anabranch_proto::v1;
use anabranch_proto::v1::online_client::OnlineClient;
use anabranch_proto::v1::{KeyColumn, Status, StringValues, key_column::Values};
use serde_json::json;

use crate::support::{TestServer, WEATHER, features, floats, push, weather};

fn origins(names: &[&str], nulls: &[u32]) -> KeyColumn {
    let values = names.iter().map(|name| (*name).to_owned()).collect();
    KeyColumn { name: "origin".into(), nulls: nulls.to_vec(), values: Some(Values::Strings(StringValues { values })) }
}

async fn lookup(server: &TestServer, selected: &[&str], keys: KeyColumn, at_least: &str) -> v1::OnlineReply {
    let request = v1::OnlineRequest { selection: features(selected), keys: vec![keys], at_least: at_least.into(), ..v1::OnlineRequest::default() };
    OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap().into_inner()
}

/// Values of f64 columns alone, feature after feature.
fn f64s(reply: &v1::OnlineReply) -> Vec<f64> {
    reply.values.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn statuses(reply: &v1::OnlineReply) -> Vec<Status> {
    reply.statuses.iter().map(|status| Status::try_from(i32::from(*status)).unwrap()).collect()
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
    let schema = reply.schema.clone().unwrap();
    let features: Vec<_> = schema.features.iter().map(|feature| (feature.name.as_str(), feature.r#type.as_str(), feature.view)).collect();
    assert_eq!((features, schema.views), (vec![("temp", "f64", 0), ("wind", "f64", 0)], vec!["weather".to_owned()]));
    assert_eq!((reply.rows, f64s(&reply)), (3, vec![3.5, 0.0, 0.0, 0.0, 0.0, 0.0]));
    let temp = [Status::Present, Status::NotFound, Status::NotFound];
    let wind = [Status::NullValue, Status::NotFound, Status::NotFound];
    assert_eq!(statuses(&reply), [temp, wind].concat());
    assert_eq!(reply.event_times_us, [1_704_070_800_000_000, i64::MIN, i64::MIN]);
    assert!(reply.as_of_us > reply.event_times_us[0]);
}

#[tokio::test]
async fn a_schema_is_told_until_it_is_known_and_again_when_it_changes() {
    let server = TestServer::with_weather().await;
    let ask = async |known_schema| {
        let request =
            v1::OnlineRequest { selection: features(&["weather"]), keys: vec![origins(&["JFK"], &[])], known_schema, ..v1::OnlineRequest::default() };
        OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap().into_inner()
    };
    let first = ask(0).await;
    assert!(first.schema_id != 0 && first.schema.is_some());
    let again = ask(first.schema_id).await;
    assert_eq!((again.schema_id, &again.schema), (first.schema_id, &None));
    assert!(ask(first.schema_id ^ 1).await.schema.is_some());
    server.apply(&WEATHER.replace("  - {name: wind, type: f64}\n", "  - {name: wind, type: f64}\n  - {name: gusts, type: i64}\n")).await.unwrap();
    let changed = ask(first.schema_id).await;
    assert_eq!(changed.schema.unwrap().features.len(), 3);
    assert_ne!(changed.schema_id, first.schema_id);
}

#[tokio::test]
async fn who_accepts_arrow_is_answered_in_arrow() {
    let server = TestServer::with_weather().await;
    let token = server.push(r#"{"origin": "JFK", "at": "2024-01-01T01:00:00Z", "temp": 3.5, "wind": null}"#).await.token;
    let body = json!({"features": ["weather"], "keys": {"origin": ["JFK", "XXX"]}, "at_least": token}).to_string();
    let (status, answer) = server.http_bytes("POST", "/v1/online-features", "Accept: application/vnd.apache.arrow.stream\r\n", body.as_bytes()).await;
    assert_eq!(status, 200);
    let batch = arrow::ipc::reader::StreamReader::try_new(&answer[..], None).unwrap().next().unwrap().unwrap();
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["temp", "wind", "temp__status", "wind__status", "weather__event_time"]);
    assert_eq!(floats(&batch, "temp"), [Some(3.5), None]);
    let statuses = batch.column(3).as_any().downcast_ref::<arrow::array::UInt8Array>().unwrap();
    assert_eq!(statuses.values(), &[2, 3]);
    assert_eq!(batch.column(4).null_count(), 1);
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
    assert_eq!(f64s(&reply), [7.0]);
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
    assert_eq!(statuses(&found), [Status::NotFound]);
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
    assert_eq!(f64s(&reply), [1.0, 2.0]);
}

#[tokio::test]
async fn a_view_added_while_serving_is_looked_up_at_once() {
    let server = TestServer::with_weather().await;
    let token = server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await.token;
    lookup(&server, &["weather:temp"], origins(&["JFK"], &[]), &token).await;
    let yaml = "kind: feature_view\nname: sky\nentities: [airport]\nevent_timestamp: at\nfields:\n  - {name: clouds, type: i64}\n";
    server.apply(yaml).await.unwrap();
    let reply = lookup(&server, &["weather:temp", "sky:clouds"], origins(&["JFK"], &[]), "").await;
    assert_eq!(statuses(&reply), [Status::Present, Status::NotFound]);
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
