//! Branches and tags.

use anabranch_core::BranchId;

use super::{MAIN, Repository};
use crate::{BranchInfo, Error, MAX_PAGE, RefSpec, ReflogEntry, Result, TagInfo, check_ref_name};

impl Repository {
    /// Makes a branch at a ref; nothing is copied.
    ///
    /// # Errors
    /// [`Error::RefName`], [`Error::BranchExists`], or as [`Repository::resolve`].
    pub async fn create_branch(&self, name: &str, from: &RefSpec, author: &str) -> Result<BranchInfo> {
        check_ref_name(name)?;
        let head = self.resolve(from).await?.commit;
        let made = self.store.metadata.create_branch(name, &head, self.clock.now(), author).await?;
        made.ok_or_else(|| Error::BranchExists(name.to_owned()))
    }

    /// Deletes a branch. Its commits stay, and so does its reflog under its id.
    ///
    /// # Errors
    /// [`Error::NoBranch`]; [`Error::Protected`] for `main` and for protected branches.
    pub async fn delete_branch(&self, name: &str) -> Result<()> {
        let branch = self.branch(name).await?;
        if branch.protected || name == MAIN {
            return Err(Error::Protected(name.to_owned()));
        }
        if !self.store.metadata.delete_branch(name, branch.id).await? {
            return Err(Error::NoBranch(name.to_owned()));
        }
        self.committers.forget(name);
        Ok(())
    }

    /// Protects a branch from being deleted, or no longer.
    ///
    /// # Errors
    /// [`Error::NoBranch`].
    pub async fn protect_branch(&self, name: &str, protected: bool) -> Result<()> {
        let found = self.store.metadata.protect_branch(name, protected).await?;
        if found { Ok(()) } else { Err(Error::NoBranch(name.to_owned())) }
    }

    /// A branch.
    ///
    /// # Errors
    /// [`Error::NoBranch`].
    pub async fn branch(&self, name: &str) -> Result<BranchInfo> {
        self.store.metadata.branch(name).await?.ok_or_else(|| Error::NoBranch(name.to_owned()))
    }

    /// All branches by name.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn branches(&self) -> Result<Vec<BranchInfo>> {
        self.store.metadata.branches().await
    }

    /// The moves of a branch's head, newest first, at most `limit` of those before `before`.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn reflog(&self, branch: BranchId, before: Option<u64>, limit: usize) -> Result<Vec<ReflogEntry>> {
        self.store.metadata.reflog(branch, before, limit.min(MAX_PAGE)).await
    }

    /// Makes a tag of what a ref names now; a tag never moves.
    ///
    /// # Errors
    /// [`Error::RefName`], [`Error::TagExists`], or as [`Repository::resolve`].
    pub async fn create_tag(&self, name: &str, of: &RefSpec) -> Result<TagInfo> {
        check_ref_name(name)?;
        let commit = self.resolve(of).await?.commit;
        let made = self.store.metadata.create_tag(name, &commit, self.clock.now()).await?;
        made.ok_or_else(|| Error::TagExists(name.to_owned()))
    }

    /// Deletes a tag.
    ///
    /// # Errors
    /// [`Error::NoTag`].
    pub async fn delete_tag(&self, name: &str) -> Result<()> {
        if self.store.metadata.delete_tag(name).await? { Ok(()) } else { Err(Error::NoTag(name.to_owned())) }
    }

    /// All tags by name.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn tags(&self) -> Result<Vec<TagInfo>> {
        self.store.metadata.tags().await
    }
}
