//! Workloads, peers and reports: `cargo run --release -p anabranch-bench -- SCENARIO --json` prints one JSON object
//! `{"scenario", "config", "figures"}` on standard output; what happens meanwhile goes to standard error.
//!
//! Every scenario is seeded and prints its configuration. Peers run as processes of their own, as their documentation says; answers are compared before
//! a time is printed.

mod append;
mod dataset_fetch;
mod ingest;
mod online_lookup;
mod online_size;
mod pit_join;
mod report;
mod server;
mod versioning;

use clap::{Parser, Subcommand};

/// Large buffers are used again rather than given back and asked for anew, which a join does thousands of times.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "anabranch-bench", about = "Workloads, peers and reports")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
    /// Print one JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Scenario {
    /// A point-in-time join from files to Arrow, against DuckDB and Polars on the same files.
    PitJoin(pit_join::Options),
    /// The same join over ever more rows, for a plot.
    PitJoinSizes(pit_join::SizesOptions),
    /// One of our own runs of the join, in a process of its own.
    #[command(hide = true)]
    PitJoinRun(pit_join::RunOptions),
    /// Lookups through the server, measured at the client.
    OnlineLookup(online_lookup::Options),
    /// The server of those lookups, in a process of its own.
    #[command(hide = true)]
    OnlineLookupServer(online_lookup::ServerOptions),
    /// What an entity takes online, in memory and on disk.
    OnlineSize(online_size::Options),
    /// Reads one of those stores, in a process of its own.
    #[command(hide = true)]
    OnlineSizeRead(online_size::ReadOptions),
    /// Pushes to both stores, until they are in a commit.
    Ingest(ingest::Options),
    /// Branches, commits, merges, diffs and reads on a map of N keys.
    Versioning(versioning::Options),
    /// A saved dataset as a whole and in shuffled batches, against pyarrow on the same Parquet.
    DatasetFetch(dataset_fetch::Options),
    /// Appends to one table, to show that the cost of a commit does not grow.
    Append(append::Options),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let report = match arguments.scenario {
        Scenario::PitJoinRun(options) => return pit_join::run_one(&options),
        Scenario::OnlineLookupServer(options) => return online_lookup::serve(&options),
        Scenario::OnlineSizeRead(options) => return online_size::read_all(&options),
        Scenario::PitJoin(options) => pit_join::run(&options)?,
        Scenario::PitJoinSizes(options) => pit_join::run_sizes(&options)?,
        Scenario::OnlineLookup(options) => online_lookup::run(&options)?,
        Scenario::OnlineSize(options) => online_size::run(&options)?,
        Scenario::Ingest(options) => ingest::run(&options)?,
        Scenario::DatasetFetch(options) => dataset_fetch::run(&options)?,
        Scenario::Append(options) => append::run(&options)?,
        Scenario::Versioning(options) => versioning::run(&options)?,
    };
    report.print(arguments.json)
}
