//! Joins on a cluster of real processes.

mod deaths;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anabranch_client::{BulkOptions, Changes, Client, Dataset, Definition, Entity, Error, ErrorKind, FeatureView, HistoricalQuery, Kinded, Scalar};
use anabranch_core::selection::Selection;
use anabranch_core::testkit::free_port;
use anabranch_server::config::EngineConfig;
use anabranch_server::{Config, RunningServer, Server};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, TimestampMicrosecondArray};
use rustix::process::{Pid, Signal, kill_process};

use super::client_of;

/// A process of ours, which ends with the test.
struct Process(Child);

impl Process {
    fn engine(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
        Self(command.arg("engine").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}

/// A scheduler that answers.
fn scheduler(address: SocketAddr, options: &[&str]) -> Process {
    let process = Process::engine(&[&["scheduler", "--listen", &address.to_string()][..], options].concat());
    until("the scheduler answers", || TcpStream::connect(address).is_ok());
    process
}

/// An executor that has come to its scheduler.
fn executor(scheduler: SocketAddr, work: &Path) -> Process {
    let scheduler = scheduler.to_string();
    for _ in 0..10 {
        let (listen, control) = (free(), free().port().to_string());
        let (address, work) = (listen.to_string(), work.to_str().unwrap());
        let arguments = ["executor", "--scheduler", &scheduler, "--listen", &address, "--control-port", &control, "--tasks", "1", "--work", work];
        let mut process = Process::engine(&arguments);
        until("the executor answers or has ended", || process.ended() || TcpStream::connect(listen).is_ok());
        // Somebody else may have taken a port that was free.
        if !process.ended() {
            return process;
        }
    }
    panic!("no executor starts");
}

async fn server_with(data: &Path, scheduler: SocketAddr, partitions: usize) -> RunningServer {
    let engine = EngineConfig { scheduler: scheduler.to_string(), partitions, ..EngineConfig::default() };
    Server::start(Config { data: data.to_owned(), listen: "127.0.0.1:0".parse().unwrap(), engine, ..Config::default() }).await.unwrap()
}

/// The same numbers for the same seed.
fn random(seed: u64) -> impl FnMut(u64) -> i64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % below) as i64
    }
}

fn named(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, column_may_be_null(name)))).unwrap()
}

fn column_may_be_null(name: &str) -> bool {
    name != "at"
}

fn times(of: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(of).with_timezone("UTC"))
}

/// Views `spend` and `visits` of users and `stock` of shops, with rows in several files.
async fn fill(client: &Client, seed: u64) {
    let (f64, i64) = ("f64".parse().unwrap(), "i64".parse().unwrap());
    let definitions = Changes::new()
        .define(Definition::Entity(Entity::new("user", "user_id", Scalar::I64)))
        .define(Definition::Entity(Entity::new("shop", "shop_id", Scalar::I64)))
        .define(Definition::FeatureView(FeatureView::new("spend", "at").entity("user").field("total", f64)))
        .define(Definition::FeatureView(FeatureView::new("visits", "at").entity("user").field("visits", i64)))
        .define(Definition::FeatureView(FeatureView::new("stock", "at").entity("shop").field("stock", i64)));
    client.apply(&definitions, false, "").await.unwrap();
    let mut random = random(seed);
    for (view, key, feature) in [("spend", "user_id", "total"), ("visits", "user_id", "visits"), ("stock", "shop_id", "stock")] {
        for stream in 0..3 {
            let rows = 2_000;
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|_| random(50))));
            let at = times((0..rows).map(|_| random(1_000_000)).collect());
            let values: Vec<_> = (0..rows).map(|_| (random(10) > 0).then(|| random(1_000))).collect();
            let values: ArrayRef = match feature {
                "total" => Arc::new(values.into_iter().map(|value| value.map(|value| value as f64)).collect::<Float64Array>()),
                _ => Arc::new(Int64Array::from(values)),
            };
            let batch = named(vec![(key, keys), ("at", at), (feature, values)]);
            let reader = Box::new(RecordBatchIterator::new([Ok(batch.clone())], batch.schema()));
            let options = BulkOptions { stream_id: format!("{view}-{stream}"), ..BulkOptions::default() };
            client.bulk(view, reader, &options).await.unwrap();
        }
    }
}

fn spine(seed: u64, rows: usize) -> RecordBatch {
    let mut random = random(seed);
    let users = Int64Array::from_iter((0..rows).map(|_| (random(20) > 0).then(|| random(60))));
    let shops = Int64Array::from_iter_values((0..rows).map(|_| random(60)));
    let at = times((0..rows).map(|_| random(1_100_000)).collect());
    named(vec![("user_id", Arc::new(users)), ("event_timestamp", at), ("shop_id", Arc::new(shops))])
}

