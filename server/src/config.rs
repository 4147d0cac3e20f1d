//! The one configuration: a TOML file under environment variables under flags, over defaults.
//!
//! `anabranch.toml` beside this crate is the documented sample; a test holds it equal to the defaults. The environment variable of a setting is
//! `ANABRANCH_` and its dotted name in capitals with underscores. A variable that begins with a section's name but sets nothing there is refused, so
//! that a slip of the pen does not pass silently; other `ANABRANCH_…` variables belong to other programs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anabranch_core::Span;
use anabranch_ingest::ServingLogConfig;
use anabranch_offline_store::engine::EngineKind;
use anabranch_online_store::{CqlConfig, RedisConfig};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};

/// The sample configuration, commented; it sets every setting to its default.
pub const SAMPLE: &str = include_str!("../anabranch.toml");

const ENV_PREFIX: &str = "ANABRANCH_";

/// How a server runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where gRPC, HTTP and Flight are served.
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub data: PathBuf,
    /// The repositories served.
    pub repositories: Vec<String>,
    /// How long a shutdown waits for requests under way.
    pub drain: Span,
    /// Where branches, tags and all else that is mutable lie.
    pub metadata: MetadataConfig,
    /// How rows become commits.
    pub ingest: IngestConfig,
    /// The online store.
    pub online: OnlineConfig,
    /// How what is served is logged.
    pub serving_log: ServingLogConfig,
    /// Where joins and queries run.
    pub engine: EngineConfig,
    /// When tables are compacted, and how.
    pub compaction: CompactionConfig,
    /// What one request may carry.
    pub limits: LimitsConfig,
    /// Saved datasets on their way to trainers.
    pub datasets: DatasetsConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Whether the server ends with its last user.
    pub private: PrivateConfig,
}

/// Where branches, tags and all else that is mutable lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetadataConfig {
    /// `sqlite`, or the URL of a Postgres database.
    pub store: MetadataLocation,
    /// How long a server that shares the database may show no life before another commits in its place.
    pub lease_ttl: Span,
}

/// `sqlite`, a file in the data folder, or a `postgres://` URL. Its `Debug` does not show the URL, which may hold a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetadataLocation(String);

impl MetadataLocation {
    /// The URL, where it is Postgres.
    pub fn postgres(&self) -> Option<&str> {
        (self.0 != Self::SQLITE).then_some(&*self.0)
    }

    const SQLITE: &str = "sqlite";

    fn is_known(&self) -> bool {
        self.0 == Self::SQLITE || ["postgres://", "postgresql://"].iter().any(|scheme| self.0.starts_with(scheme))
    }
}

impl std::fmt::Debug for MetadataLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.postgres().is_some() { "postgres://…" } else { Self::SQLITE })
    }
}

/// How rows become commits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// The longest that a published row waits for its commit.
    pub commit_every: Span,
    /// The most rows that wait for a commit.
    pub commit_rows: usize,
    /// The most bytes of rows that wait for a commit.
    pub commit_bytes: usize,
    /// About how long a file of the write-ahead log becomes.
    pub segment_bytes: u64,
}

/// The online store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    /// Where it is.
    pub backend: OnlineBackend,
    /// The store that is to take its place, while what is online moves there.
    pub next: NextBackend,
    /// How much memory the embedded store may use.
    pub memory_bytes: u64,
    /// How often it is looked whether some rows of history are online; 0 for never.
    pub sample_every: Span,
    /// Memory for rows of another store that were looked up lately; 0 keeps none.
    pub cache_bytes: u64,
    /// How long such a row may be served after another server of the same metadata database wrote a newer one.
    pub cache_staleness: Span,
    /// The store on Redis.
    pub redis: RedisConfig,
    /// The store on a cluster that speaks CQL.
    pub cql: CqlConfig,
}

/// Where what is online moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NextBackend {
    /// Nowhere.
    None,
    /// To the data folder.
    Embedded,
    /// To Redis.
    Redis,
    /// To a cluster that speaks CQL.
    Cql,
}

impl NextBackend {
    /// The store to move to.
    pub const fn backend(self) -> Option<OnlineBackend> {
        match self {
            Self::None => None,
            Self::Embedded => Some(OnlineBackend::Embedded),
            Self::Redis => Some(OnlineBackend::Redis),
            Self::Cql => Some(OnlineBackend::Cql),
        }
    }
}

/// Where the online store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnlineBackend {
    /// In the data folder.
    Embedded,
    /// On Redis.
    Redis,
    /// On Cassandra or Scylla.
    Cql,
}

