//! Objects over gRPC and HTTP: streams, ranges, entity tags, conditions, what breaks off.

use std::collections::BTreeMap;

use anabranch_proto::v1;
use anabranch_proto::v1::get_object_chunk::Part as Out;
use anabranch_proto::v1::object_condition::Condition;
use anabranch_proto::v1::objects_client::ObjectsClient;
use anabranch_proto::v1::put_object_chunk::Part as In;
use futures::stream;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::support::{TestServer, at, kind};

const PIECE: usize = 1 << 20;

fn client(server: &TestServer) -> ObjectsClient<Channel> {
    ObjectsClient::new(server.channel.clone())
}

/// Bytes that differ from piece to piece.
fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8 ^ (at / PIECE) as u8).collect()
}

fn chunk(part: In) -> v1::PutObjectChunk {
    v1::PutObjectChunk { part: Some(part) }
}

fn header() -> v1::PutObjectChunk {
    chunk(In::Header(v1::PutObjectsHeader { author: "ada".into(), message: "put".into(), ..v1::PutObjectsHeader::default() }))
}

fn file(path: &str, condition: Option<Condition>) -> v1::PutObjectChunk {
    let condition = Some(v1::ObjectCondition { condition });
    chunk(In::Object(v1::PutObjectHeader { path: path.into(), content_type: String::new(), condition }))
}

fn data(bytes: &[u8]) -> impl Iterator<Item = v1::PutObjectChunk> {
    bytes.chunks(300_000).map(|part| chunk(In::Data(part.to_vec().into()))).collect::<Vec<_>>().into_iter()
}

async fn put(server: &TestServer, path: &str, bytes: &[u8]) -> v1::PutObjectsReply {
    let chunks: Vec<_> = [header(), file(path, None)].into_iter().chain(data(bytes)).collect();
    client(server).put(stream::iter(chunks)).await.unwrap().into_inner()
}

/// What an object is, and the lengths and bytes of the messages that it comes in.
async fn get(server: &TestServer, request: v1::GetObjectRequest) -> Result<(v1::Object, Vec<usize>, Vec<u8>), tonic::Status> {
    let mut chunks = client(server).get(request).await?.into_inner();
    let (mut object, mut lengths, mut bytes) = (None, Vec::new(), Vec::new());
    while let Some(chunk) = chunks.message().await? {
        match chunk.part.unwrap() {
            Out::Object(found) => object = found.object,
            Out::Data(data) => {
                lengths.push(data.len());
                bytes.extend_from_slice(&data);
            }
        }
    }
    Ok((object.unwrap(), lengths, bytes))
}

