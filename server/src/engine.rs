//! The processes of a cluster that does joins: a scheduler, and executors. They need no data folder; executors read the folders of the servers that send
//! joins, which they must see under the same names.

use anabranch_offline_store::engine::process;
use futures::future::BoxFuture;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::LogConfig;
use crate::error::{Error, Result};
use crate::logging;

pub use anabranch_offline_store::engine::process::{ExecutorOptions, SchedulerOptions};

/// Runs a scheduler until it is told to end by a signal. What was under way then fails, and its servers may ask again.
///
/// # Errors
/// What keeps it from listening.
pub fn scheduler<'a>(options: &'a SchedulerOptions, log: &'a LogConfig) -> BoxFuture<'a, Result<()>> {
    Box::pin(schedule(options, log))
}

async fn schedule(options: &SchedulerOptions, log: &LogConfig) -> Result<()> {
    logging::init(log)?;
    let listening = Error::io("listening for signals");
    let mut terminate = signal(SignalKind::terminate()).map_err(listening)?;
    tracing::info!(address = %options.listen, version = env!("CARGO_PKG_VERSION"), "scheduling");
    tokio::select! {
        ended = process::run_scheduler(options) => Ok(ended?),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Runs an executor until it is told to end by a signal or its scheduler; what is under way is given to others.
///
/// # Errors
/// What keeps it from listening, or from reaching its scheduler.
pub fn executor<'a>(options: &'a ExecutorOptions, log: &'a LogConfig) -> BoxFuture<'a, Result<()>> {
    Box::pin(execute(options, log))
}

async fn execute(options: &ExecutorOptions, log: &LogConfig) -> Result<()> {
    logging::init(log)?;
    tracing::info!(address = %options.listen, scheduler = options.scheduler, version = env!("CARGO_PKG_VERSION"), "executing");
    Ok(process::run_executor(options).await?)
}
