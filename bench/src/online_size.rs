//! `online-size`: what an entity takes online, by the shape of its rows, the number of views and the store.
//!
//! Rows are written as they are served, without a server: packed rows of random values, which nothing compresses, under keys of one integer. Of each shape
//! it tells how long the packed row is, and then what all entities take less what none takes (or some of them), divided by their number:
//!
//! | store | memory | disk |
//! | -- | -- | -- |
//! | embedded | resident set of a process of its own that reads every row once, so that all are in memory: what all but the first sixteenth of them add | its folder, closed, without the journal, whose size is bounded by a setting |
//! | Redis | `used_memory` | the snapshot that it saves, which an append-only file begins with, too |
//! | Cassandra | – | its tables once they are written out, one replica |

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anabranch_core::{DataType, EntityKey, Generation, Position, RandomIds, RowOrder, SourceId, Timestamp, Value};
use anabranch_online_store::row::RowEncoder;
use anabranch_online_store::testkit::cql::{DURABLE, TestCassandra};
use anabranch_online_store::testkit::redis::{TestRedis, VOLATILE};
use anabranch_online_store::{CqlOnlineStore, EmbeddedConfig, EmbeddedOnlineStore, Layout, OnlineStore, ReadGroup, RedisOnlineStore, Write};
use anyhow::{Context as _, ensure};
use arrow::array::{ArrayRef, Float32Array, Float64Array, ListArray, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType as ArrowType, Field};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::online_lookup::Backend;
use crate::report::{Report, START_US, say};

/// Rows written and read at once.
const ROWS: i64 = 4_096;
/// One of so many entities is read before memory is looked at.
const READ_FIRST: i64 = 16;
/// Features of a row that are numbers or texts.
const FEATURES: usize = 10;
/// Bytes of a text.
const TEXT_BYTES: usize = 12;
/// Lists of a row, and their items.
const LISTS: usize = 2;
const ITEMS: usize = 32;

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// The store.
    #[arg(long, value_enum, default_value = "embedded")]
    backend: Backend,
    /// Entities.
    #[arg(long, default_value_t = 200_000)]
    entities: i64,
    /// Views, each with a row of every entity.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5])]
    views: Vec<u64>,
    /// The shapes of rows.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Shape::ALL)]
    shapes: Vec<Shape>,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where stores are made; they are removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
}

/// One embedded store that is to be read as a whole, in a process of its own.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReadOptions {
    /// Its folder.
    #[arg(long)]
    folder: PathBuf,
    /// Its entities.
    #[arg(long)]
    entities: i64,
    /// Their views.
    #[arg(long)]
    views: u64,
}

/// What a row holds.
#[derive(ValueEnum, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Shape {
    /// 10 numbers of 8 bytes.
    F64,
    /// 10 numbers of 4 bytes.
    F32,
    /// 10 texts of 12 bytes.
    Strings,
    /// 2 lists of 32 numbers of 4 bytes.
    Lists,
}

