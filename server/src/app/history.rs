//! Commits, history and differences.
//!
//! A page of a difference is asked for by a token that names the two commits, so that all pages are of the same two whatever the refs name by then.
//!
//! ```text
//! token = left commit | "-" where there is none, "." , right commit, "." , last key in base64
//! ```

use std::fmt;
use std::str::FromStr;

use anabranch_core::Timestamp;
use anabranch_versioning::{CommitId, CommitInfo, Difference, Entry, Key, KeyKind, LogCursor, LogPage, LogQuery, MapReader, MapView, Page, Scan};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Scope;
use super::keys::{key_of, key_text};
use super::values::{FieldDifference, Stored, decoded, fields, summary};
use super::versions::{bad_token, limited, or_main};
use crate::error::{Error, Result};

const DEFAULT_LOG: usize = 100;
const DEFAULT_DIFF: usize = 1_000;

/// Which commits are asked for.
#[derive(Debug, Default)]
pub(crate) struct LogRequest {
    pub(crate) limit: u32,
    pub(crate) page_token: String,
    pub(crate) paths: Vec<String>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) author: String,
    pub(crate) first_parent: bool,
}

/// What of a difference is asked for.
#[derive(Debug, Default)]
pub(crate) struct DiffRequest {
    pub(crate) limit: u32,
    pub(crate) page_token: String,
    pub(crate) path: String,
    pub(crate) values: bool,
    pub(crate) summary_only: bool,
}

/// What differs between two commits.
#[derive(Debug)]
pub(crate) struct DiffReport {
    /// None where the right has no parent to compare it with.
    pub(crate) left: Option<CommitId>,
    pub(crate) right: CommitId,
    pub(crate) lines: Vec<DiffLine>,
    /// How many keys of each kind differ, of those read for this page.
    pub(crate) counts: Vec<KindCount>,
    /// More lies behind this page.
    pub(crate) truncated: bool,
    /// The token of the next page, where it can be asked for.
    pub(crate) next: String,
}

/// How many keys of a kind differ.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KindCount {
    pub(crate) kind: KeyKind,
    pub(crate) added: u64,
    pub(crate) removed: u64,
    pub(crate) changed: u64,
}

/// One key that differs, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DiffLine {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) change: &'static str,
    pub(crate) summary: String,
    pub(crate) fields: Vec<FieldDifference>,
    /// Where values were asked for.
    pub(crate) left: Option<Stored>,
    pub(crate) right: Option<Stored>,
}

/// A commit and what it changed.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) commit: CommitInfo,
    pub(crate) changes: DiffReport,
}

/// Where a page of a difference begins.
#[derive(Debug, PartialEq, Eq)]
struct DiffToken {
    left: Option<CommitId>,
    right: CommitId,
    after: Key,
}

impl Scope {
    /// The commit that the scope's ref names.
    pub(crate) async fn commit_info(&self) -> Result<CommitInfo> {
        let resolved = self.resolve().await?;
        Ok(self.repo.versions.commit_info(&resolved.commit).await?)
    }