async fn ask(client: &Client, engine: &str, spine: &RecordBatch) -> Result<Dataset, Error> {
    let features = Selection::Features(vec!["spend".into(), "stock:stock".into(), "visits".into()]);
    let query = HistoricalQuery { engine: engine.to_owned(), ..HistoricalQuery::new(features) };
    // A join on a cluster that has lost its way would never answer.
    tokio::time::timeout(Duration::from_secs(500), client.get_historical_features_of(&query, spine.clone())).await.expect("an answer in time")
}

/// How many folders lie so deep in a folder: parts of spines at 1 of an exchange folder; jobs at 1, their parts at 3 of an executor's results.
fn folders(folder: &Path, depth: usize) -> usize {
    let within = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir());
    if depth == 1 { within.count() } else { within.map(|path| folders(&path, depth - 1)).sum() }
}

/// That neither a part of a spine nor a result is left.
fn nothing_is_left(data: &Path, works: &[&Path]) {
    until("no part of a spine is left", || folders(&data.join("tmp/exchange"), 1) == 0);
    until("no result is left", || works.iter().all(|work| folders(&work.join("results"), 1) == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_gives_the_same_answer_and_leaves_nothing_behind() {
    let (folder, address) = (tempfile::tempdir().unwrap(), free());
    let data = folder.path().join("data");
    let server = server_with(&data, address, 5).await;
    let client = client_of(&server).await;
    fill(&client, 1).await;
    let spine = spine(2, 3_000);
    let error = ask(&client, "ballista", &spine).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(ask(&client, "spark", &spine).await.unwrap_err().kind(), ErrorKind::InvalidArgument);

    let works = [folder.path().join("work-1"), folder.path().join("work-2")];
    let _scheduler = scheduler(address, &[]);
    let _executors = [executor(address, &works[0]), executor(address, &works[1])];
    let here = ask(&client, "", &spine).await.unwrap();
    for rows in [3_000, 1, 0] {
        let spine = spine.slice(0, rows);
        let (here, there) = (ask(&client, "datafusion", &spine).await.unwrap(), ask(&client, "ballista", &spine).await.unwrap());
        assert_eq!((there.content_digest, there.table.schema), (here.content_digest, here.table.schema), "{rows} rows");
    }
    let all = |client: Client| async move { ask(&client, "ballista", &self::spine(2, 3_000)).await.unwrap().content_digest };
    let digests = futures_of(client.clone(), all).await;
    assert!(digests.iter().all(|digest| *digest == here.content_digest));
    nothing_is_left(&data, &[&works[0], &works[1]]);
    server.shutdown().await.unwrap();
}

/// Neither the spine nor the answer fits into what the server may use.
#[tokio::test(flavor = "multi_thread")]
async fn a_spine_on_disk_goes_to_the_cluster_in_parts() {
    let (folder, address) = (tempfile::tempdir().unwrap(), free());
    let (data, work) = (folder.path().join("data"), folder.path().join("work"));
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let engine = EngineConfig { scheduler: address.to_string(), partitions: 3, memory_bytes: (cores * 24 + 8) << 20, ..EngineConfig::default() };
    let config = Config { data: data.clone(), listen: "127.0.0.1:0".parse().unwrap(), engine, ..Config::default() };
    let server = Server::start(config).await.unwrap();
    let client = client_of(&server).await;
    fill(&client, 5).await;
    let _scheduler = scheduler(address, &[]);
    let _executor = executor(address, &work);
    let spine = spine(6, 120_000);
    let (here, there) = (ask(&client, "datafusion", &spine).await.unwrap(), ask(&client, "ballista", &spine).await.unwrap());
    assert_eq!((&there.content_digest, &there.table.schema), (&here.content_digest, &here.table.schema));
    let said = |dataset: &Dataset, name: &str| dataset.report[name].as_u64().unwrap();
    assert!(said(&here, "spilled_bytes") > 0 && said(&there, "spilled_bytes") > 0, "{} {}", here.report, there.report);
    assert!(said(&there, "parts") >= 3 && said(&there, "wall_us") > 0, "{}", there.report);
    nothing_is_left(&data, &[&work]);
    server.shutdown().await.unwrap();
}

/// Asks three times at once.
async fn futures_of<F: Future<Output = String> + Send + 'static>(client: Client, ask: impl Fn(Client) -> F) -> Vec<String> {
    let asked: Vec<_> = (0..3).map(|_| tokio::spawn(ask(client.clone()))).collect();
    let mut digests = Vec::new();
    for task in asked {
        digests.push(task.await.unwrap());
    }
    digests
}
