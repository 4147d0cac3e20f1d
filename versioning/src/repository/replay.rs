//! Reverts and cherry-picks: the change of one commit, taken back or made again, as a new commit upon the head.
//!
//! Both are three-way merges whose base is a commit that the head need not have ([`crate::Resolver`] says which); they are prepared, revalidated and
//! prepared again as merges are. The change of a commit is what it differs in from its parent; of a merge commit the caller says from which.
//!
//! Refused: a commit without a parent, a parent that the commit has not, and what would change nothing (the change is there already, or gone already).

use std::sync::Arc;

use super::draft::{Draft, Words};
use super::merge::{MoveJob, Moved, OUTSIDE, Preparation, Resolvers, ThreeWay, Trees, three_way};
use super::{CommitInfo, Job, Repository, check_writes};
use crate::{BranchInfo, CommitId, Committed, Error, Operation, ReplayRequest, Result, Root};

/// A replay, prepared against a head.
#[derive(Debug)]
pub(super) struct ReplayJob {
    request: Arc<ReplayRequest>,
    operation: Operation,
    commit: CommitId,
    message: String,
    /// Of base and theirs.
    roots: [Root; 2],
    head: CommitId,
    prepared: ThreeWay,
    resolvers: Arc<Resolvers>,
    last: bool,
}

impl Repository {
    /// Takes back what a commit did, by a new commit on a branch. Stream positions stay.
    ///
    /// # Errors
    /// [`Error::Conflicts`] where the head has changed the same since; [`Error::NothingChanged`] where there is nothing to take back; invalid for a commit
    /// without a parent, a merge commit where no parent is named, and a parent that it has not; otherwise as [`Repository::commit`] and
    /// [`Repository::resolve`]. After an error nothing has changed.
    pub async fn revert(&self, branch: &str, request: ReplayRequest) -> Result<Committed> {
        self.replay(branch, request, Operation::Revert).await
    }

    /// Makes the change of a commit again, by a new commit on a branch. Stream positions stay.
    ///
    /// # Errors
    /// As [`Repository::revert`].
    pub async fn cherry_pick(&self, branch: &str, request: ReplayRequest) -> Result<Committed> {
        self.replay(branch, request, Operation::CherryPick).await
    }

    async fn replay(&self, onto: &str, request: ReplayRequest, operation: Operation) -> Result<Committed> {
        check_writes(&request.metadata_writes)?;
        let mut branch = self.branch(onto).await?;
        let commit = self.commit_info(&self.resolve(&request.commit).await?.commit).await?;
        let above = parent(&commit, request.parent)?;
        self.check_kept(&commit.id).await?;
        self.check_kept(&above).await?;
        let parent = self.store.commit(&above).await?;
        let (message, request) = (request.message.clone().unwrap_or_else(|| message(operation, &commit)), Arc::new(request));
        let roots = match operation {
            Operation::Revert => [commit.commit.root, parent.root],
            Operation::CherryPick | Operation::Merge => [parent.root, commit.commit.root],
        };
        for attempt in 0..=OUTSIDE {
            let prepared = self.prepare_replay(&branch, &request, operation, roots).await?;
            let (request, message, last) = (request.clone(), message.clone(), attempt == OUTSIDE);
            let (head, resolvers) = (branch.head, self.resolvers.clone());
            let job = ReplayJob { request, operation, commit: commit.id, message, roots, head, prepared, resolvers, last };
            match self.committers.ask(onto, |answer| Job::Move(Box::new(MoveJob::Replay(job)), answer)).await? {
                Moved::Replay(committed) => return Ok(committed),
                _ => branch = self.branch(onto).await?,
            }
        }
        Err(Error::HeadMoved { branch: onto.to_owned() })
    }

    async fn prepare_replay(
        &self,
        branch: &BranchInfo,
        request: &ReplayRequest,
        operation: Operation,
        [base, theirs]: [Root; 2],
    ) -> Result<ThreeWay> {
        let ours = self.store.commit(&branch.head).await?.root;
        let trees = Trees { reader: self.store.as_ref(), base, ours, theirs, into: branch.id };
        three_way(&trees, operation, request.strategy, &self.resolvers).await
    }
}

impl Draft<'_> {
    pub(super) async fn replay(&mut self, job: &ReplayJob) -> Result<Moved> {
        let (request, verb) = (&job.request, verb(job.operation));
        let prepared = Preparation { merged: Some(&job.prepared), head: job.head, last: job.last };
        let revalidated = self.revalidated(prepared, job.operation, request.strategy, &job.resolvers, job.roots).await?;
        let Some(merged) = revalidated else { return Ok(Moved::Outdated) };
        let applied = self.apply_merged(&merged, &format!("the {verb} of {}", job.commit)).await?;
        if applied.root == self.commit.root {
            return Err(Error::NothingChanged { branch: self.branch.name.clone() });
        }
        let applied = self.ask_guard(request.guard.as_ref(), applied).await?;
        let words = Words { author: &request.author, message: job.message.clone(), metadata: Default::default(), action: verb };
        let committed = self.record(applied, vec![self.head], words).await?;
        self.writes.extend(request.metadata_writes.iter().cloned());
        Ok(Moved::Replay(committed))
    }
}

fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Merge => "merge",
        Operation::Revert => "revert",
        Operation::CherryPick => "cherry-pick",
    }
}

/// The parent against which a commit's change is taken.
fn parent(commit: &CommitInfo, wanted: Option<u32>) -> Result<CommitId> {
    let (id, parents) = (commit.id, &commit.commit.parents);
    match (wanted, &parents[..]) {
        (_, []) => Err(Error::invalid("commit", format!("{id} is the first of its history and has no parent to compare it with"))),
        (None, [only]) => Ok(*only),
        (None, several) => Err(Error::invalid("parent", format!("{id} has {} parents: say which one, from 1", several.len()))),
        (Some(number), _) => {
            let found = (number as usize).checked_sub(1).and_then(|index| parents.get(index).copied());
            found.ok_or_else(|| Error::invalid("parent", format!("{id} has no parent {number}: it has {}, counted from 1", parents.len())))
        }
    }
}

/// What the new commit says where the caller says nothing.
fn message(operation: Operation, commit: &CommitInfo) -> String {
    let (id, said) = (commit.id, &commit.commit.message);
    match operation {
        Operation::Revert => format!("revert {:?}\n\nThis takes back commit {id}.", said.lines().next().unwrap_or_default()),
        Operation::CherryPick | Operation::Merge => format!("{said}\n\nThis was commit {id}."),
    }
}
