//! One Redis process: what it says of itself, and the connections to it.
//!
//! Lookups have connections of their own, so that none waits behind rows that are being written: one for each async runtime that looks up, opened when it
//! first does, so that a lookup's question and answer stay on the thread that it began on. Since such a connection is younger than what was verified of the
//! process, it is asked once whether it leads to the same one. A connection that failed, or did not answer in time, is dead and never used again: an
//! answer that comes late must not be taken for another's.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, Value, cmd};
use ahash::RandomState;
use futures::FutureExt as _;
use tokio::runtime::{self, Handle};
use tokio::sync::OnceCell;

use super::line::{self, Commands, Line};
use crate::call::Call;
use crate::config::RedisUrlParts;
use crate::{Error, Result};

/// Bytes that a connection gathers before it writes them out.
const WRITE_BUFFER: usize = 64 << 10;
/// Pipelines that may wait for a connection's turn.
const QUEUE: usize = 1_024;

/// What a process is, as far as it concerns what may be lost with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Another one after each start.
    pub(super) run: String,
    /// Whether what it acknowledges survives its end and a loss of power.
    pub(super) durable: bool,
    /// Whether it took over from another, whose last writes it may lack.
    pub(super) promoted: bool,
    /// Whether it is a node of a cluster.
    pub(super) cluster: bool,
}

/// A process, verified and connected.
pub(super) struct Peer {
    pub(super) address: String,
    pub(super) identity: Identity,
    url: RedisUrlParts,
    writes: Connection,
    lookups: Arc<Mutex<Lookups>>,
}

/// The connections for lookups, each with the runtime that drives it.
type Lookups = HashMap<runtime::Id, Arc<OnceCell<Line>>, RandomState>;

#[derive(Clone)]
struct Connection {
    connection: MultiplexedConnection,
    dead: Arc<AtomicBool>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("address", &self.address).field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Peer {
    /// Connects to a process, or takes over from `before` those connections that still answer, and asks it what it is.
    pub(super) async fn connect(url: &RedisUrlParts, address: &str, before: Option<&Self>, call: &Call) -> Result<Self> {
        let new = |writes, lookups| Self { address: address.to_owned(), identity: Identity::unknown(), url: url.clone(), writes, lookups };
        if let Some(before) = before.filter(|before| before.is_alive()) {
            let mut peer = new(before.writes.clone(), Arc::clone(&before.lookups));
            match peer.identify(call).await {
                Ok(identity) => {
                    peer.identity = identity;
                    return Ok(peer);
                }
                Err(error) if peer.is_alive() => return Err(error),
                // They broke since they were used last.
                Err(_) => {}
            }
        }
        let mut peer = new(Connection::open(url, address, call).await?, Arc::default());
        peer.identity = peer.identify(call).await?;
        Ok(peer)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.writes.is_alive() && self.opened().values().filter_map(|lookups| lookups.get()).all(Line::is_alive)
    }

    fn opened(&self) -> MutexGuard<'_, Lookups> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection for this runtime's lookups.
    pub(super) async fn lookups(&self, call: &Call) -> Result<Line> {
        let lookups = Arc::clone(self.opened().entry(Handle::current().id()).or_default());
        if let Some(opened) = lookups.get() {
            return Ok(opened.clone());
        }
        // Once for a runtime: what waits for it need not be large.
        async move { call.within(lookups.get_or_try_init(|| self.open_lookups(call))).await?.cloned() }.boxed().await
    }

    /// Opens a connection for lookups, to the process that was verified.
    async fn open_lookups(&self, call: &Call) -> Result<Line> {
        let opened = Line::open(&self.url.of(&self.address), &self.address, call).await?;
        let info = opened.ask(Commands::command(&[b"INFO", b"server"]), None, call).await?.frames.pop().and_then(line::bytes).unwrap_or_default();
        if said(&String::from_utf8_lossy(&info), "run_id") == self.identity.run {
            return Ok(opened);
        }
        // The other connections broke as it ended, whether anybody noticed or not.
        self.writes.dead.store(true, Ordering::Relaxed);
        Err(call.failed(format!("Redis at {} started anew", self.address)))
    }

    /// Sends commands as one pipeline; the replies come in the order of the commands, refusals among them.
    pub(super) async fn send(&self, pipeline: &Pipeline, call: &Call) -> Result<Vec<Value>> {
        self.writes.send(pipeline, &self.address, call).await
    }

    /// Sends one command; a refusal is an error.
    pub(super) async fn ask(&self, command: Cmd, call: &Call) -> Result<Value> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let reply = self.send(&pipeline, call).await?.pop().unwrap_or_default();
        reply.extract_error().map_err(|error| refused(error, call))
    }

