//! [`SqliteMetadata`]: the embedded back-end, one file.
//!
//! Write-ahead logging with `synchronous = FULL`: a transaction that returned has survived loss of power. One task writes ([`Writer`]), a few connections
//! read beside it and wait for nobody. The directory is synced when the file is made. The schema's version stands in the table `repository`; a newer
//! one is refused, an older one is migrated in one transaction when the file is opened.
//!
//! **Writes share transactions.** What is asked while one transaction is being synced forms the next, so that a thousand callers cost a few syncs, and a
//! lone caller waits for nobody. Each write is told its own outcome:
//!
//! | what happens | the others of the transaction |
//! | -- | -- |
//! | a write does not apply (a name is taken, a head moved) | are made; it has written nothing |
//! | a write fails (no space, a limit) | the transaction is rolled back, and each is made again in a transaction of its own |
//! | the transaction cannot be ended | all fail; it was made as a whole or not at all |
//!
//! After a failure the connection is replaced: SQLite may have rolled back on its own.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::Ids;
use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _, Row as _, Sqlite, SqliteConnection, SqlitePool, TypeInfo, ValueRef};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::MetadataDump;
use super::sql::{Arg, Cell, Connection, Dialect, Outcome, Row, SCHEMA_VERSION, SqlBackend, Write, dump_all, perform_all};
use crate::files::{Files, RealFiles, ensure_dir, parent};
use crate::{Error, Result};

/// How a database of each version becomes the next, beginning with none.
const SCHEMAS: [(i64, &str); 2] = [(1, include_str!("sqlite/schema-1.sql")), (2, include_str!("sqlite/schema-2.sql"))];
const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most writes of one transaction.
const GROUP: usize = 256;
const QUEUE: usize = 1024;
const CLOSING_PAUSE: Duration = Duration::from_millis(1);

static DIALECT: Dialect = Dialect {
    for_update: "",
    greatest: "max",
    last_branch: "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'branches'), 0)",
    raise_branch: &[
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'branches', $1 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'branches')",
        "UPDATE sqlite_sequence SET seq = max(seq, $1) WHERE name = 'branches'",
    ],
    // Explicit numbers are counted by SQLite itself, and the reflog is never shortened.
    raise_reflog: &[],
};

/// Keeps everything in an SQLite database.
#[derive(Debug)]
pub struct SqliteMetadata {
    writer: Mutex<Option<(mpsc::Sender<Queued>, JoinHandle<()>)>>,
    readers: SqlitePool,
    incarnation: u128,
}

impl SqliteMetadata {
    /// Opens the database in this file, making it and its directory if missing, and migrating an older one.
    ///
    /// # Errors
    /// [`Error::NewerSchema`] if a newer program wrote it; unavailable where the file cannot be opened.
    pub async fn open(path: &Path, ids: &dyn Ids) -> Result<Self> {
        Self::open_with(path, ids, |options| options).await
    }

    async fn open_with(path: &Path, ids: &dyn Ids, tune: impl FnOnce(SqliteConnectOptions) -> SqliteConnectOptions) -> Result<Self> {
        let fail = |error: std::io::Error| Error::backend(format!("opening {}", path.display()), error);
        ensure_dir(&RealFiles, parent(path)).map_err(fail)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            // That no pack in use is forgotten is counted, not looked for.
            .foreign_keys(false)
            .disable_statement_logging();
        let open = |error: sqlx::Error| match failed(error) {
            Error::Corrupt { reason, .. } => Error::corrupt(path.display().to_string(), reason),
            Error::Unavailable { source, .. } => Error::Unavailable { what: format!("opening {}", path.display()), source },
            other => other,
        };
        let mut connection = options.connect().await.map_err(open)?;
        let incarnation = prepare(&mut connection, ids.random()).await?;
        RealFiles.sync_dir(parent(path)).map_err(fail)?;
        let pool = SqlitePoolOptions::new().max_connections(READERS).test_before_acquire(false);
        let readers = pool.connect_with(options.clone()).await.map_err(open)?;
        connection.close().await.map_err(open)?;
        let options = tune(options);
        let connection = Some(options.connect().await.map_err(open)?);
        let (queue, queued) = mpsc::channel(QUEUE);
        let task = tokio::spawn(Writer { options, connection }.run(queued));
        Ok(Self { writer: Mutex::new(Some((queue, task))), readers, incarnation })
    }

