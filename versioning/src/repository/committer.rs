//! The committer of a branch: one task that takes waiting requests, replays them on the head and publishes them as one group.
//!
//! For each group:
//!
//! 1. read the head;
//! 2. replay the requests on it, one after the other ([`super::draft`]); one that fails does not fail the others;
//! 3. PUT one pack with all new nodes and commits, durably;
//! 4. one metadata transaction: the head from old to new by compare-and-set, a reflog entry for each commit, the pack's index, the metadata writes;
//! 5. answer.
//!
//! With several servers a committer commits only while it holds the branch's lease ([`super::lease`]), and step 4 is refused under an old token.
//!
//! If the head was not where step 1 saw it, or the lease was lost, the group starts again, at most [`MAX_ATTEMPTS`] times. Requests that arrive meanwhile wait and
//! form the next group, so that groups grow with the load.
//!
//! What a crash or a failure leaves, and the test in `tests.rs` that shows it:
//!
//! | after | left behind | head | tested by |
//! | -- | -- | -- | -- |
//! | 1, 2 | nothing | old | `a_refused_request_changes_nothing` |
//! | within 3 | a staged file, or a pack that nothing names | old | `power_lost_at_any_step_leaves_the_old_or_the_new_head_as_a_whole` |
//! | 3 | a pack that nothing names: garbage | old | `a_failure_before_the_transaction_leaves_the_old_head` |
//! | within 4 | as after 3: the transaction is rolled back | old | as above |
//! | 4 | nothing: the commit is made, though nobody was told | new | `a_commit_whose_answer_was_lost_is_found_made` |
//!
//! If the answer to step 4 is lost, the reflog is read: a commit that stands in it is acknowledged. If that fails too, the error says that the outcome is not
//! known. A caller that gives up waiting may find its commit made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::{BranchId, Clock};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::draft::{Draft, Finished};
use super::lease::{LINGER, LeaseOptions, Turns};
use super::merge::{MoveJob, Moved};
use crate::store::Store;
use crate::{CommitId, CommitRequest, Committed, Error, Publication, Result};

const MAX_ATTEMPTS: usize = 16;
const QUEUE: usize = 1024;
/// How far back a commit whose answer was lost is looked for.
const REFLOG_LOOK: usize = 1024;

/// A request and where its answer goes.
pub(super) enum Job {
    Commit(Box<CommitRequest>, oneshot::Sender<Result<Committed>>),
    Move(Box<MoveJob>, oneshot::Sender<Result<Moved>>),
}

impl Job {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Commit(_, answer) => answer.is_closed(),
            Self::Move(_, answer) => answer.is_closed(),
        }
    }

    fn answer(self, outcome: Result<Outcome>) {
        // A caller that gave up has no use for the answer.
        match (self, outcome) {
            (Self::Commit(_, answer), Ok(Outcome::Committed(committed))) => drop(answer.send(Ok(committed))),
            (Self::Move(_, answer), Ok(Outcome::Moved(moved))) => drop(answer.send(Ok(moved))),
            (Self::Commit(_, answer), Err(error)) => drop(answer.send(Err(error))),
            (Self::Move(_, answer), Err(error)) => drop(answer.send(Err(error))),
            (Self::Commit(..), Ok(Outcome::Moved(_))) | (Self::Move(..), Ok(Outcome::Committed(_))) => {}
        }
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Committed(Committed),
    Moved(Moved),
}

/// The committers of all branches that were written to.
#[derive(Debug)]
pub(super) struct Committers {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    group_limit: usize,
    lease: Option<LeaseOptions>,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    closed: bool,
    branches: HashMap<String, (mpsc::Sender<Job>, JoinHandle<()>)>,
}

impl Committers {
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>, group_limit: usize, lease: Option<LeaseOptions>) -> Self {
        Self { store, clock, group_limit: group_limit.max(1), lease, running: Mutex::default() }
    }

    /// Queues a job with the branch's committer, starting it if need be, and waits for the answer.
    pub(super) async fn ask<T>(&self, branch: &str, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let lost = |error: oneshot::error::RecvError| Error::backend(format!("the committer of {branch:?}"), error);
        self.queue(branch)?.send(job(answer)).await.map_err(|_| Error::Closing)?;
        wait.await.map_err(lost)?
    }

    /// Ends the committer of a branch that is gone, after what it has queued.
    pub(super) fn forget(&self, branch: &str) {
        self.running().branches.remove(branch);
    }

    /// Takes no more jobs and waits for those under way.
    pub(super) async fn close(&self) {
        let branches = {
            let mut running = self.running();
            running.closed = true;
            std::mem::take(&mut running.branches)
        };
        for (queue, task) in branches.into_values() {
            drop(queue);
            if let Err(error) = task.await {
                tracing::error!(%error, "committer failed");
            }
        }
    }

    fn queue(&self, branch: &str) -> Result<mpsc::Sender<Job>> {
        let mut running = self.running();
        if running.closed {
            return Err(Error::Closing);
        }
        if let Some((queue, _)) = running.branches.get(branch).filter(|(queue, _)| !queue.is_closed()) {
            return Ok(queue.clone());
        }
        let (queue, jobs) = mpsc::channel(QUEUE);
        let turns = self.lease.clone().map(|options| Turns::new(self.store.metadata.clone(), options));
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let committer = Committer { branch: branch.to_owned(), store, clock, group_limit: self.group_limit, turns };
        running.branches.insert(branch.to_owned(), (queue.clone(), tokio::spawn(committer.run(jobs))));
        Ok(queue)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every committer where it stands, as a kill would.
    #[cfg(test)]
    pub(super) fn kill(&self) {
        self.running().branches.drain().for_each(|(_, (_, task))| task.abort());
    }
}