/// Where joins and queries run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where a join runs that does not say.
    pub kind: EngineKind,
    /// How much memory queries and joins may use together in this process.
    pub memory_bytes: u64,
    /// Host and port of the scheduler of a cluster; empty where there is none.
    pub scheduler: String,
    /// Into how many parts a spine is cut for the cluster.
    pub partitions: usize,
}

/// When tables are compacted, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompactionConfig {
    /// Whether tables of `main` are compacted in the background.
    pub enabled: bool,
    /// How long after one look at the tables the next is taken.
    pub every: Span,
    /// How many files that could become fewer a table has before it is compacted.
    pub small_files: u64,
    /// A file of fewer bytes is small.
    pub small_bytes: u64,
    /// About how many bytes a file should have.
    pub target_bytes: u64,
    /// About how much memory a compaction may use for rows.
    pub memory_bytes: usize,
}

/// What one request may carry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// One push, over any face.
    pub push_bytes: usize,
    /// One uploaded file.
    pub upload_bytes: u64,
    /// The spine of one dataset, in memory or on disk.
    pub spine_bytes: u64,
}

/// Saved datasets on their way to trainers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetsConfig {
    /// Memory for rows that are read in shuffled order.
    pub cache_memory_bytes: u64,
    /// Disk for those that have no place there.
    pub cache_disk_bytes: u64,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The shape of a line.
    pub format: LogFormat,
    /// A level or `tracing` directives.
    pub level: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether the server ends with its last user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrivateConfig {
    /// Whether it does.
    pub enabled: bool,
    /// How long after the last session has ended.
    pub idle_after: Span,
    /// How long a first session may take to come.
    pub startup_grace: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            data: PathBuf::from("anabranch-data"),
            repositories: vec!["default".to_owned()],
            drain: Span::seconds(20),
            metadata: MetadataConfig::default(),
            ingest: IngestConfig::default(),
            online: OnlineConfig::default(),
            serving_log: ServingLogConfig::default(),
            engine: EngineConfig::default(),
            compaction: CompactionConfig::default(),
            limits: LimitsConfig::default(),
            datasets: DatasetsConfig::default(),
            log: LogConfig::default(),
            private: PrivateConfig::default(),
        }
    }
}

impl Default for MetadataConfig {
    fn default() -> Self {
        Self { store: MetadataLocation(MetadataLocation::SQLITE.to_owned()), lease_ttl: Span::seconds(3) }
    }
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self { commit_every: Span::seconds(2), commit_rows: 200_000, commit_bytes: 64 << 20, segment_bytes: 64 << 20 }
    }
}

impl Default for OnlineConfig {
    fn default() -> Self {
        Self {
            backend: OnlineBackend::Embedded,
            next: NextBackend::None,
            memory_bytes: 256 << 20,
            sample_every: Span::seconds(30),
            cache_bytes: 128 << 20,
            cache_staleness: Span::seconds(1),
            redis: RedisConfig::default(),
            cql: CqlConfig::default(),
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { kind: EngineKind::DataFusion, memory_bytes: 4 << 30, scheduler: String::new(), partitions: 16 }
    }
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self { enabled: true, every: Span::seconds(60), small_files: 100, small_bytes: 32 << 20, target_bytes: 128 << 20, memory_bytes: 1 << 30 }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { push_bytes: 64 << 20, upload_bytes: 64 << 30, spine_bytes: 64 << 30 }
    }
}

