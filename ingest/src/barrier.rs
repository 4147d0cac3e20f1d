//! Barriers: applies, and moves of a head (merge, revert, cherry-pick, reset), which change what judges rows.
//!
//! ```text
//! keep loads away ─▶ pause the pipeline ─▶ one commit, or one head move ─▶ publish ─▶ resume
//!                    (all that is published is committed)
//! ```
//!
//! An apply puts definitions, tables and the offset's new digest into one commit, expecting the old offset: rows before it were judged by the old
//! definitions, rows from it on are judged by the new ones, and a crash finds either all or nothing of it.
//!
//! A merge is a head move, which carries no changes of its own. It brings the source's definitions and leaves the destination's offset as it was; so
//! a mark is set in the very transaction that moves the head, and whoever begins or resumes the pipeline moves the offset to the head's definitions
//! and takes the mark away, in one commit, before it judges a row. Reverts, cherry-picks and resets go the same way. On a served branch whatever is committed
//! is published before the move, so that the generations answer for all that they hold, and again before it is acknowledged: rows that it took away are
//! gone then, because another generation answers (see [`crate::publication`]).

use anabranch_core::definition::Definitions;
use anabranch_offline_store::entry::table_key;
use anabranch_offline_store::{Namespace, TableName, TableShape};
use anabranch_registry::{Applied, ApplyRequest, Plan, Prepared};
use anabranch_versioning::{
    Change, CommitId, CommitRequest, Committed, Merge, MergeRequest, MetadataWrite, Read, ReplayRequest, Reset, ResetRequest,
};

use crate::config::duration;
use crate::crash::CrashPoint;
use crate::engine::{Ingest, whole};
use crate::judge::Judges;
use crate::offset::{Offset, OffsetKey};
use crate::pipeline::{BranchName, PUSH_PIPELINE, Paused, Pipeline, rejudge, settle_marker};
use crate::{Error, Result};

impl Ingest {
    /// Applies definitions on a branch: definitions, tables and what judges further rows change in one commit.
    ///
    /// # Errors
    /// [`Error::Registry`] for definitions that are refused, or that another apply moved meanwhile; of kind failed precondition where a table's rows
    /// cannot follow. After an error nothing has changed.
    pub async fn apply(&self, branch: &str, request: ApplyRequest) -> Result<Applied> {
        let (ingest, branch) = (self.clone(), self.branch(branch).await?);
        whole(async move { ingest.apply_alone(branch, request).await }).await
    }

    async fn apply_alone(&self, branch: BranchName, request: ApplyRequest) -> Result<Applied> {
        let _alone = self.alone(&branch).await?;
        let paused = self.pause(&branch).await?;
        let applied = self.apply_paused(&branch, request, paused.as_ref()).await;
        self.0.context.crash.reach(CrashPoint::Applied);
        let published = self.end_barrier(&branch, paused, matches!(&applied, Ok(applied) if applied.committed.is_some())).await;
        applied.and_then(|applied| published.map(|()| applied))
    }

    /// Merges another ref into a branch, and into the online store with it.
    ///
    /// # Errors
    /// As [`anabranch_versioning::Repository::merge`].
    pub async fn merge(&self, into: &str, request: MergeRequest) -> Result<Merge> {
        let (ingest, branch) = (self.clone(), self.branch(into).await?);
        whole(async move {
            let name = branch.name.clone();
            let moved = |merge: &Merge| !matches!(merge, Merge::UpToDate { .. });
            let work = async |ingest: &Self, also: Vec<MetadataWrite>| {
                let request = MergeRequest { metadata_writes: [request.metadata_writes.clone(), also].concat(), ..request.clone() };
                ingest.0.context.repository.merge(&name, request).await.map_err(|error| Error::below("merging", error))
            };
            ingest.move_alone(branch, work, moved).await
        })
        .await
    }

    /// Takes back what a commit did on a branch.
    ///
    /// # Errors
    /// As [`anabranch_versioning::Repository::revert`].
    pub async fn revert(&self, branch: &str, request: ReplayRequest) -> Result<Committed> {
        self.replay(branch, request, true).await
    }

    /// Makes the change of a commit again on a branch.
    ///
    /// # Errors
    /// As [`anabranch_versioning::Repository::cherry_pick`].
    pub async fn cherry_pick(&self, branch: &str, request: ReplayRequest) -> Result<Committed> {
        self.replay(branch, request, false).await
    }

    async fn replay(&self, branch: &str, request: ReplayRequest, back: bool) -> Result<Committed> {
        let (ingest, branch) = (self.clone(), self.branch(branch).await?);
        whole(async move {
            let name = branch.name.clone();
            let work = async |ingest: &Self, also: Vec<MetadataWrite>| {
                let request = ReplayRequest { metadata_writes: [request.metadata_writes.clone(), also].concat(), ..request.clone() };
                let repository = &ingest.0.context.repository;
                match back {
                    true => repository.revert(&name, request).await.map_err(|error| Error::below("reverting", error)),
                    false => repository.cherry_pick(&name, request).await.map_err(|error| Error::below("cherry-picking", error)),
                }
            };
            ingest.move_alone(branch, work, |_| true).await
        })
        .await
    }

