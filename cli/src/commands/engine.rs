//! `engine`: the processes of a cluster that does joins.

use std::net::SocketAddr;
use std::path::PathBuf;

use anabranch_server::config::{LogConfig, LogFormat};
use anabranch_server::engine::{ExecutorOptions, SchedulerOptions, executor, scheduler};
use clap::{Args, Subcommand};

use crate::args::Global;
use crate::error::Error;

/// Runs the scheduler or an executor of a cluster that does joins, until it is told to end. There is no authentication: listen where only the cluster
/// and its servers can connect.
#[derive(Debug, Args)]
pub(crate) struct Engine {
    #[command(subcommand)]
    process: Process,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

#[derive(Debug, Subcommand)]
enum Process {
    /// Run the scheduler, which gives the parts of joins to executors
    Scheduler(Scheduler),
    /// Run an executor, which joins parts
    Executor(Executor),
}

#[derive(Debug, Args)]
struct Scheduler {
    /// Where executors and servers reach it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    listen: SocketAddr,
    /// The host by which executors reach it, where it is not the one that it listens on
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// How long an executor may be silent before its work is given to others, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..))]
    executor_timeout: u64,
    /// How long a join waits while there is no executor, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    executor_wait: u64,
    /// How long a join may go without a part being done before it is begun anew, in seconds: more than the longest part takes
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    part_timeout: u64,
}

#[derive(Debug, Args)]
struct Executor {
    /// The scheduler
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    scheduler: String,
    /// Where servers fetch results
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Where, on the same host, the scheduler gives out work
    #[arg(long, value_name = "PORT", default_value_t = 50052)]
    control_port: u16,
    /// The host by which the others reach it, where it is not the one that it listens on
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// How many parts it joins at a time [default: one for each core]
    #[arg(long, value_name = "N")]
    tasks: Option<usize>,
    /// The most memory, in bytes, that all its parts may use together [default: as much as there is]
    #[arg(long, value_name = "BYTES")]
    memory_bytes: Option<u64>,
    /// Where results and spilled rows lie: a folder of its own for each executor
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,
}

pub(crate) async fn engine(global: &Global, engine: Engine) -> Result<(), Error> {
    if global.url.is_some() || global.data.is_some() {
        return Err(Error::Usage("engine takes neither --url nor --data: servers come to it".to_owned()));
    }
    let log = LogConfig { format: if global.json { LogFormat::Json } else { LogFormat::Text }, level: engine.log_level };
    match engine.process {
        Process::Scheduler(Scheduler { listen, advertise, executor_timeout, executor_wait, part_timeout }) => {
            let options = SchedulerOptions {
                listen,
                advertise,
                executor_timeout_seconds: executor_timeout,
                executor_wait_seconds: executor_wait,
                part_timeout_seconds: part_timeout,
            };
            Ok(scheduler(&options, &log).await?)
        }
        Process::Executor(Executor { scheduler, listen, control_port, advertise, tasks, memory_bytes, work }) => {
            let tasks = tasks.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            let options = ExecutorOptions { scheduler, listen, control_port, advertise, tasks, memory_bytes, work };
            Ok(executor(&options, &log).await?)
        }
    }
}
