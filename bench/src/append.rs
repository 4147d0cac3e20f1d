//! `append`: many small appends to one table, each a durable commit: what the last ones cost against the first.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView};
use anabranch_core::{DataType, Scalar};
use anabranch_offline_store::{Append, OfflineStore, TableName, TableRows, TableShape};
use anabranch_versioning::CommitRequest;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use clap::Args;
use serde::Serialize;

use crate::pit_join::open_store;
use crate::report::{Report, START_US, median_s, now, say};

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Commits.
    #[arg(long, default_value_t = 10_000)]
    commits: usize,
    /// Rows of each.
    #[arg(long, default_value_t = 100)]
    rows: usize,
    /// Commits whose median is reported at each point.
    #[arg(long, default_value_t = 20)]
    window: usize,
    /// Where the store is made; it is removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("append", options)?;
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = open_store(folder.path()).await?;
        let name = create(&store).await?;
        let mut took = Vec::with_capacity(options.commits);
        for number in 0..options.commits {
            let batch = rows(options.rows, number)?;
            let tables = vec![TableRows { table: name.clone(), batches: vec![batch], intervals: Vec::new() }];
            let append = Append { author: "bench".to_owned(), message: "append".to_owned(), tables, ..Append::default() };
            let start = now();
            store.append("main", append).await?;
            took.push(start.elapsed());
            if (number + 1) % 1_000 == 0 {
                say(&format!("{} commits, the last in {:.1} ms", number + 1, took[number].as_secs_f64() * 1e3));
            }
        }
        let median_at = |from: usize| median_s(&mut took[from..(from + options.window).min(took.len())].to_vec()) * 1e3;
        let (tenth, last) = (median_at(10.min(took.len() - 1)), median_at(took.len().saturating_sub(options.window)));
        report.figure("append_p50_ms_from_10th", tenth);
        report.figure("append_p50_ms_last", last);
        report.figure("ratio_last_to_10th", last / tenth);
        report.figure("commits_per_s", took.len() as f64 / took.iter().sum::<std::time::Duration>().as_secs_f64());
        store.repository().close().await;
        anyhow::Ok(())
    })?;
    Ok(report)
}

async fn create(store: &Arc<OfflineStore>) -> anyhow::Result<TableName> {
    let entity = Definition::Entity(Entity::new("entity", "entity", Scalar::I64));
    let view = FeatureView::new("view", "at").entity("entity").field("x", DataType::Scalar(Scalar::F64));
    let definitions: Definitions = [entity, Definition::FeatureView(view)].into_iter().collect();
    let name = TableName::features("view");
    let changes = store.create_table(&name, &TableShape::from(definitions.layout("view")?.as_ref())).await?;
    let request = CommitRequest { author: "bench".to_owned(), message: "create".to_owned(), changes, ..CommitRequest::default() };
    store.repository().commit("main", request).await?;
    Ok(name)
}

fn rows(count: usize, number: usize) -> anyhow::Result<RecordBatch> {
    let first = (number * count) as i64;
    let positions = || first..first + count as i64;
    let time = |at: i64| START_US + at * 1_000;
    let times = || Arc::new(TimestampMicrosecondArray::from_iter_values(positions().map(time)).with_timezone("UTC")) as ArrayRef;
    Ok(RecordBatch::try_from_iter([
        ("entity", Arc::new(Int64Array::from_iter_values(positions().map(|i| i * 7_919 % 10_007))) as ArrayRef),
        ("at", times()),
        ("x", Arc::new(Float64Array::from_iter_values(positions().map(|i| i as f64)))),
        ("_arrival", times()),
        ("_source", Arc::new(Int32Array::from_value(1, count))),
        ("_position", Arc::new(Int64Array::from_iter_values(positions()))),
        ("_tombstone", Arc::new(BooleanArray::new_null(count))),
    ])?)
}
