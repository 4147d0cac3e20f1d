//! Every RPC, route and Flight method passes the hook before it does anything.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use anabranch_proto::v1;
use anabranch_proto::v1::file_chunk::Part;
use anabranch_proto::v1::flight_command::Command;
use anabranch_proto::v1::objects_client::ObjectsClient;
use anabranch_server::auth::{Action, AllowLoopback, Authorizer, Caller};
use anabranch_server::{Error, Result};
use arrow_flight::{FlightDescriptor, Ticket};
use async_trait::async_trait;
use futures::stream;
use tonic::{Code, Status};

use crate::support::{TestServer, at, command, flight_messages, historical, spine, weather};

const CONTRACT: &str = include_str!("../../../proto/proto/anabranch/v1/anabranch.proto");

/// Forbids everything and remembers what was asked.
#[derive(Debug, Default)]
struct Forbid(Mutex<Vec<(String, String, String)>>);

#[async_trait]
impl Authorizer for Forbid {
    async fn authorize(&self, caller: &Caller, action: Action<'_>) -> Result<()> {
        assert!(caller.peer.is_some_and(|peer| peer.ip().is_loopback()), "{caller:?}");
        self.0.lock().unwrap().push((action.verb.name().to_owned(), action.repository.to_owned(), action.reference.to_owned()));
        Err(Error::Forbidden { verb: action.verb.name(), repository: action.repository.to_owned(), reason: "a test".to_owned() })
    }
}

async fn forbidding() -> (TestServer, Arc<Forbid>) {
    let forbid = Arc::new(Forbid::default());
    let server = TestServer::start_in(Arc::new(tempfile::tempdir().unwrap()), forbid.clone()).await;
    (server, forbid)
}

/// `/package.Service/Method` of every RPC in the contract.
fn rpcs() -> Vec<String> {
    let (mut service, mut rpcs) = ("", Vec::new());
    for line in CONTRACT.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("service ") {
            service = rest.trim_end_matches(" {");
        } else if let Some(rest) = line.strip_prefix("rpc ") {
            rpcs.push(format!("/anabranch.v1.{service}/{}", rest.split('(').next().unwrap()));
        }
    }
    rpcs
}

