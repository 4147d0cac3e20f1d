//! Changing definitions and moving branches: what must bring the pipeline to rest first.

use anabranch_ingest::Error as IngestError;
use anabranch_versioning::{CommitId, Merge, MergeRequest, RefSpec};

use super::definitions::{Planned, Proposal};
use super::{DEFAULT_BRANCH, Scope};
use crate::error::{Error, Result};

/// Definitions to be applied.
#[derive(Debug, Default)]
pub(crate) struct ApplyRequest {
    pub(crate) proposal: Proposal,
    pub(crate) allow_breaking: bool,
    pub(crate) author: String,
    pub(crate) message: String,
}

/// What an apply did.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The new commit, or the head where nothing changed.
    pub(crate) commit: CommitId,
    pub(crate) planned: Planned,
}

/// What a merge did.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) commit: CommitId,
    pub(crate) outcome: &'static str,
}

impl Scope {
    /// Applies definitions on the scope's branch: they, their tables and what judges further rows change in one commit.
    pub(crate) async fn apply(&self, request: ApplyRequest) -> Result<Applied> {
        let branch = self.branch().await?;
        let (parsed, options) = request.proposal.parse()?;
        let applied = self
            .repo
            .ingest
            .apply(
                &branch.name,
                anabranch_registry::ApplyRequest {
                    definitions: parsed.definitions,
                    options,
                    allow_breaking: request.allow_breaking,
                    author: Self::author(&request.author),
                    message: request.message,
                },
            )
            .await;
        let applied = applied.map_err(|error| match error {
            IngestError::Registry(error) => Error::from(parsed.places.locate((*error).clone())),
            other => Error::from(other),
        })?;
        let planned = |commit| Planned { commit, plan: applied.plan.clone() };
        Ok(match applied.committed {
            Some(committed) => Applied { commit: committed.commit, planned: planned(committed.previous) },
            None => {
                let head = self.resolve().await?.commit;
                Applied { commit: head, planned: planned(head) }
            }
        })
    }

    /// Moves the scope's branch forward to what `source` has.
    pub(crate) async fn merge(&self, source: &str, author: &str) -> Result<Merged> {
        if source.is_empty() {
            return Err(Error::argument("source", "it is empty: name the branch, tag or commit to be merged"));
        }
        let branch = self.branch().await?;
        let source = source.parse::<RefSpec>()?;
        let request = MergeRequest::new(source, Self::author(author));
        Ok(match self.repo.ingest.merge(&branch.name, request).await? {
            Merge::UpToDate { head } => Merged { commit: head, outcome: "up_to_date" },
            Merge::FastForward { to, .. } => Merged { commit: to, outcome: "fast_forward" },
            Merge::Merged { to, .. } => Merged { commit: to, outcome: "merged" },
        })
    }

    /// Deletes a branch, its log with it.
    pub(crate) async fn delete_branch(&self, name: &str) -> Result<()> {
        if name == DEFAULT_BRANCH {
            return Err(Error::Precondition(format!("branch {name:?} is the one that is served and cannot be deleted")));
        }
        Ok(self.repo.ingest.delete_branch(name).await?)
    }
}
