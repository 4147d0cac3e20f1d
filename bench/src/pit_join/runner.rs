//! Who is measured: each run is a process of its own, which prints a [`Run`].

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rand::seq::SliceRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::page_cache::PageCache;
use super::workload::Files;
use super::{answers, decode, ours, tables};
use crate::report::{median_s, peak_rss_mb, say};

/// What [`Runner::Limited`] may hold.
const MEMORY_LIMIT: usize = 1 << 30;

/// Who reads which files and what for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Runner {
    /// We, our tables.
    Own,
    /// We, our tables as a stream leaves them: a file for each commit, nothing compacted.
    Uncompacted,
    /// We, the peers' files.
    SameFiles,
    /// We, our tables, in so much memory; the answer is passed over, batch by batch, and not kept.
    Limited,
    /// DuckDB, its files.
    DuckDb,
    /// Polars, its files.
    Polars,
    /// Feast with its DuckDB store, the peers' files.
    Feast,
    /// Nobody joins; our tables are decoded.
    DecodeOwn,
    /// Nobody joins; the peers' files are decoded.
    DecodeSameFiles,
}

impl Runner {
    /// Those that join.
    pub(super) const JOINS: [Self; 5] = [Self::Own, Self::Uncompacted, Self::SameFiles, Self::DuckDb, Self::Polars];

    /// What its figures begin with.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Own => "anabranch",
            Self::Uncompacted => "anabranch_uncompacted",
            Self::SameFiles => "anabranch_same_files",
            Self::Limited => "limited_1gib",
            Self::DuckDb => "duckdb",
            Self::Polars => "polars",
            Self::Feast => "feast",
            Self::DecodeOwn => "decode_floor",
            Self::DecodeSameFiles => "decode_floor_same_files",
        }
    }

    /// The tables of ours that it reads; none: the peers' files.
    pub(super) const fn tables(self) -> Option<&'static str> {
        match self {
            Self::Own | Self::Limited | Self::DecodeOwn => Some(tables::OWN),
            Self::Uncompacted => Some(tables::UNCOMPACTED),
            Self::SameFiles | Self::DuckDb | Self::Polars | Self::Feast | Self::DecodeSameFiles => None,
        }
    }

    const fn script(self) -> Option<&'static str> {
        match self {
            Self::DuckDb => Some("duckdb_join.py"),
            Self::Polars => Some("polars_join.py"),
            Self::Feast => Some("feast_join.py"),
            _ => None,
        }
    }
}

/// One of our own runs.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// Folder of the workload.
    #[arg(long)]
    pub(super) folder: PathBuf,
    /// The spine's file.
    #[arg(long)]
    pub(super) spine: PathBuf,
    /// Which of our tables in the folder are read, `own` or `uncompacted`; without it, the peers' files.
    #[arg(long)]
    pub(super) tables: Option<String>,
    /// The most bytes that the join holds, about; what outgrows it is spilled.
    #[arg(long)]
    pub(super) memory_limit: Option<usize>,
    /// Only decode, and join nothing.
    #[arg(long, conflicts_with = "answer")]
    pub(super) decode: bool,
    /// Where the answer goes, as Arrow IPC.
    #[arg(long)]
    pub(super) answer: Option<PathBuf>,
    /// Tell where the time went.
    #[arg(long)]
    pub(super) explain: bool,
}

/// What one run prints.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) wall_s: f64,
    pub(super) peak_rss_mb: f64,
    /// What was fetched from storage, by `/proc/self/io`: nothing, where the files were in the page cache.
    pub(super) storage_mb: f64,
    /// What the join spilled; peers don't say.
    #[serde(default)]
    pub(super) spilled_mb: f64,
}

impl Run {
    /// A run that took so long, in this process.
    pub(super) fn measured(wall: Duration) -> Self {
        Self { wall_s: wall.as_secs_f64(), peak_rss_mb: peak_rss_mb(), storage_mb: storage_mb(), spilled_mb: 0.0 }
    }
}

fn storage_mb() -> f64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).and_then(|bytes| bytes.parse::<f64>().ok());
    bytes.map_or(f64::NAN, |bytes| bytes / f64::from(1 << 20))
}

/// One of our own runs; prints a [`Run`].
pub(crate) fn run_one(options: &RunOptions) -> anyhow::Result<()> {
    use std::io::Write as _;
    let run = if options.decode { decode::run(options)? } else { ours::run(options)? };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&run)?)?;
    Ok(())
}

/// A runner over files that are in the page cache, or not.
pub(super) type Turn = (Runner, PageCache);

/// Starts runners on the files of one workload.
pub(super) struct Starter<'a> {
    pub(super) files: &'a Files,
    /// The peers' Python.
    pub(super) python: &'a Path,
}

