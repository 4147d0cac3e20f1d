//! Branches, tags, commits, history, difference and merge.

use std::collections::BTreeMap;

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
    /// Its id, never given twice.
    pub id: u64,
    /// Its head.
    pub commit: String,
}

/// A name that stays with its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Its commit.
    pub commit: String,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Its id, in hex.
    pub id: String,
    /// The root of its map, in hex.
    pub root: String,
    /// The ids of its parents.
    pub parents: Vec<String>,
    /// Who made it.
    pub author: String,
    /// Why.
    pub message: String,
    /// When.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// What its maker added.
    pub metadata: BTreeMap<String, String>,
}

/// What differs between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The commit on the left.
    pub left_commit: String,
    /// The commit on the right.
    pub right_commit: String,
    /// What differs, by key.
    pub differences: Vec<Difference>,
    /// More lay behind the limit.
    pub truncated: bool,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// table, snapshot, feature, offset, evidence or object.
    pub kind: String,
    /// The key for people, such as `feature_view/weather`.
    pub key: String,
    /// added, removed or changed.
    pub change: String,
    /// One line for people.
    pub summary: String,
}

/// What a merge has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// The head of the destination now.
    pub commit: String,
    /// `fast_forward` or `up_to_date`.
    pub outcome: String,
}

impl Client {
    /// Makes a branch at a ref; empty for `main`.
    ///
    /// # Errors
    /// `conflict` where the name is taken, `not_found` for an unknown ref.
    pub async fn create_branch(&self, name: &str, from: &str) -> Result<Branch, Error> {
        let request = v1::CreateBranchRequest { repository: self.repository_name(), name: name.to_owned(), from: from.to_owned() };
        unary!(self, versioning.create_branch(request), Retry::Never).await.map(branch)
    }

    /// Deletes a branch; its commits stay.
    ///
    /// # Errors
    /// `not_found` where there is none.
    pub async fn delete_branch(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteBranchRequest { repository: self.repository_name(), name: name.to_owned() };
        unary!(self, versioning.delete_branch(request), Retry::Never).await.map(|_| ())
    }

    /// The branches whose names begin with a prefix, by name.
    ///
    /// # Errors
    /// `not_found` for an unknown repository.
    pub async fn branches(&self, prefix: &str) -> Result<Vec<Branch>, Error> {
        let request = v1::ListBranchesRequest { repository: self.repository_name(), prefix: prefix.to_owned() };
        let reply = unary!(self, versioning.list_branches(request), Retry::Safe).await?;
        Ok(reply.branches.into_iter().map(branch).collect())
    }

    /// Names the commit at a ref; empty for `main`.
    ///
    /// # Errors
    /// `conflict` where the name is taken, `not_found` for an unknown ref.
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
        let request = v1::ListTagsRequest { repository: self.repository_name(), prefix: prefix.to_owned() };
        let reply = unary!(self, versioning.list_tags(request), Retry::Safe).await?;
        Ok(reply.tags.into_iter().map(tag).collect())
    }

    /// The commit that the client's ref names.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn commit(&self) -> Result<Commit, Error> {
        let request = v1::ResolveRequest { target: Some(self.target()) };
        unary!(self, versioning.resolve(request), Retry::Safe).await.map(commit)
    }

    /// The history of the client's ref, youngest first; 0 for the server's limit.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn log(&self, limit: u32) -> Result<Vec<Commit>, Error> {
        let request = v1::LogRequest { target: Some(self.target()), limit };
        let reply = unary!(self, versioning.log(request), Retry::Safe).await?;
        Ok(reply.commits.into_iter().map(commit).collect())
    }

    /// What differs between two refs; 0 for the server's limit.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn diff(&self, left: &str, right: &str, limit: u32) -> Result<Diff, Error> {
        let request = v1::DiffRequest { repository: self.repository_name(), left: left.to_owned(), right: right.to_owned(), limit };
        let reply = unary!(self, versioning.diff(request), Retry::Safe).await?;
        Ok(Diff {
            left_commit: reply.left_commit,
            right_commit: reply.right_commit,
            differences: reply.differences.into_iter().map(difference).collect(),
            truncated: reply.truncated,
        })
    }

    /// Merges a ref into a branch; empty for `main`. `message` may be empty.
    ///
    /// # Errors
    /// `conflict` where both sides changed, `not_found` for an unknown ref.
    pub async fn merge(&self, source: &str, into: &str, message: &str) -> Result<Merged, Error> {
        let request = v1::MergeRequest {
            repository: self.repository_name(),
            source: source.to_owned(),
            into: into.to_owned(),
            author: self.author(),
            message: message.to_owned(),
        };
        let reply = unary!(self, versioning.merge(request), Retry::Never).await?;
        Ok(Merged { commit: reply.commit, outcome: reply.outcome })
    }
}

pub(crate) fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn branch(reply: v1::Branch) -> Branch {
    Branch { name: reply.name, id: reply.id, commit: reply.commit }
}

fn tag(reply: v1::Tag) -> Tag {
    Tag { name: reply.name, commit: reply.commit }
}

fn commit(reply: v1::Commit) -> Commit {
    Commit {
        id: reply.id,
        root: reply.root,
        parents: reply.parents,
        author: reply.author,
        message: reply.message,
        time: Timestamp(reply.time_us),
        metadata: reply.metadata.into_iter().collect(),
    }
}

fn difference(reply: v1::Difference) -> Difference {
    Difference { kind: reply.kind, key: reply.key, change: reply.change, summary: reply.summary }
}
