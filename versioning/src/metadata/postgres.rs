//! [`PostgresMetadata`]: the back-end of several servers, one schema of a Postgres database.
//!
//! Every write is a transaction of its own at READ COMMITTED; what it rests on it locks or changes itself (a head by compare-and-set, a lease by its row), so
//! that what returned is seen by all. A write that lost to another (serialisation failure, deadlock, a name that was taken in between) is made again, at
//! most [`ATTEMPTS`] times. Commits are synchronous whatever the server's default is.
//!
//! Nothing waits without end: connecting, a free connection, a lock, a statement and a whole call have limits. A server that is away makes calls fail as
//! unavailable; each connection is looked at before it is used, so that calls succeed again as soon as the server is back. A write whose answer was
//! lost may have been made, as the contract says.
//!
//! Servers that start at once make or migrate the schema one after the other, under an advisory lock.

use std::str::FromStr;
use std::time::Duration;

use anabranch_core::Ids;
use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{Column as _, ConnectOptions, Connection as _, PgConnection, PgPool, Postgres, Row as _, TypeInfo, ValueRef};

use super::MetadataDump;
use super::sql::{Arg, Cell, Connection, Dialect, Outcome, Row, SCHEMA_VERSION, SqlBackend, Write, dump_all, perform_all};
use crate::{Error, Result};

/// How a database of each version becomes the next, beginning with none; no release wrote version 1.
const SCHEMAS: [(i64, &str); 1] = [(2, include_str!("postgres/schema-2.sql"))];
const ATTEMPTS: usize = 16;
const CONNECTIONS: u32 = 10;
/// How long a call waits for a connection, be it a free one or a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The advisory lock under which schemas are made: "anabranc" in ASCII.
const SCHEMA_LOCK: i64 = 0x616E_6162_7261_6E63;

static DIALECT: Dialect = Dialect {
    for_update: " FOR UPDATE",
    greatest: "greatest",
    last_branch: "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM branches_id_seq",
    raise_branch: &["SELECT setval('branches_id_seq', greatest($1, 1), $1 > 0)"],
    raise_reflog: &["SELECT setval('reflog_seq_seq', greatest($1, 1), $1 > 0)"],
};

/// Keeps everything in a schema of a Postgres database.
#[derive(Debug)]
pub struct PostgresMetadata {
    pool: PgPool,
    incarnation: u128,
}

impl PostgresMetadata {
    /// Opens a schema of the database at this URL (`postgres://user:password@host:port/database`), making it if missing. The URL is in no error.
    ///
    /// # Errors
    /// Invalid for a URL that is none; [`Error::NewerSchema`] if a newer program wrote it; unavailable if the server is away or refuses.
    pub async fn open(url: &str, schema: &str, ids: &dyn Ids) -> Result<Self> {
        let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if schema.is_empty() || schema.len() > 63 || !schema.chars().all(named) {
            return Err(Error::invalid("postgres schema", format!("{schema:?} is not 1 to 63 letters, digits and underscores")));
        }
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(Error::invalid("postgres URL", "it does not begin with postgres://"));
        }
        // The parser's message may hold parts of the URL, hence of the password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| Error::invalid("postgres URL", "it is not postgres://user:password@host:port/database, with special characters as %XX"))?;
        let place =
            format!("Postgres at {}:{}, database {:?}", options.get_host(), options.get_port(), options.get_database().unwrap_or("of the user"));
        let quoted = format!("\"{schema}\"");
        let options = options
            .application_name("anabranch")
            .options([
                ("search_path", quoted.as_str()),
                ("synchronous_commit", "on"),
                ("default_transaction_isolation", r"read\ committed"),
                ("lock_timeout", "10s"),
                ("statement_timeout", "50s"),
                ("idle_in_transaction_session_timeout", "60s"),
                ("tcp_keepalives_idle", "15"),
                ("tcp_keepalives_interval", "5"),
                ("tcp_keepalives_count", "3"),
            ])
            .disable_statement_logging();
        let open = |error: sqlx::Error| match failed(error) {
            Error::Unavailable { source, .. } => Error::Unavailable { what: format!("opening the metadata database ({place})"), source },
            other => other,
        };
        let connecting = tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut connection = connecting.map_err(open)?;
        let incarnation = prepare(&mut connection, schema, ids.random()).await?;
        connection.close().await.map_err(open)?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(true);
        Ok(Self { pool: pool.connect_lazy_with(options), incarnation })
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn attempt(&self, write: &Write) -> Result<Outcome> {
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        let made = perform_all(&mut *transaction, std::slice::from_ref(write)).await?.pop();
        transaction.commit().await.map_err(failed)?;
        made.ok_or_else(|| Error::corrupt("the metadata database", "a write had no outcome"))
    }
}

