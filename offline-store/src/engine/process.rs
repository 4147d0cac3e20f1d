//! The processes of a cluster: a scheduler, and executors that do what it gives them.
//!
//! They are Ballista's, with our codec. An executor holds nothing that is not made again: its results lie in its work folder until the scheduler has
//! them removed. Executors tell the scheduler that they live every [`HEARTBEAT_SECONDS`]; one that is silent for `executor_timeout` is lost, and its
//! unfinished and unfetched work is done by the others. There is no authentication: listen where only the cluster and the servers can connect.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::start_server;

use super::codec::EngineCodec;
use crate::{Error, Result};

/// How often an executor says that it lives.
pub const HEARTBEAT_SECONDS: u64 = 1;
/// How long results that nobody fetched are kept.
pub const RESULTS_KEPT_SECONDS: u64 = 300;
/// The largest message between the processes: a plan that names many files, or a batch.
pub(super) const MESSAGE_BYTES: u32 = 256 << 20;

/// How often a part is tried where an executor failed it.
const TASK_FAILURES: usize = 4;

/// How a scheduler runs.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// Where executors and servers reach it.
    pub listen: SocketAddr,
    /// The host by which executors reach it; none: the address that it listens on.
    pub advertise: Option<String>,
    /// How many seconds an executor may be silent before it is lost.
    pub executor_timeout_seconds: u64,
}

/// How an executor runs.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// Host and port of the scheduler.
    pub scheduler: String,
    /// Where servers fetch results.
    pub listen: SocketAddr,
    /// The port, on the same host, where the scheduler gives out work.
    pub control_port: u16,
    /// The host by which the others reach it; none: the address that it listens on.
    pub advertise: Option<String>,
    /// How many parts it joins at a time.
    pub tasks: usize,
    /// The most memory, in bytes, of all its parts together; none: as much as there is.
    pub memory_bytes: Option<u64>,
    /// Where results and spilled rows lie.
    pub work: PathBuf,
}

/// Runs a scheduler until the future is dropped.
///
/// # Errors
/// [`Error::Cluster`] where the address cannot be listened on.
pub async fn run_scheduler(options: &SchedulerOptions) -> Result<()> {
    let codec = Arc::new(EngineCodec::default());
    let config = SchedulerConfig {
        bind_host: options.listen.ip().to_string(),
        bind_port: options.listen.port(),
        external_host: options.advertise.clone().unwrap_or_else(|| host(options.listen)),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        executor_timeout_seconds: options.executor_timeout_seconds,
        expire_dead_executor_interval_seconds: HEARTBEAT_SECONDS,
        finished_job_data_clean_up_interval_seconds: RESULTS_KEPT_SECONDS,
        finished_job_state_clean_up_interval_seconds: RESULTS_KEPT_SECONDS,
        grpc_server_max_decoding_message_size: MESSAGE_BYTES,
        grpc_server_max_encoding_message_size: MESSAGE_BYTES,
        override_logical_codec: Some(Arc::clone(&codec) as _),
        override_physical_codec: Some(codec),
        task_max_failures: TASK_FAILURES,
        stage_max_failures: TASK_FAILURES,
        ..SchedulerConfig::default()
    };
    let failed = |error: ballista_core::error::BallistaError| Error::Cluster { scheduler: options.listen.to_string(), reason: error.to_string() };
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(failed)?;
    start_server(cluster, options.listen, Arc::new(config)).await.map_err(failed)
}

/// Runs an executor until it is told to end: by SIGTERM, by ctrl-c or by its scheduler. Parts under way are finished first.
///
/// # Errors
/// [`Error::Cluster`] where the scheduler cannot be reached or an address cannot be listened on; [`Error::Unavailable`] where the work folder cannot be
/// made.
pub async fn run_executor(options: &ExecutorOptions) -> Result<()> {
    let wrong = |reason: &str| Error::Invalid { what: "scheduler", reason: format!("{:?} {reason}: write HOST:PORT", options.scheduler) };
    let (host_name, port) = options.scheduler.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    let scheduler_port = port.parse().map_err(|_| wrong("has no port that is a number"))?;
    let making = || format!("making the work folder {}", options.work.display());
    std::fs::create_dir_all(&options.work).map_err(|error| Error::Unavailable { what: making(), source: Box::new(error) })?;
    let work = options.work.to_str().ok_or_else(|| Error::Invalid { what: "work folder", reason: "its name is not UTF-8".to_owned() })?;
    let codec = Arc::new(EngineCodec::default());
    let config = ExecutorProcessConfig {
        bind_host: options.listen.ip().to_string(),
        external_host: Some(options.advertise.clone().unwrap_or_else(|| host(options.listen))),
        port: options.listen.port(),
        grpc_port: options.control_port,
        scheduler_host: host_name.to_owned(),
        scheduler_port,
        scheduler_connect_timeout_seconds: CONNECT_SECONDS,
        concurrent_tasks: options.tasks,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work.to_owned()),
        grpc_max_decoding_message_size: MESSAGE_BYTES,
        grpc_max_encoding_message_size: MESSAGE_BYTES,
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        memory_pool_size: options.memory_bytes,
        override_logical_codec: Some(Arc::clone(&codec) as _),
        override_physical_codec: Some(codec),
        ..ExecutorProcessConfig::default()
    };
    let done = start_executor_process(Arc::new(config)).await;
    done.map_err(|error| Error::Cluster { scheduler: options.scheduler.clone(), reason: error.to_string() })
}

/// How long an executor waits for its scheduler to come up.
const CONNECT_SECONDS: u16 = 30;

/// An address as a URL spells its host.
fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}
