//! `pit-join`: a spine and several views, from files to Arrow.
//!
//! The peers read Parquet files in arrival order, the order in which a stream would have written them. We read the same files, and our own tables, which
//! were made from them by ordinary appends: in bulk, and as a stream of many commits leaves them. Every run is a fresh process, the peers with two threads
//! and as their documentation says; the runners take turns in a shuffled order. All answers are compared, cell by cell, before a time is printed.
//!
//! Two workloads: `uniform` has random f32 of uniform entities, and its figures bear plain names; `realistic` has values as they occur, with known times
//! and ties, and its figures begin with `realistic_`. In it a row may be seen once it is known, and of those that may be seen the one counts that was true
//! last. Neither DuckDB nor Polars joins by two times. Since no row is known before it is true, what may be seen of an entity changes only when a row
//! becomes known that is true no earlier than all that were known before: the peers keep these rows, by a running maximum, and join them by known time
//! as usual. That takes knowing the data; a plain join by event time would give other answers.
//!
//! In 1 GiB of memory (`limited_1gib_…`) we join the same spine, and one whose answer does not fit, so that it spills; there the time goes on until the last
//! batch of the answer was read back, and none is kept.
//!
//! Feast, with its DuckDB store over the same files, joins the uniform workload (`--feast-python`). It takes a minute and so comes last, by itself.
//!
//! Warm files were read just before the run; cold ones were dropped from the page cache (`--cold-runs`). The floor is the time in which the same columns
//! are decoded on all cores and nothing else is done. Peak memory is the largest of the runs, times are medians.

mod answers;
mod decode;
mod ours;
mod page_cache;
mod realistic;
mod runner;
mod sizes;
mod tables;
mod uniform;
mod workload;

pub(crate) use runner::{RunOptions, run_one};
pub(crate) use sizes::{Options as SizesOptions, run as run_sizes};
pub(crate) use tables::open as open_store;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::report::Report;
use page_cache::PageCache::{Cold, Warm};
use runner::{Measured, Runner, Starter};
use workload::{Files, Size, Values};

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Which workloads are measured.
    #[arg(long = "workload", value_enum, value_delimiter = ',', default_values = ["uniform", "realistic"])]
    workloads: Vec<Values>,
    #[command(flatten)]
    #[serde(flatten)]
    size: Size,
    /// Runs of each runner; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Runs of each runner over cold files, of the uniform workload.
    #[arg(long, default_value_t = 3)]
    cold_runs: usize,
    /// Folder for data, kept between calls.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
    /// Python with duckdb, polars and pyarrow.
    #[arg(long, env = "ANABRANCH_PYTHON", default_value = ".cache/venv/bin/python")]
    python: PathBuf,
    /// Rows of the larger spine that is joined in 1 GiB of memory, so many that it spills; 0 leaves this out.
    #[arg(long, default_value_t = 8_000_000)]
    limited_spine_rows: usize,
    /// Python with Feast; without it, Feast is left out.
    #[arg(long)]
    feast_python: Option<PathBuf>,
    /// Runs of Feast, which takes a minute each.
    #[arg(long, default_value_t = 3)]
    feast_runs: usize,
}

#[derive(Serialize)]
struct Config<'a> {
    #[serde(flatten)]
    options: &'a Options,
    realistic: realistic::Parameters,
    cold_by: &'static str,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let config = Config { options, realistic: realistic::PARAMETERS, cold_by: "posix_fadvise(POSIX_FADV_DONTNEED)" };
    let mut report = Report::new("pit-join", &config)?;
    for values in &options.workloads {
        let files = Files::prepare(&options.folder, &options.size, *values)?;
        let starter = Starter { files: &files, python: &options.python };
        starter.agree(&Runner::JOINS, false)?;
        match values {
            Values::Uniform => uniform_figures(options, &starter, &mut report)?,
            Values::Realistic => realistic_figures(options, &starter, &mut report)?,
        }
    }
    Ok(report)
}

