//! Branches and tags.

use anabranch_core::BranchId;

use super::{MAIN, Repository};
use crate::{BranchInfo, Error, MAX_PAGE, RefSpec, ReflogEntry, Renamed, Result, TagInfo, check_ref_name};

impl Repository {
    /// Makes a branch at a ref; nothing is copied.
    ///
    /// # Errors
    /// [`Error::RefName`], [`Error::BranchExists`], or as [`Repository::resolve`].
    pub async fn create_branch(&self, name: &str, from: &RefSpec, author: &str) -> Result<BranchInfo> {
        check_ref_name(name)?;
        let head = self.resolve(from).await?.commit;
        self.check_kept(&head).await?;
        let made = self.store.metadata.create_branch(name, &head, self.clock.now(), author).await?;
        self.keep(&head).await?;
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
            return Err(self.gone_or_protected(name).await?);
        }
        self.committers.forget(name);
        Ok(())
    }

    /// Gives a branch another name. Its id, its reflog and its commits stay; writers to the old name, also those that wait, find no branch.
    ///
    /// # Errors
    /// [`Error::NoBranch`]; [`Error::RefName`]; [`Error::BranchExists`] if the new name is taken, also by the branch itself; [`Error::Protected`] for
    /// `main` and for protected branches.
    pub async fn rename_branch(&self, name: &str, new: &str) -> Result<BranchInfo> {
        check_ref_name(new)?;
        let branch = self.branch(name).await?;
        if branch.protected || name == MAIN {
            return Err(Error::Protected(name.to_owned()));
        }
        match self.store.metadata.rename_branch(name, branch.id, new).await? {
            Renamed::Done(renamed) => {
                self.committers.forget(name);
                Ok(renamed)
            }
            Renamed::Taken => Err(Error::BranchExists(new.to_owned())),
            Renamed::NoBranch => Err(self.gone_or_protected(name).await?),
        }
    }

    /// Why a branch that was there a moment ago could not be deleted or renamed.
    async fn gone_or_protected(&self, name: &str) -> Result<Error> {
        let protected = self.store.metadata.branch(name).await?.is_some_and(|branch| branch.protected);
        Ok(if protected { Error::Protected(name.to_owned()) } else { Error::NoBranch(name.to_owned()) })
    }

    /// Protects a branch from being deleted, renamed or reset, or no longer.
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

    /// At most `limit` branches whose name begins with `prefix` and comes after `after`, by name.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn branches_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BranchInfo>> {
        self.store.metadata.branches_page(prefix, after, limit.min(MAX_PAGE)).await
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
        self.check_kept(&commit).await?;
        let made = self.store.metadata.create_tag(name, &commit, self.clock.now()).await?;
        self.keep(&commit).await?;
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

    /// At most `limit` tags whose name begins with `prefix` and comes after `after`, by name.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn tags_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<TagInfo>> {
        self.store.metadata.tags_page(prefix, after, limit.min(MAX_PAGE)).await
    }
}
