//! Ingest of one repository: what the faces of a server call.
//!
//! Each branch that was ever pushed to has a log in `<folder>/<branch id>` and a pipeline; both begin with the first push and again at every start.
//! Files and bulk streams go past the log. Applies and merges bring the branch's pipeline to rest first.
//!
//! Who excludes whom, on one branch: an apply, a move of the head or a new name excludes loads, and the beginning of a pipeline; loads run beside each
//! other and beside the pipeline. Nothing here excludes another process: a data folder has one server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anabranch_core::{BranchId, Clock, Timestamp};
use anabranch_offline_store::OfflineStore;
use anabranch_online_store::{Layouts, MovingStore, OnlineStore};
use anabranch_versioning::{BranchInfo, CommitId, Files, Repository};
use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::duration;
use crate::crash::{CrashPoint, CrashPoints};
use crate::pipeline::{self, BranchName, Context, Pipeline, PipelineStatus};
use crate::publication::{AuditRequest, Line, Moved, Publisher, PublisherParts, Rebuild, Served, ServedBranch, ViewAudit};
use crate::token::{Token, Visibility};
use crate::wal::{NewRecord, PayloadFormat, RecordKind, Wal};
use crate::{Error, IngestConfig, Result, decode, source};

/// Payloads over this size are looked into off the runtime.
const INLINE_BYTES: usize = 64 << 10;
/// How often it is looked whether the online store still has what was published; a lookup that finds a loss says so at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a refill waits for what is in no commit yet.
const REPUBLISH: Duration = Duration::from_secs(30);

/// What ingest works with.
#[derive(Debug, Clone)]
pub struct IngestParts {
    /// The versioned map.
    pub repository: Arc<Repository>,
    /// History.
    pub offline: Arc<OfflineStore>,
    /// Latest values.
    pub online: Arc<dyn OnlineStore>,
    /// The layouts of packed rows, shared with lookups.
    pub layouts: Arc<Layouts>,
    /// Where logs are written through.
    pub files: Arc<dyn Files>,
    /// The folder of the logs.
    pub folder: PathBuf,
    /// Gives arrivals.
    pub clock: Arc<dyn Clock>,
    /// What happens at crash points: [`crate::NoCrash`] but in tests.
    pub crash: Arc<dyn CrashPoints>,
}

/// Rows that a client pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The feature view.
    pub view: String,
    /// Rows, or tombstones as of their event times.
    pub kind: RecordKind,
    /// How the payload is written.
    pub format: PayloadFormat,
    /// The rows.
    pub payload: Bytes,
    /// The same key again, within the window, is the same push again.
    pub idempotency_key: Option<Bytes>,
}

/// A push that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Given to a later read, which then sees the rows.
    pub token: Token,
    /// How many rows it has.
    pub rows: u32,
    /// When it arrived.
    pub arrival: Timestamp,
    /// It was known already by its idempotency key.
    pub duplicate: bool,
}

/// Ingest of one repository; clones share it.
#[derive(Debug, Clone)]
pub struct Ingest(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) context: Arc<Context>,
    pub(crate) clock: Arc<dyn Clock>,
    files: Arc<dyn Files>,
    folder: PathBuf,
    branches: Mutex<HashMap<BranchId, Arc<BranchState>>>,
    cancel: CancellationToken,
    publishing: Mutex<Option<JoinHandle<()>>>,
}

/// What is kept of a branch.
#[derive(Debug, Default)]
struct BranchState {
    /// Loads share it, an apply or merge has it alone.
    lock: Arc<RwLock<()>>,
    /// Held while the pipeline is begun or ended.
    opening: tokio::sync::Mutex<()>,
    pipeline: Mutex<Option<Arc<Pipeline>>>,
}

