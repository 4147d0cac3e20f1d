//! Merges, and how a head is moved by anything but an ordinary commit.
//!
//! ```text
//!   outside the queue                                     inside the committer
//!   head H0 ─▶ merge base ─▶ three-way merge ─▶ job ─▶ on the head H1 there is then:
//!      ▲                    (edits, conflicts, reads)       H1 has all of the source            up to date
//!      │                                                    the source has all of H1            fast-forward
//!      │                                                    the base is another, or something
//!      └──────────────── prepare again ◀── outdated ◀────── that was read has moved             outdated; the last time it is prepared there
//!                                                           otherwise: conflicts, or a commit of the edits upon H1
//! ```
//!
//! What is expensive is done outside ([`three_way`]); inside, only what the head gained since is looked at: the commits, to find the merge base and to see
//! whether the source is in already ([`Common::advanced`]), and the keys that the merge rests on. So merges of unlike branches into one do not fail each
//! other and go out as one group, and of two merges of the same the second finds itself up to date. Only where the head keeps moving in keys that matter
//! is a merge prepared anew, [`OUTSIDE`] times outside and then inside the queue, where nobody can come between.
//!
//! A merge that changes nothing is a commit all the same, because its parents say that the source is in; a squash that changes nothing is refused.
//! Nothing here writes before the group is published: the committer's crash table holds for merges, reverts, cherry-picks and resets too.

mod three_way;

use std::sync::Arc;

use anabranch_core::BranchId;

pub(super) use three_way::{Resolvers, ThreeWay, Trees, moved, three_way};

use super::draft::{Draft, Words};
use super::history::ancestry::Common;
use super::replay::ReplayJob;
use super::reset::ResetJob;
use super::{Job, Repository, check_writes};
use crate::tree::{self, Applied};
use crate::{
    BranchInfo, CommitId, Committed, Difference, Error, MAX_PAGE, Merge, MergeRequest, Operation, Page, Preview, PreviewOutcome, RefSpec, Reset,
    Result, Root, Scan,
};

/// How often work is prepared outside the queue before it is prepared inside.
pub(super) const OUTSIDE: usize = 3;

/// A move of a head.
#[derive(Debug)]
pub(super) enum MoveJob {
    Merge(MergeJob),
    Replay(ReplayJob),
    Reset(ResetJob),
}

/// What a move came to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moved {
    Merge(Merge),
    Replay(Committed),
    Reset(Reset),
    /// What was prepared does not hold for the head any more.
    Outdated,
}

/// A merge, prepared against a head.
#[derive(Debug)]
pub(super) struct MergeJob {
    request: Arc<MergeRequest>,
    source: CommitId,
    source_name: String,
    head: CommitId,
    common: Common,
    /// Nothing where no three-way merge was needed.
    prepared: Option<ThreeWay>,
    resolvers: Arc<Resolvers>,
    /// Whether it is prepared again inside the queue where need be.
    last: bool,
}

impl Repository {
    /// Merges what another ref has into a branch.
    ///
    /// # Errors
    /// [`Error::Conflicts`] where both sides changed the same and nothing decides it; [`Error::Unrelated`] for histories that have nothing in common;
    /// [`Error::NothingChanged`] for a squash that would be empty; [`Error::Refused`] by the guard; otherwise as [`Repository::commit`] and
    /// [`Repository::resolve`]. Other writers alone never make it fail. After an error nothing has changed.
    pub async fn merge(&self, into: &str, request: MergeRequest) -> Result<Merge> {
        check_writes(&request.metadata_writes)?;
        let (mut branch, request) = (self.branch(into).await?, Arc::new(request));
        let (source, source_name) = self.named(&request.source).await?;
        for attempt in 0..=OUTSIDE {
            let common = Common::find(self.store.as_ref(), &branch.head, &source).await?;
            let prepared = self.three_way(&branch, &request, &source, &common).await?;
            let (request, source_name) = (request.clone(), source_name.clone());
            let (resolvers, last) = (self.resolvers.clone(), attempt == OUTSIDE);
            let job = MergeJob { request, source, source_name, head: branch.head, common, prepared, resolvers, last };
            match self.committers.ask(into, |answer| Job::Move(Box::new(MoveJob::Merge(job)), answer)).await? {
                Moved::Merge(merge) => return Ok(merge),
                _ => branch = self.branch(into).await?,
            }
        }
        Err(Error::HeadMoved { branch: into.to_owned() })
    }