    /// Sets a branch to a commit. With [`ResetRequest::rewind_offsets`] the rows pushed since are judged and committed again.
    ///
    /// # Errors
    /// As [`anabranch_versioning::Repository::reset`]; of kind failed precondition where the log does not hold any more what would be
    /// consumed again.
    pub async fn reset(&self, branch: &str, request: ResetRequest) -> Result<Reset> {
        let (ingest, branch) = (self.clone(), self.branch(branch).await?);
        whole(async move {
            let (name, state) = (branch.name.clone(), branch.clone());
            let work = async |ingest: &Self, also: Vec<MetadataWrite>| {
                let request = ResetRequest { metadata_writes: [request.metadata_writes.clone(), also].concat(), ..request };
                if let (true, Some(pipeline)) = (request.rewind_offsets, ingest.running(&state)) {
                    ingest.check_rewind(&state, &pipeline, &request).await?;
                }
                ingest.0.context.repository.reset(&name, request).await.map_err(|error| Error::below("resetting", error))
            };
            ingest.move_alone(branch, work, |reset: &Reset| reset.from != reset.to).await
        })
        .await
    }

    /// Refuses to rewind to where the log does not begin any more.
    async fn check_rewind(&self, branch: &BranchName, pipeline: &Pipeline, request: &ResetRequest) -> Result<()> {
        let below = |error| Error::below("resetting", error);
        let repository = &self.0.context.repository;
        let to = repository.resolve(&request.to).await.map_err(below)?.commit;
        let key = OffsetKey { branch: branch.id, pipeline: PUSH_PIPELINE.to_owned(), source: pipeline.wal.source() };
        let bytes = repository.get(&to, &key.to_key()?).await.map_err(below)?;
        let next = bytes.map(|bytes| Offset::from_bytes(&bytes)).transpose()?.map_or(0, |offset| offset.next);
        match pipeline.wal.first() {
            first if first > next => Err(Error::Rewind { branch: branch.name.clone(), next, first }),
            _ => Ok(()),
        }
    }

    /// Moves a head with its pipeline at rest: `work` is told what belongs into the move.
    async fn move_alone<T>(
        &self,
        branch: BranchName,
        work: impl AsyncFnOnce(&Self, Vec<MetadataWrite>) -> Result<T>,
        moved: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let _alone = self.alone(&branch).await?;
        // First with the pipeline running, which a fill under way may wait for.
        self.publish_branch(branch.id).await?;
        let paused = self.pause(&branch).await?;
        let done = match self.publish_branch(branch.id).await {
            Ok(()) => work(self, paused.iter().map(|_| settle_marker(branch.id)).collect()).await,
            Err(error) => Err(error),
        };
        self.0.context.crash.reach(CrashPoint::Merged);
        let published = self.end_barrier(&branch, paused, done.as_ref().is_ok_and(moved)).await;
        done.and_then(|done| published.map(|()| done))
    }

    async fn pause(&self, branch: &BranchName) -> Result<Option<Paused>> {
        match self.running(branch) {
            Some(pipeline) => pipeline.pause(duration(self.0.context.config.barrier_timeout)).await.map(Some),
            None => Ok(None),
        }
    }

    async fn end_barrier(&self, branch: &BranchName, paused: Option<Paused>, moved: bool) -> Result<()> {
        if let Some(paused) = paused {
            paused.resume().await;
        }
        if moved { self.publish_branch(branch.id).await } else { Ok(()) }
    }

    async fn apply_paused(&self, branch: &BranchName, request: ApplyRequest, paused: Option<&Paused>) -> Result<Applied> {
        let repository = &self.0.context.repository;
        let below = |error| Error::below("applying definitions", error);
        let head = repository.branch(&branch.name).await.map_err(below)?.head;
        let before = anabranch_registry::load(repository, &head).await?;
        let plan = anabranch_registry::plan(&before, request.definitions, &request.options)?;
        if plan.is_empty() {
            return Ok(Applied { plan, committed: None });
        }
        let Prepared { mut changes, mut reads } = anabranch_registry::apply_changes(&plan, request.allow_breaking)?;
        // What does not compile here would stop the pipeline there.
        Judges::compile(&plan.after)?;
        changes.extend(self.table_changes(&head, &before, &plan, &mut reads).await?);
        let digest = Judges::store(repository, &plan.after).await?;
        if let Some(paused) = paused.filter(|paused| paused.offset().digest != digest) {
            changes.push(rejudge(branch.id, paused.source, paused.offset(), digest)?);
        }
        let message = if request.message.is_empty() { plan.message() } else { request.message };
        let commit = CommitRequest { base: Some(head), reads, ..CommitRequest::new(request.author, message, changes) };
        let committed = repository.commit(&branch.name, commit).await.map_err(|error| anabranch_registry::Error::from_commit(error, &branch.name))?;
        Ok(Applied { plan, committed: Some(committed) })
    }

    /// The changes that make the tables what the views are.
    async fn table_changes(&self, head: &CommitId, before: &Definitions, plan: &Plan, reads: &mut Vec<Read>) -> Result<Vec<Change>> {
        let offline = &self.0.context.offline;
        let below = |error| Error::below("changing tables", error);
        let mut changes = Vec::new();
        for view in plan.after.views() {
            let (name, layout) = (TableName::features(&view.name), plan.after.layout(&view.name)?);
            let shape = TableShape::from(&*layout);
            changes.extend(match offline.find_table(head, &name).await.map_err(below)? {
                None => offline.create_table(&name, &shape).await.map_err(below)?,
                Some(_) => offline.evolve_table(head, &name, &shape).await.map_err(below)?,
            });
        }
        for view in before.views().filter(|view| plan.after.view(&view.name).is_none()) {
            let name = TableName::features(&view.name);
            if offline.find_table(head, &name).await.map_err(below)?.is_some() {
                changes.extend(offline.drop_table(head, &name).await.map_err(below)?);
                // Its snapshots were listed at the head: an append meanwhile would leave one behind.
                reads.push(Read::Key(table_key(Namespace::Features.name(), &view.name).map_err(below)?));
            }
        }
        Ok(changes)
    }
}
