//! Tables as files, over every face, and compaction in the background.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Span, SystemClock};
use anabranch_proto::v1;
use anabranch_proto::v1::tables_client::TablesClient;
use anabranch_server::Server;
use anabranch_server::auth::AllowLoopback;
use serde_json::{Value as Json, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{TestServer, WEATHER, at, config, floats, historical, spine};

fn tables(server: &TestServer) -> TablesClient<Channel> {
    TablesClient::new(server.channel.clone())
}

/// So many commits of one row.
async fn commits(server: &TestServer, count: usize) {
    for hour in 0..count {
        server.push(&format!(r#"{{"origin": "JFK", "at": "2024-01-01T{hour:02}:00:00Z", "temp": {hour}}}"#)).await;
        server.flush().await;
    }
}

#[tokio::test]
async fn a_table_is_compacted_on_request_and_its_files_are_listed_at_any_ref() {
    let server = TestServer::with_weather().await;
    commits(&server, 4).await;
    let (_, listed) = server.http("GET", "/v1/tables/files?view=weather", "").await;
    let commit = listed["commit"].as_str().unwrap().to_owned();
    assert_eq!(listed["files"].as_array().unwrap().len(), 4, "{listed}");

    let request = v1::CompactRequest { views: vec!["weather".into()], author: "ada".into(), ..v1::CompactRequest::default() };
    let reply = tables(&server).compact(request).await.unwrap().into_inner();
    let [done] = &reply.tables[..] else { panic!("{reply:?}") };
    assert_eq!((done.namespace.as_str(), done.name.as_str(), done.outcome.as_str()), ("features", "weather", "compacted"));
    assert_eq!((done.files_before, done.files_after, done.rows, done.commits.len()), (4, 1, 4, 1));
    assert!(done.bytes_after < done.bytes_before);
    // All tables: nothing is left to do.
    let (status, all) = server.http("POST", "/v1/compact", r#"{"full": true}"#).await;
    assert_eq!(status, 200, "{all}");
    let outcomes: Vec<_> = all["tables"].as_array().unwrap().iter().map(|table| (table["namespace"].as_str(), table["outcome"].as_str())).collect();
    assert_eq!(outcomes, [(Some("features"), Some("nothing"))]);

    let files = |reference: String| {
        let mut tables = tables(&server);
        async move { tables.list_files(v1::ListFilesRequest { target: at(&reference), view: "weather".into() }).await.unwrap().into_inner() }
    };
    let now = files("main".into()).await;
    assert_eq!((now.files.len(), now.files[0].rows, now.files[0].bytes, &now.commit), (1, 4, done.bytes_after, &done.commits[0]));
    let before = files(format!("commit:{commit}")).await;
    assert_eq!(before.files.len(), 4);
    for file in now.files.iter().chain(&before.files) {
        let path = file.location.strip_prefix("file://").unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().len(), file.bytes, "{path}");
    }
    // The answers are as they were.
    let (joined, _) = server.historical(historical(&["weather:temp"]), spine(&["JFK", "JFK"], &[1, 9])).await.unwrap();
    assert_eq!(floats(&joined, "temp"), [Some(1.0), Some(3.0)]);
    let (_, online) = server.http("POST", "/v1/online-features", r#"{"service": "model", "keys": {"origin": ["JFK"]}}"#).await;
    assert_eq!(online["columns"][0]["values"][0], 3.0, "{online}");
    let (_, shown) = server.http("GET", "/v1/show", "").await;
    assert_eq!(
        (shown["commit"]["author"].as_str(), shown["commit"]["message"].as_str()),
        (Some("ada"), Some("compact features.weather: 4 files to 1"))
    );
}

#[tokio::test]
async fn metadata_is_icebergs_and_what_is_wrong_is_told() {
    let server = TestServer::with_weather().await;
    commits(&server, 1).await;
    let (status, metadata) = server.http("GET", "/v1/tables/metadata?view=weather", "").await;
    assert_eq!((status, metadata["format-version"].as_i64(), metadata["snapshots"].as_array().unwrap().len()), (200, Some(2), 1));
    let request = v1::GetMetadataRequest { target: None, view: "weather".into() };
    let reply = tables(&server).get_metadata(request).await.unwrap().into_inner();
    let again: Json = serde_json::from_slice(&reply.metadata).unwrap();
    // Its lists are in no order.
    assert_eq!((&again["location"], &again["snapshots"]), (&metadata["location"], &metadata["snapshots"]));

    for (method, path, body, expected) in [
        ("GET", "/v1/tables/files", "", (400, "view")),
        ("GET", "/v1/tables/files?view=none", "", (404, "features.none")),
        ("GET", "/v1/tables/metadata?view=weather&ref=none", "", (404, "none")),
        ("POST", "/v1/compact", r#"{"views": ["weather", "none"]}"#, (404, "features.none")),
        ("POST", "/v1/compact", r#"{"branch": "none"}"#, (404, "none")),
        ("POST", "/v1/compact", r#"{"view": "weather"}"#, (400, "view")),
    ] {
        let (status, reply) = server.http(method, path, body).await;
        assert_eq!(status, expected.0, "{method} {path}: {reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(expected.1), "{reply}");
    }
    server.http("POST", "/v1/tags", &json!({"name": "v1"}).to_string()).await;
    let on_tag = v1::CompactRequest { branch: "tag:v1".into(), ..v1::CompactRequest::default() };
    assert_eq!(tables(&server).compact(on_tag).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_table_of_many_small_files_is_compacted_in_the_background() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut config = config(folder.path());
    config.compaction.every = Span(20_000);
    config.compaction.small_files = 3;
    let running = Server::start_with(config, Arc::new(AllowLoopback), Arc::new(SystemClock)).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", running.addr())).unwrap().connect().await.unwrap();
    let server = TestServer { running, channel, folder };
    server.apply(WEATHER).await.unwrap();
    commits(&server, 12).await;
    let compacted = async {
        loop {
            let (_, metrics) = server.http("GET", "/metrics", "").await;
            let (_, listed) = server.http("GET", "/v1/tables/files?view=weather", "").await;
            let some = metrics.as_str().unwrap().contains(r#"anabranch_compactions_total{repository="default",outcome="compacted"}"#);
            if some && listed["files"].as_array().unwrap().len() < 3 {
                return listed;
            }
        }
    };
    let listed = tokio::time::timeout(Duration::from_secs(60), compacted).await.unwrap();
    assert_eq!(listed["files"].as_array().unwrap().iter().map(|file| file["rows"].as_u64().unwrap()).sum::<u64>(), 12);
    let (joined, _) = server.historical(historical(&["weather:temp"]), spine(&["JFK"], &[20])).await.unwrap();
    assert_eq!(floats(&joined, "temp"), [Some(11.0)]);
    server.running.shutdown().await.unwrap();
}
