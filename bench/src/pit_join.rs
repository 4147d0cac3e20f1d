//! `pit-join`: a spine and several views, from files to Arrow.
//!
//! The peers read Parquet files in arrival order, the order in which a stream would have written them. We read the same files, and our own tables, which
//! were made from them by ordinary appends. Every run is a fresh process over files that were just read; the runners take turns in a shuffled order. All
//! answers are compared, cell by cell, before a time is printed.

mod data;
mod ours;

pub(crate) use ours::open as open_store;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::report::{Report, median_s, say};

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Rows of the spine.
    #[arg(long, default_value_t = 1_000_000)]
    spine_rows: usize,
    /// Rows of each view.
    #[arg(long, default_value_t = 5_000_000)]
    view_rows: usize,
    /// Views.
    #[arg(long, default_value_t = 3)]
    views: usize,
    /// Features of each view, f32.
    #[arg(long, default_value_t = 8)]
    features: usize,
    /// Entities, uniform.
    #[arg(long, default_value_t = 100_000)]
    entities: i64,
    /// Days that the event times spread over, to the microsecond, in arrival order.
    #[arg(long, default_value_t = 30)]
    days: i64,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Commits that leave the rows of a view uncompacted.
    #[arg(long, default_value_t = 100)]
    commits: usize,
    /// Runs of each runner; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Folder for data, kept between calls.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
    /// Python with duckdb, polars and pyarrow.
    #[arg(long, env = "ANABRANCH_PYTHON", default_value = ".cache/venv/bin/python")]
    python: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// Folder of the data.
    #[arg(long)]
    folder: PathBuf,
    /// Which files are read.
    #[arg(long)]
    layout: Layout,
    /// Where the answer goes, as Arrow IPC.
    #[arg(long)]
    answer: Option<PathBuf>,
    /// Tell where the time went.
    #[arg(long)]
    explain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// Our own tables, each loaded at once.
    Own,
    /// Our own tables as a stream leaves them: a file for each commit, in arrival order, nothing compacted.
    Uncompacted,
    /// The peers' Parquet files.
    Same,
}

/// What one run prints.
#[derive(Debug, Serialize, Deserialize)]
struct Run {
    wall_s: f64,
    peak_rss_mb: f64,
}

const RUNNERS: [&str; 5] = ["anabranch", "anabranch_uncompacted", "anabranch_same_files", "duckdb", "polars"];

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let folder = data::prepare(options)?;
    let mut report = Report::new("pit-join", options)?;
    for runner in RUNNERS {
        say(&format!("{runner}: the answer"));
        one(options, &folder, runner, Some(&answer(&folder, runner)))?;
    }
    let rows = data::compare(&answer(&folder, "duckdb"), &RUNNERS.map(|runner| answer(&folder, runner)))?;
    say(&format!("all answers agree in {rows} rows"));
    let mut turns: Vec<_> = RUNNERS.into_iter().flat_map(|runner| std::iter::repeat_n(runner, options.runs)).collect();
    turns.shuffle(&mut StdRng::seed_from_u64(options.seed));
    let mut results: Vec<(&str, Run)> = Vec::new();
    for runner in turns {
        let run = one(options, &folder, runner, None)?;
        say(&format!("{runner}: {:.3} s, {:.0} MiB", run.wall_s, run.peak_rss_mb));
        results.push((runner, run));
    }
    figures(&mut report, &results, &folder)?;
    Ok(report)
}

fn figures(report: &mut Report, results: &[(&str, Run)], folder: &Path) -> anyhow::Result<()> {
    let of = |runner: &str| {
        let runs: Vec<_> = results.iter().filter(|(name, _)| *name == runner).map(|(_, run)| run).collect();
        let wall = median_s(&mut runs.iter().map(|run| Duration::from_secs_f64(run.wall_s)).collect::<Vec<_>>());
        (wall, runs.iter().map(|run| run.peak_rss_mb).fold(0.0, f64::max))
    };
    for runner in RUNNERS {
        let (wall, rss) = of(runner);
        report.figure(&format!("{runner}_wall_s"), wall);
        report.figure(&format!("{runner}_peak_rss_mb"), rss);
    }
    let fastest = of("duckdb").0.min(of("polars").0);
    report.figure("ratio_own_layout", fastest / of("anabranch").0);
    report.figure("ratio_same_files", fastest / of("anabranch_same_files").0);
    report.figure("bytes_vs_peer_files", data::own_bytes(folder)? as f64 / data::peer_bytes(folder)? as f64);
    Ok(())
}

fn answer(folder: &Path, runner: &str) -> PathBuf {
    folder.join(format!("answer-{runner}.arrow"))
}

/// One run in a process of its own.
fn one(options: &Options, folder: &Path, runner: &str, answer: Option<&Path>) -> anyhow::Result<Run> {
    data::read_all(folder)?;
    let mut command = match runner {
        "duckdb" | "polars" => {
            ensure!(options.python.exists(), "{} is not there: run `make setup` first", options.python.display());
            let mut command = Command::new(&options.python);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("peers/{runner}_join.py")));
            command.args(["--features", &options.features.to_string(), "--views", &options.views.to_string()]);
            command
        }
        _ => {
            let mut command = Command::new(std::env::current_exe()?);
            let layout = match runner {
                "anabranch" => "own",
                "anabranch_uncompacted" => "uncompacted",
                _ => "same",
            };
            command.args(["pit-join-run", "--layout", layout]);
            command
        }
    };
    command.arg("--folder").arg(folder);
    if let Some(answer) = answer {
        command.arg("--answer").arg(answer);
    }
    let output = command.output().with_context(|| format!("starting {runner}"))?;
    if !output.status.success() {
        bail!("{runner} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("reading what {runner} printed"))
}

/// One of our own runs; prints a [`Run`].
pub(crate) fn run_one(options: &RunOptions) -> anyhow::Result<()> {
    use std::io::Write as _;
    let run = ours::run(&options.folder, options.layout, options.answer.as_deref(), options.explain)?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&run)?)?;
    Ok(())
}
