//! Lookups under bad input and bad company.

use std::sync::Arc;
use std::time::Duration;

use anabranch_proto::v1;
use anabranch_proto::v1::online_client::OnlineClient;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, features, kind};

fn lookup_of(keys: usize) -> String {
    json!({"features": ["weather"], "keys": {"origin": vec!["JFK"; keys]}}).to_string()
}

fn request(body: &str) -> String {
    format!("POST /v1/online-features HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_million_keys_are_refused_whatever_they_come_as() {
    let server = TestServer::with_weather().await;
    let (status, reply) = server.http("POST", "/v1/online-features", &lookup_of(1_000_000)).await;
    assert_eq!((status, &reply["error"]["kind"]), (429, &json!("exhausted")), "{reply}");
    let (status, reply) = server.http("POST", "/v1/online-features", &lookup_of(10_001)).await;
    assert_eq!((status, &reply["error"]["kind"]), (429, &json!("exhausted")), "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("10000"), "{reply}");
    let values = v1::key_column::Values::Strings(v1::StringValues { values: vec!["JFK".into(); 1_000_000] });
    let keys = vec![v1::KeyColumn { name: "origin".into(), nulls: vec![], values: Some(values) }];
    let request = v1::OnlineRequest { selection: features(&["weather"]), keys, ..v1::OnlineRequest::default() };
    let error = OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap_err();
    assert_eq!(kind(&error), "exhausted", "{error}");
    assert_eq!(server.http("POST", "/v1/online-features", &lookup_of(10_000)).await.0, 200);
}

#[tokio::test]
async fn keys_over_grpc_that_contradict_themselves_are_refused() {
    let server = TestServer::with_weather().await;
    let texts =
        |values: &[&str]| v1::key_column::Values::Strings(v1::StringValues { values: values.iter().map(|text| (*text).to_owned()).collect() });
    let column = |name: &str, nulls: &[u32], values| v1::KeyColumn { name: name.into(), nulls: nulls.to_vec(), values };
    for keys in [
        vec![column("origin", &[3], Some(texts(&["JFK"])))],
        vec![column("origin", &[], None)],
        vec![column("origin", &[], Some(v1::key_column::Values::I64s(v1::Int64Values { values: vec![1] })))],
        vec![column("origin", &[], Some(texts(&["JFK"]))), column("dest", &[], Some(texts(&["JFK"])))],
        vec![],
    ] {
        let request = v1::OnlineRequest { selection: features(&["weather"]), keys: keys.clone(), ..v1::OnlineRequest::default() };
        let error = OnlineClient::new(server.channel.clone()).get_online_features(request).await.unwrap_err();
        assert_eq!(kind(&error), "invalid_argument", "{keys:?}: {error}");
    }
}

#[tokio::test]
async fn who_asks_and_does_not_read_keeps_nobody_waiting() {
    let server = TestServer::with_weather().await;
    // More answers than any socket buffers, of which nothing is read.
    let mut slow = TcpStream::connect(server.running.addr()).await.unwrap();
    let asked = request(&lookup_of(10_000)).repeat(2);
    let (mut reader, mut writer) = slow.split();
    let stuck = async {
        loop {
            writer.write_all(asked.as_bytes()).await.unwrap();
        }
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(server.http("POST", "/v1/online-features", &lookup_of(100)).await.0, 200);
        }
    };
    tokio::select! {
        () = stuck => unreachable!("it writes for as long as it may"),
        () = others => {}
    }
    let mut first = [0; 12];
    reader.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

#[tokio::test]
async fn who_hangs_up_leaves_nothing_under_way() {
    let server = Arc::new(TestServer::with_weather().await);
    for length in [10, 200, 60_000] {
        let mut hasty = TcpStream::connect(server.running.addr()).await.unwrap();
        let asked = request(&lookup_of(10_000));
        hasty.write_all(&asked.as_bytes()[..length]).await.unwrap();
        drop(hasty);
    }
    let done = async {
        // This very question is the one that is under way.
        while !server.http("GET", "/metrics", "").await.1.as_str().unwrap().contains("anabranch_requests_in_flight 1\n") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    assert_eq!(server.http("POST", "/v1/online-features", &lookup_of(1)).await.0, 200);
}

#[tokio::test]
async fn a_branch_is_served_on_request_rebuilt_audited_and_freed() {
    let server = TestServer::with_weather().await;
    server.http("POST", "/v1/branches", r#"{"name": "side"}"#).await;
    let temp = async |reference: &str| {
        let body = json!({"features": ["weather"], "keys": {"origin": ["JFK"]}, "ref": reference});
        let (status, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
        (status, reply["columns"][0]["values"][0].clone())
    };
    for (reference, temp) in [("main", 1.5), ("side", 2.5)] {
        let row = json!({"origin": "JFK", "at": "2026-01-01T00:00:00Z", "temp": temp}).to_string();
        assert_eq!(server.http("POST", &format!("/v1/push?view=weather&ref={reference}"), &row).await.0, 200);
        assert_eq!(server.http("POST", &format!("/v1/flush?ref={reference}"), "").await.0, 200);
    }
    assert_eq!(temp("side").await.0, 412);
    let (status, reply) = server.http("POST", "/v1/online/serve", r#"{"branch": "side"}"#).await;
    assert_eq!((status, &reply["branch"]), (200, &json!("side")), "{reply}");
    let filled = async || loop {
        let (_, reply) = server.http("GET", "/v1/online", "").await;
        if reply["branches"].as_array().unwrap().iter().all(|branch| branch["filling"] == json!(false)) {
            return reply;
        }
        tokio::task::yield_now().await;
    };
    let reply = filled().await;
    assert_eq!(reply["branches"].as_array().unwrap().iter().map(|branch| &branch["branch"]).collect::<Vec<_>>(), ["main", "side"]);
    let generations = |reply: &serde_json::Value| {
        reply["branches"][0]["views"].as_array().unwrap().iter().map(|view| view["generation"].clone()).collect::<Vec<_>>()
    };
    let before = generations(&reply);
    let (status, reply) = server.http("POST", "/v1/online/rebuild", "{}").await;
    assert_eq!(status, 200, "{reply}");
    assert_ne!(generations(&filled().await), before);
    assert_eq!((temp("main").await, temp("side").await), ((200, json!(1.5)), (200, json!(2.5))));
    let (status, reply) = server.http("POST", "/v1/online/audit", r#"{"branch": "side"}"#).await;
    assert_eq!((status, &reply["views"][0]["missing"]), (200, &json!(0)), "{reply}");
    for (path, body, wanted) in [
        ("/v1/online/rebuild", r#"{"views": ["wether"]}"#, 400),
        ("/v1/online/audit", r#"{"views": ["wether"]}"#, 400),
        ("/v1/online/rebuild", r#"{"rows_per_second": 0}"#, 400),
        ("/v1/online/unserve", r#"{"branch": "main"}"#, 400),
        ("/v1/online/serve", r#"{"branch": "sid"}"#, 404),
    ] {
        let (status, reply) = server.http("POST", path, body).await;
        assert_eq!(status, wanted, "{path} {body}: {reply}");
    }
    assert_eq!(server.http("POST", "/v1/online/unserve", r#"{"branch": "side"}"#).await.0, 200);
    assert_eq!(temp("side").await.0, 412);
    assert_eq!(server.http("POST", "/v1/online/unserve", r#"{"branch": "side"}"#).await.0, 412);
    assert_eq!(temp("main").await.0, 200);
}