impl Default for DatasetsConfig {
    fn default() -> Self {
        Self { cache_memory_bytes: 512 << 20, cache_disk_bytes: 64 << 30 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl Default for PrivateConfig {
    fn default() -> Self {
        Self { enabled: false, idle_after: Span::seconds(2), startup_grace: Span::seconds(30) }
    }
}

impl Config {
    /// Reads a configuration: flags (dotted names and values) over the environment over a file over the defaults.
    ///
    /// # Errors
    /// [`Error::Config`] that names the file, variable or flag at fault.
    pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>, flags: &[(String, String)]) -> Result<Self> {
        let mut table = match file {
            Some(path) => read(path)?,
            None => Table::new(),
        };
        let settings = settings()?;
        for (name, value) in environment {
            if let Some(path) = setting_of(&name, &settings)? {
                set(&mut table, path, &value, &name)?;
            }
        }
        for (path, value) in flags {
            let Some((known, _)) = settings.iter().find(|(known, _)| known == path) else {
                let all: Vec<_> = settings.iter().map(|(name, _)| name.as_str()).collect();
                return Err(Error::Config(format!("there is no setting {path:?}; there are {}", all.join(", "))));
            };
            set(&mut table, known, value, path)?;
        }
        let config = Self::deserialize(table).map_err(|error| Error::Config(error.message().to_owned()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Config`] with the setting at fault.
    pub fn validate(&self) -> Result<()> {
        let refuse = |setting: &str, reason: &str| Err(Error::Config(format!("{setting} {reason}")));
        if !self.listen.ip().is_loopback() {
            return refuse("listen", &format!("is {}, beyond loopback: until authentication comes, use 127.0.0.1 or [::1]", self.listen));
        }
        if self.data.as_os_str().is_empty() {
            return refuse("data", "is empty: give a folder");
        }
        if self.repositories.is_empty() {
            return refuse("repositories", "is empty: name at least one");
        }
        for (i, name) in self.repositories.iter().enumerate() {
            anabranch_core::name::check("repository", name).map_err(|error| Error::Config(format!("repositories: {error}")))?;
            if self.repositories[..i].contains(name) {
                return refuse("repositories", &format!("names {name:?} twice"));
            }
        }
        for (setting, value, least) in [
            ("ingest.commit_rows", self.ingest.commit_rows as u64, 1),
            ("ingest.commit_bytes", self.ingest.commit_bytes as u64, 1),
            ("ingest.segment_bytes", self.ingest.segment_bytes, 1 << 16),
            ("online.memory_bytes", self.online.memory_bytes, 1 << 20),
            ("engine.memory_bytes", self.engine.memory_bytes, 16 << 20),
            ("engine.partitions", self.engine.partitions as u64, 1),
            ("compaction.small_files", self.compaction.small_files, 2),
            ("compaction.target_bytes", self.compaction.target_bytes, 1),
            ("compaction.memory_bytes", self.compaction.memory_bytes as u64, 16 << 20),
            ("limits.push_bytes", self.limits.push_bytes as u64, 1 << 10),
            ("limits.upload_bytes", self.limits.upload_bytes, 1 << 10),
            ("limits.spine_bytes", self.limits.spine_bytes, 1 << 10),
        ] {
            if value < least {
                return refuse(setting, &format!("is {value}: it must be at least {least}"));
            }
        }
        if self.limits.push_bytes > 1 << 30 {
            return refuse("limits.push_bytes", "is over 1 GiB: use bulk ingest for more");
        }
        if !self.metadata.store.is_known() {
            return refuse("metadata.store", "is neither \"sqlite\" nor a URL such as postgres://user:password@host:5432/database");
        }
        if !(Span::seconds(1)..=Span::seconds(300)).contains(&self.metadata.lease_ttl) {
            return refuse("metadata.lease_ttl", "is not between 1s and 5m");
        }
        if self.online.next.backend() == Some(self.online.backend) {
            return refuse("online.next", "is the store that is served already");
        }
        if self.online.cache_bytes > 0 && self.online.cache_bytes < 1 << 20 {
            return refuse("online.cache_bytes", "is less than 1 MiB: give more, or 0 for no cache");
        }
        if self.online.cache_staleness > Span::seconds(60) {
            return refuse("online.cache_staleness", "is over a minute: 0s sees what other servers write at once and caches nothing");
        }
        self.online.redis.validate().map_err(|error| Error::Config(format!("online: {error}")))?;
        self.online.cql.validate().map_err(|error| Error::Config(format!("online: {error}")))?;
        if self.online.cql.prefix.len() > 24 {
            return refuse("online.cql.prefix", "is longer than 24 characters: the names of tables have little room");
        }
        let scheduler = &self.engine.scheduler;
        if self.engine.kind == EngineKind::Ballista && scheduler.is_empty() {
            return refuse("engine.scheduler", "is empty, and engine.kind is ballista: give the host and port of the scheduler");
        }
        if !scheduler.is_empty() && scheduler.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            return refuse("engine.scheduler", &format!("is {scheduler:?}: write HOST:PORT"));
        }
        if self.compaction.every <= Span::default() {
            return refuse("compaction.every", "is zero: give a span such as 1m");
        }
        if self.ingest.commit_every <= Span::default() {
            return refuse("ingest.commit_every", "is zero: give a span such as 2s");
        }
        self.serving_log.validate().map_err(|error| Error::Config(error.to_string()))?;
        let level: Result<tracing_subscriber::EnvFilter, _> = self.log.level.parse();
        level.map(|_| ()).map_err(|error| Error::Config(format!("log.level is {:?}: {error}", self.log.level)))
    }
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(Error::io(format!("reading {}", path.display())))?;
    // Read once on its own, so that the message points at a line of the file.
    toml::from_str::<Config>(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
    text.parse().map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}

/// Every setting by its dotted name, with its default.
fn settings() -> Result<Vec<(String, Value)>> {
    fn leaves(prefix: &str, table: Table, into: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            match value {
                Value::Table(table) => leaves(&format!("{prefix}{name}."), table, into),
                value => into.push((format!("{prefix}{name}"), value)),
            }
        }
    }
    let table = Table::try_from(Config::default()).map_err(|error| Error::Config(error.to_string()))?;
    let mut settings = Vec::new();
    leaves("", table, &mut settings);
    Ok(settings)
}

fn setting_of<'a>(variable: &str, settings: &'a [(String, Value)]) -> Result<Option<&'a str>> {
    let Some(rest) = variable.strip_prefix(ENV_PREFIX) else { return Ok(None) };
    let spelled = |path: &str| path.replace('.', "_").to_ascii_uppercase();
    if let Some((path, _)) = settings.iter().find(|(path, _)| spelled(path) == rest) {
        return Ok(Some(path));
    }
    let section = |path: &str| path.split_once('.').is_some_and(|(section, _)| rest.starts_with(&format!("{}_", section.to_ascii_uppercase())));
    match settings.iter().any(|(path, _)| section(path)) {
        true => Err(Error::Config(format!("{variable} sets nothing: `anabranch serve --help` lists the settings"))),
        false => Ok(None),
    }
}

/// Sets a dotted name to a value that is read as its default's type.
fn set(table: &mut Table, path: &str, text: &str, origin: &str) -> Result<()> {
    let value = match text.parse::<i64>() {
        // A password of digits is a text.
        _ if matches!(path, "online.cql.user" | "online.cql.password") => Value::String(text.to_owned()),
        Ok(number) => Value::Integer(number),
        Err(_) if text == "true" || text == "false" => Value::Boolean(text == "true"),
        Err(_) if path == "repositories" => Value::Array(text.split(',').map(|name| Value::String(name.trim().to_owned())).collect()),
        Err(_) => Value::String(text.to_owned()),
    };
    let (sections, leaf) = path.rsplit_once('.').map_or((None, path), |(sections, leaf)| (Some(sections), leaf));
    let mut table = table;
    for section in sections.into_iter().flat_map(|sections| sections.split('.')) {
        let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| Error::Config(format!("{origin}: {section} is not a section in the file")))?;
    }
    table.insert(leaf.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_sample_says_every_setting_at_its_default() {
        assert_eq!(toml::from_str::<Config>(SAMPLE).unwrap(), Config::default());
        let table: Table = SAMPLE.parse().unwrap();
        for (path, _) in settings().unwrap() {
            let found = path.split('.').try_fold(Value::Table(table.clone()), |value, part| value.get(part).cloned());
            assert!(found.is_some(), "the sample leaves out {path}");
        }
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\n[ingest]\ncommit_rows = 10\ncommit_every = \"1m\"\n").unwrap();
        let environment = env(&[("ANABRANCH_LISTEN", "127.0.0.1:2"), ("ANABRANCH_INGEST_COMMIT_ROWS", "20"), ("ANABRANCH_SERVER", "elsewhere")]);
        let flags = env(&[("listen", "127.0.0.1:3")]);
        let config = Config::load(Some(&file), environment, &flags).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.ingest.commit_rows, 20);
        assert_eq!(config.ingest.commit_every, Span::seconds(60));
        assert_eq!(config.ingest.commit_bytes, Config::default().ingest.commit_bytes);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "[ingest]\ncomit_rows = 10\n").unwrap();
        let said = |result: Result<Config>| result.unwrap_err().to_string();
        let message = said(Config::load(Some(&file), [], &[]));
        assert!(message.contains("a.toml") && message.contains("comit_rows") && message.contains("line 2"), "{message}");
        assert!(said(Config::load(None, env(&[("ANABRANCH_INGEST_COMIT_ROWS", "1")]), &[])).contains("ANABRANCH_INGEST_COMIT_ROWS"));
        assert!(said(Config::load(None, [], &env(&[("lisen", "x")]))).contains("lisen"));
        assert!(said(Config::load(None, [], &env(&[("listen", "0.0.0.0:7420")]))).contains("until authentication comes"));
        assert!(said(Config::load(None, [], &env(&[("log.level", "anabranch=loud")]))).contains("log.level"));
        assert!(said(Config::load(None, [], &env(&[("online.cache_bytes", "1000")]))).contains("online.cache_bytes"));
        assert!(said(Config::load(None, [], &env(&[("online.next", "embedded")]))).contains("online.next"));
        assert!(said(Config::load(None, [], &env(&[("serving_log.commit_every", "0s")]))).contains("serving_log.commit_every"));
        assert!(said(Config::load(None, [], &env(&[("online.cache_staleness", "2m")]))).contains("online.cache_staleness"));
        assert!(said(Config::load(None, [], &env(&[("ingest.commit_every", "soon")]))).contains("soon"));
        let odd = said(Config::load(None, [], &env(&[("metadata.store", "mysql://ada:secret@h/db")])));
        assert!(odd.contains("metadata.store") && odd.contains("postgres://") && !odd.contains("secret"), "{odd}");
        assert!(said(Config::load(None, [], &env(&[("engine.kind", "ballista")]))).contains("engine.scheduler"));
        assert!(said(Config::load(None, [], &env(&[("engine.scheduler", "http://h")]))).contains("HOST:PORT"));
        assert!(said(Config::load(None, [], &env(&[("engine.kind", "spark")]))).contains("spark"));
        assert!(said(Config::load(None, [], &env(&[("metadata.lease_ttl", "1h")]))).contains("metadata.lease_ttl"));
        assert!(said(Config::load(None, [], &env(&[("online.backend", "dynamo")]))).contains("dynamo"));
        let odd = said(Config::load(None, [], &env(&[("online.redis.url", "rediss://ada:secret@h:1")])));
        assert!(odd.contains("online") && odd.contains("redis.url") && odd.contains("TLS") && !odd.contains("secret"), "{odd}");
        assert!(said(Config::load(None, [], &env(&[("online.redis.prefix", "a b")]))).contains("redis.prefix"));
        assert!(said(Config::load(Some(&folder.path().join("none.toml")), [], &[])).contains("none.toml"));
    }

    #[test]
    fn the_store_on_redis_is_chosen_by_flags_and_environment_and_its_password_is_not_shown() {
        let environment = env(&[("ANABRANCH_ONLINE_BACKEND", "redis"), ("ANABRANCH_ONLINE_REDIS_URL", "redis://:secret@h1:1,h2:2")]);
        let config = Config::load(None, environment, &env(&[("online.redis.lookup_timeout_ms", "50")])).unwrap();
        assert_eq!((config.online.backend, config.online.redis.lookup_timeout_ms), (OnlineBackend::Redis, 50));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn the_store_on_cql_is_chosen_by_flags_and_environment_and_its_password_is_not_shown() {
        let environment = [
            ("ANABRANCH_ONLINE_BACKEND", "cql"),
            ("ANABRANCH_ONLINE_CQL_CONTACT_POINTS", "h1:1,h2:2"),
            ("ANABRANCH_ONLINE_CQL_USER", "ada"),
            ("ANABRANCH_ONLINE_CQL_PASSWORD", "secret"),
        ];
        let flags = [("online.cql.consistency", "local_quorum"), ("online.cql.datacenter", "dc1"), ("online.cql.replication_factor", "5")];
        let config = Config::load(None, env(&environment), &env(&flags)).unwrap();
        assert_eq!((config.online.backend, &*config.online.cql.contact_points), (OnlineBackend::Cql, "h1:1,h2:2"));
        assert_eq!((&*config.online.cql.datacenter, config.online.cql.replication_factor), ("dc1", 5));
        assert!(!format!("{config:?}").contains("secret"));
        let digits = env(&[("ANABRANCH_ONLINE_CQL_USER", "7"), ("ANABRANCH_ONLINE_CQL_PASSWORD", "0077")]);
        assert_eq!(Config::load(None, digits, &[]).unwrap().online.cql.password.0, "0077");
        let said = |flag| Config::load(None, [], &env(&[flag])).unwrap_err().to_string();
        assert!(said(("online.cql.consistency", "one")).contains("local_quorum"));
        assert!(said(("online.cql.contact_points", "h")).contains("HOST:PORT"));
        assert!(said(("online.cql.prefix", "a_prefix_of_25_characters")).contains("24"));
    }

    #[test]
    fn the_password_of_the_metadata_database_is_not_shown() {
        let url = "postgres://ada:secret@h/db";
        let config = Config::load(None, env(&[("ANABRANCH_METADATA_STORE", url)]), &[]).unwrap();
        assert_eq!(config.metadata.store.postgres(), Some(url));
        assert!(!format!("{config:?}").contains("secret") && Config::default().metadata.store.postgres().is_none());
    }

    #[test]
    fn a_loopback_address_of_either_family_is_allowed() {
        for listen in ["[::1]:0", "127.0.0.9:0"] {
            Config::load(None, [], &env(&[("listen", listen)])).unwrap();
        }
    }
}