    /// Makes what is queued and ends all connections; the log is folded into the database file.
    pub async fn close(&self) {
        self.readers.close().await;
        // A pool is told closed while connections may still be on their way back to it, and these would keep the log open.
        while self.readers.size() > 0 {
            tokio::time::sleep(CLOSING_PAUSE).await;
            self.readers.close().await;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((queue, task)) = writer {
            drop(queue);
            if let Err(error) = task.await {
                tracing::error!(%error, "the metadata writer failed");
            }
        }
    }
}

/// A write that waits for its transaction.
#[derive(Debug)]
struct Queued {
    write: Write,
    answer: oneshot::Sender<Result<Outcome>>,
}

/// Makes what is queued, a group at a time.
struct Writer {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
}

/// Where a transaction failed.
enum Failure {
    /// Nothing of it was made.
    Within(Error),
    /// It was made as a whole or not at all.
    AtItsEnd(Error),
}

impl Writer {
    async fn run(mut self, mut queued: mpsc::Receiver<Queued>) {
        let mut group = Vec::new();
        while queued.recv_many(&mut group, GROUP).await > 0 {
            let (writes, answers): (Vec<_>, Vec<_>) = group.drain(..).map(|queued| (queued.write, queued.answer)).unzip();
            for (answer, outcome) in answers.into_iter().zip(self.group(&writes).await) {
                // A caller that gave up has no use for the answer.
                drop(answer.send(outcome));
            }
        }
        self.discard().await;
    }

    async fn group(&mut self, writes: &[Write]) -> Vec<Result<Outcome>> {
        let error = match self.transact(writes).await {
            Ok(outcomes) => return outcomes.into_iter().map(Ok).collect(),
            Err(Failure::Within(_)) if writes.len() > 1 => {
                let mut outcomes = Vec::with_capacity(writes.len());
                for write in writes {
                    let made = self.transact(std::slice::from_ref(write)).await;
                    outcomes.push(match made.map(|mut made| made.pop()) {
                        Ok(Some(outcome)) => Ok(outcome),
                        Ok(None) => Err(Error::corrupt("the metadata database", "a write had no outcome")),
                        Err(Failure::Within(error) | Failure::AtItsEnd(error)) => Err(error),
                    });
                }
                return outcomes;
            }
            Err(Failure::Within(error) | Failure::AtItsEnd(error)) => error,
        };
        writes.iter().map(|_| Err(error.clone())).collect()
    }

    async fn transact(&mut self, writes: &[Write]) -> Result<Vec<Outcome>, Failure> {
        let made = self.attempt(writes).await;
        if made.is_err() {
            self.discard().await;
        }
        made
    }

    async fn attempt(&mut self, writes: &[Write]) -> Result<Vec<Outcome>, Failure> {
        let within = |error| Failure::Within(failed(error));
        let db = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.options.connect().await.map_err(within)?),
        };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *db).await.map_err(within)?;
        let outcomes = perform_all(db, writes).await.map_err(Failure::Within)?;
        sqlx::query("COMMIT").execute(&mut *db).await.map_err(|error| Failure::AtItsEnd(failed(error)))?;
        Ok(outcomes)
    }

    async fn discard(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing a connection to the metadata database failed");
        }
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

