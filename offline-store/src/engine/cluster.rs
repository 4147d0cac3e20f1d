//! Joins on a Ballista cluster.
//!
//! ```text
//! cut the spine, part by part, into the exchange folder ─► submit ─► begun ─► done ─► fetch the features of the parts, to disk ─► clean up
//!                                                           ▲          │       │        │ an executor is gone, with its results
//!                                                           └──────────┴───────┴────────┘ again, at most so many times
//! ```
//!
//! A join is a function of its work and the parts of its spine alone, so a run that comes to nothing is done again whole, and nobody sees which one it
//! was. The scheduler gives the parts of a lost executor to the others and ends a job that does not get on (`process/watch.rs`); it always answers. So
//! this side needs no clock but for its questions:
//!
//! | state | what goes wrong | then |
//! | -- | -- | -- |
//! | parts being stored | the folder is full or not there | its error |
//! | any | the scheduler does not answer, or not within [`ANSWER_WITHIN_SECONDS`] | [`Error::Cluster`]; the scheduler ends what it holds |
//! | submitted | it cannot read the plan | [`Error::Cluster`] |
//! | submitted | not begun within [`BEGUN_WITHIN`] | again |
//! | begun | the scheduler knows nothing of it: it was started anew | again |
//! | begun | no part done for long ([`Verdict::Stuck`]) | again |
//! | begun | no executor for long ([`Verdict::Nobody`]) | [`Error::Cluster`] |
//! | begun | the join itself refuses | [`Error::Remote`], of the kind that it has |
//! | done | an executor gives no answer, is silent for [`SILENCE`], or gives other rows than it should | again |
//! | any | the caller lets go | the job is cancelled, everything is removed, nobody is told |
//! | any | [`RUNS`] runs came to nothing | [`Error::Cluster`], with the last reason |
//!
//! All this happens in a task of its own that ends when its caller lets go. A job is cancelled only once it has begun, because the scheduler forgets the
//! cancelling of one that it has still to plan. In every case a job's results are removed from the executors and the parts from the exchange folder. A
//! server that dies leaves parts behind, in a folder that its next start empties, and a job that its executors finish for nobody and whose results the
//! scheduler removes after [`RESULTS_KEPT_SECONDS`].
//!
//! [`RESULTS_KEPT_SECONDS`]: super::process::RESULTS_KEPT_SECONDS

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Ids;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use ballista_core::client::BallistaClient;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::execute_query_result::Result as Submitted;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, CleanJobDataParams, ExecuteQueryParams, GetJobStatusParams, PartitionLocation, RemoveSessionParams,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_connection};
use datafusion::common::DataFusionError;
use datafusion::datasource::provider_as_source;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion_proto::logical_plan::AsLogicalPlan as _;
use datafusion_proto::protobuf::LogicalPlanNode;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use futures::{FutureExt as _, TryFutureExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::codec::{EngineCodec, JoinTable};
use super::error::of_query;
use super::join::next_part;
use super::process::MESSAGE_BYTES;
use super::process::watch::Verdict;
use super::work::{JoinWork, open, unspelled};
use crate::join::{Divided, Given, Joined, Next, Taken, Taking};
use crate::{Error, Result};

/// How often a join is run before it is given up.
const RUNS: usize = 4;
/// How often the scheduler is asked how a job goes.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// How long a scheduler may plan, and how long it may take to end a job.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);
/// How often in a row the scheduler must not know a job that it had begun: for a moment between two states it does not know any.
const UNKNOWN: usize = 40;
/// How long the scheduler may take to answer.
const ANSWER_WITHIN_SECONDS: u64 = 20;
/// How often, and how far apart, an executor is asked for its results.
const FETCHES: u8 = 2;
const FETCH_AGAIN_AFTER_MS: u64 = 200;
/// How long an executor may be silent while its results are fetched.
const SILENCE: Duration = Duration::from_secs(30);
/// How many partitions are fetched at a time.
const FETCHED_AT_ONCE: usize = 4;

type Answer = oneshot::Sender<Result<Joined>>;
/// How a job stands; none: the scheduler does not know it.
type AskStatus<'a> = dyn Fn() -> BoxFuture<'static, Result<Option<Status>>> + Send + Sync + 'a;

/// A cluster, and the folder that it shares with this process.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    /// Host and port of the scheduler.
    pub(super) scheduler: String,
    /// The folder's location.
    pub(super) exchange: String,
    pub(super) ids: Arc<dyn Ids>,
}