impl BranchState {
    fn pipeline(&self) -> Option<Arc<Pipeline>> {
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Ingest {
    /// Begins ingest: opens every log, goes on from each branch's offset, and publishes in the background what is committed and not yet online.
    ///
    /// # Errors
    /// [`Error::LogDamaged`] and its kin for a log that must not be used; what the repository or the stores fail with.
    pub async fn open(parts: IngestParts, config: IngestConfig) -> Result<Self> {
        config.validate()?;
        let IngestParts { repository, offline, online, layouts, files, folder, clock, crash } = parts;
        let parts = PublisherParts {
            repository: Arc::clone(&repository),
            offline: Arc::clone(&offline),
            online: Arc::clone(&online),
            layouts,
            crash: Arc::clone(&crash),
            flush_limit: duration(config.barrier_timeout),
            fill_mark_rows: config.fill_mark_rows,
        };
        let publisher = Publisher::open(parts).await?;
        let context = Arc::new(Context { repository, offline, online, publisher, crash, config });
        let (branches, publishing) = (Mutex::default(), Mutex::new(None));
        let ingest = Self(Arc::new(Inner { context, clock, files, folder, branches, cancel: CancellationToken::new(), publishing }));
        for branch in ingest.0.context.repository.branches().await.map_err(below)? {
            let branch = BranchName { id: branch.id, name: branch.name };
            if ingest.has_log(&branch).await? {
                ingest.pipeline(&branch).await?;
            }
        }
        let task = tokio::spawn(keep_published(Arc::downgrade(&ingest.0), Arc::clone(&ingest.0.context), ingest.0.cancel.clone()));
        *ingest.0.publishing.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(ingest)
    }

    /// Makes rows durable in the branch's log. They are judged, published and committed soon after.
    ///
    /// # Errors
    /// Of kind invalid argument for an unknown view or a payload that is not what its format says, exhausted where it is too large or the disk is full;
    /// rows that are wrong by themselves are no error: they go to quarantine.
    pub async fn push(&self, branch: &str, push: Push) -> Result<Pushed> {
        let pipeline = self.pipeline(&self.branch(branch).await?).await?;
        // The definitions tell what the view might have been meant to be.
        pipeline.judges().definitions.layout(&push.view)?;
        let limit = self.0.context.config.wal.max_push_bytes;
        // What is too large is refused by the log, which says so, before it is looked into.
        let rows = if push.payload.len() > limit { 1 } else { count_rows(push.format, push.payload.clone()).await? };
        let Push { view, kind, format, payload, idempotency_key: key } = push;
        let appended = pipeline.wal.append(NewRecord { view, kind, format, rows, key, payload }).await?;
        self.0.context.crash.reach(CrashPoint::Appended);
        let token = Token { source: pipeline.wal.source(), next: appended.next() };
        Ok(Pushed { token, rows: appended.rows, arrival: appended.arrival, duplicate: appended.duplicate })
    }

    /// Waits until what a token stands for is visible.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after the deadline; [`Error::Invalid`] for a token of another repository, or one that waits online on a branch that is not
    /// served.
    pub async fn wait_visible(&self, token: &Token, visibility: Visibility, deadline: Duration) -> Result<()> {
        let pipeline = self.pipelines().into_iter().find(|pipeline| pipeline.wal.source() == token.source);
        if let Some(pipeline) = pipeline {
            if visibility == Visibility::Online && !self.0.context.publisher.serves(pipeline.branch.id) {
                let reason = format!("branch {:?} is not served online: wait for the commit instead", pipeline.branch.name);
                return Err(Error::invalid("token", reason));
            }
            return pipeline.wait(token.next, visibility, deadline).await;
        }
        // A load is acknowledged when it is committed and online.
        if source::is_known(self.0.context.repository.metadata().as_ref(), token.source).await? {
            return Ok(());
        }
        Err(Error::invalid("token", format!("this repository has no source {}", token.source)))
    }

    /// Waits until everything acknowledged before is in a commit; answers the head then.
    ///
    /// # Errors
    /// [`Error::Closing`]; a failing commit is tried again and again, see [`Ingest::status`].
    pub async fn flush(&self, branch: &str) -> Result<CommitId> {
        let found = self.branch(branch).await?;
        if let Some(pipeline) = self.state(found.id).pipeline() {
            pipeline.flush().await?;
        }
        Ok(self.0.context.repository.branch(branch).await.map_err(below)?.head)
    }

    /// What is served online of `main`.
    ///
    /// # Errors
    /// [`Error::Refilling`] as long as the online store was not filled up to the head once: then nothing can be said to be not found.
    pub fn served(&self) -> Result<Served> {
        self.0.context.publisher.main().served().ok_or(Error::Refilling)
    }

    /// What is served online of a branch.
    ///
    /// # Errors
    /// As [`Ingest::served`]; [`Error::NotServed`].
    pub async fn served_on(&self, branch: &str) -> Result<Served> {
        self.line(branch).await?.served().ok_or(Error::Refilling)
    }

    /// Serves a branch online from now on. It answers once its views are filled, which [`Ingest::serving`] tells.
    ///
    /// # Errors
    /// Where there is no such branch.
    pub async fn serve(&self, branch: &str) -> Result<ServedBranch> {
        let branch = self.branch(branch).await?;
        let _shared = self.shared(&branch).await;
        self.check_name(&branch).await?;
        self.0.context.publisher.serve(&branch).await?;
        let line = self.line(&branch.name).await?;
        self.0.context.publisher.status(&line).await
    }

    /// Serves a branch no longer, and frees what it has online.
    ///
    /// # Errors
    /// [`Error::NotServed`]; [`Error::Invalid`] for `main`, which is always served.
    pub async fn unserve(&self, branch: &str) -> Result<()> {
        let line = self.line(branch).await?;
        if line.branch == self.0.context.publisher.main().branch {
            return Err(Error::invalid("branch", format!("{branch:?} is always served")));
        }
        self.0.context.publisher.unserve(line.branch).await
    }

    /// Begins to rebuild what is online of a branch from its history. Lookups are answered meanwhile; [`Ingest::serving`] tells how far it is.
    ///
    /// # Errors
    /// [`Error::NotServed`]; [`Error::Refilling`]; [`Error::Invalid`] for a view that is not served.
    pub async fn rebuild(&self, branch: &str, rebuild: &Rebuild) -> Result<ServedBranch> {
        let line = self.line(branch).await?;
        self.0.context.publisher.ask_for_rebuild(&line, rebuild).await?;
        self.0.context.publisher.status(&line).await
    }

    /// Moves what is online to the other of two stores, which ingest was opened with; or, without `cut_over`, copies and compares only.
    ///
    /// # Errors
    /// [`Error::Refilling`]; [`Error::Invalid`] where the other store holds rows that are not served, or fails; what the stores fail with. Then the store of
    /// before is served.
    pub async fn move_online(&self, moving: &MovingStore, cut_over: bool) -> Result<Moved> {
        self.0.context.publisher.move_online(moving, cut_over).await
    }

    /// Compares what is online of a branch with its history, and mends it where that is asked for.
    ///
    /// # Errors
    /// [`Error::NotServed`]; [`Error::Refilling`]; [`Error::Invalid`] for a view that is not served; what the stores fail with.
    pub async fn audit(&self, branch: &str, request: &AuditRequest) -> Result<Vec<ViewAudit>> {
        let line = self.line(branch).await?;
        self.0.context.publisher.audit(&line, request).await
    }

    /// Looks, for each branch and view that is served, whether some rows of history are online: how many were looked at, and how many of them are missing
    /// or behind. `random` says which.
    ///
    /// # Errors
    /// What the stores fail with.
    pub async fn sample(&self, random: u64) -> Result<Vec<(String, String, u64, u64)>> {
        let mut samples = Vec::new();
        for line in self.0.context.publisher.lines() {
            let views = self.0.context.publisher.sample(&line, random).await?;
            samples.extend(views.into_iter().map(|(view, (looked, skewed))| (line.name(), view, looked, skewed)));
        }
        Ok(samples)
    }

    /// How each branch is served, by name.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn serving(&self) -> Result<Vec<ServedBranch>> {
        let publisher = &self.0.context.publisher;
        let mut branches = Vec::new();
        for line in publisher.lines() {
            branches.push(publisher.status(&line).await?);
        }
        branches.sort_by(|a, b| a.branch.cmp(&b.branch));
        Ok(branches)
    }

    /// Publishes whatever the served branches have and the online store has not, as after head moves that ingest did not make.
    ///
    /// # Errors
    /// What the stores fail with.
    pub async fn publish(&self) -> Result<()> {
        for line in self.0.context.publisher.lines() {
            match self.0.context.publisher.publish(&line).await {
                Err(_) if line.is_ended() => {}
                published => published?,
            }
        }
        Ok(())
    }

    /// The same for one branch; nothing where it is not served.
    pub(crate) async fn publish_branch(&self, branch: BranchId) -> Result<()> {
        match self.0.context.publisher.line(branch) {
            Some(line) => self.0.context.publisher.publish(&line).await,
            None => Ok(()),
        }
    }

    async fn line(&self, branch: &str) -> Result<Arc<Line>> {
        let id = self.branch(branch).await?.id;
        self.0.context.publisher.line(id).ok_or_else(|| Error::NotServed(branch.to_owned()))
    }

    /// Where the pipelines stand, by branch.
    pub fn status(&self) -> Vec<PipelineStatus> {
        let mut all: Vec<_> = self.pipelines().iter().map(|pipeline| pipeline.status()).collect();
        all.sort_by(|a, b| a.branch.cmp(&b.branch));
        all
    }

    /// Where the pipeline of a branch stands; `None` where nothing was ever pushed to it.
    ///
    /// # Errors
    /// Where there is no such branch.
    pub async fn status_of(&self, branch: &str) -> Result<Option<PipelineStatus>> {
        let branch = self.branch(branch).await?;
        Ok(self.state(branch.id).pipeline().map(|pipeline| pipeline.status()))
    }

    /// Deletes a branch with its log; rows in it that are in no commit go with it.
    ///
    /// # Errors
    /// What the repository refuses; then the branch and its log stay.
    pub async fn delete_branch(&self, name: &str) -> Result<()> {
        let branch = self.branch(name).await?;
        let _alone = self.alone(&branch).await?;
        self.0.context.repository.delete_branch(name).await.map_err(below)?;
        if let Err(error) = self.0.context.publisher.unserve(branch.id).await {
            tracing::warn!(%error, branch = name, "what a deleted branch had online is freed at the next start");
        }
        let state = self.state(branch.id);
        let pipeline = state.pipeline.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pipeline) = pipeline {
            pipeline.close().await;
        }
        let (files, folder) = (Arc::clone(&self.0.files), self.log_folder(&branch));
        let removed = tokio::task::spawn_blocking(move || crate::wal::remove(files.as_ref(), &folder)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, branch = name, "the log of a deleted branch stays behind");
        }
        Ok(())
    }

    /// Gives a branch another name. Its log goes with it: what was acknowledged under the old name is committed under the new one. A push that is under
    /// way to the old name may be told that ingest is closing.
    ///
    /// # Errors
    /// What the repository refuses; then the branch keeps its name.
    pub async fn rename_branch(&self, name: &str, new: &str) -> Result<BranchInfo> {
        let (ingest, branch, new) = (self.clone(), self.branch(name).await?, new.to_owned());
        whole(async move { ingest.rename_alone(branch, &new).await }).await
    }

    async fn rename_alone(&self, branch: BranchName, new: &str) -> Result<BranchInfo> {
        let _alone = self.alone(&branch).await?;
        let state = self.state(branch.id);
        let _opening = state.opening.lock().await;
        let running = state.pipeline();
        // A worker commits to its branch by name, and the old name may soon be another's.
        let paused = match &running {
            Some(pipeline) => Some(pipeline.pause(duration(self.0.context.config.barrier_timeout)).await?),
            None => None,
        };
        let renamed = match self.0.context.repository.rename_branch(&branch.name, new).await {
            Ok(renamed) => {
                if let Some(line) = self.0.context.publisher.line(renamed.id) {
                    line.rename(&renamed.name);
                }
                renamed
            }
            Err(error) => {
                if let Some(paused) = paused {
                    paused.resume().await;
                }
                return Err(below(error));
            }
        };
        if let Some(old) = running {
            *state.pipeline.lock().unwrap_or_else(PoisonError::into_inner) = None;
            old.close().await;
            drop(paused);
            if let Err(error) = self.begin(&state, &BranchName { id: renamed.id, name: renamed.name.clone() }).await {
                tracing::warn!(%error, branch = renamed.name, "the pipeline of a renamed branch begins with its next push");
            }
        }
        Ok(renamed)
    }

    /// Commits what was acknowledged, if that is possible within the limit, and ends. What is not committed stays in the logs.
    pub async fn close(&self, limit: Duration) {
        let flush_all = async {
            for pipeline in self.pipelines() {
                let _ = pipeline.flush().await;
            }
        };
        // Without any time none is begun: asked for and not waited for, it might be made or not.
        if !limit.is_zero() && tokio::time::timeout(limit, flush_all).await.is_err() {
            tracing::warn!("not everything could be committed in time; it stays in the log");
        }
        self.0.cancel.cancel();
        for pipeline in self.pipelines() {
            pipeline.close().await;
        }
        let task = self.0.publishing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    pub(crate) async fn branch(&self, name: &str) -> Result<BranchName> {
        let branch = self.0.context.repository.branch(name).await.map_err(below)?;
        Ok(BranchName { id: branch.id, name: branch.name })
    }

    fn state(&self, branch: BranchId) -> Arc<BranchState> {
        Arc::clone(self.0.branches.lock().unwrap_or_else(PoisonError::into_inner).entry(branch).or_default())
    }

    fn pipelines(&self) -> Vec<Arc<Pipeline>> {
        let branches = self.0.branches.lock().unwrap_or_else(PoisonError::into_inner);
        branches.values().filter_map(|state| state.pipeline()).collect()
    }

    /// The running pipeline of a branch, if there is one.
    pub(crate) fn running(&self, branch: &BranchName) -> Option<Arc<Pipeline>> {
        self.state(branch.id).pipeline()
    }

    /// Keeps applies and merges away for as long as the guard lives.
    pub(crate) async fn shared(&self, branch: &BranchName) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.state(branch.id).lock).read_owned().await
    }

    /// Keeps loads, applies and merges away for as long as the guard lives.
    pub(crate) async fn alone(&self, branch: &BranchName) -> Result<OwnedRwLockWriteGuard<()>> {
        let limit = duration(self.0.context.config.barrier_timeout);
        let lock = Arc::clone(&self.state(branch.id).lock).write_owned();
        let alone = tokio::time::timeout(limit, lock).await.map_err(|_| Error::TimedOut {
            what: format!("the loads on branch {:?} did not end", branch.name),
            waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            advice: "try again when they have".to_owned(),
        })?;
        self.check_name(branch).await?;
        Ok(alone)
    }

    fn log_folder(&self, branch: &BranchName) -> PathBuf {
        self.0.folder.join(branch.id.to_string())
    }

    async fn has_log(&self, branch: &BranchName) -> Result<bool> {
        let (files, folder) = (Arc::clone(&self.0.files), self.log_folder(branch));
        let found = tokio::task::spawn_blocking(move || Wal::source_of(files.as_ref(), &folder)).await;
        Ok(found.map_err(|_| Error::Closing)??.is_some())
    }

    /// The pipeline of a branch, begun where it is not there.
    async fn pipeline(&self, branch: &BranchName) -> Result<Arc<Pipeline>> {
        let state = self.state(branch.id);
        if let Some(pipeline) = state.pipeline() {
            return Ok(pipeline);
        }
        if self.0.cancel.is_cancelled() {
            return Err(Error::Closing);
        }
        let _shared = self.shared(branch).await;
        let _opening = state.opening.lock().await;
        if let Some(pipeline) = state.pipeline() {
            return Ok(pipeline);
        }
        self.check_name(branch).await?;
        self.begin(&state, branch).await
    }

    /// Fails if the name is not the branch's any more, which may be so for who waited.
    async fn check_name(&self, branch: &BranchName) -> Result<()> {
        if self.branch(&branch.name).await?.id == branch.id {
            return Ok(());
        }
        Err(below(anabranch_versioning::Error::NoBranch(branch.name.clone())))
    }

    /// Begins the pipeline of a branch; nobody else does meanwhile.
    async fn begin(&self, state: &BranchState, branch: &BranchName) -> Result<Arc<Pipeline>> {
        let wal = self.open_log(branch).await?;
        let pipeline = match pipeline::begin(Arc::clone(&self.0.context), branch.clone(), wal.clone()).await {
            Ok(pipeline) => Arc::new(pipeline),
            Err(error) => {
                wal.close().await;
                return Err(error);
            }
        };
        self.0.context.publisher.follow(&pipeline);
        *state.pipeline.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&pipeline));
        Ok(pipeline)
    }

    async fn open_log(&self, branch: &BranchName) -> Result<Wal> {
        let (files, folder, clock) = (Arc::clone(&self.0.files), self.log_folder(branch), Arc::clone(&self.0.clock));
        let (look, at) = (Arc::clone(&files), folder.clone());
        let known = tokio::task::spawn_blocking(move || Wal::source_of(look.as_ref(), &at)).await.map_err(|_| Error::Closing)??;
        let source = match known {
            Some(source) => source,
            None => source::of_log(self.0.context.repository.metadata().as_ref(), branch.id, self.0.clock.as_ref()).await?,
        };
        let options = self.0.context.config.wal.clone();
        let opened = tokio::task::spawn_blocking(move || Wal::open(files, &folder, source, clock, options)).await;
        opened.map_err(|_| Error::Closing)?
    }
}

