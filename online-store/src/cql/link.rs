//! A session with the cluster, its tables and the statements prepared for them.
//!
//! ```text
//! P_rows     (key blob, generation bigint) → row blob      one partition for each entity, a row for each generation
//! P_control  (part text, name text) → value blob           see [`super::keys`]
//! ```
//!
//! P is the prefix. A link never changes; whoever finds that it no longer fits (its nodes are gone, its tables are not there, the root is another one)
//! asks for the next one. Keyspace and tables are made where they are not there: a cluster that comes back empty needs nobody's help.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::response::query_result::QueryRowsResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{CqlValue, Row};

use super::keys::{NODE, ROOT, Root};
use super::node::Identity;
use crate::call::Call;
use crate::{CqlConfig, CqlConsistency, Error, Incarnation, Result};

/// How long a connection may stay silent before it is asked for a sign, and how long that may take.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What an attempt may end in besides its result.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The link may be what failed: the next one may do better.
    Stale(Error),
    /// Another link would fail as well.
    Final(Error),
}

pub(super) type Attempt<T> = std::result::Result<T, Trouble>;

impl Trouble {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Stale(error) | Self::Final(error) => error,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Connections, statements, and what was verified when they were made.
pub(super) struct Link {
    pub(super) version: u64,
    pub(super) incarnation: Incarnation,
    /// The nodes as they were then, by their ids.
    pub(super) nodes: HashMap<String, Identity>,
    /// Whether a row that was acknowledged lies on so many nodes that the loss of one's last writes is the cluster's to mend.
    pub(super) replicated: bool,
    pub(super) session: Session,
    pub(super) statements: Statements,
}

pub(super) struct Statements {
    pub(super) read: PreparedStatement,
    pub(super) write: PreparedStatement,
    pub(super) end: PreparedStatement,
    pub(super) scan: PreparedStatement,
    pub(super) scan_keys: PreparedStatement,
    get: PreparedStatement,
    all: PreparedStatement,
    insert: PreparedStatement,
    update: PreparedStatement,
    delete: PreparedStatement,
    forget: PreparedStatement,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("version", &self.version).field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects, makes what is not there and prepares the statements. Nothing is verified yet.
    pub(super) async fn connect(config: &CqlConfig, call: &Call, limit: Duration) -> Attempt<Self> {
        let mut builder = SessionBuilder::new().known_nodes(config.hosts()?).connection_timeout(limit);
        builder = builder.keepalive_interval(KEEPALIVE).keepalive_timeout(KEEPALIVE).keyspaces_to_fetch([&config.keyspace]);
        if !config.user.is_empty() {
            builder = builder.user(&config.user, &config.password.0);
        }
        let mut policy = DefaultPolicy::builder().token_aware(true);
        if !config.datacenter.is_empty() {
            policy = policy.prefer_datacenter(config.datacenter.clone());
        }
        let (consistency, serial) = match config.consistency {
            CqlConsistency::Quorum => (Consistency::Quorum, SerialConsistency::Serial),
            CqlConsistency::LocalQuorum => (Consistency::LocalQuorum, SerialConsistency::LocalSerial),
        };
        let profile = ExecutionProfile::builder().consistency(consistency).serial_consistency(Some(serial));
        let profile = profile.request_timeout(None).load_balancing_policy(policy.build()).build();
        let session = builder.default_execution_profile_handle(profile.into_handle()).build().await;
        let session =
            session.map_err(|error| Error::Storage { doing: "connect to CQL", source: format!("{}: {error}", config.contact_points).into() })?;
        let replicated = ensure_tables(&session, config, call).await?;
        let statements = Statements::prepare(&session, config).await.map_err(|error| Trouble::Stale(call.failed(error)))?;
        Ok(Self { version: 0, incarnation: Incarnation(0), nodes: HashMap::new(), replicated, session, statements })
    }

    /// Executes a statement whose answer may be read as rows.
    pub(super) async fn rows(
        &self,
        statement: &PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow,
        call: &Call,
    ) -> Attempt<QueryRowsResult> {
        let result = self.session.execute_unpaged(statement, values).await.map_err(|error| trouble(error, call))?;
        result.into_rows_result().map_err(|error| call.failed(error).into())
    }