    /// History from the scope's ref on, newest first.
    pub(crate) async fn log(&self, request: LogRequest) -> Result<LogPage> {
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse::<LogCursor>().map_err(|_| bad_token(token))?),
        };
        let query = LogQuery {
            paths: request.paths.iter().map(|path| key_of(path)).collect::<Result<_>>()?,
            since: request.since,
            until: request.until,
            author: Some(request.author).filter(|author| !author.is_empty()),
            first_parent: request.first_parent,
            after,
            ..LogQuery::new(self.resolve().await?.commit, limited(request.limit, DEFAULT_LOG))
        };
        Ok(self.repo.versions.log(&query).await?)
    }

    /// The youngest commit that the scope's ref and another have in common.
    pub(crate) async fn merge_base(&self, other: &str) -> Result<Option<CommitInfo>> {
        let (left, right) = (self.resolve().await?.commit, self.resolve_ref(or_main(other)).await?.commit);
        match self.repo.versions.merge_base(&left, &right).await? {
            Some(base) => Ok(Some(self.repo.versions.commit_info(&base).await?)),
            None => Ok(None),
        }
    }

    /// What differs from the scope's ref to `right`; with three dots, from the youngest common commit of both.
    pub(crate) async fn diff(&self, right: &str, three_dot: bool, request: &DiffRequest) -> Result<DiffReport> {
        if let Some(token) = token(&request.page_token)? {
            return self.differences(token.left, token.right, Some(token.after), request).await;
        }
        let right_name = or_main(right);
        let (mut left, right) = (self.resolve().await?.commit, self.resolve_ref(right_name).await?.commit);
        if three_dot {
            let base = self.repo.versions.merge_base(&left, &right).await?;
            let apart = || Error::Missing(format!("{:?} and {right_name:?} have no commit in common: compare them with two dots", self.reference));
            left = base.ok_or_else(apart)?;
        }
        self.differences(Some(left), right, None, request).await
    }

    /// A commit and what it changed against one of its parents, counted from 1.
    pub(crate) async fn show(&self, parent: u32, request: &DiffRequest) -> Result<Shown> {
        let commit = self.commit_info().await?;
        if let Some(token) = token(&request.page_token)? {
            return Ok(Shown { commit, changes: self.differences(token.left, token.right, Some(token.after), request).await? });
        }
        let parents = &commit.commit.parents;
        let left = parents.get((parent.max(1) - 1) as usize).copied();
        if left.is_none() && parent > 0 {
            return Err(Error::argument("parent", format!("commit {} has {} parents, and they are counted from 1", commit.id, parents.len())));
        }
        let changes = self.differences(left, commit.id, None, request).await?;
        Ok(Shown { commit, changes })
    }

    async fn differences(&self, left: Option<CommitId>, right: CommitId, after: Option<Key>, request: &DiffRequest) -> Result<DiffReport> {
        let versions = &self.repo.versions;
        let prefix = if request.path.is_empty() { None } else { Some(key_of(&request.path)?) };
        // Counting alone reads as much at once as there may be.
        let asked = if request.summary_only { u32::MAX } else { request.limit };
        let scan = Scan { prefix, after, limit: limited(asked, DEFAULT_DIFF), ..Scan::all() };
        let page = match &left {
            Some(left) => versions.diff(left, &right, &scan).await?,
            None => all_added(versions.scan(&right, &scan).await?),
        };
        let maps = Maps {
            left: match &left {
                Some(left) => Some(versions.at(left).await?),
                None => None,
            },
            right: versions.at(&right).await?,
        };
        let shown = if request.summary_only { &[][..] } else { &page.items };
        let lines = lines(shown, request.values, &maps).await?;
        let truncated = page.next.is_some();
        let next = page.next.map(|after| DiffToken { left, right, after }.to_string()).unwrap_or_default();
        Ok(DiffReport { left, right, lines, counts: counts(&page.items), truncated, next })
    }
}

/// The maps that differences are of.
pub(super) struct Maps {
    pub(super) left: Option<MapView>,
    pub(super) right: MapView,
}

/// Differences for people.
pub(super) async fn lines(differences: &[Difference], values: bool, maps: &Maps) -> Result<Vec<DiffLine>> {
    let mut lines = Vec::with_capacity(differences.len());
    for difference in differences {
        lines.push(line(difference, values, maps).await?);
    }
    Ok(lines)
}

async fn line(difference: &Difference, values: bool, maps: &Maps) -> Result<DiffLine> {
    let kind = difference.key.kind();
    let changed = match (&difference.left, &difference.right) {
        (Some(left), Some(right)) => decoded(kind, left).zip(decoded(kind, right)),
        _ => None,
    };
    let fields = changed.map(|(left, right)| fields(&left, &right)).unwrap_or_default();
    let left_map = maps.left.as_ref().map(|map| map as &dyn MapReader);
    let value = |raw: &Option<bytes::Bytes>| raw.clone().filter(|_| values).map(|raw| Stored::new(kind, raw));
    Ok(DiffLine {
        kind: kind.name(),
        key: key_text(&difference.key),
        change: change(difference).name(),
        summary: summary(difference, &fields, (left_map, &maps.right)).await?,
        fields,
        left: value(&difference.left),
        right: value(&difference.right),
    })
}

