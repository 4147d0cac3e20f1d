//! The pipeline: one worker for each branch and its log, which writes every row to both stores, once.
//!
//! ```text
//!            log ──▶ decode ──▶ judge ──┬─▶ rows ──▶ online ──▶ buffer ──┐
//!             ▲     (definitions of the │                                ├─▶ one commit: data files, quarantine files, next offset
//!             │      offset's digest)   └─▶ refused ───────────▶ buffer ──┘        │
//!             └──────────────────── cut below the offset ◀── generations advance ◀─┘
//! ```
//!
//! **States of the worker**
//!
//! | state | buffer | leaves it by |
//! | -- | -- | -- |
//! | running | rows that are online and in no commit, at most `commit_rows`, `commit_bytes` and `commit_every` | a full or old buffer, a flush, a pause |
//! | committing | kept until the commit is known to be made | success; or the offset is not the one expected: reload |
//! | paused | empty: nothing is published beyond the offset | resume: reload |
//! | reloading | empty | offset, definitions and reader taken anew from the head |
//! | failing | kept | the failed step is tried again, with growing pauses; `last_error` says why |
//!
//! **Failure points**, each a [`crate::CrashPoint`]. Before the commit a crash loses nothing but work: the worker begins again at the head's offset,
//! the verdicts repeat, online writes repeat without effect. After it the offset is beyond the rows, so none is written twice. The commit expects the
//! old offset: a commit whose answer was lost, or a second worker, is found out there, and the buffer is dropped. Online rows are synced before the
//! commit that moves the offset past them. A generation that was not advanced is advanced, or published to, by whoever moves the head next, and at start.
//!
//! **What it refuses**: a log that ends before the offset, or begins behind it: rows would be lost or take positions that others had.

mod buffer;
mod worker;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anabranch_core::{BranchId, SourceId};
use anabranch_offline_store::OfflineStore;
use anabranch_online_store::OnlineStore;
use anabranch_versioning::{CommitId, Repository};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::crash::CrashPoints;
use crate::judge::Judges;
use crate::offset::Offset;
use crate::publication::Publisher;
use crate::token::Visibility;
use crate::wal::{LogEnd, Wal};
use crate::{Error, IngestConfig, Result};

pub(crate) use worker::{begin, ensure_quarantine, rejudge, settle_marker, sleep_until};

/// The pipeline of pushed rows, as offsets name it.
pub const PUSH_PIPELINE: &str = "push";

/// What every worker of a repository works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) repository: Arc<Repository>,
    pub(crate) offline: Arc<OfflineStore>,
    pub(crate) online: Arc<dyn OnlineStore>,
    pub(crate) publisher: Publisher,
    pub(crate) crash: Arc<dyn CrashPoints>,
    pub(crate) config: IngestConfig,
}

/// A branch that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BranchName {
    pub(crate) id: BranchId,
    pub(crate) name: String,
}

/// How far a pipeline has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// The position behind the last row that is online.
    pub(crate) online: u64,
    /// The position behind the last row that is in a commit.
    pub(crate) committed: u64,
    /// The last commit of this pipeline in this process.
    pub(crate) commit: Option<CommitId>,
    /// Why the step under way failed last.
    pub(crate) last_error: Option<String>,
    /// How often it failed.
    pub(crate) failures: u64,
    /// The worker has ended.
    pub(crate) ended: bool,
}

/// Where a pipeline stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStatus {
    /// The branch.
    pub branch: String,
    /// The log's source.
    pub source: SourceId,
    /// The position behind the last row that is acknowledged.
    pub appended: u64,
    /// The position behind the last row that was judged and, on the served branch, is online.
    pub published: u64,
    /// The position behind the last row that is in a commit.
    pub committed: u64,
    /// The definitions that judge the rows from there on.
    pub definitions: String,
    /// The last commit of this pipeline since it was started.
    pub commit: Option<CommitId>,
    /// Why the step under way failed last; none where all is well.
    pub last_error: Option<String>,
    /// How often it failed in a row.
    pub failures: u64,
}

