//! Files and bulk streams.

use std::sync::Arc;

use anabranch_proto::v1;
use anabranch_proto::v1::file_chunk::Part;
use anabranch_proto::v1::flight_command::Command;
use futures::{TryStreamExt, stream};
use prost::Message;

use crate::support::{TestServer, flight_messages, floats, historical, kind, spine, weather};

fn upload(name: &str, bytes: &[u8]) -> Vec<v1::FileChunk> {
    let header = v1::FileHeader { view: "weather".into(), name: name.into(), ..v1::FileHeader::default() };
    let mut chunks = vec![v1::FileChunk { part: Some(Part::Header(header)) }];
    chunks.extend(bytes.chunks(1 << 10).map(|part| v1::FileChunk { part: Some(Part::Data(part.to_vec().into())) }));
    chunks
}

async fn ingest(server: &TestServer, name: &str, bytes: &[u8]) -> Result<v1::BulkReply, tonic::Status> {
    server.ingest().ingest_file(stream::iter(upload(name, bytes))).await.map(tonic::Response::into_inner)
}

fn parquet_file(rows: usize) -> Vec<u8> {
    let names: Vec<_> = (0..rows).map(|i| format!("A{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let batch = weather(&names, &vec![1; rows], &vec![4.0; rows]);
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn spooled(server: &TestServer) -> usize {
    std::fs::read_dir(server.folder.path().join("data/tmp")).unwrap().count()
}

#[tokio::test]
async fn a_file_is_committed_once_however_often_it_is_sent() {
    let server = TestServer::with_weather().await;
    let file = parquet_file(500);
    let first = ingest(&server, "weather.parquet", &file).await.unwrap();
    assert_eq!((first.rows, first.quarantined, first.duplicates), (500, 0, 0));
    let second = ingest(&server, "renamed.parquet", &file).await.unwrap();
    assert_eq!((second.rows, second.duplicates, second.source), (0, 500, first.source));
    let (joined, _) = server.historical(historical(&["weather:temp"]), spine(&["A499"], &[1])).await.unwrap();
    assert_eq!(floats(&joined, "temp"), [Some(4.0)]);
    assert_eq!(spooled(&server), 0);
    let body = serde_json::json!({"service": "model", "keys": {"origin": ["A7"]}, "at_least": first.token});
    let (_, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
    assert_eq!(reply["columns"][0]["values"][0], 4.0, "{reply}");
}

#[tokio::test]
async fn csv_and_json_lines_are_files_too_and_refused_rows_are_counted() {
    let server = TestServer::with_weather().await;
    let csv = b"origin,at,temp,wind\nJFK,2024-01-01T00:00:00Z,1.5,\nJFK,2024-01-01T01:00:00Z,99,1\n";
    let reply = ingest(&server, "w.csv", csv).await.unwrap();
    assert_eq!((reply.rows, reply.quarantined), (1, 1));
    let lines = b"{\"origin\":\"EWR\",\"at\":\"2024-01-01T00:00:00Z\",\"temp\":2}\n";
    let reply = ingest(&server, "w.jsonl", lines).await.unwrap();
    assert_eq!((reply.rows, reply.quarantined), (1, 0));
}

#[tokio::test]
async fn a_truncated_parquet_file_is_refused_by_name_and_leaves_nothing() {
    let server = TestServer::with_weather().await;
    let file = parquet_file(500);
    let error = ingest(&server, "weather.parquet", &file[..file.len() / 2]).await.unwrap_err();
    assert_eq!(kind(&error), "invalid_argument", "{error}");
    assert!(error.message().contains("weather.parquet") && !error.message().contains("upload-"), "{error}");
    assert_eq!(spooled(&server), 0);
    let (_, reply) = server.http("GET", "/v1/quarantine", "").await;
    assert_eq!(reply["total"], 0);
    assert_eq!(ingest(&server, "weather.parquet", &file).await.unwrap().rows, 500);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = TestServer::with_weather().await;
    let mut chunks = upload("w.csv", b"origin,at,temp\nJFK,2024-01-01,1\n");
    chunks.push(v1::FileChunk { part: None });
    let error = server.ingest().ingest_file(stream::iter(chunks)).await.unwrap_err();
    assert_eq!(kind(&error), "invalid_argument", "{error}");
    let error = server.ingest().ingest_file(stream::iter(upload("w.csv", b"x").split_off(1))).await.unwrap_err();
    assert!(error.message().contains("header"), "{error}");
    assert_eq!(spooled(&server), 0);
    let (_, status) = server.http("GET", "/v1/log", "").await;
    let loads = status["commits"].as_array().unwrap().iter().filter(|commit| commit["message"].as_str().unwrap().contains("load")).count();
    assert_eq!(loads, 0, "{status}");
}

#[tokio::test]
async fn a_bulk_stream_sent_again_doubles_nothing() {
    let server = TestServer::with_weather().await;
    let put = async |command: v1::BulkCommand| {
        let batches = vec![weather(&["JFK"], &[1], &[1.0]), weather(&["EWR", "LGA"], &[1, 2], &[2.0, 3.0])];
        let messages = flight_messages(Command::Bulk(command), batches).await;
        let results: Vec<_> = server.flight().do_put(stream::iter(messages)).await?.into_inner().try_collect().await?;
        Ok::<_, tonic::Status>(v1::BulkReply::decode(results[0].app_metadata.clone()).unwrap())
    };
    let command = || v1::BulkCommand { view: "weather".into(), stream_id: "backfill-1".into(), ..v1::BulkCommand::default() };
    let first = put(command()).await.unwrap();
    assert_eq!((first.rows, first.duplicates), (3, 0));
    let second = put(command()).await.unwrap();
    assert_eq!((second.rows, second.duplicates, second.source), (0, 3, first.source));
    let error = put(v1::BulkCommand { view: "wheather".into(), ..command() }).await.unwrap_err();
    assert!(error.message().contains("did you mean \"weather\""), "{error}");
}

#[tokio::test]
async fn a_stream_that_does_not_decode_is_refused() {
    let server = TestServer::with_weather().await;
    let command = v1::BulkCommand { view: "weather".into(), ..v1::BulkCommand::default() };
    let mut messages = flight_messages(Command::Bulk(command), vec![weather(&["JFK"], &[1], &[1.0])]).await;
    messages.push(arrow_flight::FlightData::default());
    let error = server.flight().do_put(stream::iter(messages)).await.unwrap_err();
    assert_eq!(kind(&error), "invalid_argument", "{error}");
    let spine = Arc::new(spine(&["JFK"], &[1]));
    let (joined, _) = server.historical(historical(&["weather:temp"]), spine.as_ref().clone()).await.unwrap();
    assert_eq!(floats(&joined, "temp"), [None]);
}
