//! Walking history: looking refs up, logs, ancestry.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::{CommitInfo, LogPage, Repository, Resolved};
use crate::refs::is_hash_prefix;
use crate::store::Store;
use crate::{BranchInfo, Commit, CommitId, Error, MAX_PAGE, RefBase, RefSpec, RefStep, Result};

/// Gives commits by their id.
#[async_trait]
pub(super) trait CommitReader: Send + Sync {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>>;
}

#[async_trait]
impl CommitReader for Store {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>> {
        Store::commit(self, id).await
    }
}

/// Whether `ancestor` is `commit` or lies before it. An ancestor is lower than its descendants, so that only commits above it are read.
pub(super) async fn is_ancestor(reader: &dyn CommitReader, ancestor: &CommitId, commit: &CommitId) -> Result<bool> {
    let floor = reader.commit(ancestor).await?.height;
    let mut seen = BTreeSet::from([*commit]);
    let mut next = vec![*commit];
    while let Some(id) = next.pop() {
        if id == *ancestor {
            return Ok(true);
        }
        let commit = reader.commit(&id).await?;
        if commit.height > floor {
            next.extend(commit.parents.iter().filter(|parent| seen.insert(**parent)));
        }
    }
    Ok(false)
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

    /// The history of a commit by first parents, newest first, itself included; go on at [`LogPage::next`].
    ///
    /// # Errors
    /// [`Error::NoCommit`] if there is none.
    pub async fn log(&self, from: &CommitId, limit: usize) -> Result<LogPage> {
        let mut page = LogPage { commits: Vec::new(), next: Some(*from) };
        while let (Some(id), true) = (page.next, page.commits.len() < limit.min(MAX_PAGE)) {
            let info = self.commit_info(&id).await?;
            page.next = info.commit.parents.first().copied();
            page.commits.push(info);
        }
        Ok(page)
    }

    /// Whether `ancestor` is `commit` or lies before it.
    ///
    /// # Errors
    /// [`Error::NoCommit`] if one of them is none.
    pub async fn is_ancestor(&self, ancestor: &CommitId, commit: &CommitId) -> Result<bool> {
        is_ancestor(self.store.as_ref(), ancestor, commit).await
    }
}
