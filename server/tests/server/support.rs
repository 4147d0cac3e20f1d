//! A server for a test, and small clients for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::{Span, SystemClock};
use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use anabranch_proto::v1::ingest_client::IngestClient;
use anabranch_proto::v1::registry_client::RegistryClient;
use anabranch_server::auth::{AllowLoopback, Authorizer};
use anabranch_server::{Config, RunningServer, Server};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

pub(crate) const WEATHER: &str = "\
kind: entity
name: airport
join_key: origin
type: string
---
kind: feature_view
name: weather
entities: [airport]
event_timestamp: at
fields:
  - {name: temp, type: f64}
  - {name: wind, type: f64}
---
kind: check
name: temp_range
view: weather
column: temp
rule: {range: {min: -60, max: 60}}
---
kind: feature_service
name: model
features:
  - {view: weather, features: [temp]}
";

pub(crate) struct TestServer {
    pub(crate) running: RunningServer,
    pub(crate) channel: Channel,
    /// Dropped last.
    pub(crate) folder: Arc<TempDir>,
}

/// A configuration for a folder, on a free port, that commits quickly.
pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config { data: folder.join("data"), listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
    config.ingest.commit_every = Span(200_000);
    config.limits.push_bytes = 1 << 20;
    config
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), Arc::new(AllowLoopback)).await
    }

    /// With the weather definitions applied.
    pub(crate) async fn with_weather() -> Self {
        let server = Self::start().await;
        server.apply(WEATHER).await.unwrap();
        server
    }

    pub(crate) async fn start_in(folder: Arc<TempDir>, authorizer: Arc<dyn Authorizer>) -> Self {
        let config = config(folder.path());
        Self::start_as(config, folder, authorizer).await
    }

    pub(crate) async fn start_as(config: Config, folder: Arc<TempDir>, authorizer: Arc<dyn Authorizer>) -> Self {
        let running = Server::start_with(config, authorizer, Arc::new(SystemClock)).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", running.addr())).unwrap().connect().await.unwrap();
        Self { running, channel, folder }
    }

    /// Ends it and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let folder = Arc::clone(&self.folder);
        drop(self.channel);
        self.running.shutdown().await.unwrap();
        Self::start_in(folder, Arc::new(AllowLoopback)).await
    }

    pub(crate) fn ingest(&self) -> IngestClient<Channel> {
        IngestClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn flight(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) async fn apply(&self, yaml: &str) -> Result<v1::ApplyReply, tonic::Status> {
        self.apply_on("", yaml).await
    }

    pub(crate) async fn apply_on(&self, branch: &str, yaml: &str) -> Result<v1::ApplyReply, tonic::Status> {
        let files = vec![v1::YamlFile { name: "features.yaml".into(), text: yaml.into() }];
        let request = v1::ApplyRequest { target: at(branch), files, ..v1::ApplyRequest::default() };
        RegistryClient::new(self.channel.clone()).apply(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn push(&self, rows: &str) -> v1::PushReply {
        self.ingest().push(push(rows)).await.unwrap().into_inner()
    }

    pub(crate) async fn flush(&self) -> String {
        self.ingest().flush(v1::FlushRequest { target: None }).await.unwrap().into_inner().commit
    }

    /// Joins temp and wind to a spine; the batch, the footer.
    pub(crate) async fn historical(&self, command: v1::HistoricalCommand, spine: RecordBatch) -> Result<(RecordBatch, Json), tonic::Status> {
        let messages = flight_messages(Command::Historical(command), vec![spine]).await;
        let answer = self.flight().do_exchange(stream::iter(messages)).await?.into_inner();
        let messages: Vec<FlightData> = answer.try_collect().await?;
        let footer = serde_json::from_slice(&messages.last().unwrap().app_metadata).unwrap();
        Ok((decoded(messages).await, footer))
    }

    /// Asks over HTTP/1.1; the status and the body.
    pub(crate) async fn http(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        let (status, text) = self.http_raw(method, path, "", body.as_bytes()).await;
        (status, serde_json::from_str(&text).unwrap_or(Json::String(text)))
    }

    pub(crate) async fn http_raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let (status, body) = self.http_bytes(method, path, headers, body).await;
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub(crate) async fn http_bytes(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(self.running.addr()).await.unwrap();
        let length = body.len();
        let host = if headers.contains("Host:") { String::new() } else { "Host: localhost\r\n".to_owned() };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let (status, _) = parse_answer(&answer);
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        (status, answer.split_off(head + 4))
    }
}

pub(crate) fn parse_answer(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub(crate) fn at(reference: &str) -> Option<v1::Target> {
    Some(v1::Target { repository: String::new(), r#ref: reference.to_owned() })
}

pub(crate) fn push(rows: &str) -> v1::PushRequest {
    let rows = Some(v1::push_request::Rows::Json(rows.to_owned().into()));
    v1::PushRequest { view: "weather".into(), rows, ..v1::PushRequest::default() }
}

pub(crate) fn features(features: &[&str]) -> Option<v1::Selection> {
    let features = features.iter().map(|feature| (*feature).to_owned()).collect();
    Some(v1::Selection { of: Some(v1::selection::Of::Features(v1::FeatureList { features })) })
}

pub(crate) fn historical(selected: &[&str]) -> v1::HistoricalCommand {
    v1::HistoricalCommand { selection: features(selected), ..v1::HistoricalCommand::default() }
}

/// Hours of 2024-01-01, UTC.
pub(crate) fn hours(hours: &[i64]) -> ArrayRef {
    let micros = |hour: &i64| 1_704_067_200_000_000 + hour * 3_600_000_000;
    Arc::new(TimestampMicrosecondArray::from_iter_values(hours.iter().map(micros)).with_timezone("UTC"))
}

pub(crate) fn spine(origins: &[&str], at: &[i64]) -> RecordBatch {
    let origins: ArrayRef = Arc::new(StringArray::from(origins.to_vec()));
    RecordBatch::try_from_iter([("origin", origins), ("event_timestamp", hours(at))]).unwrap()
}

/// Rows of the view `weather`.
pub(crate) fn weather(origins: &[&str], at: &[i64], temps: &[f64]) -> RecordBatch {
    let origins: ArrayRef = Arc::new(StringArray::from(origins.to_vec()));
    let temps: ArrayRef = Arc::new(Float64Array::from(temps.to_vec()));
    RecordBatch::try_from_iter([("origin", origins), ("at", hours(at)), ("temp", Arc::clone(&temps)), ("wind", temps)]).unwrap()
}

pub(crate) fn floats(batch: &RecordBatch, column: &str) -> Vec<Option<f64>> {
    batch.column_by_name(column).unwrap().as_any().downcast_ref::<Float64Array>().unwrap().iter().collect()
}

pub(crate) fn integers(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

pub(crate) fn command(command: Command) -> Vec<u8> {
    v1::FlightCommand { command: Some(command) }.encode_to_vec()
}

pub(crate) async fn flight_messages(what: Command, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let schema: SchemaRef = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let descriptor = FlightDescriptor::new_cmd(command(what));
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema).with_flight_descriptor(Some(descriptor));
    encoder.build(stream::iter(batches.into_iter().map(Ok))).map(Result::unwrap).collect().await
}

pub(crate) async fn decoded(messages: Vec<FlightData>) -> RecordBatch {
    let mut stream = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages.into_iter().map(Ok)));
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch.unwrap());
    }
    arrow::compute::concat_batches(stream.schema().unwrap(), &batches).unwrap()
}

pub(crate) fn kind(status: &tonic::Status) -> String {
    status.metadata().get(anabranch_proto::metadata::ERROR_KIND).unwrap().to_str().unwrap().to_owned()
}
