//! `dataset-fetch`: a saved dataset as a whole and in shuffled batches, through a server on the loopback, against pyarrow on the same Parquet.
//!
//! The training loop takes 5 ms a batch, once asleep (a step on an accelerator) and once busy (a step on one of the cores that server, client and loop
//! share). `wait_share` is the part of its time that it waits for batches, over a whole epoch, first batch included; making the rows ready for random
//! access happens once for a dataset and is told apart (`first_epoch_took_s`); what the first batch of a later epoch takes is in it (`first_batch_s`). Pyarrow scans in the order of the files, for it cannot shuffle; its other
//! loop holds all rows in memory and takes batches by a permutation. Every loop sums a column, and the sums are compared before a time is printed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anabranch_client::{BatchesQuery, Changes, Client, ClientConfig, Definition, Entity, FeatureView, HistoricalQuery, Rows, SavedQuery, Selection};
use anabranch_core::{DataType, Scalar};
use anyhow::{Context as _, ensure};
use arrow::array::{Array as _, ArrayRef, AsArray, Float32Array, Int64Array, RecordBatch, RecordBatchIterator, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::report::{Report, START_US, median_s, now, peak_rss_mb, say};
use crate::server::Bed;

const NAME: &str = "fetched";
const SPINE_ROWS: usize = 65_536;

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Rows of the dataset.
    #[arg(long, default_value_t = 2_000_000)]
    rows: usize,
    /// f32 columns, beside a key, a time and a feature.
    #[arg(long, default_value_t = 24)]
    columns: usize,
    /// Rows in a batch.
    #[arg(long, default_value_t = 4_096)]
    batch_size: u32,
    /// What the loop needs a batch, in milliseconds.
    #[arg(long, default_value_t = 5)]
    step_ms: u64,
    /// How often each measure is taken; medians are printed.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The Python that has pyarrow; empty leaves the peer out.
    #[arg(long, env = "ANABRANCH_PYTHON", default_value = ".cache/venv/bin/python")]
    python: PathBuf,
    /// Where everything is made; it is removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("dataset-fetch", options)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let bed = Bed::start(&options.folder).await?;
        let client = patient(&bed).await?;
        save(options, &client).await?;
        ours(options, &client, &mut report).await?;
        report.figure("server_and_client_peak_rss_mb", peak_rss_mb());
        if !options.python.as_os_str().is_empty() {
            let files = tempfile::tempdir_in(&options.folder)?;
            peers(options, &download(&client, files.path()).await?, &mut report)?;
        }
        bed.end().await
    })?;
    Ok(report)
}

async fn patient(bed: &Bed) -> anyhow::Result<Client> {
    let config = ClientConfig { timeout: Duration::from_secs(600), ..ClientConfig::default() };
    Ok(Client::connect_with(&format!("http://{}", bed.server.addr()), config).await?)
}

/// A dataset of a wide spine and one feature.
async fn save(options: &Options, client: &Client) -> anyhow::Result<()> {
    say(&format!("saving {} rows", options.rows));
    let view = FeatureView::new("view", "at").entity("entity").field("feature", DataType::Scalar(Scalar::F32));
    let changes = Changes::new().define(Definition::Entity(Entity::new("entity", "entity", Scalar::I64))).define(Definition::FeatureView(view));
    client.apply(&changes, false, "bench").await?;
    let first = [
        ("entity", Arc::new(Int64Array::from(vec![0])) as ArrayRef),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![START_US]).with_timezone("UTC"))),
        ("feature", Arc::new(Float32Array::from(vec![1.0]))),
    ];
    let first = RecordBatch::try_from_iter(first)?;
    client.push("view", Rows::arrow(&first.schema(), &[first])?).await?;
    client.flush().await?;
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut batches = Vec::new();
    for from in (0..options.rows).step_by(SPINE_ROWS) {
        let count = SPINE_ROWS.min(options.rows - from);
        let rows = Int64Array::from_iter_values((from..from + count).map(|row| row as i64));
        let times = TimestampMicrosecondArray::from_value(START_US + 1, count).with_timezone("UTC");
        let mut columns: Vec<(String, ArrayRef)> = vec![("entity".to_owned(), Arc::new(rows)), ("event_timestamp".to_owned(), Arc::new(times))];
        for column in 0..options.columns {
            columns.push((format!("c{column}"), Arc::new(Float32Array::from_iter_values((0..count).map(|_| rng.random::<f32>())))));
        }
        batches.push(Ok(RecordBatch::try_from_iter(columns)?));
    }
    let schema = batches.first().and_then(|batch: &Result<RecordBatch, _>| batch.as_ref().ok()).context("no rows")?.schema();
    let query = HistoricalQuery { save_as: NAME.to_owned(), ..HistoricalQuery::new(Selection::Features(vec!["view:feature".to_owned()])) };
    client.get_historical_features(&query, Box::new(RecordBatchIterator::new(batches, schema))).await?;
    Ok(())
}

