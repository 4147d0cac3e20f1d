//! The peers on the same Redis: a client that does nothing with what it gets, and Feast's feature server.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anabranch_core::testkit::free_port;
use anabranch_core::{EntityKey, Value};
use anabranch_online_store::testkit::redis::TestRedis;
use anyhow::{Context as _, bail, ensure};
use redis::{Connection, Pipeline};
use tempfile::TempDir;

use super::Asker;
use super::data::Data;
use crate::report::say;

/// How the rows of our store are asked for: one `HMGET` for each entity.
pub(super) struct Bare {
    address: String,
    prefix: Vec<u8>,
    fields: Vec<Vec<u8>>,
}

impl Bare {
    /// Finds out from an entity that is there.
    pub(super) fn find(redis: &TestRedis, views: usize) -> anyhow::Result<Self> {
        let address = redis.address();
        let mut connection = connect(&address)?;
        let (_, found): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN").arg(0).arg("MATCH").arg("*{}e*").arg("COUNT").arg(1_000).query(&mut connection)?;
        let name = found.first().context("Redis holds no entity")?;
        let begin = name.windows(3).position(|window| window == b"{}e").context("an entity's key has another shape")?;
        let fields: Vec<Vec<u8>> = redis::cmd("HKEYS").arg(name).query(&mut connection)?;
        ensure!(fields.len() == views, "an entity has {} rows for {views} views", fields.len());
        Ok(Self { address, prefix: name[..begin + 3].to_vec(), fields })
    }

    pub(super) fn connect(&self) -> anyhow::Result<Box<dyn Asker>> {
        Ok(Box::new(BareAsker { connection: connect(&self.address)?, prefix: self.prefix.clone(), fields: self.fields.clone(), asked: 0 }))
    }
}

fn connect(address: &str) -> anyhow::Result<Connection> {
    Ok(redis::Client::open(format!("redis://{address}"))?.get_connection()?)
}

struct BareAsker {
    connection: Connection,
    prefix: Vec<u8>,
    fields: Vec<Vec<u8>>,
    /// Entities of the question that is under way.
    asked: usize,
}

impl Asker for BareAsker {
    fn send(&mut self, keys: &[i64]) -> anyhow::Result<()> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            let key = EntityKey::encode(&[Value::I64(*key)])?.context("a key has no value")?;
            pipeline.cmd("HMGET").arg([&self.prefix[..], key.as_bytes()].concat()).arg(&self.fields);
        }
        self.asked = keys.len();
        Ok(self.connection.send_packed_command(&pipeline.get_packed_pipeline())?)
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.asked {
            let rows: Vec<Option<Vec<u8>>> = redis::from_redis_value(self.connection.recv_response()?)?;
            ensure!(rows.len() == self.fields.len() && rows.iter().all(Option::is_some), "a row is missing");
        }
        Ok(())
    }

    fn values(&mut self, _: &[i64]) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
        bail!("the bare client does not know what rows mean")
    }
}

/// Feast's feature server, filled with the same values.
pub(super) struct Feast {
    server: Child,
    address: String,
    _folder: TempDir,
}

impl Feast {
    pub(super) fn start(python: &Path, data: &Data, redis: &str, workers: usize, folder: &Path) -> anyhow::Result<Self> {
        ensure!(python.exists(), "{} is not there: run `scripts/setup bench` first", python.display());
        let folder = tempfile::tempdir_in(folder)?;
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/feast_server.py"));
        let port = free_port();
        for (name, value) in [
            ("--folder", std::path::absolute(folder.path())?.display().to_string()),
            ("--redis", redis.to_owned()),
            ("--entities", data.entities.to_string()),
            ("--views", data.views.to_string()),
            ("--features", data.features.to_string()),
            ("--seed", data.seed.to_string()),
            ("--workers", workers.to_string()),
            ("--port", port.to_string()),
        ] {
            command.arg(name).arg(value);
        }
        say(&format!("Feast is given {} entities", data.entities));
        // It ends with its standard input, as our server does; its processes are its own to end.
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let address = format!("127.0.0.1:{port}");
        while std::net::TcpStream::connect(&address).is_err() {
            if let Some(status) = server.try_wait()? {
                bail!("Feast's server ended with {status}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self { server, address, _folder: folder })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Feast {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        drop(self.server.wait());
    }
}
