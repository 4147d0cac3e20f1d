//! Commits, history and differences.
//!
//! Long answers are read a page at a time, as large as [`crate::ClientConfig::page_size`] says, and given whole up to the limit asked for.

use std::collections::BTreeMap;

use anabranch_core::Timestamp;
use anabranch_proto::v1;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::client::{Retry, unary};
use crate::versions::{Pages, as_text};
use crate::{Client, Error};

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

/// Which commits a log has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// How many at most; 0 for 100.
    pub limit: u32,
    /// Only those that changed a key at or below one of these paths, such as `feature` or `table/features/weather`; none for all.
    pub paths: Vec<String>,
    /// Only those of this time or later.
    pub since: Option<Timestamp>,
    /// Only those of this time or earlier.
    pub until: Option<Timestamp>,
    /// Only those of this author; empty for all.
    pub author: String,
    /// Follow first parents only: what was merged shows as the merge alone.
    pub first_parent: bool,
}

/// How two refs are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffQuery {
    /// How many keys at most; 0 for 1,000. Counting alone has no limit.
    pub limit: u32,
    /// From the youngest common commit of both, instead of from the left: what came on the right since they went apart.
    pub three_dot: bool,
    /// Only keys at or below this path: a kind such as `feature`, or a longer one; empty for all.
    pub path: String,
    /// Give values, too.
    pub values: bool,
    /// Only count.
    pub summary_only: bool,
}

/// What of a commit is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShowQuery {
    /// The parent to compare with, counted from 1; 0 for the first.
    pub parent: u32,
    /// How many keys at most; 0 for 1,000.
    pub limit: u32,
    /// Give values, too.
    pub values: bool,
}

/// What differs between two commits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The commit on the left: with three dots, the youngest common one.
    pub left_commit: String,
    /// The commit on the right.
    pub right_commit: String,
    /// What differs, by key.
    pub differences: Vec<Difference>,
    /// More lay behind the limit.
    pub truncated: bool,
    /// How many keys of each kind, of those that were read.
    pub summary: Vec<KindSummary>,
}

/// How many keys of a kind differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindSummary {
    /// The kind.
    pub kind: String,
    /// Only on the right.
    pub added: u64,
    /// Only on the left.
    pub removed: u64,
    /// On both, with unlike values.
    pub changed: u64,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// table, snapshot, feature, offset, evidence or object.
    pub kind: String,
    /// The key for people, such as `feature_view/weather`; behind its kind and `/` it is a path.
    pub key: String,
    /// added, removed or changed.
    pub change: String,
    /// One line for people.
    pub summary: String,
    /// What changed, field by field, where the values are understood.
    pub fields: Vec<FieldDifference>,
    /// The value on the left, where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<StoredValue>,
    /// The value on the right, where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<StoredValue>,
}

/// One field of a value that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Such as `fields.temp.type`.
    pub path: String,
    /// What it was; `None` where it was not there.
    pub left: Option<Json>,
    /// What it is; `None` where it is no longer there.
    pub right: Option<Json>,
}

/// A value as the map holds it. As JSON it is what it says, or `{"base64": …}` where the server cannot read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredValue {
    /// As it is stored.
    pub raw: Bytes,
    /// What it says.
    pub json: Option<Json>,
}

/// A commit and what it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The commit.
    pub commit: Commit,
    /// From its parent to it.
    pub changes: Diff,
}

impl StoredValue {
    /// What it says, or `{"base64": …}` where the server cannot read it.
    pub fn to_json(&self) -> Json {
        self.json.clone().unwrap_or_else(|| json!({"base64": STANDARD.encode(&self.raw)}))
    }
}

