//! Bad input: each gets a clear error, and nothing is lost or half-written.

use std::sync::Arc;

use anabranch_core::types::UTC;
use anabranch_proto::v1;
use anabranch_proto::v1::online_client::OnlineClient;
use anabranch_proto::v1::versioning_client::VersioningClient;
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, WEATHER, at, features, historical, hours, integers, kind, parse_answer, push, spine};

async fn refused(server: &TestServer, command: v1::HistoricalCommand, spine: RecordBatch, wanted: &str) {
    let error = server.historical(command, spine).await.unwrap_err();
    assert_eq!(kind(&error), "invalid_argument", "{error}");
    assert!(error.message().contains(wanted), "{error}");
}

#[tokio::test]
async fn malformed_yaml_is_refused_with_its_line() {
    let server = TestServer::start().await;
    for (yaml, place) in [("kind: entity\nname: [a\n", "features.yaml:"), ("kind: entity\nname: a\njoin_kays: []\n", "features.yaml:3:1")] {
        let error = server.apply(yaml).await.unwrap_err();
        assert_eq!(kind(&error), "invalid_argument");
        assert!(error.message().contains(place), "{error}");
    }
    // A fault that only the plan finds has its place, too.
    let error = server.apply(&WEATHER.replace("entities: [airport]", "entities: [airprot]")).await.unwrap_err();
    assert!(error.message().contains("features.yaml:8:") && error.message().contains("did you mean \"airport\""), "{error}");
    let (_, listed) = server.http("GET", "/v1/definitions", "").await;
    assert_eq!(listed["definitions"], json!([]));
}

