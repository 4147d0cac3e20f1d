//! `ingest`: Arrow batches pushed by several producers, until they are in a commit; and how soon a pushed row is visible online at half that rate.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_client::{Client, OnlineQuery, Rows};
use anabranch_core::selection::Selection;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::report::{Report, START_US, now, percentile_us, say};
use crate::server::Bed;

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Rows in all.
    #[arg(long, default_value_t = 2_000_000)]
    rows: usize,
    /// Rows of each push.
    #[arg(long, default_value_t = 2_000)]
    batch: usize,
    /// Producers, each with one push in flight.
    #[arg(long, default_value_t = 4)]
    producers: usize,
    /// f64 features of a row.
    #[arg(long, default_value_t = 10)]
    features: usize,
    /// Entities.
    #[arg(long, default_value_t = 100_000)]
    entities: i64,
    /// Pushes whose way to the online store is timed.
    #[arg(long, default_value_t = 500)]
    probes: usize,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the store is made; it is removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("ingest", options)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let bed = Bed::start(&options.folder).await?;
        bed.register(1, options.features).await?;
        let rate = throughput(options, &bed.client, &mut report).await?;
        freshness(options, &bed.client, rate, &mut report).await?;
        bed.end().await
    })?;
    Ok(report)
}

async fn throughput(options: &Options, client: &Client, report: &mut Report) -> anyhow::Result<f64> {
    let pushes = options.rows / options.batch;
    let next = Arc::new(AtomicUsize::new(0));
    let start = now();
    let producers = (0..options.producers).map(|_| {
        let (next, client, options) = (Arc::clone(&next), client.clone(), options.clone());
        tokio::spawn(async move {
            loop {
                let push = next.fetch_add(1, Ordering::Relaxed);
                if push >= pushes {
                    return anyhow::Ok(());
                }
                client.push("view0", rows(&options, push as u64, options.batch)?).await?;
            }
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        producer.await??;
    }
    let acknowledged = start.elapsed().as_secs_f64();
    client.flush().await?;
    let committed = start.elapsed().as_secs_f64();
    let rows = (pushes * options.batch) as f64;
    say(&format!("{rows} rows acknowledged in {acknowledged:.1} s, committed in {committed:.1} s"));
    report.figure("acknowledged_rows_per_s", rows / acknowledged);
    report.figure("committed_rows_per_s", rows / committed);
    Ok(rows / committed)
}

/// One row is pushed and polled for, while other pushes go on at half the rate.
async fn freshness(options: &Options, client: &Client, rate: f64, report: &mut Report) -> anyhow::Result<()> {
    let pause = Duration::from_secs_f64(options.batch as f64 / (rate / 2.0));
    let load = {
        let (client, options) = (client.clone(), options.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(pause);
            for push in 0_u64.. {
                ticks.tick().await;
                client.push("view0", rows(&options, (1 << 32) + push, options.batch)?).await?;
            }
            anyhow::Ok(())
        })
    };
    let mut took = Vec::with_capacity(options.probes);
    for probe in 0..options.probes {
        let start = now();
        // A key of its own, so that only this push makes it visible.
        let key = options.entities + probe as i64;
        let acknowledged = client.push("view0", one(options, key)?).await?;
        let query = OnlineQuery { at_least: acknowledged.token, ..OnlineQuery::new(Selection::Features(vec!["view0:f0_0".to_owned()])) };
        let keys = RecordBatch::try_from_iter([("entity", Arc::new(Int64Array::from(vec![key])) as ArrayRef)])?;
        let found = client.get_online_features(&query, &keys).await?;
        anyhow::ensure!(found.batch.column(0).null_count() == 0, "a row that was said to be visible is not there");
        took.push(u64::try_from(start.elapsed().as_micros())?);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    load.abort();
    took.sort_unstable();
    report.figure("background_rows_per_s", rate / 2.0);
    report.figure("visible_p50_ms", percentile_us(&took, 50.0) / 1e3);
    report.figure("visible_p99_ms", percentile_us(&took, 99.0) / 1e3);
    Ok(())
}

fn rows(options: &Options, push: u64, count: usize) -> anyhow::Result<Rows> {
    let mut rng = StdRng::seed_from_u64(options.seed ^ push);
    let first = START_US + (push as i64) * count as i64;
    let entities = Int64Array::from_iter_values((0..count).map(|_| rng.random_range(0..options.entities)));
    let times = TimestampMicrosecondArray::from_iter_values(first..first + count as i64);
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("entity".to_owned(), Arc::new(entities)), ("at".to_owned(), Arc::new(times.with_timezone("UTC")))];
    for i in 0..options.features {
        columns.push((format!("f0_{i}"), Arc::new(Float64Array::from_iter_values((0..count).map(|_| rng.random::<f64>())))));
    }
    let batch = RecordBatch::try_from_iter(columns)?;
    Ok(Rows::arrow(&batch.schema(), &[batch])?)
}

fn one(options: &Options, key: i64) -> anyhow::Result<Rows> {
    let features: Vec<_> = (0..options.features).map(|i| format!("\"f0_{i}\":{i}.5")).collect();
    Ok(Rows::json(format!("{{\"entity\":{key},\"at\":\"2026-01-01T00:00:00Z\",{}}}", features.join(","))))
}