    /// Asks the process what it is.
    pub(super) async fn identify(&self, call: &Call) -> Result<Identity> {
        let info: String = text(self.ask(cmd("INFO"), call).await?);
        let said = |name: &str| said(&info, name);
        if said("loading") == "1" {
            return Err(call.failed(format!("Redis at {} is still loading what it kept", self.address)));
        }
        if said("role") != "master" {
            return Err(call.failed(format!("Redis at {} is a replica: give the address of its master", self.address)));
        }
        let refuse = |reason: String| Err(Error::Config { setting: "redis.url", reason });
        let version = said("redis_version");
        if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 7) {
            return refuse(format!("Redis at {} has version {version:?}: it must be 7 or newer", self.address));
        }
        let policy = said("maxmemory_policy");
        if policy != "noeviction" {
            return refuse(format!(
                "Redis at {} evicts rows when its memory is full (maxmemory-policy {policy}): set it to noeviction",
                self.address
            ));
        }
        let replaced = said("master_replid2");
        Ok(Identity {
            run: said("run_id").to_owned(),
            durable: said("aof_enabled") == "1" && self.syncs_always(call).await?,
            promoted: !replaced.is_empty() && replaced.bytes().any(|byte| byte != b'0'),
            cluster: said("cluster_enabled") == "1",
        })
    }

    /// Whether every write is on disk before it is acknowledged. Where it may not be asked, it may not be relied on either.
    async fn syncs_always(&self, call: &Call) -> Result<bool> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CONFIG").arg("GET").arg("appendfsync").cmd("CONFIG").arg("GET").arg("no-appendfsync-on-rewrite");
        let replies = self.send(&pipeline, call).await?;
        let values: Vec<_> = replies.into_iter().map(|reply| reply.into_sequence().ok()?.into_iter().nth(1).map(text)).collect();
        Ok(values[0].as_deref() == Some("always") && values[1].as_deref() == Some("no"))
    }
}

impl Identity {
    const fn unknown() -> Self {
        Self { run: String::new(), durable: false, promoted: false, cluster: false }
    }
}

impl Connection {
    async fn open(url: &RedisUrlParts, address: &str, call: &Call) -> Result<Self> {
        let failed = |error: ::redis::RedisError| Error::Storage { doing: "connect to Redis", source: format!("{address}: {error}").into() };
        let info = url.of(address).into_connection_info().map_err(failed)?;
        let client = Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true))).map_err(failed)?;
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let config = config.set_pipeline_buffer_size(QUEUE).set_write_backpressure_boundary(WRITE_BUFFER);
        let connection = call.within(client.get_multiplexed_async_connection_with_config(&config)).await?.map_err(failed)?;
        Ok(Self { connection, dead: Arc::default() })
    }

    fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    async fn send(&self, pipeline: &Pipeline, address: &str, call: &Call) -> Result<Vec<Value>> {
        if !self.is_alive() {
            return Err(call.failed(format!("the connection to Redis at {address} broke")));
        }
        let mut connection = self.connection.clone();
        let sent = call.within(connection.send_packed_commands(pipeline, 0, pipeline.len())).await;
        let replies = match sent {
            Ok(Ok(replies)) if replies.len() == pipeline.len() => return Ok(replies),
            Ok(Ok(_)) => Err(call.failed("it answered another number of commands")),
            Ok(Err(error)) => Err(call.failed(error)),
            Err(late) => Err(late),
        };
        self.dead.store(true, Ordering::Relaxed);
        replies
    }
}

/// What a process says of itself under a name.
fn said<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// What Redis refused, as an error of ours.
pub(super) fn refused(error: ::redis::RedisError, call: &Call) -> Error {
    match error.code() {
        Some("OOM") => Error::OutOfMemory { source: Box::new(error) },
        _ => call.failed(error),
    }
}

/// A reply's text; empty where it has none.
pub(super) fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

/// A reply's bytes; `None` where there are none.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}