    /// Executes a statement that answers nothing.
    pub(super) async fn run(&self, statement: &PreparedStatement, values: impl scylla::serialize::row::SerializeRow, call: &Call) -> Attempt<()> {
        self.session.execute_unpaged(statement, values).await.map(|_| ()).map_err(|error| trouble(error, call))
    }

    /// A value of the control table.
    pub(super) async fn get(&self, part: &str, name: &str, call: &Call) -> Attempt<Option<Bytes>> {
        let rows = self.rows(&self.statements.get, (part, name), call).await?;
        Ok(rows.maybe_first_row::<(Bytes,)>().map_err(|error| call.failed(error))?.map(|(value,)| value))
    }

    /// The root; `None` where there is none.
    pub(super) async fn root(&self, call: &Call) -> Attempt<Option<Root>> {
        let found = self.get(ROOT, "", call).await?;
        Ok(found.map(|found| Root::parse(&found)).transpose()?)
    }

    /// What was written down of each node.
    pub(super) async fn markers(&self, call: &Call) -> Attempt<HashMap<String, Bytes>> {
        let rows = self.rows(&self.statements.all, (NODE,), call).await?;
        let rows = rows.rows::<(String, Bytes)>().map_err(|error| call.failed(error))?;
        Ok(rows.collect::<std::result::Result<_, _>>().map_err(|error| call.failed(error))?)
    }

    /// Replaces a value of the control table where it is still `from`, in one step of the cluster; answers whether it was.
    pub(super) async fn swap(&self, part: &str, name: &str, from: Option<&[u8]>, to: Option<&[u8]>, call: &Call) -> Attempt<bool> {
        let rows = match (from, to) {
            (None, Some(to)) => self.rows(&self.statements.insert, (part, name, to), call).await?,
            (Some(from), Some(to)) => self.rows(&self.statements.update, (to, part, name, from), call).await?,
            (Some(from), None) => self.rows(&self.statements.delete, (part, name, from), call).await?,
            (None, None) => return Ok(true),
        };
        let row = rows.first_row::<Row>().map_err(|error| call.failed(error))?;
        Ok(row.columns.first() == Some(&Some(CqlValue::Boolean(true))))
    }

    /// Forgets a part of the control table that nobody writes to any more.
    pub(super) async fn forget(&self, part: &str, call: &Call) -> Attempt<()> {
        self.run(&self.statements.forget, (part,), call).await
    }
}

/// Does work for each number below `count`, at most `width` at a time.
pub(super) async fn each<T, F: Future<Output = Attempt<T>>>(count: usize, width: usize, work: impl Fn(usize) -> F) -> Attempt<Vec<(usize, T)>> {
    let next = AtomicUsize::new(0);
    let workers = (0..width.min(count)).map(|_| async {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok::<_, Trouble>(done);
            }
            done.push((i, work(i).await?));
        }
    });
    Ok(try_join_all(workers).await?.into_iter().flatten().collect())
}

/// Whether the link may be at fault, which it is not where the cluster answered that it cannot do more now.
pub(super) fn trouble(error: ExecutionError, call: &Call) -> Trouble {
    let stale = match &error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => {
            matches!(error, DbError::Invalid | DbError::SyntaxError | DbError::ConfigError | DbError::Unprepared { .. } | DbError::Unauthorized)
        }
        _ => true,
    };
    let error = call.failed(error);
    if stale { Trouble::Stale(error) } else { Trouble::Final(error) }
}