fn named(path: &str) -> v1::GetObjectRequest {
    v1::GetObjectRequest { path: path.into(), ..v1::GetObjectRequest::default() }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn http(server: &TestServer, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(server.running.addr()).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let (head, body) = (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec());
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Answer { status, headers, body }
}

#[tokio::test]
async fn files_go_in_and_come_out_in_bounded_messages_in_one_commit() {
    let server = TestServer::start().await;
    let big = content(24 * PIECE + 3);
    let chunks: Vec<_> = [header(), file("m/net.bin", None)].into_iter().chain(data(&big)).chain([file("m/empty.txt", None)]).collect();
    let reply = client(&server).put(stream::iter(chunks)).await.unwrap().into_inner();
    assert_eq!(reply.objects.iter().map(|object| object.size).collect::<Vec<_>>(), [big.len() as u64, 0]);
    let (object, lengths, bytes) = get(&server, named("m/net.bin")).await.unwrap();
    assert!(bytes == big && object == reply.objects[0]);
    assert!(lengths.iter().all(|length| *length <= 256 << 10), "{lengths:?}");
    let range = v1::GetObjectRequest { offset: PIECE as u64 - 1, length: Some(3), ..named("m/net.bin") };
    assert_eq!(get(&server, range).await.unwrap().2, big[PIECE - 1..PIECE + 2]);
    assert_eq!(get(&server, named("m/empty.txt")).await.unwrap().2, b"");
    let beyond = v1::GetObjectRequest { offset: 1, ..named("m/empty.txt") };
    assert_eq!(kind(&get(&server, beyond).await.unwrap_err()), "invalid_argument");
    assert_eq!(kind(&get(&server, named("none")).await.unwrap_err()), "not_found");
    let (_, log) = server.http("GET", "/v1/log?limit=2", "").await;
    assert_eq!(
        (&log["commits"][0]["message"], &log["commits"][0]["author"], &log["commits"][0]["id"]),
        (&json!("put"), &json!("ada"), &json!(reply.commit))
    );
    assert!(!put(&server, "m/net.bin", &big).await.changed);
}

#[tokio::test]
async fn a_put_that_breaks_off_or_does_not_fit_changes_nothing() {
    let server = TestServer::start().await;
    put(&server, "a", b"1").await;
    let (_, before) = server.http("GET", "/v1/log", "").await;
    let refused = async |chunks: Vec<v1::PutObjectChunk>| kind(&client(&server).put(stream::iter(chunks)).await.unwrap_err());
    let big = content(9 * PIECE);
    let torn = [header(), file("b", None)].into_iter().chain(data(&big)).chain([v1::PutObjectChunk { part: None }]).collect();
    assert_eq!(refused(torn).await, "invalid_argument");
    assert_eq!(refused(vec![header(), file("b", None), file("a", Some(Condition::Absent(true)))]).await, "failed_precondition");
    assert_eq!(refused(vec![header(), file("b", None), file("x//y", None)]).await, "invalid_argument");
    assert_eq!(refused(vec![header()]).await, "invalid_argument");
    assert_eq!(refused(vec![header(), chunk(In::Data("x".into()))]).await, "invalid_argument");
    assert_eq!(refused(vec![header(), file("b", Some(Condition::Checksum("blake3:0".into())))]).await, "invalid_argument");
    let (_, after) = server.http("GET", "/v1/log", "").await;
    assert_eq!(before, after);
    let (_, listed) = server.http("GET", "/v1/objects", "").await;
    assert_eq!(listed["objects"].as_array().unwrap().len(), 1, "{listed}");
    server.http("POST", "/v1/tags", r#"{"name": "v1"}"#).await;
    let on_tag = v1::PutObjectsHeader { target: at("tag:v1"), ..v1::PutObjectsHeader::default() };
    assert_eq!(refused(vec![chunk(In::Header(on_tag)), file("b", None)]).await, "failed_precondition");
}

#[tokio::test]
async fn objects_are_listed_copied_renamed_deleted_and_read_at_any_ref() {
    let server = TestServer::start().await;
    let first = put(&server, "run/a", b"1").await.commit;
    put(&server, "run/b/c", b"2").await;
    let listed =
        client(&server).list(v1::ListObjectsRequest { prefix: "run/".into(), delimiter: "/".into(), ..v1::ListObjectsRequest::default() }).await;
    let items: Vec<_> = listed.unwrap().into_inner().items.into_iter().map(|item| item.item.unwrap()).collect();
    assert!(
        matches!(&items[..], [v1::object_item::Item::Object(a), v1::object_item::Item::Prefix(b)] if a.path == "run/a" && b == "run/b/"),
        "{items:?}"
    );
    let (status, page) = server.http("GET", "/v1/objects?limit=1", "").await;
    assert_eq!((status, &page["objects"][0]["path"], &page["next"]), (200, &json!("run/a"), &json!("run/a")), "{page}");
    let (_, page) = server.http("GET", "/v1/objects?after=run/a", "").await;
    assert_eq!((&page["objects"][0]["path"], &page["next"]), (&json!("run/b/c"), &Json::Null), "{page}");
    let (status, reply) = server.http("POST", "/v1/rename-object", r#"{"from": "run/a", "to": "run/z"}"#).await;
    assert_eq!(status, 200, "{reply}");
    let copy = json!({"from_ref": first, "from": "run/a", "to": "old", "if_absent": true}).to_string();
    assert_eq!(server.http("POST", "/v1/copy-object", &copy).await.0, 200);
    assert_eq!(server.http("POST", "/v1/copy-object", &copy).await.0, 412);
    let delete = v1::DeleteObjectsRequest { paths: vec!["run/b/c".into(), "run/z".into()], ..v1::DeleteObjectsRequest::default() };
    client(&server).delete(delete.clone()).await.unwrap();
    assert_eq!(kind(&client(&server).delete(delete).await.unwrap_err()), "not_found");
    assert_eq!(get(&server, named("old")).await.unwrap().2, b"1");
    assert_eq!(get(&server, v1::GetObjectRequest { target: at(&first), ..named("run/a") }).await.unwrap().2, b"1");
    let rename = v1::RenameObjectRequest { from: "run/a".into(), to: "x".into(), ..v1::RenameObjectRequest::default() };
    assert_eq!(kind(&client(&server).rename(rename).await.unwrap_err()), "not_found");
}

#[tokio::test]
async fn http_speaks_ranges_entity_tags_and_conditions() {
    let server = TestServer::start().await;
    let big = content(2 * PIECE + 10);
    let path = "/v1/objects/models/a%20%C3%BC%23%3F%25.bin";
    let put = http(&server, "PUT", &format!("{path}?message=hello&author=ada"), "Content-Type: model/x\r\nIf-None-Match: *\r\n", &big).await;
    assert_eq!((put.status, &put.json()["object"]["path"]), (200, &json!("models/a ü#?%.bin")));
    let etag = format!("\"{}\"", put.json()["object"]["checksum"].as_str().unwrap());
    assert_eq!(http(&server, "PUT", path, "If-None-Match: *\r\n", b"x").await.status, 412);
    assert_eq!(http(&server, "PUT", path, "If-Match: \"blake3:00\"\r\n", b"x").await.status, 400);

    let whole = http(&server, "GET", path, "", b"").await;
    assert!(whole.status == 200 && whole.body == big);
    for (name, value) in [("etag", etag.as_str()), ("content-type", "model/x"), ("accept-ranges", "bytes"), ("content-length", "2097162")] {
        assert_eq!(whole.headers[name], value, "{name}");
    }
    let head = http(&server, "HEAD", path, "", b"").await;
    assert_eq!((head.status, head.headers["content-length"].as_str(), head.headers["etag"].as_str(), head.body.len()), (200, "2097162", &*etag, 0));
    for (range, status, first, last) in [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=1048570-1048580", 206, 1_048_570, 1_048_580),
        ("bytes=2097160-", 206, 2_097_160, 2_097_161),
        ("bytes=-2", 206, 2_097_160, 2_097_161),
        ("bytes=5-99999999", 206, 5, 2_097_161),
        ("bytes=5-4", 200, 0, 2_097_161),
        ("bytes=0-1,3-4", 200, 0, 2_097_161),
    ] {
        let found = http(&server, "GET", path, &format!("Range: {range}\r\n"), b"").await;
        assert!(found.status == status && found.body == big[first..=last], "{range}: {}", found.status);
        let shown = (status == 206).then(|| format!("bytes {first}-{last}/2097162"));
        assert_eq!(found.headers.get("content-range"), shown.as_ref(), "{range}");
    }
    let beyond = http(&server, "GET", path, "Range: bytes=2097162-\r\n", b"").await;
    assert_eq!((beyond.status, beyond.headers["content-range"].as_str()), (416, "bytes */2097162"));
    for (headers, status) in [
        (format!("If-None-Match: {etag}\r\n"), 304),
        (format!("If-None-Match: \"x\", {etag}\r\n"), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        (format!("If-Match: {etag}\r\n"), 200),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        (format!("If-Range: {etag}\r\nRange: bytes=0-1\r\n"), 206),
        ("If-Range: \"x\"\r\nRange: bytes=0-1\r\n".to_owned(), 200),
    ] {
        assert_eq!(http(&server, "GET", path, &headers, b"").await.status, status, "{headers}");
    }
    let commit = put.json()["commit"].as_str().unwrap().to_owned();
    let wrong = format!("If-Match: \"blake3:{}\"\r\n", "0".repeat(64));
    assert_eq!(http(&server, "PUT", path, &wrong, b"x").await.status, 412);
    assert_eq!(http(&server, "PUT", path, &format!("If-Match: {etag}\r\n"), b"new").await.status, 200);
    assert_eq!(http(&server, "DELETE", path, &format!("If-Match: {etag}\r\n"), b"").await.status, 412);
    assert_eq!(http(&server, "DELETE", path, "", b"").await.status, 200);
    assert_eq!(http(&server, "DELETE", path, "", b"").await.status, 404);
    assert_eq!(http(&server, "GET", path, "", b"").await.status, 404);
    assert!(http(&server, "GET", &format!("{path}?ref={commit}"), "", b"").await.body == big);
    for bad in ["/v1/objects/a//b", "/v1/objects/%2E%2E/x", "/v1/objects/a%0Ab", "/v1/objects/%FF", &format!("/v1/objects/{}", "x".repeat(1025))] {
        let refused = http(&server, "PUT", bad, "", b"x").await;
        assert_eq!((refused.status, &refused.json()["error"]["kind"]), (400, &json!("invalid_argument")), "{bad}");
    }
}

#[tokio::test]
async fn a_damaged_object_is_broken_off_and_a_broken_upload_is_not_there() {
    let server = TestServer::start().await;
    let big = content(3 * PIECE);
    put(&server, "net", &big).await;
    let stored = {
        let object = get(&server, named("net")).await.unwrap().0;
        let id = object.address.strip_prefix("stored:").unwrap().to_owned();
        find(&server.folder.path().join("data"), &id)
    };
    let mut damaged = big.clone();
    damaged[PIECE + 5] ^= 1;
    std::fs::write(&stored, &damaged).unwrap();
    let answer = http(&server, "GET", "/v1/objects/net", "", b"").await;
    assert_eq!(answer.headers["content-length"], big.len().to_string());
    assert!(answer.body.len() <= PIECE && big.starts_with(&answer.body), "{}", answer.body.len());
    let error = get(&server, named("net")).await.unwrap_err();
    assert!(kind(&error) == "internal" && error.message().contains("\"net\" at objects/"), "{error}");

    // A client that says more than it sends.
    let mut stream = TcpStream::connect(server.running.addr()).await.unwrap();
    stream.write_all(b"PUT /v1/objects/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n").await.unwrap();
    stream.write_all(&content(10 * PIECE)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(http(&server, "GET", "/v1/objects/half", "", b"").await.status, 404);
}

/// The file of this name.
fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|found| found == name) {
                return path;
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("no file {name}");
}