fn failed(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|error| error.code()).as_deref() {
        // data_corrupted, index_corrupted.
        Some("XX001" | "XX002") => Error::corrupt("the metadata database", error.to_string()),
        // character_not_in_repertoire, untranslatable_character: NUL in a text.
        Some("22021" | "22P05") => Error::invalid("text", "it has a NUL character, which Postgres does not keep"),
        _ => Error::backend("the metadata database", error),
    }
}

/// Whether the write was not made because of another that was.
fn lost_to_another(error: &Error) -> bool {
    let (Error::Unavailable { source, .. } | Error::Full { source, .. }) = error else { return false };
    let database = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    // serialization_failure, deadlock_detected, unique_violation.
    matches!(database.and_then(|error| error.code()).as_deref(), Some("40001" | "40P01" | "23505"))
}

/// A call that takes longer than it may.
async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::backend("the metadata database", std::io::Error::from(std::io::ErrorKind::TimedOut)));
    tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(late)
}

/// Makes the schema, or brings an old one up to date; answers the incarnation.
async fn prepare(db: &mut PgConnection, schema: &str, fresh: u128) -> Result<u128> {
    let mut transaction = db.begin().await.map_err(failed)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(SCHEMA_LOCK).execute(&mut *transaction).await.map_err(failed)?;
    let known: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("\"{schema}\".repository"))
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed)?;
    let found: i64 = match known {
        false => 0,
        true => sqlx::query_scalar("SELECT schema_version FROM repository").fetch_one(&mut *transaction).await.map_err(failed)?,
    };
    if found > SCHEMA_VERSION {
        return Err(Error::NewerSchema { found, known: SCHEMA_VERSION });
    }
    if !known {
        sqlx::raw_sql(&format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"")).execute(&mut *transaction).await.map_err(failed)?;
    }
    for (_, schema) in SCHEMAS.iter().filter(|(version, _)| *version > found) {
        sqlx::raw_sql(schema).execute(&mut *transaction).await.map_err(failed)?;
    }
    if !known {
        let insert = sqlx::query("INSERT INTO repository (id, schema_version, incarnation) VALUES (1, $1, $2)");
        insert.bind(SCHEMA_VERSION).bind(&fresh.to_be_bytes()[..]).execute(&mut *transaction).await.map_err(failed)?;
    } else if found < SCHEMA_VERSION {
        sqlx::query("UPDATE repository SET schema_version = $1").bind(SCHEMA_VERSION).execute(&mut *transaction).await.map_err(failed)?;
    }
    let incarnation: Vec<u8> = sqlx::query_scalar("SELECT incarnation FROM repository").fetch_one(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let incarnation = incarnation.try_into().map_err(|_| Error::corrupt("the metadata database", "its incarnation is not 16 bytes"))?;
    Ok(u128::from_be_bytes(incarnation))
}

