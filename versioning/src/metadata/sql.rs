//! What SQLite and Postgres have in common: every statement, and [`MetadataStore`] over them.
//!
//! A back-end ([`SqlBackend`]) gives connections to read by and makes writes; both speak the same SQL (`$1` is a placeholder in both, blobs and `bytea` are
//! bound alike) but for the few statements in [`Dialect`]. A [`Write`] is data, so that a back-end may queue it, join it with others in one transaction,
//! or try it again. Rows come as [`Row`], whose accessors refuse what no version of this program would have written.

mod dump;
mod packs;
mod write;

use std::fmt;

use anabranch_core::{BranchId, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

pub(super) use write::{Outcome, Write, perform_all};

use super::{
    BranchInfo, Fence, LeaseState, Location, MetadataDump, MetadataStore, PackSummary, Publication, ReflogEntry, Renamed, TagInfo, check_dump,
    check_holder, check_writes, text_successor,
};
use crate::key::successor;
use crate::{CommitId, EntryKind, Error, PackId, PackIndex, Result};

/// The schema that this program writes.
pub(super) const SCHEMA_VERSION: i64 = 2;

/// Rows or values in one statement, largest first: few enough texts that prepared statements are found again.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// A value that goes to the database.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Int(i64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Blob(&'a [u8]),
    MaybeBlob(Option<&'a [u8]>),
}

/// A value that comes from it.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// A row of an answer.
#[derive(Debug)]
pub(super) struct Row(pub(super) Vec<Cell>);

impl Row {
    fn int(&self, column: usize) -> Result<i64> {
        match self.0.get(column) {
            Some(Cell::Int(int)) => Ok(*int),
            _ => Err(damaged("a number is none")),
        }
    }

    pub(super) fn number(&self, column: usize) -> Result<u64> {
        u64::try_from(self.int(column)?).map_err(|_| damaged("a number is negative"))
    }

    fn time(&self, column: usize) -> Result<Timestamp> {
        self.int(column).map(Timestamp)
    }

    fn maybe_text(&self, column: usize) -> Result<Option<String>> {
        match self.0.get(column) {
            Some(Cell::Text(text)) => Ok(Some(text.clone())),
            Some(Cell::Null) => Ok(None),
            _ => Err(damaged("a text is none")),
        }
    }

    fn text(&self, column: usize) -> Result<String> {
        self.maybe_text(column)?.ok_or_else(|| damaged("a text is missing"))
    }

    pub(super) fn maybe_blob(&self, column: usize) -> Result<Option<&[u8]>> {
        match self.0.get(column) {
            Some(Cell::Blob(blob)) => Ok(Some(blob)),
            Some(Cell::Null) => Ok(None),
            _ => Err(damaged("a blob is none")),
        }
    }

    fn blob(&self, column: usize) -> Result<Bytes> {
        self.maybe_blob(column)?.map(Bytes::copy_from_slice).ok_or_else(|| damaged("a blob is missing"))
    }

    fn maybe_hash(&self, column: usize) -> Result<Option<[u8; 32]>> {
        self.maybe_blob(column)?.map(|blob| blob.try_into().map_err(|_| damaged("a hash is not 32 bytes"))).transpose()
    }

    fn hash(&self, column: usize) -> Result<[u8; 32]> {
        self.maybe_hash(column)?.ok_or_else(|| damaged("a hash is missing"))
    }

    /// Columns [`BRANCH`].
    fn branch(&self) -> Result<BranchInfo> {
        let (id, name, head) = (BranchId(self.number(0)?), self.text(1)?, CommitId(self.hash(2)?));
        Ok(BranchInfo { id, name, head, protected: self.int(3)? != 0, created: self.time(4)? })
    }

    /// Columns [`TAG`].
    fn tag(&self) -> Result<TagInfo> {
        Ok(TagInfo { name: self.text(0)?, commit: CommitId(self.hash(1)?), created: self.time(2)? })
    }

    /// Columns [`REFLOG`].
    fn reflog_entry(&self) -> Result<ReflogEntry> {
        let (old, new) = (self.maybe_hash(1)?.map(CommitId), CommitId(self.hash(2)?));
        Ok(ReflogEntry { seq: self.number(0)?, old, new, time: self.time(3)?, author: self.text(4)?, action: self.text(5)? })
    }

    /// Columns `token, beat, holder, waiting`.
    fn lease(&self) -> Result<LeaseState> {
        let waiting = self.text(3)?.lines().map(str::to_owned).collect();
        Ok(LeaseState { token: self.number(0)?, beat: self.number(1)?, holder: self.maybe_text(2)?, waiting })
    }
}

const BRANCH: &str = "SELECT id, name, head, protected, created FROM branches";
const TAG: &str = "SELECT name, commit_id, created FROM tags";
const REFLOG: &str = "SELECT seq, old, new, time, author, action FROM reflog";
const LEASE: &str = "SELECT token, beat, holder, waiting FROM leases WHERE name = $1";

fn damaged(reason: &str) -> Error {
    Error::corrupt("the metadata database", reason)
}

/// A limit as the database takes it.
fn limit(limit: usize) -> Arg<'static> {
    Arg::Int(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// One connection.
#[async_trait]
pub(super) trait Connection: Send {
    /// The rows of an answer.
    async fn fetch(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>>;
    /// How many rows were written.
    async fn execute(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64>;
    /// How the database says what SQL does not have in common.
    fn dialect(&self) -> &'static Dialect;
}

impl dyn Connection + '_ {
    async fn fetch_one(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Option<Row>> {
        Ok(self.fetch(sql, args).await?.into_iter().next())
    }

    /// Inserts rows of equal length; `into` ends before `VALUES`, `then` follows the rows. Answers how many were written.
    async fn insert(&mut self, into: &str, rows: &[Vec<Arg<'_>>], then: &str) -> Result<u64> {
        let mut written = 0;
        let mut rest = rows;
        for size in SIZES {
            while rest.len() >= size {
                let (chunk, later) = rest.split_at(size);
                let sql = format!("{into} VALUES {}{then}", placeholders(size, chunk[0].len()));
                written += self.execute(&sql, &chunk.concat()).await?;
                rest = later;
            }
        }
        Ok(written)
    }

    /// The rows for any number of hashes; `select` ends before the list.
    async fn fetch_by_hash(&mut self, select: &str, hashes: &[[u8; 32]]) -> Result<Vec<Row>> {
        let mut found = Vec::with_capacity(hashes.len());
        let mut rest = hashes;
        for size in SIZES {
            while rest.len() >= size {
                let (chunk, later) = rest.split_at(size);
                let args: Vec<_> = chunk.iter().map(|hash| Arg::Blob(hash)).collect();
                found.extend(self.fetch(&format!("{select} IN {}", placeholders(1, size)), &args).await?);
                rest = later;
            }
        }
        Ok(found)
    }
}

/// `($1, $2), ($3, $4)` for 2 rows of 2.
fn placeholders(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let columns: Vec<_> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", columns.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// What differs.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Ends a `SELECT` whose rows are to be held until the transaction ends.
    pub(super) for_update: &'static str,
    /// The greater of two numbers.
    pub(super) greatest: &'static str,
    /// Selects the largest id that a branch ever had.
    pub(super) last_branch: &'static str,
    /// Sees to it that later branches and reflog entries get larger ids than `$1`.
    pub(super) raise_branch: &'static [&'static str],
    pub(super) raise_reflog: &'static [&'static str],
}

/// A database that speaks SQL.
#[async_trait]
pub(super) trait SqlBackend: Send + Sync + fmt::Debug + 'static {
    /// The incarnation of the database.
    fn identity(&self) -> u128;
    /// A connection whose every statement sees what is committed.
    async fn reader(&self) -> Result<Box<dyn Connection>>;
    /// Everything of one moment, by [`dump_all`].
    async fn snapshot(&self) -> Result<MetadataDump>;
    /// Makes a write, as a whole or not at all.
    async fn write(&self, write: Write) -> Result<Outcome>;
}

pub(super) use dump::dump_all;

async fn rows(backend: &impl SqlBackend, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
    backend.reader().await?.fetch(sql, args).await
}

async fn row(backend: &impl SqlBackend, sql: &str, args: &[Arg<'_>]) -> Result<Option<Row>> {
    Ok(rows(backend, sql, args).await?.into_iter().next())
}

/// Names in `table` that begin with a prefix and come after another.
async fn page(backend: &impl SqlBackend, select: &str, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<Row>> {
    let sql = format!("{select} WHERE name >= $1 AND ($2 IS NULL OR name < $2) AND ($3 IS NULL OR name > $3) ORDER BY name LIMIT $4");
    let end = text_successor(prefix);
    rows(backend, &sql, &[Arg::Text(prefix), Arg::MaybeText(end.as_deref()), Arg::MaybeText(after), limit(most)]).await
}

/// An outcome of another kind than its write's would be a fault of this module.
macro_rules! outcome {
    ($outcome:expr, $variant:path) => {
        match $outcome {
            $variant(inner) => Ok(inner),
            other => Err(damaged(&format!("a write had the outcome {other:?}"))),
        }
    };
}

#[async_trait]
impl<B: SqlBackend> MetadataStore for B {
    async fn incarnation(&self) -> Result<u128> {
        Ok(self.identity())
    }

    async fn publish(&self, publication: &Publication) -> Result<bool> {
        check_writes(&publication.writes)?;
        outcome!(self.write(Write::Publish(publication.clone())).await?, Outcome::Done)
    }

    async fn locate(&self, hashes: &[[u8; 32]]) -> Result<Vec<Option<Location>>> {
        let mut db = self.reader().await?;
        let select = "SELECT i.hash, p.hash, i.\"offset\", i.len FROM pack_index i JOIN packs p ON p.id = i.pack WHERE i.hash";
        let mut found = std::collections::HashMap::with_capacity(hashes.len());
        for row in db.fetch_by_hash(select, hashes).await? {
            found.insert(row.hash(0)?, Location { pack: PackId(row.hash(1)?), offset: row.number(2)?, len: row.number(3)? as u32 });
        }
        Ok(hashes.iter().map(|hash| found.get(hash).copied()).collect())
    }

    async fn commits_between(&self, low: &CommitId, high: &CommitId, most: usize) -> Result<Vec<CommitId>> {
        let sql = "SELECT hash FROM pack_index WHERE hash BETWEEN $1 AND $2 AND kind = $3 ORDER BY hash LIMIT $4";
        let args = [Arg::Blob(&low.0), Arg::Blob(&high.0), Arg::Int(EntryKind::Commit as i64), limit(most)];
        rows(self, sql, &args).await?.iter().map(|row| row.hash(0).map(CommitId)).collect()
    }

    async fn create_branch(&self, name: &str, head: &CommitId, time: Timestamp, author: &str) -> Result<Option<BranchInfo>> {
        let write = Write::CreateBranch { name: name.to_owned(), head: *head, time, author: author.to_owned() };
        outcome!(self.write(write).await?, Outcome::Branch)
    }

    async fn delete_branch(&self, name: &str, id: BranchId) -> Result<bool> {
        outcome!(self.write(Write::DeleteBranch { name: name.to_owned(), id }).await?, Outcome::Done)
    }

    async fn rename_branch(&self, name: &str, id: BranchId, new: &str) -> Result<Renamed> {
        outcome!(self.write(Write::RenameBranch { name: name.to_owned(), id, new: new.to_owned() }).await?, Outcome::Renamed)
    }

    async fn protect_branch(&self, name: &str, protected: bool) -> Result<bool> {
        outcome!(self.write(Write::ProtectBranch { name: name.to_owned(), protected }).await?, Outcome::Done)
    }

    async fn branch(&self, name: &str) -> Result<Option<BranchInfo>> {
        row(self, &format!("{BRANCH} WHERE name = $1"), &[Arg::Text(name)]).await?.map(|row| row.branch()).transpose()
    }

    async fn branches(&self) -> Result<Vec<BranchInfo>> {
        rows(self, &format!("{BRANCH} ORDER BY name"), &[]).await?.iter().map(Row::branch).collect()
    }

    async fn branches_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BranchInfo>> {
        page(self, BRANCH, prefix, after, limit).await?.iter().map(Row::branch).collect()
    }

    async fn reflog(&self, branch: BranchId, before: Option<u64>, most: usize) -> Result<Vec<ReflogEntry>> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let sql = format!("{REFLOG} WHERE branch = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3");
        let found = rows(self, &sql, &[Arg::Int(branch.0 as i64), Arg::Int(before), limit(most)]).await?;
        found.iter().map(Row::reflog_entry).collect()
    }

    async fn head_at(&self, branch: BranchId, time: Timestamp) -> Result<Option<CommitId>> {
        let sql = "SELECT new FROM reflog WHERE branch = $1 AND time <= $2 ORDER BY seq DESC LIMIT 1";
        let found = row(self, sql, &[Arg::Int(branch.0 as i64), Arg::Int(time.micros())]).await?;
        found.map(|row| row.hash(0).map(CommitId)).transpose()
    }

    async fn create_tag(&self, name: &str, commit: &CommitId, time: Timestamp) -> Result<Option<TagInfo>> {
        let tag = TagInfo { name: name.to_owned(), commit: *commit, created: time };
        let made = outcome!(self.write(Write::CreateTag(tag.clone())).await?, Outcome::Done)?;
        Ok(made.then_some(tag))
    }

    async fn delete_tag(&self, name: &str) -> Result<bool> {
        outcome!(self.write(Write::DeleteTag { name: name.to_owned() }).await?, Outcome::Done)
    }

    async fn tag(&self, name: &str) -> Result<Option<TagInfo>> {
        row(self, &format!("{TAG} WHERE name = $1"), &[Arg::Text(name)]).await?.map(|row| row.tag()).transpose()
    }

    async fn tags(&self) -> Result<Vec<TagInfo>> {
        rows(self, &format!("{TAG} ORDER BY name"), &[]).await?.iter().map(Row::tag).collect()
    }

    async fn tags_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<TagInfo>> {
        page(self, TAG, prefix, after, limit).await?.iter().map(Row::tag).collect()
    }

    async fn value(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>> {
        let sql = "SELECT value FROM named_values WHERE space = $1 AND key = $2";
        row(self, sql, &[Arg::Text(space), Arg::Blob(key)]).await?.map(|row| row.blob(0)).transpose()
    }

    async fn values(&self, space: &str, prefix: &[u8], after: Option<&[u8]>, most: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let sql = "SELECT key, value FROM named_values \
                   WHERE space = $1 AND key >= $2 AND ($3 IS NULL OR key < $3) AND ($4 IS NULL OR key > $4) ORDER BY key LIMIT $5";
        let end = successor(prefix);
        let args = [Arg::Text(space), Arg::Blob(prefix), Arg::MaybeBlob(end.as_deref()), Arg::MaybeBlob(after), limit(most)];
        rows(self, sql, &args).await?.iter().map(|row| Ok((row.blob(0)?, row.blob(1)?))).collect()
    }

    async fn swap_value(&self, space: &str, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool> {
        let (space, key) = (space.to_owned(), Bytes::copy_from_slice(key));
        let (expected, new) = (expected.map(Bytes::copy_from_slice), new.map(Bytes::copy_from_slice));
        outcome!(self.write(Write::SwapValue { space, key, expected, new }).await?, Outcome::Done)
    }

    async fn allocate(&self, mark: &str, count: u64) -> Result<u64> {
        outcome!(self.write(Write::Allocate { mark: mark.to_owned(), count }).await?, Outcome::First)
    }

    async fn mark(&self, mark: &str) -> Result<u64> {
        let found = row(self, "SELECT next FROM marks WHERE name = $1", &[Arg::Text(mark)]).await?;
        Ok(found.map(|row| row.number(0)).transpose()?.unwrap_or(1))
    }

    async fn epochs(&self, tags: &[&str]) -> Result<Vec<Option<u64>>> {
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        // One statement sees one moment. A few lengths of the list: the last tag fills it up.
        let length = tags.len().next_power_of_two();
        let args: Vec<_> = (0..length).map(|i| Arg::Text(tags[i.min(tags.len() - 1)])).collect();
        let sql = format!("SELECT tag, epoch FROM epochs WHERE tag IN {}", placeholders(1, length));
        let mut found = std::collections::HashMap::new();
        for row in rows(self, &sql, &args).await? {
            found.insert(row.text(0)?, row.number(1)?);
        }
        Ok(tags.iter().map(|tag| found.get(*tag).copied()).collect())
    }

    async fn lease(&self, name: &str) -> Result<LeaseState> {
        let found = row(self, LEASE, &[Arg::Text(name)]).await?;
        Ok(found.map(|row| row.lease()).transpose()?.unwrap_or_default())
    }

    async fn take_lease(&self, name: &str, holder: &str, dead: Option<(u64, u64)>) -> Result<LeaseState> {
        check_holder(holder)?;
        outcome!(self.write(Write::TakeLease { name: name.to_owned(), holder: holder.to_owned(), dead }).await?, Outcome::Lease)
    }

    async fn renew_lease(&self, fence: &Fence) -> Result<bool> {
        outcome!(self.write(Write::RenewLease(fence.clone())).await?, Outcome::Done)
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<()> {
        outcome!(self.write(Write::ReleaseLease { name: name.to_owned(), holder: holder.to_owned() }).await?, Outcome::Lease).map(drop)
    }

    async fn packs(&self, after: Option<&PackId>, most: usize) -> Result<Vec<PackSummary>> {
        let sql = "SELECT hash, entries, bytes FROM packs WHERE $1 IS NULL OR hash > $1 ORDER BY hash LIMIT $2";
        let found = rows(self, sql, &[Arg::MaybeBlob(after.map(|after| &after.0[..])), limit(most)]).await?;
        found.iter().map(|row| Ok(PackSummary { id: PackId(row.hash(0)?), entries: row.number(1)?, bytes: row.number(2)? })).collect()
    }

    async fn replace_packs(&self, new: &[PackIndex], old: &[PackId]) -> Result<bool> {
        outcome!(self.write(Write::ReplacePacks { new: new.to_vec(), old: old.to_vec() }).await?, Outcome::Done)
    }

    async fn dump(&self) -> Result<MetadataDump> {
        self.snapshot().await
    }

    async fn load(&self, dump: &MetadataDump) -> Result<()> {
        check_dump(dump)?;
        outcome!(self.write(Write::Load(Box::new(dump.clone()))).await?, Outcome::Done).map(drop)
    }
}