fn uniform_figures(options: &Options, starter: &Starter<'_>, report: &mut Report) -> anyhow::Result<()> {
    let floors = [Runner::DecodeOwn, Runner::DecodeSameFiles];
    let warm: Vec<_> = Runner::JOINS.into_iter().chain(floors).map(|runner| (runner, Warm)).collect();
    let measured = starter.measure(&warm, options.runs)?;
    let ours_s = measured.wall_s((Runner::Own, Warm));
    joins(report, "", &measured);
    for floor in floors {
        report.figure(&format!("{}_s", floor.name()), measured.wall_s((floor, Warm)));
    }
    let (own, peers) = starter.files.bytes()?;
    report.figure("bytes_vs_peer_files", own as f64 / peers as f64);
    if options.cold_runs > 0 {
        let cold = [Runner::Own, Runner::SameFiles, Runner::DuckDb, Runner::Polars].map(|runner| (runner, Cold));
        let measured = starter.measure(&cold, options.cold_runs)?;
        for turn in cold {
            let prefix = if turn.0 == Runner::Own { String::new() } else { format!("{}_", turn.0.name()) };
            report.figure(&format!("{prefix}cold_wall_s"), measured.wall_s(turn));
            report.figure(&format!("{prefix}cold_storage_mb"), measured.storage_mb(turn));
        }
    }
    if options.limited_spine_rows > 0 {
        limited_figures(options, report)?;
    }
    if let Some(python) = &options.feast_python {
        feast_figures(options, starter.files, python, ours_s, report)?;
    }
    Ok(())
}

/// We in 1 GiB, on the uniform workload with its own spine and with one whose answer is too large for that; and without the limit.
fn limited_figures(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    for (spine_rows, suffix) in [(options.size.spine_rows, ""), (options.limited_spine_rows, "_large")] {
        let files = Files::prepare(&options.folder, &Size { spine_rows, ..options.size.clone() }, Values::Uniform)?;
        let starter = Starter { files: &files, python: &options.python };
        let runners = [Runner::Own, Runner::Limited];
        starter.agree(&runners, false)?;
        let measured = starter.measure(&runners.map(|runner| (runner, Warm)), options.runs.min(3))?;
        let limited = (Runner::Limited, Warm);
        report.figure(&format!("limited_1gib{suffix}_wall_s"), measured.wall_s(limited));
        report.figure(&format!("limited_1gib{suffix}_peak_rss_mb"), measured.peak_rss_mb(limited));
        report.figure(&format!("limited_1gib{suffix}_spilled_mb"), measured.spilled_mb(limited));
        report.figure(&format!("unlimited{suffix}_wall_s"), measured.wall_s((Runner::Own, Warm)));
        report.figure(&format!("unlimited{suffix}_peak_rss_mb"), measured.peak_rss_mb((Runner::Own, Warm)));
    }
    Ok(())
}

/// Feast on the same files, and how many times as fast as it we are.
fn feast_figures(options: &Options, files: &Files, python: &Path, ours_s: f64, report: &mut Report) -> anyhow::Result<()> {
    let starter = Starter { files, python };
    starter.agree(&[Runner::Own, Runner::Feast], false)?;
    let turn = (Runner::Feast, Warm);
    let measured = starter.measure(&[turn], options.feast_runs)?;
    report.figure("feast_wall_s", measured.wall_s(turn));
    report.figure("feast_peak_rss_mb", measured.peak_rss_mb(turn));
    report.figure("ratio_feast", measured.wall_s(turn) / ours_s);
    Ok(())
}

fn realistic_figures(options: &Options, starter: &Starter<'_>, report: &mut Report) -> anyhow::Result<()> {
    let measured = starter.measure(&Runner::JOINS.map(|runner| (runner, Warm)), options.runs)?;
    joins(report, "realistic_", &measured);
    let (own, peers) = starter.files.bytes()?;
    report.figure("realistic_bytes_vs_peer_files", own as f64 / peers as f64);
    Ok(())
}

/// The figures of the runners that join, and how many times as fast as the faster peer we are.
fn joins(report: &mut Report, prefix: &str, measured: &Measured) {
    for runner in Runner::JOINS {
        report.figure(&format!("{prefix}{}_wall_s", runner.name()), measured.wall_s((runner, Warm)));
        report.figure(&format!("{prefix}{}_peak_rss_mb", runner.name()), measured.peak_rss_mb((runner, Warm)));
    }
    let least = |of: &dyn Fn(Runner) -> f64| of(Runner::DuckDb).min(of(Runner::Polars));
    let fastest = least(&|runner| measured.wall_s((runner, Warm)));
    let leanest = least(&|runner| measured.peak_rss_mb((runner, Warm)));
    let ratios = match prefix {
        "" => ["ratio_own_layout", "ratio_uncompacted", "ratio_same_files"],
        _ => ["ratio_realistic", "ratio_realistic_uncompacted", "ratio_realistic_same_files"],
    };
    for (ratio, runner) in ratios.into_iter().zip([Runner::Own, Runner::Uncompacted, Runner::SameFiles]) {
        report.figure(ratio, fastest / measured.wall_s((runner, Warm)));
    }
    report.figure(&format!("{prefix}peak_rss_vs_leaner_peer"), measured.peak_rss_mb((Runner::Own, Warm)) / leanest);
}
