//! The scheduler's process: Ballista's scheduler, and the hands and eyes of the [watch](super::watch) over it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::UpdateTaskStatusParams;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_connection};
use ballista_scheduler::cluster::{BallistaCluster, JobState, JobStateEvent};
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service};
use ballista_scheduler::scheduler_server::SchedulerServer;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::watch::{Deed, Job, Look, Patience, Watch};
use super::{HEARTBEAT_SECONDS, MESSAGE_BYTES, RESULTS_KEPT_SECONDS, SchedulerOptions, host};
use crate::engine::codec::EngineCodec;
use crate::{Error, Result};

/// How often a part is tried where an executor failed it.
const TASK_FAILURES: usize = 4;
/// How often the watch looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many jobs may end between two looks before the next one waits for the watch.
const ENDED_AT_ONCE: usize = 1 << 12;

type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// Runs a scheduler until the future is dropped.
///
/// # Errors
/// [`Error::Cluster`] where the address cannot be listened on.
pub async fn run_scheduler(options: &SchedulerOptions) -> Result<()> {
    let failed = |error: BallistaError| Error::Cluster { scheduler: options.listen.to_string(), reason: error.to_string() };
    let config = Arc::new(config(options));
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(failed)?;
    let jobs = cluster.job_state();
    let scheduler: Scheduler = create_scheduler(cluster, config).await.map_err(failed)?;
    let patience = Patience { executor_wait: options.executor_wait_seconds, part_timeout: options.part_timeout_seconds };
    let (send, ended) = mpsc::channel(ENDED_AT_ONCE);
    tokio::select! {
        served = start_grpc_service(options.listen, scheduler.clone()) => served.map_err(failed),
        told = tell_ended(jobs, send) => told.map_err(failed),
        watched = watch(&scheduler, own_address(options.listen), Watch::new(patience), ended) => match watched {},
    }
}

fn config(options: &SchedulerOptions) -> SchedulerConfig {
    let codec = Arc::new(EngineCodec::default());
    SchedulerConfig {
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
    }
}

/// Tells the watch of every job that failed or was cancelled.
async fn tell_ended(jobs: Arc<dyn JobState>, ended: mpsc::Sender<String>) -> Result<(), BallistaError> {
    let mut events = jobs.job_state_events().await?;
    while let Some(event) = events.next().await {
        if let JobStateEvent::JobUpdated { job_id, status } = event
            && matches!(status.status, Some(Status::Failed(_)))
        {
            let _ = ended.send(job_id).await;
        }
    }
    Err(BallistaError::General("the scheduler's events have ended".to_owned()))
}

enum Never {}

async fn watch(scheduler: &Scheduler, own: SocketAddr, mut watch: Watch, mut ended: mpsc::Receiver<String>) -> Never {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let mut look = look(scheduler).await;
        while let Ok(job) = ended.try_recv() {
            look.ended.push(job);
        }
        let executor = look.executors.first().cloned();
        for deed in watch.judge(look) {
            // What could not be done now is judged again at the next look.
            let _ = act(scheduler, own, executor.as_deref(), deed).await;
        }
    }
}

async fn look(scheduler: &Scheduler) -> Look {
    let executors = scheduler.state.executor_manager.get_executors_state().await.unwrap_or_default();
    let mut look = Look { executors: executors.into_iter().map(|(executor, ..)| executor.id).collect(), ..Look::default() };
    for (name, info) in scheduler.state.task_manager.get_running_job_cache().iter() {
        look.jobs.insert(name.clone(), job(&*info.execution_graph.read().await));
    }
    look
}

fn job(graph: &ExecutionGraphBox) -> Job {
    let done = |stage: &ExecutionStage| match stage {
        ExecutionStage::Running(stage) => stage.successful_tasks(),
        ExecutionStage::Successful(stage) => stage.partitions,
        _ => 0,
    };
    Job {
        waiting: graph.available_tasks(),
        running: graph.running_tasks().into_iter().map(|task| (task.task_id, task.executor_id)).collect(),
        done: graph.stages().values().map(done).sum(),
        failed: matches!(graph.status().status, Some(Status::Failed(_))),
    }
}

async fn act(scheduler: &Scheduler, own: SocketAddr, executor: Option<&str>, deed: Deed) -> Result<(), BallistaError> {
    let state = &scheduler.state;
    match deed {
        Deed::Release(executor) => {
            let running = state.task_manager.executor_lost(&executor).await?;
            state.executor_manager.cancel_running_tasks(running).await
        }
        Deed::Offer => offer(own, executor.unwrap_or_default()).await,
        Deed::Fail(job, verdict) => {
            let graph = state.task_manager.get_running_job_cache().get(&job).map(|info| Arc::clone(&info.execution_graph));
            if let Some(graph) = graph {
                graph.write().await.fail_job(verdict.to_string());
            }
            Ok(())
        }
        Deed::Forget(job) => scheduler.cancel_job(job).await,
        Deed::Sweep(job) => {
            state.executor_manager.clean_up_job_data(job);
            Ok(())
        }
    }
}

/// Has the scheduler offer what waits, as after every report of an executor: by a report of nothing.
async fn offer(own: SocketAddr, executor: &str) -> Result<(), BallistaError> {
    let seconds = LOOK_EVERY.as_secs();
    let config = GrpcClientConfig { connect_timeout_seconds: seconds, timeout_seconds: seconds, ..GrpcClientConfig::default() };
    let connection = create_grpc_client_connection(format!("http://{own}"), &config).await;
    let mut client = SchedulerGrpcClient::new(connection.map_err(|error| BallistaError::GrpcConnectionError(error.to_string()))?);
    let nothing = UpdateTaskStatusParams { executor_id: executor.to_owned(), task_status: Vec::new() };
    client.update_task_status(nothing).await.map_err(|status| BallistaError::GrpcConnectionError(status.to_string()))?;
    Ok(())
}

/// Where a scheduler that listens here reaches itself.
fn own_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