impl Starter<'_> {
    /// One run in a process of its own. One that is timed follows another of the same runner, so that it finds memory that was used a moment ago: where
    /// the host of a virtual machine takes back what the machine does not use, its first user waits some milliseconds for each megabyte.
    pub(super) fn run(&self, (runner, cache): Turn, answer: Option<&Path>) -> anyhow::Result<Run> {
        if let Some(tables) = runner.tables() {
            tables::prepare(self.files, tables)?;
        }
        if answer.is_none() {
            PageCache::Warm.bring(&self.files.of(runner)?)?;
            self.start(runner, None)?;
        }
        cache.bring(&self.files.of(runner)?)?;
        self.start(runner, answer)
    }

    fn start(&self, runner: Runner, answer: Option<&Path>) -> anyhow::Result<Run> {
        let mut command = match runner.script() {
            Some(script) => self.peer(script)?,
            None => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("pit-join-run");
                command.args(runner.tables().into_iter().flat_map(|tables| ["--tables", tables]));
                if runner == Runner::Limited {
                    command.args(["--memory-limit", &MEMORY_LIMIT.to_string()]);
                }
                command.args(matches!(runner, Runner::DecodeOwn | Runner::DecodeSameFiles).then_some("--decode"));
                command
            }
        };
        command.arg("--folder").arg(&self.files.folder).arg("--spine").arg(self.files.spine());
        if let Some(answer) = answer {
            command.arg("--answer").arg(answer);
        }
        let output = command.output().with_context(|| format!("starting {}", runner.name()))?;
        if !output.status.success() {
            bail!("{} failed, {}: {}", runner.name(), output.status, String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("reading what {} printed", runner.name()))
    }

    fn script(&self, script: &str) -> anyhow::Result<Command> {
        ensure!(self.python.exists(), "{} is not there: run `scripts/setup bench` first", self.python.display());
        let mut command = Command::new(self.python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script));
        Ok(command)
    }

    fn peer(&self, script: &str) -> anyhow::Result<Command> {
        let mut command = self.script(script)?;
        let size = &self.files.size;
        command.args(["--features", &size.features.to_string(), "--views", &size.views.to_string(), "--values", self.files.values.name()]);
        Ok(command)
    }

    /// Compares the answers of runners with the first one's, cell by cell; gives the runners. A peer that does not survive is left out, or is an error.
    pub(super) fn agree(&self, runners: &[Runner], peers_may_die: bool) -> anyhow::Result<Vec<Runner>> {
        let answer = |runner: Runner| self.files.folder.join(format!("answer-{}.arrow", runner.name()));
        let (mut alive, mut rows) = (Vec::new(), 0);
        for runner in runners {
            say(&format!("{}, {}: the answer", self.files.values.name(), runner.name()));
            match self.run((*runner, PageCache::Warm), Some(&answer(*runner))) {
                Err(error) if peers_may_die && runner.script().is_some() => {
                    say(&format!("left out from here on: {error:#}"));
                    continue;
                }
                ran => ran?,
            };
            if *runner != runners[0] {
                rows = answers::compare(&answer(runners[0]), &answer(*runner))?;
                fs::remove_file(answer(*runner))?;
            }
            alive.push(*runner);
        }
        fs::remove_file(answer(runners[0]))?;
        say(&format!("{}: all answers agree in {rows} rows", self.files.values.name()));
        Ok(alive)
    }

    /// Gives each turn so many runs, all in a shuffled order.
    pub(super) fn measure(&self, turns: &[Turn], runs: usize) -> anyhow::Result<Measured> {
        let mut order: Vec<_> = turns.iter().flat_map(|turn| std::iter::repeat_n(*turn, runs)).collect();
        order.shuffle(&mut StdRng::seed_from_u64(self.files.size.seed));
        let mut measured = Measured::default();
        for turn in order {
            let run = self.run(turn, None)?;
            let (values, name) = (self.files.values.name(), turn.0.name());
            say(&format!("{values}, {name}, {:?}: {:.3} s, {:.0} MiB, {:.0} MiB from storage", turn.1, run.wall_s, run.peak_rss_mb, run.storage_mb));
            measured.0.entry(turn).or_default().push(run);
        }
        Ok(measured)
    }
}

/// Runs by turn.
#[derive(Default)]
pub(super) struct Measured(HashMap<Turn, Vec<Run>>);

impl Measured {
    /// The median.
    pub(super) fn wall_s(&self, turn: Turn) -> f64 {
        median_s(&mut self.runs(turn).map(|run| Duration::from_secs_f64(run.wall_s)).collect::<Vec<_>>())
    }

    /// The largest.
    pub(super) fn peak_rss_mb(&self, turn: Turn) -> f64 {
        self.runs(turn).map(|run| run.peak_rss_mb).fold(0.0, f64::max)
    }

    /// The largest.
    pub(super) fn spilled_mb(&self, turn: Turn) -> f64 {
        self.runs(turn).map(|run| run.spilled_mb).fold(0.0, f64::max)
    }

    /// The least.
    pub(super) fn storage_mb(&self, turn: Turn) -> f64 {
        self.runs(turn).map(|run| run.storage_mb).fold(f64::INFINITY, f64::min)
    }

    fn runs(&self, turn: Turn) -> impl Iterator<Item = &Run> {
        self.0.get(&turn).into_iter().flatten()
    }
}
