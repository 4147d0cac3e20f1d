//! `online-lookup`: vectors of one service, from a server in a process of its own, measured at the client.
//!
//! Every connection of the load has one request in flight. In the open loop requests have appointed times, whether or not earlier ones have
//! come back, and are measured from those times: a stall counts for every request that it delays. The closed loop asks again as soon as it is answered
//! and finds the most that the server can do, and what that costs it: its own CPU time, not the load's. Load and server share the machine. Figures are of
//! JSON over HTTP/1.1, those with `grpc_` before their names of gRPC by our own client, which makes Arrow arrays of the answers.
//!
//! On Redis the peers answer the same questions in the same run: Feast's feature server on the same Redis, and a client that sends Redis the commands of
//! a lookup and does nothing with the answer. Answers are compared with what was written before a time is taken.

mod asker;
mod data;
mod load;
mod peers;
mod served;

use std::path::PathBuf;

use anabranch_client::{Client, ClientConfig};
use anabranch_online_store::testkit::cql::{DURABLE, TestCassandra};
use anabranch_online_store::testkit::redis::{TestRedis, VOLATILE};
use anabranch_server::Config;
use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::report::{Report, percentile_us, say};
use asker::{Asker, Wire};
use data::Data;
use load::{Answered, Load};
use served::Served;
pub(crate) use served::{ServerOptions, serve};

/// The batches that are looked up.
const BATCHES: [usize; 4] = [1, 10, 100, 4_096];

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Where the server keeps the latest values.
    #[arg(long, value_enum, default_value = "embedded")]
    backend: Backend,
    /// A CQL server, HOST:PORT, for `--backend cql`; without it a Cassandra of one node is started, whose log is synced before a write returns.
    #[arg(long)]
    cql: Option<String>,
    /// Entities.
    #[arg(long, default_value_t = 1_000_000)]
    entities: i64,
    /// Views.
    #[arg(long, default_value_t = 5)]
    views: usize,
    /// f64 features of each view.
    #[arg(long, default_value_t = 10)]
    features: usize,
    /// Memory of the embedded store.
    #[arg(long, default_value_t = 2 << 30)]
    memory_bytes: u64,
    /// Requests a second of the open loop, for batches of 1, 10, 100 and 4096 entities.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 5_000, 1_000, 20])]
    rates: Vec<u64>,
    /// Seconds of each loop.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Rows a second that are written while lookups are measured.
    #[arg(long, default_value_t = 20_000)]
    writes_per_s: u64,
    /// Only what an entity takes in memory and on disk; nothing is timed.
    #[arg(long)]
    sizes: bool,
    /// A Python that has Feast and its Redis store; without it Feast is left out.
    #[arg(long)]
    feast_python: Option<PathBuf>,
    /// Entities that Feast is given, by its own writing API.
    #[arg(long, default_value_t = 100_000)]
    feast_entities: i64,
    /// Processes of Feast's server.
    #[arg(long, default_value_t = 1)]
    feast_workers: usize,
    /// A setting of the server, such as `online.cache_bytes=0`; may come again.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the store is made; it is removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
}

#[derive(ValueEnum, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Backend {
    Embedded,
    Redis,
    Cql,
}

/// What is asked, and by whom.
struct Bench<'a> {
    options: &'a Options,
    data: Data,
    runtime: Runtime,
    server: Served,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("online-lookup", options)?;
    ensure!(options.rates.len() == BATCHES.len(), "--rates needs {} numbers, such as 10000,5000,1000,20", BATCHES.len());
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder)?;
    let redis = (options.backend == Backend::Redis).then(|| TestRedis::start(VOLATILE));
    let cassandra = (options.backend == Backend::Cql && options.cql.is_none()).then(|| TestCassandra::start(DURABLE));
    let settings = settings(options, redis.as_ref(), cassandra.as_ref())?;
    let data = Data { entities: options.entities, views: options.views, features: options.features, seed: options.seed };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let server = Served::start(folder.path(), &settings)?;
    let mut bench = Bench { options, data, runtime, server };
    let empty = redis.as_ref().map(used_memory).transpose()?;
    bench.runtime.block_on(async { bench.data.load(&bench.client().await?).await })?;
    bench.sizes(&mut report, empty.zip(redis.as_ref()), &folder.path().join("online"), &settings)?;
    if !options.sizes {
        bench.wire(&mut report, Wire::Json, "")?;
        bench.wire(&mut report, Wire::Grpc, "grpc_")?;
        if let Some(redis) = &redis {
            bench.peers(&mut report, redis)?;
        }
        bench.under_writes(&mut report)?;
        bench.during_rebuild(&mut report)?;
    }
    bench.server.end()?;
    Ok(report)
}