/// Makes the schema in a new database, or brings an old one up to date; answers the incarnation.
async fn prepare(db: &mut SqliteConnection, fresh: u128) -> Result<u128> {
    let mut transaction = db.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = 'repository'").fetch_one(&mut *transaction).await.map_err(failed)?;
    let found: i64 = match tables {
        0 => 0,
        _ => sqlx::query_scalar("SELECT schema_version FROM repository").fetch_one(&mut *transaction).await.map_err(failed)?,
    };
    if found > SCHEMA_VERSION {
        return Err(Error::NewerSchema { found, known: SCHEMA_VERSION });
    }
    for (_, schema) in SCHEMAS.iter().filter(|(version, _)| *version > found) {
        sqlx::raw_sql(schema).execute(&mut *transaction).await.map_err(failed)?;
    }
    if found == 0 {
        let insert = sqlx::query("INSERT INTO repository (id, schema_version, incarnation) VALUES (1, ?, ?)");
        insert.bind(SCHEMA_VERSION).bind(&fresh.to_be_bytes()[..]).execute(&mut *transaction).await.map_err(failed)?;
    } else if found < SCHEMA_VERSION {
        tracing::info!(from = found, to = SCHEMA_VERSION, "metadata database migrated");
        sqlx::query("UPDATE repository SET schema_version = ?").bind(SCHEMA_VERSION).execute(&mut *transaction).await.map_err(failed)?;
    }
    let incarnation: Vec<u8> = sqlx::query_scalar("SELECT incarnation FROM repository").fetch_one(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let incarnation = incarnation.try_into().map_err(|_| Error::corrupt("the metadata database", "its incarnation is not 16 bytes"))?;
    Ok(u128::from_be_bytes(incarnation))
}

fn bind<'q>(sql: &'q str, args: &[Arg<'q>]) -> sqlx::query::Query<'q, Sqlite, SqliteArguments<'q>> {
    args.iter().fold(sqlx::query(sql), |query, arg| match *arg {
        Arg::Int(int) => query.bind(int),
        Arg::Text(text) => query.bind(text),
        Arg::MaybeText(text) => query.bind(text),
        Arg::Blob(blob) => query.bind(blob),
        Arg::MaybeBlob(blob) => query.bind(blob),
    })
}

fn row(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let cell = |column: usize| {
        let raw = row.try_get_raw(column)?;
        Ok(match raw.is_null() {
            true => Cell::Null,
            false => match raw.type_info().name() {
                "INTEGER" => Cell::Int(row.try_get(column)?),
                "TEXT" => Cell::Text(row.try_get(column)?),
                _ => Cell::Blob(row.try_get(column)?),
            },
        })
    };
    (0..row.len()).map(cell).collect::<Result<_, _>>().map(Row)
}

#[async_trait]
impl Connection for SqliteConnection {
    async fn fetch(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let rows = bind(sql, args).fetch_all(self).await.map_err(failed)?;
        rows.iter().map(row).collect::<Result<_, _>>().map_err(failed)
    }

    async fn execute(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        Ok(bind(sql, args).execute(self).await.map_err(failed)?.rows_affected())
    }

    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }
}

#[async_trait]
impl Connection for PoolConnection<Sqlite> {
    async fn fetch(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        Connection::fetch(&mut **self, sql, args).await
    }

    async fn execute(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        Connection::execute(&mut **self, sql, args).await
    }

    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }
}

#[async_trait]
impl SqlBackend for SqliteMetadata {
    fn identity(&self) -> u128 {
        self.incarnation
    }