/// What an entity takes in bytes.
#[derive(Debug, Default)]
struct Sizes {
    memory: Option<f64>,
    disk: Option<f64>,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("online-size", options)?;
    ensure!(options.entities > 0 && options.views.iter().all(|views| *views > 0), "--entities and --views must be at least 1");
    std::fs::create_dir_all(&options.folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for shape in &options.shapes {
        let rows = Rows::new(*shape, options)?;
        let one = rows.writes(0, 1, 1)?;
        report.figure(&format!("row_bytes_{}", shape.name()), one.first().map_or(f64::NAN, |write| write.row.len() as f64));
        for views in &options.views {
            let sizes = match options.backend {
                Backend::Embedded => embedded(&runtime, &rows, *views, options)?,
                Backend::Redis => redis(&runtime, &rows, *views)?,
                Backend::Cql => cql(&runtime, &rows, *views)?,
            };
            let case = format!("{}_{views}_view{}", shape.name(), if *views == 1 { "" } else { "s" });
            say(&format!("{case}: {sizes:?} bytes per entity"));
            for (name, bytes) in [("memory", sizes.memory), ("disk", sizes.disk)] {
                if let Some(bytes) = bytes {
                    report.figure(&format!("{name}_bytes_per_entity_{case}"), bytes);
                }
            }
        }
    }
    Ok(report)
}

/// Reads every row of an embedded store and prints by how many bytes the process grew.
pub(crate) fn read_all(options: &ReadOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let grown = runtime.block_on(async {
        let store = EmbeddedOnlineStore::open(&options.folder, &embedded_config(), &RandomIds::seeded(1)).await?;
        // What reading itself takes, whatever the number of rows, is there after some of them.
        let some = options.entities / READ_FIRST;
        read_in_parts(&store, 0..some, options.views).await?;
        let before = resident_bytes()?;
        read_in_parts(&store, some..options.entities, options.views).await?;
        Ok::<_, anyhow::Error>((resident_bytes()? - before) / (options.entities - some) as f64)
    })?;
    writeln!(std::io::stdout(), "{grown}")?;
    Ok(())
}

async fn read_in_parts(store: &dyn OnlineStore, entities: std::ops::Range<i64>, views: u64) -> anyhow::Result<()> {
    for first in entities.clone().step_by(ROWS as usize) {
        read(store, first..(first + ROWS).min(entities.end), views).await?;
    }
    Ok(())
}

async fn read(store: &dyn OnlineStore, entities: std::ops::Range<i64>, views: u64) -> anyhow::Result<()> {
    let keys = entities.map(key).collect::<anyhow::Result<Vec<_>>>()?;
    let generations: Vec<_> = (1..=views).map(Generation).collect();
    let found = store.read(&[ReadGroup { generations: &generations, keys: &keys }]).await?;
    ensure!(found.iter().all(Option::is_some), "a row that was written is not there");
    Ok(())
}

fn embedded(runtime: &tokio::runtime::Runtime, rows: &Rows, views: u64, options: &Options) -> anyhow::Result<Sizes> {
    let folder = tempfile::tempdir_in(&options.folder)?;
    let path = folder.path().join("online");
    runtime.block_on(async {
        let store = EmbeddedOnlineStore::open(&path, &embedded_config(), &RandomIds::seeded(1)).await?;
        rows.write(&store, views).await
    })?;
    let disk = tables_bytes(&path)?;
    let mut reader = Command::new(std::env::current_exe()?);
    reader.arg("online-size-read").arg("--folder").arg(&path);
    let output = reader.args(["--entities", &rows.entities.to_string(), "--views", &views.to_string()]).output()?;
    ensure!(output.status.success(), "reading the store failed: {}", String::from_utf8_lossy(&output.stderr));
    let memory = String::from_utf8_lossy(&output.stdout).trim().parse().context("the reader did not say how it grew")?;
    Ok(Sizes { memory: Some(memory), disk: Some(disk / rows.entities as f64) })
}

/// All rows in memory, and little else.
fn embedded_config() -> EmbeddedConfig {
    EmbeddedConfig { hot_bytes: 64 << 30, block_cache_bytes: 1 << 20, memtable_bytes: 1 << 20, ..EmbeddedConfig::default() }
}

fn redis(runtime: &tokio::runtime::Runtime, rows: &Rows, views: u64) -> anyhow::Result<Sizes> {
    let redis = TestRedis::start(VOLATILE);
    let store = runtime.block_on(RedisOnlineStore::open(&redis.config(), Arc::new(RandomIds::seeded(1))))?;
    let empty = used_memory(&redis)?;
    runtime.block_on(rows.write(&store, views))?;
    let memory = (used_memory(&redis)? - empty) / rows.entities as f64;
    redis.ask(&["SAVE"]);
    let folder = redis.ask(&["CONFIG", "GET", "dir"]);
    let folder = folder.lines().nth(1).context("Redis did not say where it saves")?;
    let disk = std::fs::metadata(Path::new(folder).join("dump.rdb"))?.len() as f64 / rows.entities as f64;
    Ok(Sizes { memory: Some(memory), disk: Some(disk) })
}

fn used_memory(redis: &TestRedis) -> anyhow::Result<f64> {
    let info = redis.ask(&["INFO", "memory"]);
    let bytes = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).context("Redis did not say how much memory it uses")
}