impl Serialize for StoredValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl Client {
    /// The commit that the client's ref names.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn commit(&self) -> Result<Commit, Error> {
        let request = v1::ResolveRequest { target: Some(self.target()) };
        unary!(self, versioning.resolve(request), Retry::Safe).await.map(commit)
    }

    /// The commit that the client's ref names, and what it changed.
    ///
    /// # Errors
    /// `not_found` for an unknown ref, `invalid_argument` for a parent that it has not.
    pub async fn show(&self, query: &ShowQuery) -> Result<Shown, Error> {
        let limit = if query.limit == 0 { DEFAULT_DIFF } else { query.limit };
        let (mut shown, mut page_token, mut pages) = (None::<Shown>, String::new(), Pages::new(self, limit));
        // What a ref names may change between pages; what a token goes on from does not.
        let mut target = self.target();
        while let Some(limit) = pages.next(shown.as_ref().map_or(0, |shown| shown.changes.differences.len())) {
            let (parent, values) = (query.parent, query.values);
            let request = v1::ShowRequest { target: Some(target.clone()), parent, limit, page_token, values };
            let reply = unary!(self, versioning.show(request), Retry::Safe).await?;
            let (Some(found), Some(changes)) = (reply.commit, reply.changes) else {
                return Err(Error::Protocol("a commit that was asked for is missing".to_owned()));
            };
            target.r#ref = format!("commit:{}", found.id);
            page_token = changes.next_page_token.clone();
            pages.ended = page_token.is_empty();
            let changes = diff(changes)?;
            match &mut shown {
                Some(shown) => shown.changes.append(changes),
                None => shown = Some(Shown { commit: commit(found), changes }),
            }
        }
        shown.ok_or_else(|| Error::Protocol("no page came".to_owned()))
    }

    /// The history of the client's ref, newest first; 0 for 100 commits.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn log(&self, limit: u32) -> Result<Vec<Commit>, Error> {
        self.log_with(&LogQuery { limit, ..LogQuery::default() }).await
    }

    /// The commits of the client's ref that a query is for, newest first.
    ///
    /// # Errors
    /// `not_found` for an unknown ref, `invalid_argument` for a path that is none.
    pub async fn log_with(&self, query: &LogQuery) -> Result<Vec<Commit>, Error> {
        let limit = if query.limit == 0 { DEFAULT_LOG } else { query.limit };
        let (mut commits, mut page_token, mut pages) = (Vec::new(), String::new(), Pages::new(self, limit));
        while let Some(limit) = pages.next(commits.len()) {
            let request = v1::LogRequest {
                target: Some(self.target()),
                limit,
                page_token,
                paths: query.paths.clone(),
                since_us: query.since.map(Timestamp::micros),
                until_us: query.until.map(Timestamp::micros),
                author: query.author.clone(),
                first_parent: query.first_parent,
            };
            let reply = unary!(self, versioning.log(request), Retry::Safe).await?;
            commits.extend(reply.commits.into_iter().map(commit));
            page_token = reply.next_page_token;
            pages.ended = page_token.is_empty();
        }
        Ok(commits)
    }

    /// What differs between two refs; 0 for 1,000 keys.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn diff(&self, left: &str, right: &str, limit: u32) -> Result<Diff, Error> {
        self.diff_with(left, right, &DiffQuery { limit, ..DiffQuery::default() }).await
    }

    /// What differs between two refs, as a query says.
    ///
    /// # Errors
    /// `not_found` for an unknown ref, and with three dots for histories that have nothing in common; `invalid_argument` for a path that is none.
    pub async fn diff_with(&self, left: &str, right: &str, query: &DiffQuery) -> Result<Diff, Error> {
        let limit = if query.limit == 0 { DEFAULT_DIFF } else { query.limit };
        let (mut found, mut page_token, mut pages) = (None::<Diff>, String::new(), Pages::new(self, limit));
        if query.summary_only {
            pages = Pages::new(self, u32::MAX);
        }
        while let Some(limit) = pages.next(found.as_ref().map_or(0, |found| found.differences.len())) {
            let request = v1::DiffRequest {
                repository: self.repository_name(),
                left: left.to_owned(),
                right: right.to_owned(),
                limit,
                three_dot: query.three_dot,
                path: query.path.clone(),
                page_token,
                values: query.values,
                summary_only: query.summary_only,
            };
            let reply = unary!(self, versioning.diff(request), Retry::Safe).await?;
            page_token = reply.next_page_token.clone();
            pages.ended = page_token.is_empty();
            let page = diff(reply)?;
            match &mut found {
                Some(found) => found.append(page),
                None => found = Some(page),
            }
        }
        found.ok_or_else(|| Error::Protocol("no page came".to_owned()))
    }

    /// The youngest commit that two refs have in common; `None` where their histories share nothing.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn merge_base(&self, left: &str, right: &str) -> Result<Option<Commit>, Error> {
        let request = v1::MergeBaseRequest { repository: self.repository_name(), left: left.to_owned(), right: right.to_owned() };
        Ok(unary!(self, versioning.merge_base(request), Retry::Safe).await?.commit.map(commit))
    }
}