    async fn reader(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.readers.acquire().await.map_err(failed)?))
    }

    async fn snapshot(&self) -> Result<MetadataDump> {
        let mut transaction = self.readers.begin().await.map_err(failed)?;
        dump_all(&mut *transaction).await
    }

    async fn write(&self, write: Write) -> Result<Outcome> {
        let queue = self.writer.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(queue, _)| queue.clone());
        let (answer, wait) = oneshot::channel();
        queue.ok_or(Error::Closing)?.send(Queued { write, answer }).await.map_err(|_| Error::Closing)?;
        wait.await.map_err(|error| Error::backend("the metadata writer", error))?
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{ErrorKind, Kinded, RandomIds, Timestamp};

    use super::*;
    use crate::{CommitId, MetadataStore, MetadataWrite, Publication};

    #[tokio::test]
    async fn it_keeps_the_laws_of_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteMetadata::open(&folder.path().join("meta/db.sqlite"), &RandomIds::seeded(1)).await.unwrap();
        crate::testkit::metadata_laws(&store).await.unwrap();
        let again = SqliteMetadata::open(&folder.path().join("meta/db.sqlite"), &RandomIds::seeded(2)).await.unwrap();
        crate::testkit::shared_metadata_laws(&store, &again).await.unwrap();
    }

    #[tokio::test]
    async fn a_database_of_the_first_schema_is_migrated_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql(SCHEMAS[0].1).execute(&mut old).await.unwrap();
        let rows = "INSERT INTO repository VALUES (1, 1, zeroblob(16));
            INSERT INTO branches (name, head, protected, created) VALUES ('main', zeroblob(32), 0, 5);
            INSERT INTO packs (hash, bytes) VALUES (zeroblob(32), 9);
            INSERT INTO pack_index VALUES (zeroblob(32), 2, 1, 8, 4), (x'FF', 1, 1, 12, 4);";
        sqlx::raw_sql(rows).execute(&mut old).await.unwrap();
        old.close().await.unwrap();
        for seed in [1, 2] {
            let store = SqliteMetadata::open(&path, &RandomIds::seeded(seed)).await.unwrap();
            assert_eq!(store.incarnation, 0);
            assert_eq!(store.branch("main").await.unwrap().unwrap().created, Timestamp(5));
            assert_eq!(store.packs(None, 10).await.unwrap()[0].entries, 2);
            store.take_lease(&format!("l{seed}"), "a", None).await.unwrap();
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_write_that_fails_does_not_fail_those_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let small = |options: SqliteConnectOptions| options.pragma("max_page_count", "60");
        let store = SqliteMetadata::open_with(&folder.path().join("db.sqlite"), &RandomIds::seeded(1), small).await.unwrap();
        let put = |i: usize, len| {
            let put = MetadataWrite::Put { space: "x".to_owned(), key: vec![i as u8].into(), value: vec![1; len].into() };
            Publication { writes: vec![put], ..Publication::default() }
        };
        let publications: Vec<_> = (0..40).map(|i| put(i, if i == 20 { 1 << 20 } else { 1 })).collect();
        let made = futures::future::join_all(publications.iter().map(|publication| store.publish(publication))).await;
        for (i, made) in made.into_iter().enumerate() {
            assert_eq!(made.map_err(|error| error.kind()), if i == 20 { Err(ErrorKind::Exhausted) } else { Ok(true) }, "{i}");
        }
        assert_eq!(store.values("x", b"", None, 100).await.unwrap().len(), 39);
        store.close().await;
        assert!(matches!(store.publish(&put(0, 1)).await, Err(Error::Closing)));
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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn nothing_is_open_after_closing_while_reads_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        for seed in 0..60 {
            let store = SqliteMetadata::open(&path, &RandomIds::seeded(seed)).await.unwrap();
            let reads: Vec<_> = (0..READERS).map(|_| store.branch("main")).collect();
            futures::future::join_all(reads).await;
            store.close().await;
            // Whoever is told that the store is closed may move its files. (The log may still lie there: of connections that close at once, none may
            // be the last in its own eyes.)
            let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
            let open: Vec<_> = open.filter(|file| file.starts_with(folder.path())).collect();
            assert!(open.is_empty(), "{seed}: {open:?}");
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        let store = SqliteMetadata::open(&path, &RandomIds::seeded(1)).await.unwrap();
        sqlx::query("UPDATE repository SET schema_version = 3").execute(&store.readers).await.unwrap();
        store.close().await;
        let refused = SqliteMetadata::open(&path, &RandomIds::seeded(1)).await;
        assert!(matches!(refused, Err(Error::NewerSchema { found: 3, known: 2 })));
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
        let small = |options: SqliteConnectOptions| options.pragma("max_page_count", "40");
        let store = SqliteMetadata::open_with(&folder.path().join("db.sqlite"), &RandomIds::seeded(1), small).await.unwrap();
        let put = |name: &'static str, len| MetadataWrite::Put { space: "x".to_owned(), key: name.into(), value: vec![1; len].into() };
        let writes = vec![put("small", 1), put("large", 1 << 20)];
        let error = store.publish(&Publication { writes, ..Publication::default() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(store.value("x", b"small").await.unwrap(), None);
        store.publish(&Publication { writes: vec![put("small", 1)], ..Publication::default() }).await.unwrap();
    }
}
