//! Branches, tags and refs.
//!
//! Lists come in pages, each with the token that the next one begins with.

use anabranch_versioning::{BranchInfo, MAX_PAGE, RefSpec, ReflogEntry, Resolved, TagInfo};

use super::Scope;
use crate::error::{Error, Result};

/// The branch of a caller who names none.
pub(crate) const DEFAULT_BRANCH: &str = "main";

const DEFAULT_NAMES: usize = 1_000;
const DEFAULT_REFLOG: usize = 100;

/// A part of a list, and the token that the next part is asked for by.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    /// Empty at the end.
    pub(crate) next: String,
}

impl<T> Listed<T> {
    /// A page out of what was read: one more than `limit` where there is more.
    fn cut(mut items: Vec<T>, limit: usize, token: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(token).unwrap_or_default() } else { String::new() };
        Self { items, next }
    }
}

impl Scope {
    /// The commit that the scope's ref names, and the branch where it is one.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        self.resolve_ref(&self.reference).await
    }

    pub(crate) async fn resolve_ref(&self, reference: &str) -> Result<Resolved> {
        Ok(self.repo.versions.resolve(&spec(reference)?).await?)
    }

    /// The branch that the scope's ref is, to be written to.
    pub(crate) async fn branch(&self) -> Result<BranchInfo> {
        let resolved = self.resolve().await?;
        resolved.branch.ok_or_else(|| Error::Precondition(format!("{:?} is not a branch, and only branches can be written to", self.reference)))
    }

    /// The branch that the scope's ref is, to be looked at.
    pub(crate) async fn named_branch(&self) -> Result<BranchInfo> {
        let resolved = self.resolve().await?;
        resolved.branch.ok_or_else(|| Error::argument("branch", format!("{:?} is not a branch", self.reference)))
    }

    /// Branches whose name begins with `prefix`.
    pub(crate) async fn branches(&self, prefix: &str, limit: u32, page_token: &str) -> Result<Listed<BranchInfo>> {
        let limit = limited(limit, DEFAULT_NAMES);
        let found = self.repo.versions.branches_page(prefix, after(page_token), limit + 1).await?;
        Ok(Listed::cut(found, limit, |branch| branch.name.clone()))
    }

    /// Tags whose name begins with `prefix`.
    pub(crate) async fn tags(&self, prefix: &str, limit: u32, page_token: &str) -> Result<Listed<TagInfo>> {
        let limit = limited(limit, DEFAULT_NAMES);
        let found = self.repo.versions.tags_page(prefix, after(page_token), limit + 1).await?;
        Ok(Listed::cut(found, limit, |tag| tag.name.clone()))
    }

    /// The moves of the head of the scope's branch, newest first.
    pub(crate) async fn reflog(&self, limit: u32, page_token: &str) -> Result<Listed<ReflogEntry>> {
        let branch = self.named_branch().await?;
        let before = match page_token {
            "" => None,
            token => Some(token.parse().map_err(|_| bad_token(token))?),
        };
        let limit = limited(limit, DEFAULT_REFLOG);
        let found = self.repo.versions.reflog(branch.id, before, limit + 1).await?;
        Ok(Listed::cut(found, limit, |entry| entry.seq.to_string()))
    }

    /// Makes a branch at the scope's ref.
    pub(crate) async fn create_branch(&self, name: &str, author: &str) -> Result<BranchInfo> {
        Ok(self.repo.versions.create_branch(name, &spec(&self.reference)?, &Self::author(author)).await?)
    }

    /// Protects a branch from being deleted, renamed and reset, or no longer.
    pub(crate) async fn protect_branch(&self, name: &str, protected: bool) -> Result<BranchInfo> {
        self.repo.versions.protect_branch(name, protected).await?;
        Ok(self.repo.versions.branch(name).await?)
    }

    /// Gives a branch another name; its id, log and rows stay with it.
    pub(crate) async fn rename_branch(&self, name: &str, new_name: &str) -> Result<BranchInfo> {
        if name == DEFAULT_BRANCH {
            return Err(Error::Precondition(format!("branch {name:?} is the one that is served and cannot be renamed")));
        }
        Ok(self.repo.ingest.rename_branch(name, new_name).await?)
    }

    /// Deletes a branch, its log with it.
    pub(crate) async fn delete_branch(&self, name: &str) -> Result<()> {
        if name == DEFAULT_BRANCH {
            return Err(Error::Precondition(format!("branch {name:?} is the one that is served and cannot be deleted")));
        }
        Ok(self.repo.ingest.delete_branch(name).await?)
    }

    /// Makes a tag at the scope's ref.
    pub(crate) async fn create_tag(&self, name: &str) -> Result<TagInfo> {
        Ok(self.repo.versions.create_tag(name, &spec(&self.reference)?).await?)
    }

    /// Deletes a tag.
    pub(crate) async fn delete_tag(&self, name: &str) -> Result<()> {
        Ok(self.repo.versions.delete_tag(name).await?)
    }
}

/// A name, `main` where the caller wrote none.
pub(crate) fn or_main(name: &str) -> &str {
    if name.is_empty() { DEFAULT_BRANCH } else { name }
}

/// A ref as the caller wrote it.
pub(crate) fn spec(reference: &str) -> Result<RefSpec> {
    Ok(reference.parse::<RefSpec>()?)
}

/// How many entries a page has: as many as asked, the default where nothing was, and never more than the library gives, less one to look ahead.
pub(crate) fn limited(limit: u32, default: usize) -> usize {
    if limit == 0 { default } else { (limit as usize).min(MAX_PAGE - 1) }
}

/// A token that no page gave.
pub(crate) fn bad_token(token: &str) -> Error {
    Error::argument("page_token", format!("{token:?} is not the next_page_token of a page of this list"))
}

fn after(page_token: &str) -> Option<&str> {
    (!page_token.is_empty()).then_some(page_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_its_successor_only_where_there_is_one() {
        let page = |items: Vec<u32>| {
            let listed = Listed::cut(items, 2, u32::to_string);
            (listed.items, listed.next)
        };
        assert_eq!(page(vec![1, 2, 3]), (vec![1, 2], "2".to_owned()));
        assert_eq!(page(vec![1, 2]), (vec![1, 2], String::new()));
        assert_eq!(page(vec![]), (vec![], String::new()));
    }

    #[test]
    fn limits_are_kept_within_bounds() {
        assert_eq!((limited(0, 7), limited(3, 7), limited(u32::MAX, 7)), (7, 3, MAX_PAGE - 1));
    }
}