async fn call(server: &TestServer, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(server.channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.unary(tonic::Request::new(()), path.parse().unwrap(), codec).await.map(drop)
}

#[tokio::test]
async fn every_rpc_asks_the_hook() {
    let (server, forbid) = forbidding().await;
    let rpcs = rpcs();
    assert!(rpcs.len() > 20, "{rpcs:?}");
    for path in &rpcs {
        let before = forbid.0.lock().unwrap().len();
        let status = match path.as_str() {
            "/anabranch.v1.Ingest/IngestFile" => {
                let header = v1::FileHeader { view: "weather".into(), ..v1::FileHeader::default() };
                let chunks = vec![v1::FileChunk { part: Some(Part::Header(header)) }];
                server.ingest().ingest_file(stream::iter(chunks)).await.unwrap_err()
            }
            "/anabranch.v1.Objects/Put" => {
                let header = v1::put_object_chunk::Part::Header(v1::PutObjectsHeader::default());
                let chunks = vec![v1::PutObjectChunk { part: Some(header) }];
                ObjectsClient::new(server.channel.clone()).put(stream::iter(chunks)).await.unwrap_err()
            }
            path => call(&server, path).await.unwrap_err(),
        };
        assert_eq!(status.code(), Code::PermissionDenied, "{path}: {status}");
        assert_eq!(forbid.0.lock().unwrap().len(), before + 1, "{path}");
    }
    assert_eq!(call(&server, "/anabranch.v1.Ingest/Nothing").await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn every_route_asks_the_hook() {
    let (server, forbid) = forbidding().await;
    let query = |path: &str| match path {
        "/v1/push" | "/v1/delete" => "?view=weather",
        _ => "",
    };
    let body = |method: &str, path: &str| match (method, path) {
        ("POST", "/v1/branches" | "/v1/tags") => r#"{"name": "a"}"#,
        ("POST", "/v1/compact") => "{}",
        ("POST", path) if path.starts_with("/v1/online/") => "{}",
        ("POST", "/v1/merge") => r#"{"source": "a"}"#,
        ("POST", "/v1/revert" | "/v1/cherry-pick") => r#"{"commit": "a"}"#,
        ("POST", "/v1/reset") => r#"{"to": "a"}"#,
        ("POST", "/v1/branches/rename") => r#"{"name": "a", "new_name": "b"}"#,
        ("POST", "/v1/branches/protect") => r#"{"name": "a", "protected": true}"#,
        ("POST", "/v1/copy-object" | "/v1/rename-object" | "/v1/import-objects") => r#"{"from": "a"}"#,
        ("POST", "/v1/datasets") => r#"{"name": "a", "features": ["weather"], "spine": {"events": "weather"}}"#,
        ("POST", "/v1/datasets/refresh") => r#"{"name": "a", "save_as": "b"}"#,
        ("POST", "/v1/online-features") => r#"{"service": "model", "keys": {}}"#,
        ("POST", "/get-online-features") => r#"{"feature_service": "model", "entities": {}}"#,
        ("POST", "/push") => r#"{"push_source_name": "weather", "df": {}}"#,
        ("POST", "/write-to-online-store") => r#"{"feature_view_name": "weather", "df": {}}"#,
        ("POST", "/materialize") => r#"{"start_ts": "2024-01-01", "end_ts": "2024-01-02"}"#,
        ("POST", "/materialize-incremental") => r#"{"end_ts": "2024-01-02"}"#,
        _ => "",
    };
    for (method, path) in anabranch_server::http::ROUTES {
        let before = forbid.0.lock().unwrap().len();
        let (status, reply) = server.http(method, &format!("{path}{}", query(path)), body(method, path)).await;
        assert_eq!(status, 403, "{method} {path}: {reply}");
        // Feast's clients are told in a form of their own.
        let told = if path.starts_with("/v1/") || *method == "GET" {
            reply["error"]["kind"] == "forbidden"
        } else {
            reply.to_string().contains("forbidden")
        };
        assert!(told, "{method} {path}: {reply}");
        assert_eq!(forbid.0.lock().unwrap().len(), before + 1, "{path}");
    }
}

#[tokio::test]
async fn every_flight_method_asks_the_hook_with_the_ref_of_its_command() {
    let (server, forbid) = forbidding().await;
    let target = at("branch:x");
    let ask = v1::HistoricalCommand { target: target.clone(), ..historical(&["weather"]) };
    let exchanged = server.historical(ask, spine(&["JFK"], &[1])).await.unwrap_err();
    let bulk = v1::BulkCommand { target: target.clone(), view: "weather".into(), ..v1::BulkCommand::default() };
    let messages = flight_messages(Command::Bulk(bulk), vec![weather(&["JFK"], &[1], &[1.0])]).await;
    let put = server.flight().do_put(stream::iter(messages)).await.unwrap_err();
    let wanted = v1::DatasetCommand { target: target.clone(), name: "train".into(), ..v1::DatasetCommand::default() };
    let descriptor = FlightDescriptor::new_cmd(command(Command::Dataset(wanted.clone())));
    let described = server.flight().get_flight_info(descriptor).await.unwrap_err();
    let rows = v1::DatasetRowsCommand { dataset: Some(wanted.clone()), ..v1::DatasetRowsCommand::default() };
    let fetched = server.flight().do_get(Ticket { ticket: command(Command::DatasetRows(rows)).into() }).await.unwrap_err();
    let batches = v1::BatchesCommand { dataset: Some(wanted), ..v1::BatchesCommand::default() };
    let trained = server.flight().do_get(Ticket { ticket: command(Command::Batches(batches)).into() }).await.unwrap_err();
    let read = v1::ReadCommand { target, view: "weather".into(), ..v1::ReadCommand::default() };
    let got = server.flight().do_get(Ticket { ticket: command(Command::Read(read)).into() }).await.unwrap_err();
    let saved = v1::DatasetCommand { target: at("branch:x"), name: "train".into(), ..v1::DatasetCommand::default() };
    let saved = server.flight().do_get(Ticket { ticket: command(Command::Dataset(saved)).into() }).await.unwrap_err();
    for status in [exchanged, put, described, fetched, trained, got, saved] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    let verbs = ["read_dataset", "write_rows", "read_dataset", "read_dataset", "read_dataset", "read_rows", "read_dataset"];
    let expected = verbs.map(|verb| (verb.to_owned(), "default".to_owned(), "branch:x".to_owned()));
    assert_eq!(*forbid.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_web_page_may_not_call() {
    let server = TestServer::start_in(Arc::new(tempfile::tempdir().unwrap()), Arc::new(AllowLoopback)).await;
    let statuses: BTreeSet<u16> = [
        server.http_raw("GET", "/v1/log", "Origin: https://evil.example\r\n", b"").await.0,
        server.http_raw("GET", "/v1/log", "Host: evil.example\r\n", b"").await.0,
    ]
    .into();
    assert_eq!(statuses, BTreeSet::from([403]));
    assert_eq!(server.http("GET", "/v1/log", "").await.0, 200);
}
