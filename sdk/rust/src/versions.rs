//! Branches and tags, and where a branch's head has been.
//!
//! Lists are read a page at a time, as large as [`crate::ClientConfig::page_size`] says, and given whole.

use anabranch_core::Timestamp;
use anabranch_proto::v1;
use serde::{Serialize, Serializer};

use crate::client::{Retry, unary};
use crate::{Client, Error};

/// A branch and its head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Its id, never given twice; it stays when the branch is renamed.
    pub id: u64,
    /// Its head.
    pub commit: String,
    /// Whether it refuses to be deleted, renamed and reset.
    pub protected: bool,
    /// When it was made.
    #[serde(serialize_with = "as_text")]
    pub created: Timestamp,
}

/// A name that stays with its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Its commit.
    pub commit: String,
    /// When it was made.
    #[serde(serialize_with = "as_text")]
    pub created: Timestamp,
}

/// One move of a branch's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeadMove {
    /// Grows with every move, whatever the clock said.
    pub sequence: u64,
    /// Where the head was; empty where the branch was made.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// When.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// Who moved it.
    pub author: String,
    /// How: `create`, `commit`, `merge`, `revert` …
    pub action: String,
}

impl Client {
    /// Makes a branch at a ref; empty for `main`. Nothing is copied.
    ///
    /// # Errors
    /// `conflict` where the name is taken, `not_found` for an unknown ref, `invalid_argument` for a name that no branch can have.
    pub async fn create_branch(&self, name: &str, from: &str) -> Result<Branch, Error> {
        let (repository, author) = (self.repository_name(), self.author());
        let request = v1::CreateBranchRequest { repository, name: name.to_owned(), from: from.to_owned(), author };
        unary!(self, versioning.create_branch(request), Retry::Never).await.map(branch)
    }

    /// Deletes a branch; its commits stay.
    ///
    /// # Errors
    /// `not_found` where there is none, `failed_precondition` for `main` and protected branches.
    pub async fn delete_branch(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteBranchRequest { repository: self.repository_name(), name: name.to_owned() };
        unary!(self, versioning.delete_branch(request), Retry::Never).await.map(|_| ())
    }

    /// Gives a branch another name. Its id, its log of moves and what was pushed to it stay with it.
    ///
    /// # Errors
    /// `not_found` where there is none, `conflict` where the new name is taken, `failed_precondition` for `main` and protected branches.
    pub async fn rename_branch(&self, name: &str, new_name: &str) -> Result<Branch, Error> {
        let request = v1::RenameBranchRequest { repository: self.repository_name(), name: name.to_owned(), new_name: new_name.to_owned() };
        unary!(self, versioning.rename_branch(request), Retry::Never).await.map(branch)
    }

    /// Protects a branch from being deleted, renamed and reset, or no longer.
    ///
    /// # Errors
    /// `not_found` where there is none.
    pub async fn protect_branch(&self, name: &str, protected: bool) -> Result<Branch, Error> {
        let request = v1::ProtectBranchRequest { repository: self.repository_name(), name: name.to_owned(), protected };
        unary!(self, versioning.protect_branch(request), Retry::Safe).await.map(branch)
    }

    /// One branch; empty for the client's ref.
    ///
    /// # Errors
    /// `not_found` where there is none.
    pub async fn branch(&self, name: &str) -> Result<Branch, Error> {
        let request = v1::GetBranchRequest { repository: self.repository_name(), name: self.or_own_ref(name) };
        unary!(self, versioning.get_branch(request), Retry::Safe).await.map(branch)
    }

