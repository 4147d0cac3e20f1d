//! `online-lookup`: vectors of one service through the server, measured at the client.
//!
//! The open loop starts each request at its appointed time whether or not earlier ones have come back, and measures from that time, so a stall counts for
//! every request that it delays. The closed loop keeps a number of requests in flight and finds the maximum. Load and server share the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_client::{Client, OnlineQuery, Rows};
use anabranch_core::selection::Selection;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::report::{Report, START_US, now, percentile_us, say};
use crate::server::Bed;

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Entities.
    #[arg(long, default_value_t = 100_000)]
    entities: i64,
    /// Views.
    #[arg(long, default_value_t = 5)]
    views: usize,
    /// f64 features of each view.
    #[arg(long, default_value_t = 10)]
    features: usize,
    /// Requests a second of the open loop with one entity.
    #[arg(long, default_value_t = 10_000)]
    rate_b1: u64,
    /// Requests a second of the open loop with a hundred entities.
    #[arg(long, default_value_t = 1_000)]
    rate_b100: u64,
    /// Seconds of each loop.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Requests in flight of the closed loop.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// Connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the store is made; it is removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("online-lookup", options)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let bed = Bed::start(&options.folder).await?;
        bed.register(options.views, options.features).await?;
        load(options, &bed.client).await?;
        let mut clients = Vec::new();
        for _ in 0..options.connections {
            clients.push(Client::connect(&format!("http://{}", bed.server.addr())).await?);
        }
        for (batch, rate) in [(1, options.rate_b1), (100, options.rate_b100)] {
            let took = open_loop(options, &clients, batch, rate).await?;
            for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9)] {
                report.figure(&format!("{name}_us_b{batch}"), percentile_us(&took, percent));
            }
            report.figure(&format!("max_requests_per_s_b{batch}"), closed_loop(options, &clients, batch).await?);
        }
        bed.end().await
    })?;
    Ok(report)
}

async fn load(options: &Options, client: &Client) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    say("loading");
    for view in 0..options.views {
        let mut first = 0;
        while first < options.entities {
            let last = (first + 5_000).min(options.entities);
            let entities = Int64Array::from_iter_values(first..last);
            let times = TimestampMicrosecondArray::from_value(START_US, (last - first) as usize).with_timezone("UTC");
            let mut columns: Vec<(String, ArrayRef)> = vec![("entity".to_owned(), Arc::new(entities)), ("at".to_owned(), Arc::new(times))];
            for i in 0..options.features {
                let values = Float64Array::from_iter_values((first..last).map(|_| rng.random::<f64>()));
                columns.push((format!("f{view}_{i}"), Arc::new(values)));
            }
            let batch = RecordBatch::try_from_iter(columns)?;
            client.push(&format!("view{view}"), Rows::arrow(&batch.schema(), &[batch])?).await?;
            first = last;
        }
    }
    client.flush().await?;
    Ok(())
}

async fn look_up(client: &Client, entities: i64, batch: usize, seed: u64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let keys = Int64Array::from_iter_values((0..batch).map(|_| rng.random_range(0..entities)));
    let keys = RecordBatch::try_from_iter([("entity", Arc::new(keys) as ArrayRef)])?;
    let found = client.get_online_features(&OnlineQuery::new(Selection::Service("all".to_owned())), &keys).await?;
    anyhow::ensure!(found.batch.num_rows() == batch && found.batch.columns().iter().all(|column| column.null_count() == 0), "a value is missing");
    Ok(())
}

/// Microseconds from each request's appointed time to its answer, sorted.
async fn open_loop(options: &Options, clients: &[Client], batch: usize, rate: u64) -> anyhow::Result<Vec<u64>> {
    say(&format!("open loop: {rate}/s, {batch} entities, {} s", options.seconds));
    let begin = now() + Duration::from_millis(50);
    let mut running = JoinSet::new();
    for number in 0..rate * options.seconds {
        let appointed = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
        tokio::time::sleep_until(appointed.into()).await;
        let (client, entities, seed) = (clients[number as usize % clients.len()].clone(), options.entities, options.seed ^ number);
        running.spawn(async move { look_up(&client, entities, batch, seed).await.map(|()| appointed.elapsed()) });
    }
    let mut took = Vec::new();
    while let Some(done) = running.join_next().await {
        took.push(u64::try_from(done??.as_micros())?);
    }
    took.sort_unstable();
    Ok(took)
}

/// Requests a second with a fixed number in flight.
async fn closed_loop(options: &Options, clients: &[Client], batch: usize) -> anyhow::Result<f64> {
    say(&format!("closed loop: {} in flight, {batch} entities, {} s", options.in_flight, options.seconds));
    let (start, limit, number) = (now(), Duration::from_secs(options.seconds), Arc::new(AtomicU64::new(0)));
    let mut running = JoinSet::new();
    for worker in 0..options.in_flight {
        let (client, entities, seed, number) = (clients[worker % clients.len()].clone(), options.entities, options.seed, Arc::clone(&number));
        running.spawn(async move {
            while start.elapsed() < limit {
                look_up(&client, entities, batch, seed ^ number.fetch_add(1, Ordering::Relaxed)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(number.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}