impl Cluster {
    /// Joins the parts of a spine. What was reserved to cut them is given back once they are cut.
    pub(super) async fn join(&self, work: JoinWork, divided: Divided, reserved: MemoryReservation) -> Result<Joined> {
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move { this.run(work, divided, reserved, sender).await });
        receiver.await.map_err(|_| Error::Closing)?
    }

    /// Does it all and gives the answer to whoever still waits for it.
    async fn run(self, work: JoinWork, divided: Divided, reserved: MemoryReservation, mut answer: Answer) {
        let folder = Uuid::from_u128(self.ids.random()).simple().to_string();
        let stored = tokio::select! {
            biased;
            () = answer.closed() => Err(Error::Closing),
            stored = self.store(&folder, divided) => stored,
        };
        drop(reserved);
        let joined = match stored {
            // A spine without rows needs nobody.
            Ok((given, files)) if files.is_empty() => Ok(given.joined(Vec::new())),
            Ok((given, files)) => self.attempts(work, &given, files, &folder, &mut answer).await.map(|taken| given.joined(taken)),
            Err(error) => Err(error),
        };
        self.remove(&folder).await;
        // Whoever has gone wants no answer.
        let _ = answer.send(joined);
    }

    async fn attempts(&self, work: JoinWork, given: &Given, files: Vec<String>, session: &str, answer: &mut Answer) -> Result<Vec<Taken>> {
        let plan = plan(JoinTable::new(work, Arc::clone(given.schema()), self.exchange.clone(), files)?).map_err(of_query)?;
        // The limit is for each call; a join may take hours.
        let config =
            GrpcClientConfig { connect_timeout_seconds: ANSWER_WITHIN_SECONDS, timeout_seconds: ANSWER_WITHIN_SECONDS, ..Default::default() };
        let connection = create_grpc_client_connection(format!("http://{}", self.scheduler), &config).await;
        let client = SchedulerGrpcClient::new(connection.map_err(|error| self.unreachable(&error))?)
            .max_encoding_message_size(MESSAGE_BYTES as usize)
            .max_decoding_message_size(MESSAGE_BYTES as usize);
        // Functions cannot name the client's type, which is of a crate that only faces know.
        macro_rules! ask {
            ($call:ident, $request:expr) => {
                client.clone().$call($request).await.map(|answer| answer.into_inner()).map_err(|status| self.unreachable(&status))
            };
        }
        let mut last = Error::Closing;
        for _ in 0..RUNS {
            let query = Some(Query::LogicalPlan(plan.clone()));
            let submit = ExecuteQueryParams { session_id: session.to_owned(), settings: Vec::new(), operation_id: session.to_owned(), query };
            let job = match ask!(execute_query, submit)?.result {
                Some(Submitted::Success(success)) => success.job_id,
                other => return Err(self.refusal(&format!("{other:?}"))),
            };
            let status = || {
                let (this, client, asked) = (self.clone(), client.clone(), GetJobStatusParams { job_id: job.clone() });
                async move {
                    let answer = client.clone().get_job_status(asked).await.map_err(|status| this.unreachable(&status))?;
                    Ok(answer.into_inner().status.and_then(|status| status.status))
                }
                .boxed()
            };
            let done = tokio::select! {
                biased;
                () = answer.closed() => Err(Lost::Caller),
                done = self.done(&status).and_then(|places| fetch(places, given)) => done,
            };
            // What cannot be said now, the scheduler does by itself later.
            if done.is_err() {
                let _ = tokio::time::timeout(BEGUN_WITHIN, begun(&status)).await;
                let _ = ask!(cancel_job, CancelJobParams { job_id: job.clone() });
                let _ = tokio::time::timeout(BEGUN_WITHIN, ended(&status)).await;
            }
            let _ = ask!(clean_job_data, CleanJobDataParams { job_id: job.clone() });
            let _ = ask!(remove_session, RemoveSessionParams { session_id: session.to_owned() });
            match done {
                Ok(joined) => return Ok(joined),
                Err(Lost::Not(error)) => return Err(error),
                Err(Lost::Caller) => return Err(Error::Closing),
                Err(Lost::Run(reason)) => last = self.refused(&format!("{RUNS} runs of the join came to nothing, the last for this: {reason}")),
            }
        }
        Err(last)
    }

    /// Where the results of a job lie, once it is done.
    async fn done(&self, status: &AskStatus<'_>) -> Result<Vec<PartitionLocation>, Lost> {
        let late = |_| Lost::Run(format!("the scheduler did not begin it within {} s", BEGUN_WITHIN.as_secs()));
        tokio::time::timeout(BEGUN_WITHIN, begun(status)).await.map_err(late)?.map_err(Lost::Not)?;
        let mut unknown = 0;
        loop {
            match status().await.map_err(Lost::Not)? {
                Some(Status::Successful(done)) => return Ok(done.partition_location),
                Some(Status::Failed(failed)) => return Err(self.failed(&failed.error)),
                Some(Status::Queued(_) | Status::Running(_)) => unknown = 0,
                None if unknown == UNKNOWN => return Err(Lost::Run("the scheduler no longer knows of it, as after a start".to_owned())),
                None => unknown += 1,
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn unreachable(&self, error: &dyn StdError) -> Error {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        self.refused(&reason)
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Cluster { scheduler: self.scheduler.clone(), reason: reason.to_owned() }
    }

    /// Why a job failed, and whether it will again.
    fn failed(&self, reason: &str) -> Lost {
        match Verdict::of(reason) {
            Some(Verdict::Stuck(_)) => Lost::Run(format!("there was {reason}")),
            Some(Verdict::Nobody(_)) => Lost::Not(self.refused(&format!("there was {reason}: start one with `anabranch engine executor`"))),
            None => Lost::Not(self.refusal(reason)),
        }
    }

    /// What the join itself refused keeps its kind.
    fn refusal(&self, reason: &str) -> Error {
        match unspelled(reason) {
            Some((kind, reason)) => Error::Remote { kind, reason },
            None => self.refused(reason),
        }
    }

    /// Puts the parts into the exchange folder, one at a time.
    async fn store(&self, folder: &str, mut divided: Divided) -> Result<(Given, Vec<String>)> {
        let (objects, schema, mut files) = (open(&self.exchange)?, Arc::clone(divided.schema()), Vec::new());
        loop {
            let part = match next_part(divided).await? {
                Next::Part(rest, part) => {
                    divided = rest;
                    part
                }
                Next::All(given) => return Ok((given, files)),
            };
            let (file, schema) = (format!("{folder}/{}.arrow", files.len()), Arc::clone(&schema));
            let bytes = tokio::task::spawn_blocking(move || stream_of(&schema, &part)).await.map_err(|_| Error::Closing)??;
            objects.put(&Path::from(file.as_str()), bytes.into()).await.map_err(|error| Error::objects("a part of a spine", error))?;
            files.push(file);
        }
    }

    /// Removes the parts; what cannot be removed now is removed when the folder is emptied.
    async fn remove(&self, folder: &str) {
        let Ok(objects) = open(&self.exchange) else { return };
        let files: Vec<_> = objects.list(Some(&Path::from(folder))).collect().await;
        for file in files.into_iter().flatten() {
            let _ = objects.delete(&file.location).await;
        }
        if let Some(root) = self.exchange.strip_prefix("file://") {
            let _ = tokio::fs::remove_dir(std::path::Path::new(root).join(folder)).await;
        }
    }
}

fn stream_of(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

fn plan(table: JoinTable) -> Result<Vec<u8>, DataFusionError> {
    let plan = LogicalPlanBuilder::scan("joined", provider_as_source(Arc::new(table)), None)?.build()?;
    let mut bytes = Vec::new();
    LogicalPlanNode::try_from_logical_plan(&plan, &EngineCodec::default())?.try_encode(&mut bytes)?;
    Ok(bytes)
}

/// Why a run gave nothing.
enum Lost {
    /// Nobody waits for it any more.
    Caller,
    /// This run came to nothing; another may not.
    Run(String),
    /// It will not go better next time.
    Not(Error),
}

/// Until the scheduler has planned a job, or it is over.
async fn begun(status: &AskStatus<'_>) -> Result<()> {
    while matches!(status().await?, None | Some(Status::Queued(_))) {
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Until a job is over.
async fn ended(status: &AskStatus<'_>) -> Result<()> {
    while matches!(status().await?, Some(Status::Queued(_) | Status::Running(_))) {
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Fetches the features of every part from where they lie, and sees that no row is missing.
async fn fetch(places: Vec<PartitionLocation>, given: &Given) -> Result<Vec<Taken>, Lost> {
    let fetched = places.into_iter().map(|place| fetch_one(place, given.taking()));
    let taken: Vec<Taken> = stream::iter(fetched).buffered(FETCHED_AT_ONCE).try_collect().await?;
    let (rows, all) = (taken.iter().map(Taken::rows).sum::<usize>(), given.rows());
    if rows == all { Ok(taken) } else { Err(Lost::Run(format!("{rows} of {all} rows came back"))) }
}

async fn fetch_one(place: PartitionLocation, mut taking: Taking) -> Result<Taken, Lost> {
    let lost = |reason: &dyn ToString| Lost::Run(reason.to_string());
    let (Some(executor), Some(partition)) = (place.executor_meta, place.partition_id) else { return Err(lost(&"a result lies nowhere")) };
    let Ok(port) = u16::try_from(executor.port) else { return Err(lost(&format!("an executor is at port {}", executor.port))) };
    let client = BallistaClient::try_new(&executor.host, port, MESSAGE_BYTES as usize, false, None, FETCHES, FETCH_AGAIN_AFTER_MS);
    let mut client = heard(client).await?.map_err(|error| lost(&error))?;
    let partition = partition.into();
    let rows = client.fetch_partition(&executor.id, &partition, place.file_id, place.is_sort_shuffle, true);
    let mut rows: SendableRecordBatchStream = heard(rows).await?.map_err(|error| lost(&error))?;
    while let Some(batch) = heard(rows.next()).await? {
        taking = taking.take(&batch.map_err(|error| lost(&error))?).await.map_err(|error| Lost::Not(error.into()))?;
    }
    taking.finish().map_err(|error| Lost::Not(error.into()))
}

/// What an executor does next; one that is silent for too long is taken for lost.
async fn heard<T>(what: impl Future<Output = T>) -> Result<T, Lost> {
    tokio::time::timeout(SILENCE, what).await.map_err(|_| Lost::Run(format!("an executor was silent for {} s", SILENCE.as_secs())))
}
