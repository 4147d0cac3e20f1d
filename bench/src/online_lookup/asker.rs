//! Who asks for vectors over a wire, a request at a time, on the thread that waits for the answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use anabranch_client::{Client, OnlineFeatures, OnlineQuery};
use anabranch_core::selection::Selection;
use anyhow::{Context as _, ensure};
use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use serde_json::Value as Json;
use tokio::runtime::Runtime;

use super::data::SERVICE;

/// Asks for the vectors of entities.
pub(super) trait Asker {
    /// Asks; every value must be there.
    fn ask(&mut self, keys: &[i64]) -> anyhow::Result<()>;

    /// The values, feature by feature, by name.
    fn values(&mut self, keys: &[i64]) -> anyhow::Result<Vec<(String, Vec<f64>)>>;
}

/// How is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// gRPC, by our own client.
    Grpc,
    /// Our JSON over HTTP/1.1.
    Json,
    /// Feast's JSON over HTTP/1.1.
    Feast,
}

impl Wire {
    pub(super) fn connect(self, address: &str) -> anyhow::Result<Box<dyn Asker>> {
        Ok(match self {
            Self::Grpc => Box::new(Grpc::connect(address)?),
            Self::Json | Self::Feast => Box::new(Http::connect(self, address)?),
        })
    }
}

struct Grpc {
    runtime: Runtime,
    client: Client,
    query: OnlineQuery,
}

impl Grpc {
    fn connect(address: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect(address))?;
        Ok(Self { runtime, client, query: OnlineQuery::new(Selection::Service(SERVICE.to_owned())) })
    }

    fn found(&self, keys: &[i64]) -> anyhow::Result<OnlineFeatures> {
        let column = Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("entity", column)])?;
        let found = self.runtime.block_on(self.client.get_online_features(&self.query, &rows))?;
        ensure!(found.status_bytes().iter().all(|status| *status == 1) && found.batch.num_rows() == keys.len(), "a value is missing");
        Ok(found)
    }
}

impl Asker for Grpc {
    fn ask(&mut self, keys: &[i64]) -> anyhow::Result<()> {
        self.found(keys).map(|_| ())
    }

    fn values(&mut self, keys: &[i64]) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
        let batch = self.found(keys)?.batch;
        let column = |(field, column): (&Arc<arrow::datatypes::Field>, &ArrayRef)| {
            let values = column.as_primitive_opt::<Float64Type>().context("a column is not of f64")?;
            Ok((field.name().clone(), values.values().to_vec()))
        };
        batch.schema().fields().iter().zip(batch.columns()).map(column).collect()
    }
}

/// Writes and reads as little as HTTP/1.1 with bodies of known length asks for.
struct Http {
    wire: Wire,
    address: String,
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Http {
    fn connect(wire: Wire, address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { wire, address: address.to_owned(), stream, request: Vec::new(), reply: Vec::with_capacity(1 << 16) })
    }

    /// Sends the question; the body of the answer lies where it says.
    fn call(&mut self, keys: &[i64]) -> anyhow::Result<&[u8]> {
        let (path, before) = match self.wire {
            Wire::Feast => ("/get-online-features", format!("{{\"feature_service\":\"{SERVICE}\",\"entities\":{{\"entity\":[")),
            Wire::Json | Wire::Grpc => ("/v1/online-features", format!("{{\"service\":\"{SERVICE}\",\"keys\":{{\"entity\":[")),
        };
        let mut body = before.into_bytes();
        for (place, key) in keys.iter().enumerate() {
            write!(body, "{}{key}", if place > 0 { "," } else { "" })?;
        }
        body.extend(b"]}}");
        self.request.clear();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n", self.address);
        self.request.extend(head.into_bytes());
        self.request.extend(body);
        self.stream.write_all(&self.request)?;
        self.receive()
    }

    fn receive(&mut self) -> anyhow::Result<&[u8]> {
        self.reply.clear();
        let mut chunk = [0; 1 << 16];
        let (mut head, mut end) = (0, usize::MAX);
        while self.reply.len() < end {
            let read = self.stream.read(&mut chunk)?;
            ensure!(read > 0, "the server hung up");
            self.reply.extend_from_slice(&chunk[..read]);
            if end == usize::MAX
                && let Some(place) = self.reply.windows(4).position(|window| window == b"\r\n\r\n")
            {
                let text = std::str::from_utf8(&self.reply[..place])?.to_ascii_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).context("the answer has no content-length")?;
                head = place + 4;
                end = head + length.trim().parse::<usize>()?;
            }
        }
        ensure!(self.reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.reply));
        Ok(&self.reply[head..])
    }
}

impl Asker for Http {
    fn ask(&mut self, keys: &[i64]) -> anyhow::Result<()> {
        self.call(keys).map(|_| ())
    }

    fn values(&mut self, keys: &[i64]) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
        let wire = self.wire;
        let answer: Json = serde_json::from_slice(self.call(keys)?)?;
        let list = |json: &Json| json.as_array().cloned().context("the answer has another shape");
        let (names, columns) = match wire {
            Wire::Feast => (list(&answer["metadata"]["feature_names"])?, list(&answer["results"])?),
            Wire::Json | Wire::Grpc => {
                let columns = list(&answer["columns"])?;
                (columns.iter().map(|column| column["name"].clone()).collect(), columns)
            }
        };
        let column = |(name, column): (&Json, &Json)| {
            let values = list(&column["values"])?.iter().map(|value| value.as_f64().context("a value is missing")).collect::<anyhow::Result<_>>()?;
            Ok((name.as_str().context("a column has no name")?.to_owned(), values))
        };
        names.iter().zip(&columns).map(column).collect()
    }
}
