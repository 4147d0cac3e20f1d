//! The processes of a cluster: a scheduler, and executors that do what it gives them.
//!
//! They are Ballista's, with our codec, and a watch over the scheduler's jobs (`process/watch.rs`, which says what happens when something dies). Executors
//! tell the scheduler that they live every [`HEARTBEAT_SECONDS`]; one that is silent for `executor_timeout` is lost, and its unfinished and unfetched
//! work is done by the others. There is no authentication: listen where only the cluster and the servers can connect.
//!
//! ```text
//! WORK/              an executor's folder
//!   lock             locked (flock) for as long as an executor uses the folder
//!   results/         what it joined, until the scheduler has it removed, and what it spilled; emptied at start and when it is told to end
//! ```
//!
//! An executor holds nothing that is not made again. Told to end, it does so at once: what it was doing is given to others.

mod scheduler;
pub(super) mod watch;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::executor_server::TERMINATING;

pub use scheduler::run_scheduler;

use super::codec::EngineCodec;
use crate::{Error, Result};

/// How often an executor says that it lives.
pub const HEARTBEAT_SECONDS: u64 = 1;
/// How long results that nobody fetched are kept.
pub const RESULTS_KEPT_SECONDS: u64 = 300;
/// The largest message between the processes: a plan that names many files, or a batch.
pub(super) const MESSAGE_BYTES: u32 = 256 << 20;

/// How long after it was told to end an executor takes leave of its scheduler.
const LEAVE: Duration = Duration::from_secs(1);
/// How old results may become where nobody said that they can go.
const RESULTS_OUTLIVE_SECONDS: u64 = 24 * 60 * 60;

/// How a scheduler runs.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// Where executors and servers reach it.
    pub listen: SocketAddr,
    /// The host by which executors reach it; none: the address that it listens on.
    pub advertise: Option<String>,
    /// How many seconds an executor may be silent before it is lost.
    pub executor_timeout_seconds: u64,
    /// How many seconds a join waits while there is no executor.
    pub executor_wait_seconds: u64,
    /// How many seconds a join may go without a part being done before it is begun anew.
    pub part_timeout_seconds: u64,
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

/// Runs an executor until it is told to end: by SIGTERM, by ctrl-c or by its scheduler.
///
/// # Errors
/// [`Error::Cluster`] where the scheduler cannot be reached or an address cannot be listened on; [`Error::Unavailable`] where the work folder cannot be
/// made or another executor uses it.
pub async fn run_executor(options: &ExecutorOptions) -> Result<()> {
    let wrong = |reason: &str| Error::Invalid { what: "scheduler", reason: format!("{:?} {reason}: write HOST:PORT", options.scheduler) };
    let (host_name, port) = options.scheduler.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    let scheduler_port = port.parse().map_err(|_| wrong("has no port that is a number"))?;
    let (results, _lock) = work_folder(options)?;
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
        work_dir: Some(results.clone()),
        grpc_max_decoding_message_size: MESSAGE_BYTES,
        grpc_max_encoding_message_size: MESSAGE_BYTES,
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        job_data_ttl_seconds: RESULTS_OUTLIVE_SECONDS,
        job_data_clean_up_interval_seconds: RESULTS_OUTLIVE_SECONDS / 24,
        memory_pool_size: options.memory_bytes,
        override_logical_codec: Some(Arc::clone(&codec) as _),
        override_physical_codec: Some(codec),
        ..ExecutorProcessConfig::default()
    };
    let ended = tokio::select! {
        done = start_executor_process(Arc::new(config)) => {
            done.map_err(|error| Error::Cluster { scheduler: options.scheduler.clone(), reason: error.to_string() })
        }
        () = leaving() => Ok(()),
    };
    // What cannot be removed now is at the next start.
    let _ = std::fs::remove_dir_all(&results);
    ended
}

/// Makes, locks and empties the folder of results.
fn work_folder(options: &ExecutorOptions) -> Result<(String, File)> {
    let failed =
        |error: std::io::Error| Error::Unavailable { what: format!("making the work folder {}", options.work.display()), source: Box::new(error) };
    std::fs::create_dir_all(&options.work).map_err(failed)?;
    let lock = File::options().write(true).create(true).truncate(false).open(options.work.join("lock")).map_err(failed)?;
    lock.try_lock().map_err(|error| failed(error.into()))?;
    let results = options.work.join("results");
    match std::fs::remove_dir_all(&results) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => std::fs::create_dir_all(&results).map_err(failed)?,
    }
    let name = results.to_str().ok_or_else(|| Error::Invalid { what: "work folder", reason: "its name is not UTF-8".to_owned() })?;
    Ok((name.to_owned(), lock))
}

/// Until this process was told to end and has taken leave. Ballista would wait for parts whose results nobody will fetch, and for some that are long over.
async fn leaving() {
    while !TERMINATING.load(Ordering::Acquire) {
        tokio::time::sleep(LEAVE / 10).await;
    }
    tokio::time::sleep(LEAVE).await;
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