fn cql(runtime: &tokio::runtime::Runtime, rows: &Rows, views: u64) -> anyhow::Result<Sizes> {
    let mut cassandra = TestCassandra::start(DURABLE);
    runtime.block_on(async {
        let store = CqlOnlineStore::open(&cassandra.config("size"), Arc::new(RandomIds::seeded(1))).await?;
        rows.write(&store, views).await
    })?;
    // A server that begins anew writes out what its log has.
    cassandra.kill();
    cassandra.run();
    let disk = tables_bytes(&cassandra.folder().join("data").join("test"))?;
    Ok(Sizes { memory: None, disk: Some(disk / rows.entities as f64) })
}

/// Rows of one shape.
struct Rows {
    shape: Shape,
    layout: Layout,
    entities: i64,
    seed: u64,
}

impl Shape {
    const ALL: [Self; 4] = [Self::F64, Self::F32, Self::Strings, Self::Lists];

    const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Strings => "strings",
            Self::Lists => "lists",
        }
    }

    fn fields(self) -> anyhow::Result<Vec<(i32, DataType)>> {
        let (count, data_type) = match self {
            Self::F64 => (FEATURES, "f64"),
            Self::F32 => (FEATURES, "f32"),
            Self::Strings => (FEATURES, "string"),
            Self::Lists => (LISTS, "list<f32>"),
        };
        let data_type: DataType = data_type.parse()?;
        Ok((1..=count as i32).map(|id| (id, data_type)).collect())
    }

    fn column(self, rows: usize, rng: &mut StdRng) -> anyhow::Result<ArrayRef> {
        Ok(match self {
            Self::F64 => Arc::new(Float64Array::from_iter_values((0..rows).map(|_| rng.random::<f64>()))),
            Self::F32 => Arc::new(Float32Array::from_iter_values((0..rows).map(|_| rng.random::<f32>()))),
            Self::Strings => {
                let mut text = || (0..TEXT_BYTES).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect::<String>();
                Arc::new(StringArray::from_iter_values((0..rows).map(|_| text())))
            }
            Self::Lists => {
                let items = Float32Array::from_iter_values((0..rows * ITEMS).map(|_| rng.random::<f32>()));
                let field = Arc::new(Field::new("element", ArrowType::Float32, false));
                Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(std::iter::repeat_n(ITEMS, rows)), Arc::new(items), None)?)
            }
        })
    }
}

impl Rows {
    fn new(shape: Shape, options: &Options) -> anyhow::Result<Self> {
        Ok(Self { shape, layout: Layout::new(shape.fields()?)?, entities: options.entities, seed: options.seed })
    }

    /// Puts every entity of every view into a store.
    async fn write(&self, store: &dyn OnlineStore, views: u64) -> anyhow::Result<()> {
        for view in 1..=views {
            for first in (0..self.entities).step_by(ROWS as usize) {
                store.write(&self.writes(first, (first + ROWS).min(self.entities), view)?).await?;
            }
        }
        Ok(store.sync().await?)
    }

    fn writes(&self, first: i64, end: i64, view: u64) -> anyhow::Result<Vec<Write>> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ first.cast_unsigned() ^ (view << 48));
        let rows = usize::try_from(end - first)?;
        let columns = self.layout.fields().iter().map(|_| self.shape.column(rows, &mut rng)).collect::<anyhow::Result<Vec<_>>>()?;
        let encoder = RowEncoder::new(&self.layout, &columns)?;
        let (generation, time, source) = (Generation(view), Timestamp(START_US), SourceId::new(1)?);
        let write = |row: usize| {
            let entity = first + row as i64;
            let position = Position::new(entity.cast_unsigned())?;
            let mut bytes = Vec::new();
            encoder.encode(row, RowOrder { event_time: time, known_time: time, arrival: time, source, position }, &mut bytes)?;
            Ok(Write { generation, key: key(entity)?, row: Bytes::from(bytes) })
        };
        (0..rows).map(write).collect()
    }
}

fn key(entity: i64) -> anyhow::Result<EntityKey> {
    EntityKey::encode(&[Value::I64(entity)])?.context("an integer is a key")
}

fn resident_bytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|kb| kb.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kb.context("reading the memory of this process")? * 1024.0)
}

/// What the files of a folder take together, journals left out.
fn tables_bytes(folder: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        bytes += match entry.file_type()?.is_dir() {
            true => tables_bytes(&entry.path())?,
            false if Path::new(&name).extension().is_some_and(|extension| extension == "jnl") => 0.0,
            false => entry.metadata()?.len() as f64,
        };
    }
    Ok(bytes)
}