#[derive(Clone, Copy)]
enum ChangeKind {
    Added,
    Removed,
    Changed,
}

impl ChangeKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

fn change(difference: &Difference) -> ChangeKind {
    match (&difference.left, &difference.right) {
        (None, _) => ChangeKind::Added,
        (_, None) => ChangeKind::Removed,
        _ => ChangeKind::Changed,
    }
}

/// How many keys of each kind differ; differences come by kind.
pub(super) fn counts(differences: &[Difference]) -> Vec<KindCount> {
    let mut counts: Vec<KindCount> = Vec::new();
    for difference in differences {
        let kind = difference.key.kind();
        if counts.last().is_none_or(|count| count.kind != kind) {
            counts.push(KindCount { kind, added: 0, removed: 0, changed: 0 });
        }
        if let Some(count) = counts.last_mut() {
            match change(difference) {
                ChangeKind::Added => count.added += 1,
                ChangeKind::Removed => count.removed += 1,
                ChangeKind::Changed => count.changed += 1,
            }
        }
    }
    counts
}

fn all_added(page: Page<Entry>) -> Page<Difference> {
    let added = |entry: Entry| Difference { key: entry.key, left: None, right: Some(entry.value) };
    Page { items: page.items.into_iter().map(added).collect(), next: page.next }
}

fn token(text: &str) -> Result<Option<DiffToken>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|()| bad_token(text)) }
}

impl fmt::Display for DiffToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.left.map_or_else(|| "-".to_owned(), |left| left.to_string());
        write!(f, "{left}.{}.{}", self.right, URL_SAFE_NO_PAD.encode(self.after.as_bytes()))
    }
}

impl FromStr for DiffToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (left, rest) = text.split_once('.').ok_or(())?;
        let (right, after) = rest.split_once('.').ok_or(())?;
        let commit = |text: &str| text.parse::<CommitId>().map_err(drop);
        let left = if left == "-" { None } else { Some(commit(left)?) };
        let after = URL_SAFE_NO_PAD.decode(after).map_err(drop)?;
        Ok(Self { left, right: commit(right)?, after: Key::decode(after.into()).map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(kind: KeyKind, name: &str, left: Option<&'static str>, right: Option<&'static str>) -> Difference {
        let value = |side: Option<&'static str>| side.map(bytes::Bytes::from);
        Difference { key: Key::new(kind, &[b"x", name.as_bytes()]).unwrap(), left: value(left), right: value(right) }
    }

    #[test]
    fn differences_are_counted_by_kind() {
        let page = [
            difference(KeyKind::Table, "a", None, Some("1")),
            difference(KeyKind::Table, "b", Some("1"), Some("2")),
            difference(KeyKind::Feature, "a", Some("1"), None),
            difference(KeyKind::Feature, "b", Some("1"), None),
        ];
        let table = KindCount { kind: KeyKind::Table, added: 1, removed: 0, changed: 1 };
        assert_eq!(counts(&page), [table, KindCount { kind: KeyKind::Feature, added: 0, removed: 2, changed: 0 }]);
        assert_eq!(counts(&[]), []);
    }

    #[test]
    fn a_token_reads_back_and_anything_else_is_refused() {
        let id: CommitId = "ab".repeat(32).parse().unwrap();
        let after = Key::new(KeyKind::Object, &["a.b/ä".as_bytes()]).unwrap();
        for left in [None, Some(id)] {
            let made = DiffToken { left, right: id, after: after.clone() };
            assert_eq!(made.to_string().parse::<DiffToken>().unwrap(), made);
        }
        for bad in ["x", "-", "-.x.AA", &format!("-.{id}.!"), &format!("-.{id}.AA"), &format!("{id}.{id}")] {
            assert!(token(bad).is_err(), "{bad}");
        }
        assert!(token("").unwrap().is_none());
    }
}