async fn ours(options: &Options, client: &Client, report: &mut Report) -> anyhow::Result<()> {
    let query = SavedQuery { name: NAME.to_owned(), ..SavedQuery::default() };
    let (mut took, mut bytes) = (Vec::new(), 0);
    for _ in 0..options.repeats {
        let start = now();
        let table = client.fetch_dataset(&query).await?;
        took.push(start.elapsed());
        ensure!(sum(&table.batches) == expected(options), "the fetched rows are others");
        bytes = size(&table.batches)?;
    }
    report.figure("bytes_per_s", bytes as f64 / median_s(&mut took));
    let start = now();
    epoch(options, client, 0, None).await?;
    report.figure("first_epoch_took_s", start.elapsed().as_secs_f64());
    let mut took = Vec::new();
    for number in 0..options.repeats {
        took.push(epoch(options, client, number as u64, None).await?.took);
    }
    report.figure("shuffled_bytes_per_s", bytes as f64 / median_s(&mut took));
    for (figure, busy) in [("wait_share", false), ("wait_share_busy", true)] {
        let (mut shares, mut firsts) = (Vec::new(), Vec::new());
        for number in 0..options.repeats {
            let epoch = epoch(options, client, number as u64, Some(busy)).await?;
            say(&format!("{figure}: {epoch:?}"));
            shares.push(epoch.waited.as_secs_f64() / epoch.took.as_secs_f64());
            firsts.push(epoch.first);
        }
        shares.sort_by(f64::total_cmp);
        report.figure(figure, shares[shares.len() / 2]);
        if !busy {
            report.figure("first_batch_s", median_s(&mut firsts));
        }
    }
    Ok(())
}

/// How long an epoch took, and how long its loop waited: in all, and for the first batch.
#[derive(Debug)]
struct Epoch {
    took: Duration,
    waited: Duration,
    first: Duration,
}

/// Reads a shuffled epoch. With `busy` the loop works for its time, or sleeps.
async fn epoch(options: &Options, client: &Client, epoch: u64, busy: Option<bool>) -> anyhow::Result<Epoch> {
    let query = BatchesQuery { seed: Some(options.seed), epoch: Some(epoch), ..BatchesQuery::new(NAME, options.batch_size) };
    let (start, mut waited, mut first, mut total) = (now(), Duration::ZERO, None, 0);
    let step = Duration::from_millis(options.step_ms);
    let mut batches = None;
    loop {
        let asked = now();
        let found = match &mut batches {
            None => batches.insert(client.dataset_batches(&query).await?).next().await?,
            Some(batches) => batches.next().await?,
        };
        waited += asked.elapsed();
        first.get_or_insert(waited);
        let Some(batch) = found else { break };
        total += sum(&[batch]);
        let stepped = now();
        match busy {
            None => {}
            // Not the runtime's own sleep, which is a millisecond longer.
            Some(false) => std::thread::sleep(step),
            Some(true) => while stepped.elapsed() < step {},
        }
    }
    let took = start.elapsed();
    ensure!(total == expected(options), "the batches have other rows");
    Ok(Epoch { took, waited, first: first.unwrap_or_default() })
}

/// The bytes of the cells. What arrays of one message hold of memory is the whole message, each.
fn size(batches: &[RecordBatch]) -> anyhow::Result<usize> {
    let columns = batches.iter().flat_map(RecordBatch::columns);
    columns.map(|column| Ok(column.to_data().get_slice_memory_size()?)).sum()
}

fn sum(batches: &[RecordBatch]) -> i64 {
    let of = |batch: &RecordBatch| batch.column_by_name("entity").map_or(0, |rows| rows.as_primitive::<Int64Type>().values().iter().sum());
    batches.iter().map(of).sum()
}

fn expected(options: &Options) -> i64 {
    (options.rows * (options.rows - 1) / 2) as i64
}

/// The files of the dataset, as they are stored.
async fn download(client: &Client, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let manifest = client.describe_dataset(NAME).await?.manifest;
    let parts = manifest["spec"]["parts"].as_array().context("the dataset has no parts")?;
    let mut files = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let file = folder.join(format!("{number:05}.parquet"));
        let path = part["path"].as_str().context("a part has no path")?;
        client.download_object(path, &file, |_, _| ()).await?;
        files.push(file);
    }
    Ok(files)
}

fn peers(options: &Options, files: &[PathBuf], report: &mut Report) -> anyhow::Result<()> {
    for mode in ["scan", "in_memory"] {
        let mut command = Command::new(&options.python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/pyarrow_batches.py")).arg("--mode").arg(mode);
        for (name, value) in [
            ("--batch-size", u64::from(options.batch_size)),
            ("--step-ms", options.step_ms),
            ("--repeats", options.repeats as u64),
            ("--sum", expected(options) as u64),
        ] {
            command.arg(name).arg(value.to_string());
        }
        let output = command.args(files).output().with_context(|| format!("running pyarrow with {}", options.python.display()))?;
        ensure!(output.status.success(), "pyarrow failed: {}", String::from_utf8_lossy(&output.stderr));
        let figures: Map<String, Value> = serde_json::from_slice(&output.stdout).context("what pyarrow printed")?;
        for (name, value) in &figures {
            report.figure(&format!("pyarrow_{mode}_{name}"), value.as_f64().with_context(|| format!("pyarrow's {name}"))?);
        }
    }
    Ok(())
}