/// The settings of the server.
fn settings(options: &Options, redis: Option<&TestRedis>, cassandra: Option<&TestCassandra>) -> anyhow::Result<Vec<(String, String)>> {
    // Without a cache above another store, so that every lookup goes there; `--set` gives it one.
    let mut settings = vec![("online.memory_bytes".to_owned(), options.memory_bytes.to_string()), ("online.cache_bytes".to_owned(), "0".to_owned())];
    match (options.backend, redis) {
        (Backend::Embedded, _) => {}
        (Backend::Redis, redis) => {
            settings.push(("online.backend".to_owned(), "redis".to_owned()));
            settings.extend(redis.map(|redis| ("online.redis.url".to_owned(), format!("redis://{}", redis.address()))));
        }
        (Backend::Cql, _) => {
            settings.push(("online.backend".to_owned(), "cql".to_owned()));
            settings.extend(options.cql.clone().map(|address| ("online.cql.contact_points".to_owned(), address)));
            if let Some(own) = cassandra.map(|cassandra| cassandra.config("lookup")) {
                settings.push(("online.cql.contact_points".to_owned(), own.contact_points));
                settings.push(("online.cql.replication_factor".to_owned(), own.replication_factor.to_string()));
                settings.push(("online.cql.timeout_ms".to_owned(), own.timeout_ms.to_string()));
                settings.push(("online.cql.lookup_timeout_ms".to_owned(), own.lookup_timeout_ms.to_string()));
            }
        }
    }
    for setting in &options.settings {
        let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write NAME=VALUE"))?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    // Said here, what is wrong with them is not lost among what the server logs.
    Config::load(None, [], &settings)?;
    Ok(settings)
}

impl Bench<'_> {
    async fn client(&self) -> anyhow::Result<Client> {
        // Putting a million entities online takes minutes.
        let config = ClientConfig { timeout: std::time::Duration::from_secs(3_600), ..ClientConfig::default() };
        Ok(Client::connect_with(&self.server.address(), config).await?)
    }

    /// What an entity takes: in Redis, or in the server's memory and on its disk.
    fn sizes(
        &mut self,
        report: &mut Report,
        redis: Option<(f64, &TestRedis)>,
        folder: &std::path::Path,
        settings: &[(String, String)],
    ) -> anyhow::Result<()> {
        let entities = self.options.entities as f64;
        if let Some((empty, redis)) = redis {
            report.figure("bytes_per_entity", (used_memory(redis)? - empty) / entities);
            return Ok(());
        }
        if self.options.backend == Backend::Cql {
            // Its tables grow and shrink as they are compacted: `online-size` says what an entity takes there.
            return Ok(());
        }
        // Begun anew, the server has no row in memory; after every entity was read once, all are there that have room.
        self.server.restart(settings)?;
        let before = self.server.resident_bytes()?;
        let mut asker = Wire::Grpc.connect(&self.server.address())?;
        let keys: Vec<_> = (0..self.options.entities).collect();
        for keys in keys.chunks(4_096) {
            asker.ask(keys)?;
        }
        report.figure("bytes_per_entity", (self.server.resident_bytes()? - before) / entities);
        report.figure("disk_bytes_per_entity", served::folder_bytes(folder)? / entities);
        Ok(())
    }

    fn load<'a>(&self, make: &'a load::Make<'a>) -> Load<'a> {
        Load { entities: self.options.entities, seconds: self.options.seconds, connections: self.options.connections, seed: self.options.seed, make }
    }

    /// Every figure over one wire.
    fn wire(&self, report: &mut Report, wire: Wire, prefix: &str) -> anyhow::Result<()> {
        let address = self.server.address();
        self.data.check(&mut *wire.connect(&address)?, 0..self.data.entities)?;
        let make = move || wire.connect(&address);
        let load = self.load(&make);
        for (batch, rate) in BATCHES.into_iter().zip(&self.options.rates) {
            let found = load.open(batch, *rate)?;
            say(&format!("{prefix}open loop, {batch} entities: {:.0} of {rate} requests/s, {}", found.per_s(), percentiles(&found)));
            for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9)] {
                report.figure(&format!("{prefix}{name}_us_b{batch}"), percentile_us(&found.took_us, percent));
            }
            if batch == 1 {
                report.figure(&format!("{prefix}rate_open_loop"), found.per_s());
            }
        }
        for batch in [1, 100] {
            let (found, cpu_s) = self.closed(&load, batch)?;
            let count = found.took_us.len() as f64;
            let us = cpu_s / count * 1e6;
            say(&format!("{prefix}closed loop, {batch} entities: {:.0} requests/s, {us:.1} us of the server's CPU each", found.per_s()));
            report.figure(&format!("{prefix}server_cpu_us_b{batch}"), us);
            report.figure(&format!("{prefix}max_requests_per_s_b{batch}"), found.per_s());
            if batch == 1 {
                report.figure(&format!("{prefix}max_lookups_per_s"), found.per_s());
                report.figure(&format!("{prefix}lookups_per_s_per_core"), count / cpu_s);
            }
        }
        Ok(())
    }

    /// A closed loop, and the CPU time that it cost the server.
    fn closed(&self, load: &Load<'_>, batch: usize) -> anyhow::Result<(Answered, f64)> {
        let before = self.server.cpu_s()?;
        let found = load.closed(batch)?;
        Ok((found, self.server.cpu_s()? - before))
    }

    /// One entity, while rows are written.
    fn under_writes(&self, report: &mut Report) -> anyhow::Result<()> {
        let client = self.runtime.block_on(self.client())?;
        let (data, rate) = (self.data.clone(), self.options.writes_per_s);
        self.disturbed(report, "under_writes", |ends| async move {
            let written = data.keep_writing(&client, rate, ends).await?;
            say(&format!("{written:.0} rows/s were written meanwhile"));
            Ok(written)
        })
    }

    /// One entity, while what is online is filled anew from history.
    fn during_rebuild(&self, report: &mut Report) -> anyhow::Result<()> {
        let client = self.runtime.block_on(self.client())?;
        self.disturbed(report, "during_rebuild", |ends| async move {
            let rate = data::keep_rebuilding(&client, ends).await?;
            say(&format!("{rate:.0} rows/s were rebuilt meanwhile"));
            Ok(rate)
        })
    }

    /// One entity in the open loop while something else goes on until it is told to end; `p99_us_b1_<name>`, and what that says of itself.
    fn disturbed<F>(&self, report: &mut Report, name: &str, disturb: impl FnOnce(oneshot::Receiver<()>) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<f64>> + Send + 'static,
    {
        let address = self.server.address();
        let (end, ends) = oneshot::channel();
        let going_on = self.runtime.spawn(disturb(ends));
        let make = move || Wire::Json.connect(&address);
        let found = self.load(&make).open(1, self.options.rates[0])?;
        let _ = end.send(());
        let rate = self.runtime.block_on(going_on)??;
        say(&format!("{name}: {}", percentiles(&found)));
        report.figure(&format!("p99_us_b1_{name}"), percentile_us(&found.took_us, 99.0));
        report.figure(&format!("rate_{name}"), rate);
        Ok(())
    }

    /// The peers, and we over the same wire as Feast.
    fn peers(&self, report: &mut Report, redis: &TestRedis) -> anyhow::Result<()> {
        let address = self.server.address();
        self.data.check(&mut *Wire::Feast.connect(&address)?, 0..self.data.entities)?;
        let make = move || Wire::Feast.connect(&address);
        let ours = self.load(&make);
        let bare = peers::Bare::find(redis, self.options.views)?;
        let make = || bare.connect();
        let bare = self.load(&make);
        let mut per_s = Vec::new();
        for batch in [1, 100] {
            let (found, cpu_s) = self.closed(&ours, batch)?;
            report.figure(&format!("feast_wire_server_cpu_us_b{batch}"), cpu_s / found.took_us.len() as f64 * 1e6);
            report.figure(&format!("feast_wire_requests_per_s_b{batch}"), found.per_s());
            let raw = bare.closed(batch)?;
            say(&format!("{batch} entities: {:.0} requests/s in Feast's shape, {:.0} by the bare client", found.per_s(), raw.per_s()));
            report.figure(&format!("bare_redis_p99_us_b{batch}"), percentile_us(&raw.took_us, 99.0));
            report.figure(&format!("bare_redis_requests_per_s_b{batch}"), raw.per_s());
            report.figure(&format!("ratio_vs_bare_redis{}", if batch == 1 { "" } else { "_b100" }), found.per_s() / raw.per_s());
            per_s.push((batch, found.per_s()));
        }
        let Some(python) = &self.options.feast_python else { return Ok(()) };
        let data = Data { entities: self.options.feast_entities.min(self.data.entities), ..self.data.clone() };
        let feast = peers::Feast::start(python, &data, &redis.address(), self.options.feast_workers, &self.options.folder)?;
        self.data.check(&mut *Wire::Feast.connect(feast.address())?, 0..data.entities)?;
        let make = || Wire::Feast.connect(feast.address());
        let load = Load { entities: data.entities, ..self.load(&make) };
        for (batch, ours) in per_s {
            let found = load.closed(batch)?;
            say(&format!("Feast, {batch} entities: {:.1} requests/s, {}", found.per_s(), percentiles(&found)));
            report.figure(&format!("feast_python_p50_us_b{batch}"), percentile_us(&found.took_us, 50.0));
            report.figure(&format!("feast_python_p99_us_b{batch}"), percentile_us(&found.took_us, 99.0));
            report.figure(&format!("feast_python_requests_per_s_b{batch}"), found.per_s());
            report.figure(&format!("ratio_vs_feast_b{batch}"), ours / found.per_s());
        }
        Ok(())
    }
}

fn percentiles(found: &Answered) -> String {
    let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|percent| percentile_us(&found.took_us, percent));
    format!("p50 {p50} us, p99 {p99}, p99.9 {p999}")
}

fn used_memory(redis: &TestRedis) -> anyhow::Result<f64> {
    let info = redis.ask(&["INFO", "memory"]);
    let bytes = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).context("Redis did not say how much memory it uses")
}