    /// The branches whose names begin with a prefix, by name.
    ///
    /// # Errors
    /// `not_found` for an unknown repository.
    pub async fn branches(&self, prefix: &str) -> Result<Vec<Branch>, Error> {
        let (mut branches, mut page_token) = (Vec::new(), String::new());
        loop {
            let (repository, limit) = (self.repository_name(), self.config().page_size);
            let request = v1::ListBranchesRequest { repository, prefix: prefix.to_owned(), limit, page_token };
            let reply = unary!(self, versioning.list_branches(request), Retry::Safe).await?;
            branches.extend(reply.branches.into_iter().map(branch));
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                return Ok(branches);
            }
        }
    }

    /// The moves of a branch's head, newest first; the branch empty for the client's ref, 0 for the server's limit.
    ///
    /// # Errors
    /// `not_found` where there is no such branch.
    pub async fn reflog(&self, branch: &str, limit: u32) -> Result<Vec<HeadMove>, Error> {
        let (mut moves, mut page_token, mut pages) = (Vec::new(), String::new(), Pages::new(self, limit));
        while let Some(limit) = pages.next(moves.len()) {
            let request = v1::ReflogRequest { repository: self.repository_name(), branch: self.or_own_ref(branch), limit, page_token };
            let reply = unary!(self, versioning.reflog(request), Retry::Safe).await?;
            moves.extend(reply.moves.into_iter().map(head_move));
            page_token = reply.next_page_token;
            pages.ended = page_token.is_empty();
        }
        Ok(moves)
    }

    /// Names the commit at a ref; empty for `main`.
    ///
    /// # Errors
    /// `conflict` where the name is taken, `not_found` for an unknown ref, `invalid_argument` for a name that no tag can have.
    pub async fn create_tag(&self, name: &str, reference: &str) -> Result<Tag, Error> {
        let request = v1::CreateTagRequest { repository: self.repository_name(), name: name.to_owned(), r#ref: reference.to_owned() };
        unary!(self, versioning.create_tag(request), Retry::Never).await.map(tag)
    }

    /// Deletes a tag; its commit stays.
    ///
    /// # Errors
    /// `not_found` where there is none.
    pub async fn delete_tag(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTagRequest { repository: self.repository_name(), name: name.to_owned() };
        unary!(self, versioning.delete_tag(request), Retry::Never).await.map(|_| ())
    }

    /// The tags whose names begin with a prefix, by name.
    ///
    /// # Errors
    /// `not_found` for an unknown repository.
    pub async fn tags(&self, prefix: &str) -> Result<Vec<Tag>, Error> {
        let (mut tags, mut page_token) = (Vec::new(), String::new());
        loop {
            let (repository, limit) = (self.repository_name(), self.config().page_size);
            let request = v1::ListTagsRequest { repository, prefix: prefix.to_owned(), limit, page_token };
            let reply = unary!(self, versioning.list_tags(request), Retry::Safe).await?;
            tags.extend(reply.tags.into_iter().map(tag));
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                return Ok(tags);
            }
        }
    }
}

/// How many entries to ask for next, of a list that ends at a limit.
pub(crate) struct Pages {
    limit: u32,
    page_size: u32,
    /// The server has no more.
    pub(crate) ended: bool,
}

impl Pages {
    /// A list of at most `limit` entries; 0 for as many as the server gives in one page.
    pub(crate) fn new(client: &Client, limit: u32) -> Self {
        Self { limit, page_size: client.config().page_size, ended: false }
    }

    /// The size of the next page, if there is to be one; `read` entries are here.
    pub(crate) fn next(&self, read: usize) -> Option<u32> {
        if self.ended || (self.limit == 0 && read > 0) {
            return None;
        }
        let left = self.limit.saturating_sub(u32::try_from(read).unwrap_or(u32::MAX));
        match (self.limit, left, self.page_size) {
            (0, ..) => Some(0),
            (_, 0, _) => None,
            (_, left, 0) => Some(left),
            (_, left, page_size) => Some(left.min(page_size)),
        }
    }
}

pub(crate) fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn branch(reply: v1::Branch) -> Branch {
    Branch { name: reply.name, id: reply.id, commit: reply.commit, protected: reply.protected, created: Timestamp(reply.created_us) }
}

fn tag(reply: v1::Tag) -> Tag {
    Tag { name: reply.name, commit: reply.commit, created: Timestamp(reply.created_us) }
}

fn head_move(reply: v1::HeadMove) -> HeadMove {
    HeadMove { sequence: reply.sequence, from: reply.from, to: reply.to, time: Timestamp(reply.time_us), author: reply.author, action: reply.action }
}
