//! Paths in byte order.
//!
//! Keys of the map order by the length of a part before its bytes, so the paths under a prefix lie in as many runs as they have lengths, each run in byte
//! order. A listing merges these runs: it finds the lengths that there are by seeking from one to the next, and then takes the least of all runs' next
//! paths. A page costs one seek for each length and what it gives, whatever else the repository holds.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::{MAX_OBJECT_PATH_BYTES, ObjectEntry, ObjectInfo};
use crate::{Entry, Error, Key, KeyKind, MAX_PAGE, MapReader, Result, Scan};

/// How many entries of a run are read first; each further time twice as many, up to [`MOST`].
const FIRST: usize = 16;
const MOST: usize = 1024;

/// Which objects to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectQuery {
    /// Only paths that begin so.
    pub prefix: String,
    /// Where given, paths that hold it behind the prefix are given as one: the part up to and with its first occurrence. Usually `/`.
    pub delimiter: String,
    /// Only what comes behind this: the `next` of the page before.
    pub after: Option<String>,
    /// At most this many items, and at most [`MAX_PAGE`].
    pub limit: usize,
}

impl Default for ObjectQuery {
    fn default() -> Self {
        Self { prefix: String::new(), delimiter: String::new(), after: None, limit: MAX_PAGE }
    }
}

impl ObjectQuery {
    /// Everything whose path begins so.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// What a path shows as, where it is not listed itself.
    pub(super) fn common<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&self.prefix).filter(|_| !self.delimiter.is_empty())?;
        rest.find(&self.delimiter).map(|at| &path[..self.prefix.len() + at + self.delimiter.len()])
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectItem {
    /// An object.
    Object(ObjectInfo),
    /// What several paths begin with, up to and with the delimiter.
    Prefix(String),
}

/// A part of a listing, in the byte order of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPage {
    /// The part.
    pub items: Vec<ObjectItem>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<String>,
}

/// A page of the objects in one state of the map.
pub(crate) async fn list(map: &dyn MapReader, query: &ObjectQuery) -> Result<ObjectPage> {
    if query.limit == 0 {
        return Err(Error::invalid("limit", "it is 0: ask for one item or more"));
    }
    let limit = query.limit.min(MAX_PAGE);
    let mut lister = Lister::open(map, query).await?;
    let (mut items, mut last): (Vec<ObjectItem>, String) = (Vec::new(), String::new());
    while let Some(run) = lister.least() {
        if items.len() == limit {
            return Ok(ObjectPage { items, next: Some(last) });
        }
        let path = lister.runs[run].head().to_owned();
        last = match query.common(&path) {
            Some(common) => {
                lister.skip(common).await?;
                items.push(ObjectItem::Prefix(common.to_owned()));
                common.to_owned()
            }
            None => {
                let entry = lister.take(run).await?;
                items.push(ObjectItem::Object(ObjectInfo { path: path.clone(), entry: ObjectEntry::from_bytes(&entry.value)? }));
                path
            }
        };
    }
    Ok(ObjectPage { items, next: None })
}

struct Lister<'a> {
    map: &'a dyn MapReader,
    /// Those that are not at their end, none empty.
    runs: Vec<Run>,
}

/// The paths of one length.
struct Run {
    length: usize,
    /// Read and not listed.
    ready: VecDeque<(String, Entry)>,
    /// Where the rest begins; `None` where nothing is left to read.
    rest: Option<Scan>,
}

impl Run {
    fn head(&self) -> &str {
        self.ready.front().map_or("", |(path, _)| path)
    }

    /// Reads on, if nothing is ready.
    async fn fill(&mut self, map: &dyn MapReader) -> Result<()> {
        while self.ready.is_empty()
            && let Some(scan) = self.rest.take()
        {
            let page = map.scan(&scan).await?;
            for entry in page.items {
                self.ready.push_back((path_of(&entry.key)?, entry));
            }
            let limit = (scan.limit * 2).min(MOST);
            self.rest = page.next.map(|next| scan.after(next).limit(limit));
        }
        Ok(())
    }
}