    /// What a merge would do to the head that there is, without doing it; at most `limit` differences.
    ///
    /// # Errors
    /// As [`Repository::merge`], but for conflicts, which are in the answer; invalid for a limit of 0.
    pub async fn preview_merge(&self, into: &str, request: &MergeRequest, limit: usize) -> Result<Preview> {
        let branch = self.branch(into).await?;
        let (source, source_name) = self.named(&request.source).await?;
        let common = Common::find(self.store.as_ref(), &branch.head, &source).await?;
        let base = common.base.ok_or_else(|| Error::Unrelated { into: into.to_owned(), source_ref: source_name })?;
        let scan = Scan::all().limit(limit);
        let (merge, differences, conflicts, conflict_count) = match self.three_way(&branch, request, &source, &common).await? {
            Some(merged) => {
                let differences = self.edits_as_differences(&branch.head, &merged, limit).await?;
                (PreviewOutcome::ThreeWay, differences, merged.conflicts.listed, merged.conflicts.total)
            }
            None if base == source => (PreviewOutcome::UpToDate, self.diff(&branch.head, &branch.head, &scan).await?, Vec::new(), 0),
            None => (PreviewOutcome::FastForward, self.diff(&branch.head, &source, &scan).await?, Vec::new(), 0),
        };
        Ok(Preview { merge, base: Some(base), head: branch.head, source, differences, conflicts, conflict_count })
    }

    /// A ref's commit, and how messages call it.
    pub(super) async fn named(&self, spec: &RefSpec) -> Result<(CommitId, String)> {
        let resolved = self.resolve(spec).await?;
        self.check_kept(&resolved.commit).await?;
        let name = resolved.branch.map_or_else(|| spec.to_string(), |branch| format!("branch:{}", branch.name));
        Ok((resolved.commit, name))
    }

    /// The three-way merge, if that is what it takes.
    async fn three_way(&self, branch: &BranchInfo, request: &MergeRequest, source: &CommitId, common: &Common) -> Result<Option<ThreeWay>> {
        let Some(base) = common.base.filter(|base| base != source && (*base != branch.head || request.squash)) else { return Ok(None) };
        let (store, strategy) = (self.store.as_ref(), request.strategy);
        let (ours, theirs) = (store.commit(&branch.head).await?.root, store.commit(source).await?.root);
        let base_root = store.commit(&base).await?.root;
        let trees = Trees { reader: store, base: base_root, ours, theirs, into: branch.id };
        three_way(&trees, Operation::Merge, strategy, &self.resolvers).await.map(Some)
    }

    async fn edits_as_differences(&self, head: &CommitId, merged: &ThreeWay, limit: usize) -> Result<Page<Difference>> {
        if limit == 0 {
            return Err(Error::invalid("preview", "a limit of 0 shows nothing: ask for at least 1"));
        }
        let root = self.store.commit(head).await?.root;
        let mut page: Page<Difference> = Page { items: Vec::new(), next: None };
        for (key, right) in &merged.edits {
            let left = tree::get(self.store.as_ref(), &root, key).await?;
            if left == *right {
                continue;
            }
            if page.items.len() == limit.min(MAX_PAGE) {
                page.next = page.items.last().map(|last| last.key.clone());
                break;
            }
            page.items.push(Difference { key: crate::Key::decode(key.clone())?, left, right: right.clone() });
        }
        Ok(page)
    }
}