fn bind<'q>(sql: &'q str, args: &[Arg<'q>]) -> sqlx::query::Query<'q, Postgres, PgArguments> {
    args.iter().fold(sqlx::query(sql), |query, arg| match *arg {
        Arg::Int(int) => query.bind(int),
        Arg::Text(text) => query.bind(text),
        Arg::MaybeText(text) => query.bind(text),
        Arg::Blob(blob) => query.bind(blob),
        Arg::MaybeBlob(blob) => query.bind(blob),
    })
}

fn row(row: &PgRow) -> Result<Row, sqlx::Error> {
    let cell = |column: usize| {
        Ok(match row.try_get_raw(column)?.is_null() {
            true => Cell::Null,
            false => match row.column(column).type_info().name() {
                "INT8" => Cell::Int(row.try_get(column)?),
                "INT4" => Cell::Int(row.try_get::<i32, _>(column)?.into()),
                "TEXT" => Cell::Text(row.try_get(column)?),
                _ => Cell::Blob(row.try_get(column)?),
            },
        })
    };
    (0..row.len()).map(cell).collect::<Result<_, _>>().map(Row)
}

#[async_trait]
impl Connection for PgConnection {
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

/// A connection that only reads.
struct Reader(PoolConnection<Postgres>);

#[async_trait]
impl Connection for Reader {
    async fn fetch(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        in_time(Connection::fetch(&mut *self.0, sql, args)).await
    }

    async fn execute(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        in_time(Connection::execute(&mut *self.0, sql, args)).await
    }

    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }
}

#[async_trait]
impl SqlBackend for PostgresMetadata {
    fn identity(&self) -> u128 {
        self.incarnation
    }

    async fn reader(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(Reader(self.pool.acquire().await.map_err(failed)?)))
    }

    async fn snapshot(&self) -> Result<MetadataDump> {
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
        dump_all(&mut *transaction).await
    }

    async fn write(&self, write: Write) -> Result<Outcome> {
        in_time(async {
            let mut attempt = 1;
            loop {
                match self.attempt(&write).await {
                    Err(error) if attempt < ATTEMPTS && lost_to_another(&error) => attempt += 1,
                    made => return made,
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{ErrorKind, Kinded, RandomIds, Timestamp};
    use futures::future::join_all;

    use super::*;
    use crate::testkit::TestPostgres;
    use crate::{CommitId, MetadataStore, MetadataWrite, Publication};

    async fn open(url: &str) -> PostgresMetadata {
        PostgresMetadata::open(url, "Repo", &RandomIds::seeded(1)).await.unwrap()
    }

    #[tokio::test]
    async fn it_keeps_the_laws_of_metadata_also_over_two_handles() {
        let url = TestPostgres::shared().database().await;
        let (one, two) = tokio::join!(open(&url), open(&url));
        crate::testkit::metadata_laws(&one).await.unwrap();
        crate::testkit::shared_metadata_laws(&one, &two).await.unwrap();
    }

    #[tokio::test]
    async fn servers_that_start_at_once_make_one_database_and_schemas_are_apart() {
        let url = TestPostgres::shared().database().await;
        let opened = join_all((0..4).map(|seed| {
            let url = url.clone();
            async move { PostgresMetadata::open(&url, "one", &RandomIds::seeded(seed)).await.unwrap() }
        }));
        let opened = opened.await;
        assert!(opened.iter().all(|store| store.incarnation == opened[0].incarnation));
        let other = PostgresMetadata::open(&url, "two", &RandomIds::seeded(9)).await.unwrap();
        assert_ne!(other.incarnation, opened[0].incarnation);
        opened[0].create_branch("x", &CommitId::of(b"1"), Timestamp(0), "ada").await.unwrap();
        assert!(opened[1].branch("x").await.unwrap().is_some() && other.branch("x").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let url = TestPostgres::shared().database().await;
        let store = open(&url).await;
        sqlx::query("UPDATE repository SET schema_version = 3").execute(&store.pool).await.unwrap();
        let refused = PostgresMetadata::open(&url, "Repo", &RandomIds::seeded(1)).await;
        assert!(matches!(refused, Err(Error::NewerSchema { found: 3, known: 2 })));
    }

    #[tokio::test]
    async fn writes_of_the_same_rows_wait_for_each_other_and_none_fails() {
        let url = TestPostgres::shared().database().await;
        let store = open(&url).await;
        // Each writes the same rows in an order of its own.
        let publication = |writer: usize| {
            let key = |i: usize| vec![if writer.is_multiple_of(2) { i } else { 9 - i } as u8].into();
            let put = |i: usize| MetadataWrite::Put { space: "x".to_owned(), key: key(i), value: vec![writer as u8].into() };
            Publication { writes: (0..10).map(put).chain([MetadataWrite::BumpEpoch { tag: "t".to_owned() }]).collect(), ..Publication::default() }
        };
        let publications: Vec<_> = (0..40).map(publication).collect();
        let made = join_all(publications.iter().map(|publication| store.publish(publication))).await;
        assert!(made.iter().all(|made| matches!(made, Ok(true))), "{made:?}");
        assert_eq!(store.epochs(&["t"]).await.unwrap(), [Some(40)]);
        let values = store.values("x", b"", None, 100).await.unwrap();
        assert!(values.len() == 10 && values.iter().all(|(_, value)| *value == values[0].1), "a transaction was made in part");
    }

    #[tokio::test]
    async fn a_write_that_lost_to_another_is_made_again() {
        let url = TestPostgres::shared().database().await;
        let (store, other) = tokio::join!(open(&url), open(&url));
        let branch = store.create_branch("x", &CommitId::of(b"1"), Timestamp(0), "ada").await.unwrap().unwrap();
        // Another transaction takes the new name, and ends only when the renaming waits for it.
        let mut transaction = other.pool.begin().await.unwrap();
        let insert = "INSERT INTO branches (name, head, protected, created) VALUES ('y', decode(repeat('00', 32), 'hex'), 0, 0)";
        sqlx::query(insert).execute(&mut *transaction).await.unwrap();
        let ending = async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&other.pool).await.unwrap() == 0 {}
            transaction.commit().await.unwrap();
        };
        let (renamed, ()) = tokio::join!(store.rename_branch("x", branch.id, "y"), ending);
        assert_eq!(renamed.unwrap(), crate::Renamed::Taken);
    }

    #[tokio::test]
    async fn connections_that_were_cut_are_made_again() {
        let server = TestPostgres::shared();
        let url = server.database().await;
        let store = open(&url).await;
        store.create_branch("x", &CommitId::of(b"1"), Timestamp(0), "ada").await.unwrap();
        join_all((0..8).map(|_| store.branch("x"))).await;
        assert!(server.cut(&url).await > 0);
        assert!(store.branch("x").await.unwrap().is_some());
        assert!(store.create_branch("y", &CommitId::of(b"1"), Timestamp(0), "ada").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_server_that_is_away_and_odd_input_are_typed_errors_without_the_password() {
        let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let opened = |url: String| async move { PostgresMetadata::open(&url, "repo", &RandomIds::seeded(1)).await.unwrap_err() };
        let error = opened(format!("postgres://ada:secret@{away}/db")).await;
        let said = format!("{error} {error:?}");
        assert!(error.kind() == ErrorKind::Unavailable && said.contains(&away.port().to_string()) && !said.contains("secret"), "{said}");
        for url in ["mysql://ada:secret@h/db", "postgres://ada:secret@h:port/db", "secret"] {
            let error = opened(url.to_owned()).await;
            assert!(error.kind() == ErrorKind::InvalidArgument && !format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
        let odd = PostgresMetadata::open("postgres://h/db", "a\"b", &RandomIds::seeded(1)).await.unwrap_err();
        assert_eq!(odd.kind(), ErrorKind::InvalidArgument);
        let store = open(&TestPostgres::shared().database().await).await;
        let error = store.create_branch("x", &CommitId::of(b"1"), Timestamp(0), "a\0da").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(store.branch("x").await.unwrap().is_none());
    }
}
