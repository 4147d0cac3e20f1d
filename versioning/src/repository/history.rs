//! Walking history: looking refs up, logs ([`log`]), ancestry ([`ancestry`]).

pub(crate) mod ancestry;
mod log;

use std::sync::Arc;

use async_trait::async_trait;

pub use log::{LogCursor, LogPage, LogQuery};

use super::{CommitInfo, Repository, Resolved};
use crate::refs::is_hash_prefix;
use crate::store::Store;
use crate::{BranchInfo, Commit, CommitId, Error, RefBase, RefSpec, RefStep, Result};

/// Gives commits by their id.
#[async_trait]
pub(crate) trait CommitReader: Send + Sync {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>>;
}

#[async_trait]
impl CommitReader for Store {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>> {
        Store::commit(self, id).await
    }
}

impl Repository {
    /// Looks a ref up: a bare name is a branch, else a tag, else a commit.
    ///
    /// # Errors
    /// Not found if it names nothing, [`Error::Ambiguous`] if it begins more than one commit's hash.
    pub async fn resolve(&self, spec: &RefSpec) -> Result<Resolved> {
        let (mut commit, branch) = self.resolve_base(spec).await?;
        let missing = || Error::NoRef(spec.to_string());
        for step in &spec.steps {
            commit = match step {
                RefStep::At(time) => {
                    let branch = branch.as_ref().ok_or_else(missing)?;
                    self.store.metadata.head_at(branch.id, *time).await?.ok_or_else(missing)?
                }
                RefStep::Ancestor(count) => self.ancestor(commit, *count).await?.ok_or_else(missing)?,
                RefStep::Parent(0) => commit,
                RefStep::Parent(number) => {
                    let parents = self.store.commit(&commit).await?.parents.clone();
                    usize::try_from(*number).ok().and_then(|number| parents.get(number - 1).copied()).ok_or_else(missing)?
                }
            };
        }
        Ok(Resolved { commit, branch: branch.filter(|_| spec.steps.is_empty()) })
    }

    async fn resolve_base(&self, spec: &RefSpec) -> Result<(CommitId, Option<BranchInfo>)> {
        let metadata = &self.store.metadata;
        match &spec.base {
            RefBase::Branch(name) => {
                let branch = metadata.branch(name).await?.ok_or_else(|| Error::NoBranch(name.clone()))?;
                Ok((branch.head, Some(branch)))
            }
            RefBase::Tag(name) => Ok((metadata.tag(name).await?.ok_or_else(|| Error::NoTag(name.clone()))?.commit, None)),
            RefBase::Commit(hex) => Ok((self.expand(hex).await?.ok_or_else(|| Error::NoRef(spec.to_string()))?, None)),
            RefBase::Bare(name) => {
                if let Some(branch) = metadata.branch(name).await? {
                    return Ok((branch.head, Some(branch)));
                }
                if let Some(tag) = metadata.tag(name).await? {
                    return Ok((tag.commit, None));
                }
                let hex = name.to_ascii_lowercase();
                let commit = if is_hash_prefix(&hex) { self.expand(&hex).await? } else { None };
                Ok((commit.ok_or_else(|| Error::NoRef(name.clone()))?, None))
            }
        }
    }

    /// The one commit whose hash begins with these hex digits.
    async fn expand(&self, hex: &str) -> Result<Option<CommitId>> {
        let bound = |fill: char| format!("{hex}{}", fill.to_string().repeat(64 - hex.len())).parse::<CommitId>();
        let found = self.store.metadata.commits_between(&bound('0')?, &bound('f')?, 2).await?;
        match found[..] {
            [] => Ok(None),
            [commit] => Ok(Some(commit)),
            _ => Err(Error::Ambiguous(hex.to_owned())),
        }
    }

    async fn ancestor(&self, from: CommitId, count: u64) -> Result<Option<CommitId>> {
        let mut id = from;
        for _ in 0..count {
            match self.store.commit(&id).await?.parents.first() {
                Some(parent) => id = *parent,
                None => return Ok(None),
            }
        }
        Ok(Some(id))
    }

    /// A commit.
    ///
    /// # Errors
    /// [`Error::NoCommit`] if there is none.
    pub async fn commit_info(&self, id: &CommitId) -> Result<CommitInfo> {
        Ok(CommitInfo { id: *id, commit: self.store.commit(id).await? })
    }

    /// A page of the history of a commit, itself included, newest first: by height and then by id, so that a commit comes before all of its ancestors.
    ///
    /// # Errors
    /// [`Error::NoCommit`] if there is none; invalid for a limit of 0 or a cursor that is not this history's.
    pub async fn log(&self, query: &LogQuery) -> Result<LogPage> {
        log::log(&self.store, query).await
    }

    /// The common ancestor that a merge of two commits compares them with: the highest one, of several as high the one with the largest id; `None` where
    /// their histories have nothing in common.
    ///
    /// # Errors
    /// [`Error::NoCommit`] if one of them is none.
    pub async fn merge_base(&self, a: &CommitId, b: &CommitId) -> Result<Option<CommitId>> {
        ancestry::merge_base(self.store.as_ref(), a, b).await
    }

    /// Whether `ancestor` is `commit` or lies before it.
    ///
    /// # Errors
    /// [`Error::NoCommit`] if one of them is none.
    pub async fn is_ancestor(&self, ancestor: &CommitId, commit: &CommitId) -> Result<bool> {
        ancestry::is_ancestor(self.store.as_ref(), ancestor, commit).await
    }
}
