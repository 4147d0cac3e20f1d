//! Resets: a head that is set to another commit, whatever lies between.
//!
//! What the branch consumed of its streams stays consumed, unless the caller rewinds: where the branch's own `offset` keys at the target differ from those
//! at the head, one commit upon the target carries them over, in the same move. The commits left behind stay in the reflog.
//!
//! Refused: a protected branch, and a head that is not where the caller expects it.

use super::draft::{Draft, Words};
use super::merge::{MoveJob, Moved};
use super::{Job, Repository, check_writes};
use crate::tree::{self, Edits};
use crate::{CommitId, Error, Key, KeyKind, Reset, ResetRequest, Result, Root, Scan};

/// A reset whose target is resolved.
#[derive(Debug)]
pub(super) struct ResetJob {
    request: ResetRequest,
    to: CommitId,
}

impl Repository {
    /// Sets a branch to a commit. Its own stream positions are carried over unless they are to be rewound.
    ///
    /// # Errors
    /// [`Error::Protected`]; [`Error::HeadMoved`] where the head is not the one expected; [`Error::Refused`] by the guard; otherwise as
    /// [`Repository::commit`] and [`Repository::resolve`]. After an error nothing has changed.
    pub async fn reset(&self, branch: &str, request: ResetRequest) -> Result<Reset> {
        check_writes(&request.metadata_writes)?;
        self.branch(branch).await?;
        let to = self.resolve(&request.to).await?.commit;
        self.check_kept(&to).await?;
        let job = ResetJob { request, to };
        match self.committers.ask(branch, |answer| Job::Move(Box::new(MoveJob::Reset(job)), answer)).await? {
            Moved::Reset(reset) => Ok(reset),
            _ => Err(Error::HeadMoved { branch: branch.to_owned() }),
        }
    }
}

impl Draft<'_> {
    pub(super) async fn reset(&mut self, job: &ResetJob) -> Result<Reset> {
        let (from, request) = (self.head, &job.request);
        if self.branch.protected {
            return Err(Error::Protected(self.branch.name.clone()));
        }
        if request.expected.is_some_and(|expected| expected != from) {
            return Err(Error::HeadMoved { branch: self.branch.name.clone() });
        }
        let target = super::history::CommitReader::commit(self, &job.to).await?;
        let edits = if request.rewind_offsets { Edits::new() } else { self.own_offsets(&target.root).await? };
        let applied = tree::apply(self, &target.root, edits).await?;
        let applied = self.ask_guard(request.guard.as_ref(), applied).await?;
        if job.to != from {
            let carries = applied.root != target.root;
            self.step(job.to, target, &request.author, "reset");
            if carries {
                let message = format!("carry the stream positions of {} over to {}", self.branch.name, job.to);
                let words = Words { author: &request.author, message, metadata: Default::default(), action: "reset" };
                self.record(applied, vec![job.to], words).await?;
            }
        }
        self.writes.extend(request.metadata_writes.iter().cloned());
        Ok(Reset { from, to: self.head })
    }

    /// What makes the branch's own stream positions at the target those of the head.
    async fn own_offsets(&self, target: &Root) -> Result<Edits> {
        let own = Key::prefix(KeyKind::Offset, &[&self.branch.id.0.to_be_bytes()])?;
        let (mut scan, mut edits) = (Scan::prefix(own), Edits::new());
        loop {
            let page = tree::diff(self, target, &self.commit.root, &scan).await?;
            edits.extend(page.items.into_iter().map(|difference| (difference.key.as_bytes().clone(), difference.right)));
            match page.next {
                Some(next) => scan.after = Some(next),
                None => return Ok(edits),
            }
        }
    }
}