/// What a worker is asked.
#[derive(Debug)]
enum Command {
    /// Commit whatever was appended before `upto`, and say so.
    Flush { upto: u64, done: oneshot::Sender<()> },
    /// Come to rest, with nothing published beyond the offset.
    Pause { paused: oneshot::Sender<Rest> },
}

/// A worker at rest; it stays so until this is dropped.
#[derive(Debug)]
struct Rest {
    offset: Offset,
    /// Told when the worker has reloaded.
    reloaded: oneshot::Receiver<()>,
    _held: oneshot::Sender<()>,
}

/// A running pipeline.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) branch: BranchName,
    pub(crate) wal: Wal,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    judges: Arc<RwLock<Arc<Judges>>>,
    cancel: CancellationToken,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// A pipeline at rest for an apply or a merge.
#[derive(Debug)]
pub(crate) struct Paused {
    rest: Rest,
    pub(crate) source: SourceId,
}

impl Paused {
    /// The offset at the head; nothing is published beyond it.
    pub(crate) fn offset(&self) -> Offset {
        self.rest.offset
    }

    /// Lets the worker go on, with the offset and the definitions that the head has now, and waits until it does.
    pub(crate) async fn resume(self) {
        let Rest { reloaded, _held, .. } = self.rest;
        drop(_held);
        // A worker that ends meanwhile has nothing to reload.
        let _ = reloaded.await;
    }
}

impl Pipeline {
    pub(crate) fn judges(&self) -> Arc<Judges> {
        Arc::clone(&self.judges.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn end(&self) -> LogEnd {
        *self.wal.end().borrow()
    }

    pub(crate) fn status(&self) -> PipelineStatus {
        let progress = self.progress.borrow().clone();
        PipelineStatus {
            branch: self.branch.name.clone(),
            source: self.wal.source(),
            appended: self.end().next,
            published: progress.online,
            committed: progress.committed,
            definitions: self.judges().digest.to_string(),
            commit: progress.commit,
            last_error: progress.last_error,
            failures: progress.failures,
        }
    }

    /// Waits until everything before a position is visible; online it is where the branch is served.
    pub(crate) async fn wait(&self, next: u64, visibility: Visibility, deadline: Duration) -> Result<()> {
        let end = self.end().next;
        if next > end {
            return Err(Error::invalid("token", format!("it speaks of position {next}, and the log of source {} ends at {end}", self.wal.source())));
        }
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| {
            let reached = if visibility == Visibility::Online { progress.online } else { progress.committed };
            reached >= next || progress.ended
        });
        match tokio::time::timeout(deadline, reached).await {
            Ok(Ok(progress)) if !progress.ended => Ok(()),
            Ok(_) => Err(Error::Closing),
            Err(_) => Err(Error::TimedOut {
                what: format!("position {next} of source {} did not become visible", self.wal.source()),
                waited_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
                advice: self.status().last_error.map_or_else(|| "try again".to_owned(), |error| format!("the pipeline is failing: {error}")),
            }),
        }
    }

    /// Waits until everything appended before now is in a commit.
    pub(crate) async fn flush(&self) -> Result<()> {
        let (done, flushed) = oneshot::channel();
        let upto = self.end().next;
        self.commands.send(Command::Flush { upto, done }).await.map_err(|_| Error::Closing)?;
        flushed.await.map_err(|_| Error::Closing)
    }

    /// Brings the worker to rest.
    pub(crate) async fn pause(&self, limit: Duration) -> Result<Paused> {
        let (paused, rest) = oneshot::channel();
        let ask = async {
            self.commands.send(Command::Pause { paused }).await.map_err(|_| Error::Closing)?;
            rest.await.map_err(|_| Error::Closing)
        };
        let rest = tokio::time::timeout(limit, ask).await.map_err(|_| Error::TimedOut {
            what: format!("the pipeline of branch {:?} did not come to rest", self.branch.name),
            waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            advice: self.status().last_error.map_or_else(|| "try again".to_owned(), |error| format!("it is failing: {error}")),
        })??;
        Ok(Paused { rest, source: self.wal.source() })
    }

    /// Ends the worker and the log. What is not committed stays in the log.
    pub(crate) async fn close(&self) {
        self.cancel.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, branch = %self.branch.name, "the pipeline's worker ended badly");
        }
        self.wal.close().await;
    }
}
