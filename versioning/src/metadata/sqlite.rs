//! [`SqliteMetadata`]: the embedded back-end, one file.
//!
//! Write-ahead logging with `synchronous = FULL`: a transaction that returned has survived loss of power. One connection writes (`BEGIN IMMEDIATE`, so that
//! compare-and-set never fails on a lock upgrade), a few read beside it. The directory is synced when the file is made. The schema's version stands in
//! the table `repository`; a newer one is refused, an older one will be migrated in one transaction.

use std::path::Path;
use std::time::Duration;

use anabranch_core::{BranchId, Ids, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};

use super::{
    BranchInfo, Fence, HeadMove, LeaseState, Location, MetadataDump, MetadataStore, MetadataWrite, PackSummary, Publication, ReflogEntry, Renamed,
    TagInfo, check_count, check_writes,
};
use crate::files::{Files, RealFiles, ensure_dir, parent};
use crate::key::successor;
use crate::{CommitId, EntryKind, Error, PackId, PackIndex, Result};

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = include_str!("sqlite/schema-1.sql");
const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows of the index in one statement; SQLite binds at most 32,766 values.
const INDEX_ROWS: usize = 200;

/// Keeps everything in an SQLite database.
#[derive(Debug)]
pub struct SqliteMetadata {
    writer: SqlitePool,
    readers: SqlitePool,
    incarnation: u128,
}

impl SqliteMetadata {
    /// Opens the database in this file, making it and its directory if missing.
    ///
    /// # Errors
    /// [`Error::NewerSchema`] if a newer program wrote it; unavailable where the file cannot be opened.
    pub async fn open(path: &Path, ids: &dyn Ids) -> Result<Self> {
        let fail = |error: std::io::Error| Error::backend(format!("opening {}", path.display()), error);
        ensure_dir(&RealFiles, parent(path)).map_err(fail)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let open = |error: sqlx::Error| match failed(error) {
            Error::Corrupt { reason, .. } => Error::corrupt(path.display().to_string(), reason),
            Error::Unavailable { source, .. } => Error::Unavailable { what: format!("opening {}", path.display()), source },
            other => other,
        };
        let writer = SqlitePoolOptions::new().max_connections(1).test_before_acquire(false).connect_with(options.clone()).await.map_err(open)?;
        let incarnation = prepare(&writer, ids.random()).await?;
        RealFiles.sync_dir(parent(path)).map_err(fail)?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).test_before_acquire(false).connect_with(options).await.map_err(open)?;
        Ok(Self { writer, readers, incarnation })
    }

    /// Ends all connections; the log is folded into the database file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn begin(&self) -> Result<Writing> {
        let connection = self.writer.acquire().await.map_err(failed)?;
        let mut writing = Writing(Some(connection));
        sqlx::query("BEGIN IMMEDIATE").execute(writing.db()).await.map_err(failed)?;
        Ok(writing)
    }
}

/// A write transaction. Where it is dropped without an end, by an error or by a caller that gave up, its connection is thrown away: SQLite may have
/// rolled back on its own (a full disk), and `sqlx`'s transactions lose count then.
struct Writing(Option<PoolConnection<Sqlite>>);

impl Writing {
    fn db(&mut self) -> &mut SqliteConnection {
        self.0.as_deref_mut().expect("the connection is held until the end")
    }

    async fn commit(self) -> Result<()> {
        self.end("COMMIT").await
    }