#[tokio::test]
async fn unknown_features_views_and_services_are_named() {
    let server = TestServer::with_weather().await;
    refused(&server, historical(&["weather:tmp"]), spine(&["JFK"], &[1]), "no feature \"tmp\"").await;
    refused(&server, historical(&["wether"]), spine(&["JFK"], &[1]), "did you mean \"weather\"").await;
    refused(&server, v1::HistoricalCommand::default(), spine(&["JFK"], &[1]), "selection").await;
    let (status, reply) = server.http("POST", "/v1/online-features", r#"{"service": "modle", "keys": {"origin": ["JFK"]}}"#).await;
    assert_eq!((status, &reply["error"]["details"]["name"]), (400, &json!("modle")), "{reply}");
    let (status, reply) = server.http("POST", "/v1/push?view=wether", "{}").await;
    assert_eq!(status, 400);
    assert!(reply["error"]["message"].as_str().unwrap().contains("did you mean"), "{reply}");
}

#[tokio::test]
async fn keys_that_are_missing_odd_or_of_another_type_are_named() {
    let server = TestServer::with_weather().await;
    let times = hours(&[1]);
    let only_time = RecordBatch::try_from_iter([("event_timestamp", Arc::clone(&times))]).unwrap();
    refused(&server, historical(&["weather:temp"]), only_time, "\"origin\"").await;
    let numbers = RecordBatch::try_from_iter([("origin", integers(vec![7])), ("event_timestamp", times)]).unwrap();
    refused(&server, historical(&["weather:temp"]), numbers, "\"origin\"").await;
    for (keys, wanted) in [
        (json!({}), "\"origin\" is missing"),
        (json!({"origin": [1]}), "row 0"),
        (json!({"origin": ["JFK"], "carrier": ["AA"]}), "\"carrier\" is no key"),
    ] {
        let body = json!({"features": ["weather:temp"], "keys": keys});
        let (status, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
        assert_eq!(status, 400, "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(wanted), "{reply}");
    }
}

#[tokio::test]
async fn a_spine_without_times_or_with_a_null_time_is_refused_by_row() {
    let server = TestServer::with_weather().await;
    let origins: ArrayRef = Arc::new(StringArray::from(vec!["JFK", "JFK"]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone(UTC));
    let batch = RecordBatch::try_from_iter_with_nullable([("origin", Arc::clone(&origins), false), ("event_timestamp", times, true)]).unwrap();
    refused(&server, historical(&["weather:temp"]), batch, "row 1").await;
    let untimed = RecordBatch::try_from_iter([("origin", origins)]).unwrap();
    refused(&server, historical(&["weather:temp"]), untimed, "\"event_timestamp\"").await;
    let named = v1::HistoricalCommand { time_column: "when".into(), ..historical(&["weather:temp"]) };
    refused(&server, named, spine(&["JFK"], &[1]), "\"when\"").await;
    let knowing = v1::HistoricalCommand { knowledge: "all".into(), ..historical(&["weather:temp"]) };
    refused(&server, knowing, spine(&["JFK"], &[1]), "\"all\"").await;
}

#[tokio::test]
async fn rows_of_the_wrong_type_go_to_quarantine_and_bodies_that_are_no_rows_are_refused() {
    let server = TestServer::with_weather().await;
    server.push(r#"{"origin": "JFK", "at": "2024-01-01", "temp": "warm"}"#).await;
    server.flush().await;
    let (_, reply) = server.http("GET", "/v1/quarantine", "").await;
    assert_eq!((&reply["total"], &reply["rows"][0]["failures"][0]["column"]), (&json!(1), &json!("temp")), "{reply}");
    for body in ["", "[]", "{", "[1]x"] {
        let (status, reply) = server.http("POST", "/v1/push?view=weather", body).await;
        assert_eq!((status, &reply["error"]["kind"]), (400, &json!("invalid_argument")), "{body:?}: {reply}");
    }
    let error = server.ingest().push(v1::PushRequest { rows: None, ..push("") }).await.unwrap_err();
    assert_eq!(kind(&error), "invalid_argument");
}

fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Sends zeros until the server has had enough, and reads its answer.
async fn push_zeros(server: &TestServer, total: usize, chunked: bool) -> (u16, Json) {
    let mut stream = TcpStream::connect(server.running.addr()).await.unwrap();
    let length = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {total}") };
    let head = format!("POST /v1/push?view=weather HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let zeros = vec![b'0'; 1 << 20];
    for _ in 0..total / zeros.len() {
        if chunked {
            stream.write_all(format!("{:x}\r\n", zeros.len()).as_bytes()).await.unwrap();
        }
        stream.write_all(&zeros).await.unwrap();
        if chunked {
            stream.write_all(b"\r\n").await.unwrap();
        }
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let (status, body) = parse_answer(&answer);
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn a_push_of_a_gigabyte_is_refused_with_the_limit_and_never_held() {
    let server = TestServer::with_weather().await;
    for chunked in [false, true] {
        let (status, reply) = push_zeros(&server, 1 << 30, chunked).await;
        let error = &reply["error"];
        assert_eq!((status, &error["kind"], &error["details"]["limit_bytes"]), (429, &json!("exhausted"), &json!(1 << 20)), "{reply}");
        assert!(error["message"].as_str().unwrap().contains("bulk ingest"), "{reply}");
    }
    assert!(peak_memory_bytes() < 800 << 20, "{}", peak_memory_bytes());
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_answered_before_sending() {
    let server = TestServer::with_weather().await;
    let mut stream = TcpStream::connect(server.running.addr()).await.unwrap();
    let head = format!("POST /v1/push?view=weather HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 429");
}

#[tokio::test]
async fn a_grpc_push_over_the_limit_says_the_limit_too() {
    let server = TestServer::with_weather().await;
    let error = server.ingest().push(push(&"0".repeat(8 << 20))).await.unwrap_err();
    assert_eq!(kind(&error), "exhausted", "{error}");
    assert!(error.message().contains("1048576 bytes") && error.message().contains("bulk ingest"), "{error}");
    // The connection and the server are none the worse for it.
    server.push(r#"{"origin": "JFK", "at": "2024-01-01", "temp": 1}"#).await;
}

#[tokio::test]
async fn a_view_applied_twice_at_once_is_applied_once() {
    let server = TestServer::start().await;
    let (first, second) = tokio::join!(server.apply(WEATHER), server.apply(WEATHER));
    let outcomes = [first, second];
    for outcome in &outcomes {
        if let Err(error) = outcome {
            assert_eq!(kind(error), "conflict", "{error}");
        }
    }
    assert!(outcomes.iter().any(Result::is_ok));
    let (_, log) = server.http("GET", "/v1/log", "").await;
    let applies = log["commits"].as_array().unwrap().iter().filter(|commit| commit["message"].as_str().unwrap().contains("weather")).count();
    assert_eq!(applies, 1, "{log}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found_by_name() {
    let server = TestServer::with_weather().await;
    let mut versioning = VersioningClient::new(server.channel.clone());
    let target = Some(v1::Target { repository: "other".into(), r#ref: String::new() });
    let error = versioning.resolve(v1::ResolveRequest { target }).await.unwrap_err();
    assert_eq!(kind(&error), "not_found");
    assert!(error.message().contains("this server has default"), "{error}");
    let error = versioning.resolve(v1::ResolveRequest { target: at("nowhere") }).await.unwrap_err();
    assert_eq!(kind(&error), "not_found", "{error}");
    let error = versioning.resolve(v1::ResolveRequest { target: at("bad..ref~x") }).await.unwrap_err();
    assert_eq!(kind(&error), "invalid_argument", "{error}");
    let (status, reply) = server.http("GET", "/v2/push", "").await;
    assert_eq!((status, &reply["error"]["kind"]), (404, &json!("not_found")), "{reply}");
    let (status, reply) = server.http("DELETE", "/v1/log", "").await;
    assert_eq!((status, &reply["error"]["kind"]), (404, &json!("not_found")), "{reply}");
    let (status, reply) = server.http("GET", "/v1/log?limt=3", "").await;
    assert_eq!(status, 400, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("limt"), "{reply}");
}

#[tokio::test]
async fn only_served_branches_are_looked_up_and_only_branches_are_written() {
    let server = TestServer::with_weather().await;
    server.http("POST", "/v1/branches", r#"{"name": "side"}"#).await;
    server.http("POST", "/v1/tags", r#"{"name": "v1"}"#).await;
    let keys = || {
        let values = v1::key_column::Values::Strings(v1::StringValues { values: vec!["JFK".into()] });
        vec![v1::KeyColumn { name: "origin".into(), nulls: vec![], values: Some(values) }]
    };
    for (reference, reason) in [("side", "\"side\" is not served"), ("tag:v1", "only branches are")] {
        let request = v1::OnlineRequest { target: at(reference), selection: features(&["weather"]), keys: keys(), ..v1::OnlineRequest::default() };
        let error = OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap_err();
        assert_eq!(kind(&error), "failed_precondition");
        assert!(error.message().contains(reason), "{error}");
    }
    let error = server.ingest().push(v1::PushRequest { target: at("tag:v1"), ..push("{}") }).await.unwrap_err();
    assert_eq!(kind(&error), "failed_precondition", "{error}");
}

#[tokio::test]
async fn a_token_of_nowhere_is_refused() {
    let server = TestServer::with_weather().await;
    for token in ["soon", "77:3"] {
        let body = json!({"service": "model", "keys": {"origin": ["JFK"]}, "at_least": token});
        let (status, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
        assert_eq!((status, &reply["error"]["kind"]), (400, &json!("invalid_argument")), "{reply}");
    }
}