struct Committer {
    branch: String,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    group_limit: usize,
    turns: Option<Turns>,
}

impl Committer {
    /// Ends when nobody can queue any more and the queue is empty.
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group = Vec::new();
        while self.receive(&mut jobs, &mut group).await {
            let turn = self.take_turn().await;
            // Taking turns may have lasted: what came meanwhile goes along.
            while group.len() < self.group_limit
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            group.retain(|job| !job.is_abandoned());
            let outcomes = match turn {
                Ok(()) => self.commit_group(&mut group).await,
                Err(error) => failures(&error, group.len()),
            };
            for (job, outcome) in group.drain(..).zip(outcomes) {
                job.answer(outcome);
            }
            if let Some(turns) = &mut self.turns {
                turns.pass_on().await;
            }
        }
        if let Some(turns) = &mut self.turns {
            turns.release().await;
        }
    }

    /// Waits for jobs; answers `false` when there will be none.
    async fn receive(&mut self, jobs: &mut mpsc::Receiver<Job>, group: &mut Vec<Job>) -> bool {
        if let Some(turns) = self.turns.as_mut().filter(|turns| turns.is_holding()) {
            match tokio::time::timeout(LINGER, jobs.recv_many(group, self.group_limit)).await {
                Ok(received) => return received > 0,
                Err(_) => turns.release().await,
            }
        }
        jobs.recv_many(group, self.group_limit).await > 0
    }

    /// Waits for the lease, where there is one.
    async fn take_turn(&mut self) -> Result<()> {
        match &mut self.turns {
            Some(turns) => {
                let branch = self.store.metadata.branch(&self.branch).await?.ok_or_else(|| Error::NoBranch(self.branch.clone()))?;
                turns.take(branch.id).await
            }
            None => Ok(()),
        }
    }

    /// One outcome for each job.
    async fn commit_group(&mut self, group: &mut [Job]) -> Vec<Result<Outcome>> {
        for attempt in 1..=MAX_ATTEMPTS {
            match self.attempt(group).await {
                Ok(Some(outcomes)) => return outcomes,
                Ok(None) => tracing::debug!(branch = self.branch, attempt, "head moved under the committer"),
                Err(error) => return failures(&error, group.len()),
            }
            let looked = match &mut self.turns {
                Some(turns) => turns.look().await,
                None => Ok(()),
            };
            let turn = match looked {
                Ok(()) => self.take_turn().await,
                failed => failed,
            };
            if let Err(error) = turn {
                return failures(&error, group.len());
            }
        }
        failures(&Error::HeadMoved { branch: self.branch.clone() }, group.len())
    }

    /// `None` if the head moved meanwhile.
    async fn attempt(&self, group: &mut [Job]) -> Result<Option<Vec<Result<Outcome>>>> {
        let branch = self.store.metadata.branch(&self.branch).await?.ok_or_else(|| Error::NoBranch(self.branch.clone()))?;
        let mut draft = Draft::new(&self.store, self.clock.as_ref(), &branch).await?;
        let mut outcomes = Vec::with_capacity(group.len());
        // Jobs before the first that left something were judged by the head alone.
        let mut judged_by_head = 0;
        for job in group.iter_mut() {
            if draft.is_empty() {
                judged_by_head = outcomes.len() + 1;
            }
            outcomes.push(match job {
                Job::Commit(request, _) => draft.commit(request).await.map(Outcome::Committed),
                Job::Move(job, _) => draft.move_head(job).await.map(Outcome::Moved),
            });
        }
        if draft.is_empty() {
            return Ok(Some(outcomes));
        }
        match self.publish(draft.finish()).await {
            Ok(true) => Ok(Some(outcomes)),
            Ok(false) => Ok(None),
            Err(error) => {
                // What failed by the head alone stays so; a conflict with a commit that was not made is none.
                let told = |(index, outcome): (usize, Result<Outcome>)| match outcome {
                    Err(own) if index < judged_by_head => Err(own),
                    _ => Err(error.clone()),
                };
                Ok(Some(outcomes.into_iter().enumerate().map(told).collect()))
            }
        }
    }

    async fn publish(&self, finished: Finished) -> Result<bool> {
        let Finished { fresh, mut head, writes } = finished;
        // Postgres keeps no NUL in a text, and one author's must not fail the group; the commit has it as given.
        head.steps.iter_mut().for_each(|step| step.author.retain(|c| c != '\0'));
        let pack = self.store.write_pack(&fresh).await?;
        let (commits, bytes) = (head.steps.len(), pack.as_ref().map_or(0, |pack| pack.bytes));
        let last = head.steps.last().map(|step| step.commit);
        let fence = self.turns.as_ref().and_then(Turns::fence);
        let (id, publication) = (head.branch, Publication { pack, head: Some(head), writes, fence });
        let moved = match self.store.metadata.publish(&publication).await {
            Ok(moved) => moved,
            Err(error) => match last {
                Some(last) if self.was_made(id, last).await? => true,
                _ => return Err(error),
            },
        };
        if moved {
            tracing::debug!(branch = self.branch, commits, bytes, "group published");
            self.store.remember(fresh);
        }
        Ok(moved)
    }

    /// Whether a commit whose answer was lost stands in the reflog.
    async fn was_made(&self, branch: BranchId, commit: CommitId) -> Result<bool> {
        let unknown = |error: Error| Error::OutcomeUnknown { branch: self.branch.clone(), commit, source: Arc::new(error) };
        let log = self.store.metadata.reflog(branch, None, REFLOG_LOOK).await.map_err(unknown)?;
        Ok(log.iter().any(|entry| entry.new == commit))
    }
}

/// The same answer for every job.
fn failures(error: &Error, count: usize) -> Vec<Result<Outcome>> {
    (0..count).map(|_| Err(error.clone())).collect()
}