    async fn roll_back(self) -> Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<()> {
        sqlx::query(statement).execute(self.db()).await.map_err(failed)?;
        drop(self.0.take());
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

fn failed(error: sqlx::Error) -> Error {
    // SQLITE_CORRUPT and SQLITE_NOTADB, with whatever extends them in the higher bits.
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok()).map(|code| code & 0xFF);
    match code {
        Some(11 | 26) => Error::corrupt("the metadata database", error.to_string()),
        _ => Error::backend("the metadata database", error),
    }
}

/// Makes the schema in a new database, or checks the version of an old one; answers the incarnation.
async fn prepare(writer: &SqlitePool, fresh: u128) -> Result<u128> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = 'repository'").fetch_one(&mut *transaction).await.map_err(failed)?;
    if tables == 0 {
        sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await.map_err(failed)?;
        let insert = sqlx::query("INSERT INTO repository (id, schema_version, incarnation) VALUES (1, ?, ?)");
        insert.bind(SCHEMA_VERSION).bind(&fresh.to_be_bytes()[..]).execute(&mut *transaction).await.map_err(failed)?;
    }
    let row = sqlx::query("SELECT schema_version, incarnation FROM repository").fetch_one(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let found: i64 = row.try_get(0).map_err(failed)?;
    if found > SCHEMA_VERSION {
        return Err(Error::NewerSchema { found, known: SCHEMA_VERSION });
    }
    let incarnation: Vec<u8> = row.try_get(1).map_err(failed)?;
    let incarnation = incarnation.try_into().map_err(|_| Error::corrupt("the metadata database", "its incarnation is not 16 bytes"))?;
    Ok(u128::from_be_bytes(incarnation))
}

fn hash(row: &SqliteRow, column: usize) -> Result<[u8; 32]> {
    let bytes: &[u8] = row.try_get(column).map_err(failed)?;
    bytes.try_into().map_err(|_| Error::corrupt("the metadata database", "a hash is not 32 bytes"))
}

fn number(row: &SqliteRow, column: usize) -> Result<u64> {
    Ok(row.try_get::<i64, _>(column).map_err(failed)? as u64)
}

fn text(row: &SqliteRow, column: usize) -> Result<String> {
    row.try_get(column).map_err(failed)
}

fn time(row: &SqliteRow, column: usize) -> Result<Timestamp> {
    Ok(Timestamp(row.try_get(column).map_err(failed)?))
}

fn blob(row: &SqliteRow, column: usize) -> Result<Bytes> {
    Ok(row.try_get::<Vec<u8>, _>(column).map_err(failed)?.into())
}

/// Columns `id, name, head, protected, created`.
fn branch(row: &SqliteRow) -> Result<BranchInfo> {
    let protected: bool = row.try_get(3).map_err(failed)?;
    Ok(BranchInfo { id: BranchId(number(row, 0)?), name: text(row, 1)?, head: CommitId(hash(row, 2)?), protected, created: time(row, 4)? })
}

/// Columns `name, commit_id, created`.
fn tag(row: &SqliteRow) -> Result<TagInfo> {
    Ok(TagInfo { name: text(row, 0)?, commit: CommitId(hash(row, 1)?), created: time(row, 2)? })
}

/// Columns `seq, old, new, time, author, action`.
fn reflog_entry(row: &SqliteRow) -> Result<ReflogEntry> {
    let old: Option<&[u8]> = row.try_get(1).map_err(failed)?;
    Ok(ReflogEntry {
        seq: number(row, 0)?,
        old: old.map(CommitId::from_slice).transpose()?,
        new: CommitId(hash(row, 2)?),
        time: time(row, 3)?,
        author: text(row, 4)?,
        action: text(row, 5)?,
    })
}

async fn log(db: &mut SqliteConnection, branch: BranchId, entry: ReflogEntry) -> Result<()> {
    sqlx::query("INSERT INTO reflog (branch, old, new, time, author, action) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(branch.0 as i64)
        .bind(entry.old.map(|old| old.0.to_vec()))
        .bind(&entry.new.0[..])
        .bind(entry.time.micros())
        .bind(entry.author)
        .bind(entry.action)
        .execute(db)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn move_head(db: &mut SqliteConnection, head: &HeadMove) -> Result<bool> {
    let last = head.steps.last().map_or(head.expected, |step| step.commit);
    let update = sqlx::query("UPDATE branches SET head = ? WHERE id = ? AND head = ?");
    let update = update.bind(&last.0[..]).bind(head.branch.0 as i64).bind(&head.expected.0[..]);
    if update.execute(&mut *db).await.map_err(failed)?.rows_affected() == 0 {
        return Ok(false);
    }
    let mut old = head.expected;
    for step in &head.steps {
        let (author, action) = (step.author.clone(), step.action.clone());
        log(db, head.branch, ReflogEntry { seq: 0, old: Some(old), new: step.commit, time: step.time, author, action }).await?;
        old = step.commit;
    }
    Ok(true)
}

async fn index(db: &mut SqliteConnection, pack: &PackIndex) -> Result<()> {
    let insert = sqlx::query("INSERT INTO packs (hash, bytes) VALUES (?, ?) ON CONFLICT (hash) DO UPDATE SET bytes = excluded.bytes RETURNING id");
    let row = insert.bind(&pack.pack.0[..]).bind(check_count(Some(pack.bytes))?).fetch_one(&mut *db).await.map_err(failed)?;
    let id: i64 = row.try_get(0).map_err(failed)?;
    for entries in pack.entries.chunks(INDEX_ROWS) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO pack_index (hash, kind, pack, offset, len) ");
        insert.push_values(entries, |mut row, entry| {
            row.push_bind(&entry.hash[..]).push_bind(entry.kind as i64).push_bind(id).push_bind(entry.offset as i64).push_bind(i64::from(entry.len));
        });
        insert.push(" ON CONFLICT (hash) DO NOTHING");
        insert.build().execute(&mut *db).await.map_err(failed)?;
    }
    Ok(())
}

async fn write(db: &mut SqliteConnection, write: &MetadataWrite) -> Result<()> {
    let query = match write {
        MetadataWrite::Put { space, key, value } => {
            let insert =
                "INSERT INTO named_values (space, key, value) VALUES (?, ?, ?) ON CONFLICT (space, key) DO UPDATE SET value = excluded.value";
            sqlx::query(insert).bind(space).bind(&key[..]).bind(&value[..])
        }
        MetadataWrite::Delete { space, key } => sqlx::query("DELETE FROM named_values WHERE space = ? AND key = ?").bind(space).bind(&key[..]),
        MetadataWrite::RaiseMark { name, to } => {
            let raise = "INSERT INTO marks (name, next) VALUES (?, max(1, ?)) ON CONFLICT (name) DO UPDATE SET next = max(next, excluded.next)";
            sqlx::query(raise).bind(name).bind(check_count(Some(*to))?)
        }
        MetadataWrite::BumpEpoch { tag } => {
            sqlx::query("INSERT INTO epochs (tag, epoch) VALUES (?, 1) ON CONFLICT (tag) DO UPDATE SET epoch = epoch + 1").bind(tag)
        }
    };
    query.execute(db).await.map_err(failed)?;
    Ok(())
}

#[async_trait]
impl MetadataStore for SqliteMetadata {
    async fn incarnation(&self) -> Result<u128> {
        Ok(self.incarnation)
    }

    async fn publish(&self, publication: &Publication) -> Result<bool> {
        check_writes(&publication.writes)?;
        let mut transaction = self.begin().await?;
        if let Some(head) = &publication.head
            && !move_head(transaction.db(), head).await?
        {
            transaction.roll_back().await?;
            return Ok(false);
        }
        if let Some(pack) = &publication.pack {
            index(transaction.db(), pack).await?;
        }
        for one in &publication.writes {
            write(transaction.db(), one).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn locate(&self, hashes: &[[u8; 32]]) -> Result<Vec<Option<Location>>> {
        let mut found = Vec::with_capacity(hashes.len());
        let mut db = self.readers.acquire().await.map_err(failed)?;
        for wanted in hashes {
            let select = sqlx::query("SELECT p.hash, i.offset, i.len FROM pack_index i JOIN packs p ON p.id = i.pack WHERE i.hash = ?");
            let row = select.bind(&wanted[..]).fetch_optional(&mut *db).await.map_err(failed)?;
            let location = |row: SqliteRow| Ok(Location { pack: PackId(hash(&row, 0)?), offset: number(&row, 1)?, len: number(&row, 2)? as u32 });
            found.push(row.map(location).transpose()?);
        }
        Ok(found)
    }

    async fn commits_between(&self, low: &CommitId, high: &CommitId, limit: usize) -> Result<Vec<CommitId>> {
        let select = sqlx::query("SELECT hash FROM pack_index WHERE hash BETWEEN ? AND ? AND kind = ? ORDER BY hash LIMIT ?");
        let select = select.bind(&low.0[..]).bind(&high.0[..]).bind(EntryKind::Commit as i64).bind(limit as i64);
        let rows = select.fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(|row| hash(row, 0).map(CommitId)).collect()
    }

    async fn create_branch(&self, name: &str, head: &CommitId, created: Timestamp, author: &str) -> Result<Option<BranchInfo>> {
        let mut transaction = self.begin().await?;
        let insert = "INSERT INTO branches (name, head, protected, created) VALUES (?, ?, 0, ?) ON CONFLICT (name) DO NOTHING RETURNING id";
        let insert = sqlx::query(insert).bind(name).bind(&head.0[..]).bind(created.micros());
        let Some(row) = insert.fetch_optional(transaction.db()).await.map_err(failed)? else {
            transaction.roll_back().await?;
            return Ok(None);
        };
        let id = BranchId(number(&row, 0)?);
        let (author, action) = (author.to_owned(), "create".to_owned());
        log(transaction.db(), id, ReflogEntry { seq: 0, old: None, new: *head, time: created, author, action }).await?;
        transaction.commit().await?;
        Ok(Some(BranchInfo { id, name: name.to_owned(), head: *head, protected: false, created }))
    }

    async fn delete_branch(&self, name: &str, id: BranchId) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM branches WHERE name = ? AND id = ?").bind(name).bind(id.0 as i64);
        Ok(delete.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    async fn protect_branch(&self, name: &str, protected: bool) -> Result<bool> {
        let update = sqlx::query("UPDATE branches SET protected = ? WHERE name = ?").bind(protected).bind(name);
        Ok(update.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    async fn branch(&self, name: &str) -> Result<Option<BranchInfo>> {
        let select = sqlx::query("SELECT id, name, head, protected, created FROM branches WHERE name = ?").bind(name);
        select.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(branch).transpose()
    }

    async fn branches(&self) -> Result<Vec<BranchInfo>> {
        let select = sqlx::query("SELECT id, name, head, protected, created FROM branches ORDER BY name");
        select.fetch_all(&self.readers).await.map_err(failed)?.iter().map(branch).collect()
    }

    async fn reflog(&self, id: BranchId, before: Option<u64>, limit: usize) -> Result<Vec<ReflogEntry>> {
        let select = "SELECT seq, old, new, time, author, action FROM reflog WHERE branch = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let select = sqlx::query(select).bind(id.0 as i64).bind(before).bind(limit as i64);
        select.fetch_all(&self.readers).await.map_err(failed)?.iter().map(reflog_entry).collect()
    }

    async fn head_at(&self, id: BranchId, time: Timestamp) -> Result<Option<CommitId>> {
        let select = sqlx::query("SELECT new FROM reflog WHERE branch = ? AND time <= ? ORDER BY seq DESC LIMIT 1");
        let row = select.bind(id.0 as i64).bind(time.micros()).fetch_optional(&self.readers).await.map_err(failed)?;
        row.map(|row| hash(&row, 0).map(CommitId)).transpose()
    }

    async fn create_tag(&self, name: &str, commit: &CommitId, created: Timestamp) -> Result<Option<TagInfo>> {
        let insert = sqlx::query("INSERT INTO tags (name, commit_id, created) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING");
        let insert = insert.bind(name).bind(&commit.0[..]).bind(created.micros());
        let made = insert.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0;
        Ok(made.then(|| TagInfo { name: name.to_owned(), commit: *commit, created }))
    }

    async fn delete_tag(&self, name: &str) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM tags WHERE name = ?").bind(name);
        Ok(delete.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    async fn tag(&self, name: &str) -> Result<Option<TagInfo>> {
        let select = sqlx::query("SELECT name, commit_id, created FROM tags WHERE name = ?").bind(name);
        select.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(tag).transpose()
    }

    async fn tags(&self) -> Result<Vec<TagInfo>> {
        let select = sqlx::query("SELECT name, commit_id, created FROM tags ORDER BY name");
        select.fetch_all(&self.readers).await.map_err(failed)?.iter().map(tag).collect()
    }

    async fn value(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>> {
        let select = sqlx::query("SELECT value FROM named_values WHERE space = ? AND key = ?").bind(space).bind(key);
        select.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(|row| blob(row, 0)).transpose()
    }

    async fn values(&self, space: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let select = "SELECT key, value FROM named_values \
                      WHERE space = ? AND key >= ? AND (? IS NULL OR key < ?) AND (? IS NULL OR key > ?) ORDER BY key LIMIT ?";
        let end = successor(prefix).map(|end| end.to_vec());
        let select = sqlx::query(select).bind(space).bind(prefix).bind(end.clone()).bind(end).bind(after).bind(after).bind(limit as i64);
        select.fetch_all(&self.readers).await.map_err(failed)?.iter().map(|row| Ok((blob(row, 0)?, blob(row, 1)?))).collect()
    }

    async fn swap_value(&self, space: &str, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool> {
        let mut transaction = self.begin().await?;
        let select = sqlx::query("SELECT value FROM named_values WHERE space = ? AND key = ?").bind(space).bind(key);
        let row = select.fetch_optional(transaction.db()).await.map_err(failed)?;
        if row.as_ref().map(|row| blob(row, 0)).transpose()?.as_deref() != expected {
            transaction.roll_back().await?;
            return Ok(false);
        }
        let (space, key) = (space.to_owned(), Bytes::copy_from_slice(key));
        let change = match new {
            Some(new) => MetadataWrite::Put { space, key, value: Bytes::copy_from_slice(new) },
            None => MetadataWrite::Delete { space, key },
        };
        write(transaction.db(), &change).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn allocate(&self, mark: &str, count: u64) -> Result<u64> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query("SELECT next FROM marks WHERE name = ?").bind(mark).fetch_optional(transaction.db()).await.map_err(failed)?;
        let first = row.as_ref().map(|row| number(row, 0)).transpose()?.unwrap_or(1);
        let to = check_count(first.checked_add(count))? as u64;
        write(transaction.db(), &MetadataWrite::RaiseMark { name: mark.to_owned(), to }).await?;
        transaction.commit().await?;
        Ok(first)
    }

    async fn mark(&self, mark: &str) -> Result<u64> {
        let row = sqlx::query("SELECT next FROM marks WHERE name = ?").bind(mark).fetch_optional(&self.readers).await.map_err(failed)?;
        Ok(row.as_ref().map(|row| number(row, 0)).transpose()?.unwrap_or(1))
    }

    async fn epochs(&self, tags: &[&str]) -> Result<Vec<Option<u64>>> {
        let mut transaction = self.readers.begin().await.map_err(failed)?;
        let mut epochs = Vec::with_capacity(tags.len());
        for tag in tags {
            let select = sqlx::query("SELECT epoch FROM epochs WHERE tag = ?").bind(*tag);
            let row = select.fetch_optional(&mut *transaction).await.map_err(failed)?;
            epochs.push(row.as_ref().map(|row| number(row, 0)).transpose()?);
        }
        Ok(epochs)
    }

    async fn rename_branch(&self, _name: &str, _id: BranchId, _new: &str) -> Result<Renamed> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn branches_page(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<BranchInfo>> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn tags_page(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<TagInfo>> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn lease(&self, _name: &str) -> Result<LeaseState> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn take_lease(&self, _name: &str, _holder: &str, _dead: Option<(u64, u64)>) -> Result<LeaseState> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn renew_lease(&self, _fence: &Fence) -> Result<bool> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn release_lease(&self, _name: &str, _holder: &str) -> Result<()> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn packs(&self, _after: Option<&PackId>, _limit: usize) -> Result<Vec<PackSummary>> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn replace_packs(&self, _new: &[PackIndex], _old: &[PackId]) -> Result<bool> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn dump(&self) -> Result<MetadataDump> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
    async fn load(&self, _dump: &MetadataDump) -> Result<()> {
        Err(Error::invalid("metadata", "not yet in this back-end"))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{ErrorKind, Kinded, RandomIds};

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_laws_of_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteMetadata::open(&folder.path().join("meta/db.sqlite"), &RandomIds::seeded(1)).await.unwrap();
        crate::testkit::metadata_laws(&store).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_opening_again_and_ids_are_not_reused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        let first = SqliteMetadata::open(&path, &RandomIds::seeded(1)).await.unwrap();
        let old = first.create_branch("x", &CommitId::of(b"1"), Timestamp(1), "ada").await.unwrap().unwrap();
        assert!(first.delete_branch("x", old.id).await.unwrap());
        assert_eq!(first.allocate("ids", 5).await.unwrap(), 1);
        first.close().await;
        let second = SqliteMetadata::open(&path, &RandomIds::seeded(2)).await.unwrap();
        assert_eq!(second.incarnation().await.unwrap(), first.incarnation);
        assert!(second.create_branch("x", &CommitId::of(b"1"), Timestamp(1), "ada").await.unwrap().unwrap().id > old.id);
        assert_eq!(second.allocate("ids", 1).await.unwrap(), 6);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        let store = SqliteMetadata::open(&path, &RandomIds::seeded(1)).await.unwrap();
        sqlx::query("UPDATE repository SET schema_version = 2").execute(&store.writer).await.unwrap();
        store.close().await;
        let refused = SqliteMetadata::open(&path, &RandomIds::seeded(1)).await;
        assert!(matches!(refused, Err(Error::NewerSchema { found: 2, known: 1 })));
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        std::fs::write(&path, "this is no database, however long it may be".repeat(100)).unwrap();
        let error = SqliteMetadata::open(&path, &RandomIds::seeded(1)).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("db.sqlite"), "{error}");
    }

    #[tokio::test]
    async fn a_full_database_is_exhausted_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteMetadata::open(&folder.path().join("db.sqlite"), &RandomIds::seeded(1)).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 40").execute(&store.writer).await.unwrap();
        let put = |name: &'static str, len| MetadataWrite::Put { space: "x".to_owned(), key: name.into(), value: vec![1; len].into() };
        let writes = vec![put("small", 1), put("large", 1 << 20)];
        let error = store.publish(&Publication { writes, ..Publication::default() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(store.value("x", b"small").await.unwrap(), None);
        store.publish(&Publication { writes: vec![put("small", 1)], ..Publication::default() }).await.unwrap();
    }
}