impl Statements {
    async fn prepare(session: &Session, config: &CqlConfig) -> std::result::Result<Self, PrepareError> {
        let prepare = async |cql: &str, again: bool| {
            let cql = cql.replace("{rows}", &table(config, "rows")).replace("{control}", &table(config, "control"));
            let mut statement = session.prepare(cql).await?;
            statement.set_is_idempotent(again);
            Ok::<_, PrepareError>(statement)
        };
        Ok(Self {
            read: prepare("SELECT generation, row FROM {rows} WHERE key = ? AND generation IN ?", true).await?,
            write: prepare("UPDATE {rows} USING TIMESTAMP ? SET row = ? WHERE key = ? AND generation = ?", true).await?,
            end: prepare("DELETE FROM {rows} USING TIMESTAMP ? WHERE key = ? AND generation = ?", true).await?,
            scan: prepare("SELECT key, row FROM {rows} WHERE token(key) >= ? AND token(key) <= ? AND generation = ? ALLOW FILTERING", true).await?,
            scan_keys: prepare("SELECT key FROM {rows} WHERE token(key) >= ? AND token(key) <= ? AND generation = ? ALLOW FILTERING", true).await?,
            get: prepare("SELECT value FROM {control} WHERE part = ? AND name = ?", true).await?,
            all: prepare("SELECT name, value FROM {control} WHERE part = ?", true).await?,
            insert: prepare("INSERT INTO {control} (part, name, value) VALUES (?, ?, ?) IF NOT EXISTS", false).await?,
            update: prepare("UPDATE {control} SET value = ? WHERE part = ? AND name = ? IF value = ?", false).await?,
            delete: prepare("DELETE FROM {control} WHERE part = ? AND name = ? IF value = ?", false).await?,
            forget: prepare("DELETE FROM {control} WHERE part = ?", true).await?,
        })
    }
}

fn table(config: &CqlConfig, name: &str) -> String {
    format!("{}.{}_{name}", config.keyspace, config.prefix)
}

/// Makes keyspace and tables where they are not there, and answers whether the keyspace keeps each row on three nodes or more.
async fn ensure_tables(session: &Session, config: &CqlConfig, call: &Call) -> Result<bool> {
    let mut found = keyspace(session, config, call).await?;
    if found.is_none() {
        let at = if config.datacenter.is_empty() { "replication_factor" } else { &config.datacenter };
        let replication = format!("{{'class': 'NetworkTopologyStrategy', '{at}': {}}}", config.replication_factor);
        define(session, format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {replication}", config.keyspace), call).await?;
        found = keyspace(session, config, call).await?;
    }
    let Some((replication, durable_writes)) = found else {
        return Err(call.failed(format!("keyspace {} is not there, and was not made", config.keyspace)));
    };
    if !durable_writes {
        let reason = format!("keyspace {} has durable_writes = false, so that rows are lost with a process: set it to true", config.keyspace);
        return Err(Error::Config { setting: "cql.keyspace", reason });
    }
    let names = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let names = session.query_unpaged(names, (&config.keyspace,)).await.map_err(|error| call.failed(error))?;
    let names = names.into_rows_result().map_err(|error| call.failed(error))?;
    let names = names.rows::<(String,)>().map_err(|error| call.failed(error))?;
    let names: Vec<_> = names.filter_map(|name| name.ok().map(|(name,)| name)).collect();
    let leveled = "compaction = {'class': 'LeveledCompactionStrategy'}";
    for (name, definition) in [
        ("rows", format!("(key blob, generation bigint, row blob, PRIMARY KEY (key, generation)) WITH {leveled}")),
        ("control", "(part text, name text, value blob, PRIMARY KEY (part, name))".to_owned()),
    ] {
        if !names.contains(&format!("{}_{name}", config.prefix)) {
            define(session, format!("CREATE TABLE IF NOT EXISTS {} {definition}", table(config, name)), call).await?;
        }
    }
    let factors = replication.iter().filter(|(name, _)| *name != "class" && (config.datacenter.is_empty() || **name == config.datacenter));
    // A data centre of Cassandra may have transient replicas, written behind a slash.
    let factors = factors.map(|(_, factor)| factor.split('/').next().and_then(|factor| factor.parse::<u32>().ok()).unwrap_or(0));
    Ok(factors.min().unwrap_or(0) >= 3)
}

async fn keyspace(session: &Session, config: &CqlConfig, call: &Call) -> Result<Option<(HashMap<String, String>, bool)>> {
    let select = "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let result = session.query_unpaged(select, (&config.keyspace,)).await.map_err(|error| call.failed(error))?;
    let rows = result.into_rows_result().map_err(|error| call.failed(error))?;
    rows.maybe_first_row().map_err(|error| call.failed(error))
}

async fn define(session: &Session, definition: String, call: &Call) -> Result<()> {
    session.query_unpaged(definition, &[]).await.map(|_| ()).map_err(|error| call.failed(error))
}
