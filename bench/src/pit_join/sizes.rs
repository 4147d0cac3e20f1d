//! `pit-join-sizes`: time and memory of the uniform workload against the rows of its views, for `bench/plot_pit_join.py`.
//!
//! The spine stays as it is. A peer that does not survive a size, which is told, is left out of it and of all that follow; ours must survive all.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::page_cache::PageCache::Warm;
use super::runner::{Runner, Starter};
use super::workload::{BULK_ROWS, Files, Size, Values};
use crate::report::{Report, now, say};

/// Where all answers together, our tables' making included, take longer, each is measured once.
const LONG: Duration = Duration::from_secs(120);

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Rows of all views together: one point of the plot each. The largest takes some 15 GB of disk while its tables are made.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000, 10_000_000, 100_000_000])]
    sizes: Vec<usize>,
    /// Views that share the rows.
    #[arg(long, default_value_t = 3)]
    views: usize,
    /// Features of each view, f32.
    #[arg(long, default_value_t = 8)]
    features: usize,
    /// Rows of the spine.
    #[arg(long, default_value_t = 1_000_000)]
    spine_rows: usize,
    /// Entities, uniform.
    #[arg(long, default_value_t = 100_000)]
    entities: usize,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Rows that a bulk load of our tables appends at a time; a view of more is compacted afterwards.
    #[arg(long, default_value_t = BULK_ROWS)]
    bulk_rows: usize,
    /// Runs of each runner, of which the median counts; one where a size takes minutes.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Keep the data of each size.
    #[arg(long)]
    keep: bool,
    /// Folder for data.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
    /// Python with duckdb, polars and pyarrow.
    #[arg(long, env = "ANABRANCH_PYTHON", default_value = ".cache/venv/bin/python")]
    python: PathBuf,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("pit-join-sizes", options)?;
    let mut runners = vec![Runner::Own, Runner::SameFiles, Runner::DuckDb, Runner::Polars];
    for rows in &options.sizes {
        say(&format!("{rows} rows"));
        let Options { spine_rows, views, features, entities, seed, bulk_rows, .. } = *options;
        let view_rows = rows.div_ceil(views.max(1));
        let size = Size { spine_rows, view_rows, views, features, entities, days: 30, seed, commits: 0, bulk_rows };
        let files = Files::prepare(&options.folder, &size, Values::Uniform)?;
        let starter = Starter { files: &files, python: &options.python };
        let start = now();
        runners = starter.agree(&runners, true)?;
        // What takes minutes differs little from one run to the next.
        let runs = if start.elapsed() > LONG { options.runs.min(1) } else { options.runs };
        let turns: Vec<_> = runners.iter().map(|runner| (*runner, Warm)).collect();
        let measured = starter.measure(&turns, runs)?;
        for turn in turns {
            report.figure(&format!("{}_wall_s_{rows}", turn.0.name()), measured.wall_s(turn));
            report.figure(&format!("{}_peak_rss_mb_{rows}", turn.0.name()), measured.peak_rss_mb(turn));
        }
        if !options.keep {
            std::fs::remove_dir_all(&files.folder)?;
        }
    }
    Ok(report)
}