fn below(error: anabranch_versioning::Error) -> Error {
    Error::below("the repository", error)
}

/// Runs what moves a head and then has more to do to its end, also where its caller goes away meanwhile.
pub(crate) async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|_| Error::Closing)?
}

async fn count_rows(format: PayloadFormat, payload: Bytes) -> Result<u32> {
    if payload.len() <= INLINE_BYTES {
        return decode::count_rows(format, &payload);
    }
    tokio::task::spawn_blocking(move || decode::count_rows(format, &payload)).await.map_err(|_| Error::Closing)?
}

/// Looks after what is served: a task for each branch, and one for what is to be rebuilt and dropped.
async fn keep_published(ingest: Weak<Inner>, context: Arc<Context>, cancel: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut kept: Vec<Arc<Line>> = Vec::new();
    tasks.spawn(keep_working(Arc::clone(&context)));
    loop {
        for line in context.publisher.lines() {
            if !kept.iter().any(|known| Arc::ptr_eq(known, &line)) {
                kept.push(Arc::clone(&line));
                tasks.spawn(keep_line(Weak::clone(&ingest), Arc::clone(&context), line));
            }
        }
        kept.retain(|line| !line.is_ended());
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    tasks.shutdown().await;
}

/// Brings what is online of a branch up to the head once, and again whenever the store lost what it held; between, whoever moves the head does it.
async fn keep_line(ingest: Weak<Inner>, context: Arc<Context>, line: Arc<Line>) {
    loop {
        publish_until_done(&context, &line).await;
        let lost = async {
            while context.publisher.is_kept(&line).await.unwrap_or(true) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = lost => {}
            () = line.behind() => continue,
        }
        if line.is_ended() {
            return;
        }
        tracing::warn!(
            branch = line.name(),
            "the online store lost what it held: it is filled again from history, and answers for nothing until it is"
        );
        // What is in no commit is written again by its pipeline, which looks before it commits.
        if let Some(ingest) = ingest.upgrade().map(Ingest) {
            let _ = tokio::time::timeout(REPUBLISH, ingest.flush(&line.name())).await;
        }
    }
}

async fn publish_until_done(context: &Context, line: &Line) {
    let mut pause = Duration::from_millis(50);
    while let Err(error) = context.publisher.publish(line).await {
        if line.is_ended() {
            return;
        }
        tracing::warn!(%error, branch = line.name(), "the online store cannot be brought up to the head and answers for nothing until it is");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(duration(context.config.retry_every));
    }
}

/// Rebuilds what is to be rebuilt, and drops what is retired.
async fn keep_working(context: Arc<Context>) {
    let mut pause = Duration::from_millis(50);
    loop {
        let work = async {
            context.publisher.drop_retired().await?;
            context.publisher.rebuild_asked().await
        };
        match work.await {
            Ok(()) => {
                pause = Duration::from_millis(50);
                context.publisher.work().await;
            }
            Err(error) => {
                tracing::warn!(%error, "what is to be rebuilt or dropped online must wait");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(duration(context.config.retry_every));
            }
        }
    }
}