const DEFAULT_LOG: u32 = 100;
const DEFAULT_DIFF: u32 = 1_000;

impl Diff {
    fn append(&mut self, page: Self) {
        self.differences.extend(page.differences);
        self.truncated = page.truncated;
        for more in page.summary {
            match self.summary.iter_mut().find(|summary| summary.kind == more.kind) {
                Some(summary) => {
                    summary.added += more.added;
                    summary.removed += more.removed;
                    summary.changed += more.changed;
                }
                None => self.summary.push(more),
            }
        }
    }
}

pub(crate) fn commit(reply: v1::Commit) -> Commit {
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

pub(crate) fn diff(reply: v1::DiffReply) -> Result<Diff, Error> {
    let counted =
        |summary: v1::KindSummary| KindSummary { kind: summary.kind, added: summary.added, removed: summary.removed, changed: summary.changed };
    Ok(Diff {
        left_commit: reply.left_commit,
        right_commit: reply.right_commit,
        differences: reply.differences.into_iter().map(difference).collect::<Result<_, _>>()?,
        truncated: reply.truncated,
        summary: reply.summary.into_iter().map(counted).collect(),
    })
}

fn difference(reply: v1::Difference) -> Result<Difference, Error> {
    let field =
        |field: v1::FieldDifference| Ok(FieldDifference { path: field.path, left: optional_json(&field.left)?, right: optional_json(&field.right)? });
    Ok(Difference {
        kind: reply.kind,
        key: reply.key,
        change: reply.change,
        summary: reply.summary,
        fields: reply.fields.into_iter().map(field).collect::<Result<_, Error>>()?,
        left: reply.left.map(stored).transpose()?,
        right: reply.right.map(stored).transpose()?,
    })
}

pub(crate) fn stored(reply: v1::StoredValue) -> Result<StoredValue, Error> {
    Ok(StoredValue { json: optional_json(&reply.json)?, raw: reply.raw })
}

fn optional_json(text: &str) -> Result<Option<Json>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| Error::Protocol(format!("a value is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_diff_add_up() {
        let page = |added, truncated| Diff {
            left_commit: "a".into(),
            summary: vec![KindSummary { kind: "feature".into(), added, removed: 0, changed: 1 }],
            truncated,
            ..Diff::default()
        };
        let mut whole = page(2, true);
        whole.append(page(3, false));
        whole.append(Diff { summary: vec![KindSummary { kind: "object".into(), added: 1, removed: 0, changed: 0 }], ..Diff::default() });
        let counts: Vec<_> = whole.summary.iter().map(|summary| (summary.kind.as_str(), summary.added, summary.changed)).collect();
        assert_eq!((counts, whole.truncated), (vec![("feature", 5, 2), ("object", 1, 0)], false));
    }

    #[test]
    fn a_value_that_cannot_be_read_is_given_as_it_is() {
        let value = |json: &str| stored(v1::StoredValue { raw: Bytes::from_static(&[0, 255]), json: json.to_owned() });
        assert_eq!(value("").unwrap().to_json(), json!({"base64": "AP8="}));
        assert_eq!(value(r#"{"size": 3}"#).unwrap().to_json(), json!({"size": 3}));
        assert!(value("{").is_err());
    }
}