impl Draft<'_> {
    /// Moves the head as the job says, or not at all.
    pub(super) async fn move_head(&mut self, job: &MoveJob) -> Result<Moved> {
        match job {
            MoveJob::Merge(job) => self.merge(job).await,
            MoveJob::Replay(job) => self.replay(job).await,
            MoveJob::Reset(job) => self.reset(job).await.map(Moved::Reset),
        }
    }

    async fn merge(&mut self, job: &MergeJob) -> Result<Moved> {
        let (from, request) = (self.head, &job.request);
        let base = match job.common.advanced(&*self, &job.head, &from).await? {
            Some(base) => base,
            None if job.last => Common::find(&*self, &from, &job.source).await?.base,
            None => return Ok(Moved::Outdated),
        };
        let (into, source_ref) = (self.branch.name.clone(), job.source_name.clone());
        let Some(base) = base else { return Err(Error::Unrelated { into, source_ref }) };
        let done = if base == job.source {
            Merge::UpToDate { head: from }
        } else if base == from && !request.squash {
            let commit = super::history::CommitReader::commit(self, &job.source).await?;
            let applied = Applied { root: commit.root, nodes: Default::default() };
            self.ask_guard(request.guard.as_ref(), applied).await?;
            self.step(job.source, commit, &request.author, "merge");
            Merge::FastForward { from, to: job.source }
        } else {
            match self.merge_apart(job, base).await? {
                Some(merge) => merge,
                None => return Ok(Moved::Outdated),
            }
        };
        self.writes.extend(request.metadata_writes.iter().cloned());
        Ok(Moved::Merge(done))
    }

    /// `None` if what was prepared is outdated.
    async fn merge_apart(&mut self, job: &MergeJob, base: CommitId) -> Result<Option<Merge>> {
        let (from, request) = (self.head, &job.request);
        let roots = [self.root_of(&base).await?, self.root_of(&job.source).await?];
        let prepared = Preparation { merged: job.prepared.as_ref().filter(|_| job.common.base == Some(base)), head: job.head, last: job.last };
        let (resolvers, strategy) = (&job.resolvers, request.strategy);
        let Some(merged) = self.revalidated(prepared, Operation::Merge, strategy, resolvers, roots).await? else { return Ok(None) };
        let applied = self.apply_merged(&merged, &job.source_name).await?;
        if request.squash && applied.root == self.commit.root {
            return Err(Error::NothingChanged { branch: self.branch.name.clone() });
        }
        let applied = self.ask_guard(request.guard.as_ref(), applied).await?;
        let parents = if request.squash { vec![from] } else { vec![from, job.source] };
        let verb = if request.squash { "squash" } else { "merge" };
        let message = request.message.clone().unwrap_or_else(|| format!("{verb} {} into {}", job.source_name, self.branch.name));
        let words = Words { author: &request.author, message, metadata: request.metadata.clone(), action: "merge" };
        let made = self.record(applied, parents, words).await?;
        Ok(Some(Merge::Merged { from, to: made.commit, base }))
    }

    pub(super) async fn root_of(&self, commit: &CommitId) -> Result<Root> {
        Ok(super::history::CommitReader::commit(self, commit).await?.root)
    }

    /// What was prepared, if it holds for the head as it is; else it is prepared anew, or given up as outdated. `roots` are those of base and theirs.
    pub(super) async fn revalidated(
        &self,
        prepared: Preparation<'_>,
        operation: Operation,
        strategy: crate::Strategy,
        resolvers: &Resolvers,
        [base, theirs]: [Root; 2],
    ) -> Result<Option<ThreeWay>> {
        if let Some(merged) = prepared.merged {
            let then = self.root_of(&prepared.head).await?;
            if !moved(self, &then, &self.commit.root, &merged.reads).await? {
                return Ok(Some(merged.clone()));
            }
        }
        if !prepared.last {
            return Ok(None);
        }
        let into: BranchId = self.branch.id;
        let trees = Trees { reader: self, base, ours: self.commit.root, theirs, into };
        three_way(&trees, operation, strategy, resolvers).await.map(Some)
    }

    /// The head's content with what was merged, unless there are conflicts.
    pub(super) async fn apply_merged(&self, merged: &ThreeWay, source: &str) -> Result<Applied> {
        if merged.conflicts.total > 0 {
            let (into, source_ref) = (self.branch.name.clone(), source.into());
            let conflicts = merged.conflicts.listed.clone().into();
            return Err(Error::Conflicts { into, source_ref, conflicts, total: merged.conflicts.total });
        }
        tree::apply(self, &self.commit.root, merged.edits.clone()).await
    }
}

/// What was made ready outside the queue.
pub(super) struct Preparation<'a> {
    pub(super) merged: Option<&'a ThreeWay>,
    /// The head that it was made for.
    pub(super) head: CommitId,
    pub(super) last: bool,
}
