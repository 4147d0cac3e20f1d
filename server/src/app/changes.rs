//! Changing definitions, which brings the pipeline to rest first.

use anabranch_ingest::Error as IngestError;
use anabranch_versioning::CommitId;

use super::Scope;
use super::definitions::{Planned, Proposal};
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
}
