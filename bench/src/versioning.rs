//! `versioning`: a map of N keys, and what branches, commits, merges, diffs and reads on it cost.
//!
//! The repository is the embedded one: SQLite and a local directory, everything synced before it is acknowledged. Keys are paths of objects in order of
//! a counter, values are random bytes; every write goes through the committer as a server's would. The peers are what can be had beside it: a plain SQLite
//! table (the floor: no versions), Git (branches and small commits over N files) and PyIceberg's SQL catalog (commits to a table). Each runs as a
//! process of its own, after ours, over files of its own.

mod peers;
mod reads;
mod setup;
mod writes;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::report::{Report, say};
use setup::{Bench, directory_bytes};

#[derive(Args, Serialize, Clone, Debug)]
pub(crate) struct Options {
    /// Keys of the map.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// Keys of one commit while the map is loaded.
    #[arg(long, default_value_t = 500_000)]
    load_batch: u64,
    /// Branches created.
    #[arg(long, default_value_t = 20_000)]
    branches: usize,
    /// Callers that create branches side by side.
    #[arg(long, default_value_t = 64)]
    branch_callers: usize,
    /// Commits of one key, one after the other.
    #[arg(long, default_value_t = 300)]
    small_commits: usize,
    /// Keys of a large commit.
    #[arg(long, default_value_t = 500_000)]
    large_commit: u64,
    /// Writers on one branch.
    #[arg(long, default_value_t = 256)]
    writers: usize,
    /// Seconds that they write for.
    #[arg(long, default_value_t = 5.0)]
    write_seconds: f64,
    /// Branches merged into one at once.
    #[arg(long, default_value_t = 1_000)]
    merges: usize,
    /// Bytes of nodes kept in memory.
    #[arg(long, default_value_t = 2 << 30)]
    cache_bytes: u64,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Files of the Git peer: it does not bear as many keys.
    #[arg(long, default_value_t = 100_000)]
    git_files: u64,
    /// Commits to the table of the PyIceberg peer.
    #[arg(long, default_value_t = 200)]
    iceberg_commits: usize,
    /// Leave the peers out.
    #[arg(long)]
    no_peers: bool,
    /// Where everything is made; it is removed afterwards.
    #[arg(long, default_value = ".cache/bench")]
    folder: PathBuf,
    /// Python with pyiceberg.
    #[arg(long, env = "ANABRANCH_PYTHON", default_value = ".cache/venv/bin/python")]
    python: PathBuf,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("versioning", options)?;
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut bench = Bench::open(options, folder.path()).await?;
        bench.load(&mut report).await?;
        report.figure("bytes_per_key", directory_bytes(&bench.packs()) as f64 / options.keys as f64);
        writes::branches(&bench, &mut report).await?;
        reads::points(&bench, &mut report).await?;
        reads::scan(&bench, &mut report).await?;
        writes::small_commits(&bench, &mut report).await?;
        writes::many_writers(&bench, &mut report).await?;
        writes::merges(&bench, &mut report).await?;
        writes::large_commit(&bench, &mut report, "clustered").await?;
        writes::large_commit(&bench, &mut report, "random").await?;
        reads::diffs(&mut bench, &mut report).await?;
        bench.close().await;
        anyhow::Ok(())
    })?;
    report.figure("peak_rss_mb", crate::report::peak_rss_mb());
    drop(folder);
    if !options.no_peers {
        say("the peers");
        peers::run(options, &mut report)?;
    }
    Ok(report)
}