impl<'a> Lister<'a> {
    async fn open(map: &'a dyn MapReader, query: &ObjectQuery) -> Result<Self> {
        let prefix = query.prefix.as_bytes();
        let bounds = Bounds { prefix, least: least(query) };
        let mut runs = Vec::new();
        let mut length = prefix.len().max(1);
        while length <= MAX_OBJECT_PATH_BYTES {
            let found = map.scan(&Scan { prefix: Some(all()?), from: Some(bounds.from(length)?), limit: 1, ..Scan::default() }).await?;
            let Some(first) = found.items.first() else { break };
            let found = first.key.part(0).map_or(0, <[u8]>::len);
            if found == length {
                let mut run = Run { length, ready: VecDeque::new(), rest: Some(bounds.scan(length)?) };
                run.fill(map).await?;
                if !run.ready.is_empty() {
                    runs.push(run);
                }
            }
            length = found.max(length + 1);
        }
        Ok(Self { map, runs })
    }

    /// The run whose next path is the least.
    fn least(&self) -> Option<usize> {
        (0..self.runs.len()).min_by(|a, b| match self.runs[*a].head().cmp(self.runs[*b].head()) {
            Ordering::Equal => a.cmp(b),
            order => order,
        })
    }

    async fn take(&mut self, run: usize) -> Result<Entry> {
        let taken = self.runs[run].ready.pop_front();
        self.runs[run].fill(self.map).await?;
        if self.runs[run].ready.is_empty() {
            self.runs.remove(run);
        }
        taken.map(|(_, entry)| entry).ok_or_else(|| Error::corrupt("a listing", "a run is empty"))
    }

    /// Passes over everything that begins so.
    async fn skip(&mut self, common: &str) -> Result<()> {
        for run in &mut self.runs {
            if !run.head().starts_with(common) {
                continue;
            }
            while run.ready.front().is_some_and(|(path, _)| path.starts_with(common)) {
                run.ready.pop_front();
            }
            if run.ready.is_empty()
                && let Some(rest) = &mut run.rest
            {
                let bounds = Bounds { prefix: common.as_bytes(), least: behind(common.as_bytes()) };
                (rest.from, rest.after) = (Some(bounds.from(run.length)?), None);
            }
            run.fill(self.map).await?;
        }
        self.runs.retain(|run| !run.ready.is_empty());
        Ok(())
    }
}

/// The least bytes that a listing may begin with; everything is in byte order, so that it decides for every length.
fn least(query: &ObjectQuery) -> Vec<u8> {
    let begin = match &query.after {
        None => Vec::new(),
        // The page before ended with this common part: with all that begins so.
        Some(after) if query.common(after) == Some(after) => behind(after.as_bytes()),
        // The next string after `x` is `x` and a zero.
        Some(after) => [after.as_bytes(), &[0]].concat(),
    };
    begin.max(query.prefix.as_bytes().to_vec())
}

/// The least bytes behind everything that begins with `prefix`, which is UTF-8 and so has no byte 255.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut bytes = prefix.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

struct Bounds<'a> {
    prefix: &'a [u8],
    least: Vec<u8>,
}

impl Bounds<'_> {
    /// The least key of a length that is not before `least`.
    fn from(&self, length: usize) -> Result<Key> {
        if self.least.len() <= length {
            return padded(&self.least, length);
        }
        // What is as long and equal so far is before the longer bound; so the first key is the next one.
        let mut cut = self.least[..length].to_vec();
        match cut.iter().rposition(|byte| *byte < u8::MAX) {
            Some(at) => {
                cut.truncate(at + 1);
                cut[at] += 1;
                padded(&cut, length)
            }
            None => padded(&[], length + 1),
        }
    }

    /// All keys of a length that begin with the prefix and are not before `least`.
    fn scan(&self, length: usize) -> Result<Scan> {
        let until = if self.prefix.is_empty() { padded(&[], length + 1)? } else { padded(&behind(self.prefix), length)? };
        Ok(Scan { prefix: Some(all()?), from: Some(self.from(length)?), until: Some(until), limit: FIRST, ..Scan::default() })
    }
}

fn all() -> Result<Key> {
    Key::prefix(KeyKind::Object, &[])
}

fn padded(bytes: &[u8], length: usize) -> Result<Key> {
    let mut part = bytes.to_vec();
    part.resize(length.max(bytes.len()), 0);
    Key::new(KeyKind::Object, &[&part])
}

fn path_of(key: &Key) -> Result<String> {
    let path = key.part(0).and_then(|part| std::str::from_utf8(part).ok());
    path.map(str::to_owned).ok_or_else(|| Error::corrupt(key.to_string(), "its path is no text"))
}
