//! The log: the history of a commit, filtered, a page at a time.
//!
//! Commits wait in order of height and id; the highest comes next and puts its parents among the waiting. Whoever puts a commit there is higher, so that
//! none comes twice. What waits at the end of a page is the cursor:
//!
//! ```text
//! cursor = "w" id { "." id }           the commits that wait, at most 32
//!        | "b" height "." id           where more wait: behind this commit; the walk begins again above it
//! ```
//!
//! A page ends when it is full or after [`MAX_WALK`] commits were looked at, so that it may be short or empty and history goes on all the same.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anabranch_core::Timestamp;

use crate::repository::CommitInfo;
use crate::store::Store;
use crate::{Commit, CommitId, Error, Key, MAX_PAGE, Result, Scan, tree};

/// The most commits that are looked at for one page.
const MAX_WALK: usize = 10_000;

/// The most commits that a cursor names.
const MAX_WAITING: usize = 32;

/// Which part of which history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Where it begins.
    pub from: CommitId,
    /// At most this many commits, and at most [`MAX_PAGE`].
    pub limit: usize,
    /// Only commits that changed a key that begins with one of these; all without any. A merge counts where it holds what none of its parents does, and
    /// by first parents alone where it differs from the first.
    pub paths: Vec<Key>,
    /// Only commits made at this time or later, by their clocks.
    pub since: Option<Timestamp>,
    /// Only commits made at this time or earlier, by their clocks.
    pub until: Option<Timestamp>,
    /// Only commits of this author.
    pub author: Option<String>,
    /// Goes by first parents alone: what happened on a branch, each merge as one commit.
    pub first_parent: bool,
    /// Goes on where another page ended.
    pub after: Option<LogCursor>,
}

impl LogQuery {
    /// The history of a commit.
    pub fn new(from: CommitId, limit: usize) -> Self {
        Self { from, limit, paths: Vec::new(), since: None, until: None, author: None, first_parent: false, after: None }
    }
}

/// A part of a history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// The commits.
    pub commits: Vec<CommitInfo>,
    /// Where the next part begins; give it as [`LogQuery::after`] of the same query. `None` at the end.
    pub next: Option<LogCursor>,
}

/// Where a page of a log ended; a text that reads back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCursor(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Waiting(Vec<CommitId>),
    Behind(u64, CommitId),
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Waiting(ids) => {
                f.write_str("w")?;
                ids.iter().enumerate().try_for_each(|(index, id)| write!(f, "{}{id}", if index == 0 { "" } else { "." }))
            }
            Place::Behind(height, id) => write!(f, "b{height}.{id}"),
        }
    }
}

impl FromStr for LogCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || Error::invalid("log cursor", format!("{text:?} is none: give back the one of the page before"));
        let id = |text: &str| text.parse::<CommitId>().map_err(|_| malformed());
        if let Some(ids) = text.strip_prefix('w') {
            let ids = ids.split('.').map(id).collect::<Result<Vec<_>>>()?;
            return if ids.len() <= MAX_WAITING { Ok(Self(Place::Waiting(ids))) } else { Err(malformed()) };
        }
        let (height, last) = text.strip_prefix('b').and_then(|rest| rest.split_once('.')).ok_or_else(malformed)?;
        Ok(Self(Place::Behind(height.parse().map_err(|_| malformed())?, id(last)?)))
    }
}

pub(super) async fn log(store: &Arc<Store>, query: &LogQuery) -> Result<LogPage> {
    if query.limit == 0 {
        return Err(Error::invalid("log", "a limit of 0 reads nothing: ask for at least 1"));
    }
    let limit = query.limit.min(MAX_PAGE);
    let mut walk = Walk { store, first_parent: query.first_parent, waiting: BTreeSet::new() };
    walk.begin(query).await?;
    let mut page = LogPage { commits: Vec::new(), next: None };
    let mut last = None;
    for _ in 0..MAX_WALK {
        if page.commits.len() == limit {
            break;
        }
        let Some((place, commit)) = walk.next().await? else { break };
        last = Some(place);
        if matches(store, query, &commit).await? {
            page.commits.push(CommitInfo { id: place.1, commit });
        }
    }
    page.next = walk.cursor(last);
    Ok(page)
}

struct Walk<'a> {
    store: &'a Arc<Store>,
    first_parent: bool,
    waiting: BTreeSet<(u64, CommitId)>,
}

impl Walk<'_> {
    async fn begin(&mut self, query: &LogQuery) -> Result<()> {
        match &query.after {
            Some(LogCursor(Place::Waiting(ids))) => {
                for id in ids {
                    self.put(id).await?;
                }
            }
            Some(LogCursor(Place::Behind(height, id))) => {
                self.put(&query.from).await?;
                while self.waiting.last().is_some_and(|next| *next >= (*height, *id)) {
                    self.next().await?;
                }
            }
            None => self.put(&query.from).await?,
        }
        Ok(())
    }

    async fn put(&mut self, id: &CommitId) -> Result<()> {
        self.waiting.insert((self.store.commit(id).await?.height, *id));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<((u64, CommitId), Arc<Commit>)>> {
        let Some(place) = self.waiting.pop_last() else { return Ok(None) };
        let commit = self.store.commit(&place.1).await?;
        for parent in commit.parents.iter().take(if self.first_parent { 1 } else { usize::MAX }) {
            self.put(parent).await?;
        }
        Ok(Some((place, commit)))
    }

    fn cursor(&self, last: Option<(u64, CommitId)>) -> Option<LogCursor> {
        let (height, id) = last.filter(|_| !self.waiting.is_empty())?;
        Some(LogCursor(match self.waiting.len() <= MAX_WAITING {
            true => Place::Waiting(self.waiting.iter().rev().map(|(_, id)| *id).collect()),
            false => Place::Behind(height, id),
        }))
    }
}

async fn matches(store: &Arc<Store>, query: &LogQuery, commit: &Commit) -> Result<bool> {
    let in_time = query.since.is_none_or(|since| commit.time >= since) && query.until.is_none_or(|until| commit.time <= until);
    if !in_time || query.author.as_ref().is_some_and(|author| *author != commit.author) {
        return Ok(false);
    }
    if query.paths.is_empty() {
        return Ok(true);
    }
    if commit.parents.is_empty() {
        return holds_any(store, query, commit).await;
    }
    for parent in commit.parents.iter().take(if query.first_parent { 1 } else { usize::MAX }) {
        if !differs_from(store, query, commit, parent).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn holds_any(store: &Arc<Store>, query: &LogQuery, commit: &Commit) -> Result<bool> {
    for path in &query.paths {
        if !tree::scan(store.as_ref(), &commit.root, &Scan::prefix(path.clone()).limit(1)).await?.items.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn differs_from(store: &Arc<Store>, query: &LogQuery, commit: &Commit, parent: &CommitId) -> Result<bool> {
    let before = store.commit(parent).await?.root;
    for path in &query.paths {
        if !tree::diff(store.as_ref(), &before, &commit.root, &Scan::prefix(path.clone()).limit(1)).await?.items.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
