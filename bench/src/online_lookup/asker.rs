//! Who asks for vectors over a wire, a request at a time, on the thread that waits for the answer.

use std::cell::OnceCell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use anabranch_client::{Client, OnlineFeatures, OnlineQuery};
use anabranch_core::selection::Selection;
use anyhow::{Context as _, ensure};
use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::data::SERVICE;

/// Asks for the vectors of entities.
pub(super) trait Asker {
    /// Sends a question, on a connection where none is under way.
    fn send(&mut self, keys: &[i64]) -> anyhow::Result<()>;

    /// Waits for the answer; every value must be there.
    fn receive(&mut self) -> anyhow::Result<()>;

    /// Asks and waits.
    fn ask(&mut self, keys: &[i64]) -> anyhow::Result<()> {
        self.send(keys)?;
        self.receive()
    }

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

/// All connections of a thread share its runtime, so that waiting for one answer takes in those of the others.
struct Grpc {
    runtime: Rc<Runtime>,
    client: Client,
    query: Arc<OnlineQuery>,
    under_way: Option<JoinHandle<anyhow::Result<OnlineFeatures>>>,
}

thread_local! {
    static RUNTIME: OnceCell<Rc<Runtime>> = const { OnceCell::new() };
}

impl Grpc {
    fn connect(address: &str) -> anyhow::Result<Self> {
        let made = RUNTIME.with(|runtime| match runtime.get() {
            Some(runtime) => anyhow::Ok(Rc::clone(runtime)),
            None => {
                let made = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
                Ok(Rc::clone(runtime.get_or_init(|| made)))
            }
        })?;
        let client = made.block_on(Client::connect(address))?;
        Ok(Self { runtime: made, client, query: Arc::new(OnlineQuery::new(Selection::Service(SERVICE.to_owned()))), under_way: None })
    }

    fn found(&mut self) -> anyhow::Result<OnlineFeatures> {
        let under_way = self.under_way.take().context("nothing was asked")?;
        self.runtime.block_on(under_way)?
    }
}

impl Asker for Grpc {
    fn send(&mut self, keys: &[i64]) -> anyhow::Result<()> {
        let column = Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("entity", column)])?;
        let (client, query) = (self.client.clone(), Arc::clone(&self.query));
        self.under_way = Some(self.runtime.spawn(async move {
            let found = client.get_online_features(&query, &rows).await?;
            ensure!(found.status_bytes().iter().all(|status| *status == 1) && found.batch.num_rows() == rows.num_rows(), "a value is missing");
            Ok(found)
        }));
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        self.found().map(|_| ())
    }

    fn values(&mut self, keys: &[i64]) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
        self.send(keys)?;
        let batch = self.found()?.batch;
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
    chunk: Box<[u8]>,
}

impl Http {
    fn connect(wire: Wire, address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            wire,
            address: address.to_owned(),
            stream,
            request: Vec::new(),
            reply: Vec::with_capacity(1 << 16),
            chunk: vec![0; 1 << 16].into(),
        })
    }

    fn write(&mut self, keys: &[i64]) -> anyhow::Result<()> {
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
        Ok(self.stream.write_all(&self.request)?)
    }

    /// The body of the answer.
    fn body(&mut self) -> anyhow::Result<&[u8]> {
        self.reply.clear();
        let (mut head, mut end) = (0, usize::MAX);
        while self.reply.len() < end {
            let read = self.stream.read(&mut self.chunk)?;
            ensure!(read > 0, "the server hung up");
            self.reply.extend_from_slice(&self.chunk[..read]);
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
    fn send(&mut self, keys: &[i64]) -> anyhow::Result<()> {
        self.write(keys)
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        self.body().map(|_| ())
    }

    fn values(&mut self, keys: &[i64]) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
        let wire = self.wire;
        self.write(keys)?;
        let answer: Json = serde_json::from_slice(self.body()?)?;
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
