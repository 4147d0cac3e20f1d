//! Settings of the stores.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const MIB: u64 = 1 << 20;

/// Settings of the embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Memory for the latest rows that are looked up or written often. 0 keeps none.
    pub hot_bytes: u64,
    /// Memory for blocks of the files beneath.
    pub block_cache_bytes: u64,
    /// Rows gathered in memory before they become a file.
    pub memtable_bytes: u64,
    /// Journal kept on disk at most, from 64 MiB.
    pub journal_bytes: u64,
    /// Free space on the disk below which writes are refused, so that what is in flight can still be finished.
    pub reserve_bytes: u64,
    /// How long one operation may take.
    pub timeout_ms: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            hot_bytes: 256 * MIB,
            block_cache_bytes: 32 * MIB,
            memtable_bytes: 16 * MIB,
            journal_bytes: 256 * MIB,
            reserve_bytes: 32 * MIB,
            timeout_ms: 30_000,
        }
    }
}

impl EmbeddedConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// [`Error::Config`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let at_least = |setting, value: u64, least: u64| {
            let reason = || format!("{value} is less than {least}");
            if value < least { Err(Error::Config { setting, reason: reason() }) } else { Ok(()) }
        };
        at_least("block_cache_bytes", self.block_cache_bytes, MIB)?;
        at_least("memtable_bytes", self.memtable_bytes, MIB)?;
        at_least("journal_bytes", self.journal_bytes, 64 * MIB)?;
        at_least("timeout_ms", self.timeout_ms, 1)
    }
}

/// Settings of the store on Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Where it is.
    pub url: RedisUrl,
    /// What the names of all keys begin with: 1 to 160 letters, digits and `_ - . :`.
    pub prefix: String,
    /// How long a lookup may take.
    pub lookup_timeout_ms: u64,
    /// How long a write, or one round of anything else, may take.
    pub timeout_ms: u64,
}

/// `redis://[user][:password@]host:port[,host:port…][/database]`; several hosts are nodes of one cluster. Its `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedisUrl(pub String);

impl Default for RedisUrl {
    fn default() -> Self {
        Self("redis://127.0.0.1:6379".to_owned())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Ok(parts) => write!(f, "redis://{}", parts.hosts.join(",")),
            Err(_) => f.write_str("redis://…"),
        }
    }
}

/// A URL in its parts.
#[derive(Debug, Clone)]
pub(crate) struct RedisUrlParts {
    /// User and password with what separates them from the host; empty without.
    pub(crate) user: String,
    /// Hosts with their ports.
    pub(crate) hosts: Vec<String>,
    /// The number of the database behind its slash; empty without.
    pub(crate) database: String,
}

impl RedisUrlParts {
    /// The URL of one process.
    pub(crate) fn of(&self, address: &str) -> String {
        format!("redis://{}{address}{}", self.user, self.database)
    }
}

impl RedisUrl {
    pub(crate) fn parts(&self) -> Result<RedisUrlParts> {
        // The URL is not repeated: it may hold a password.
        let refuse = |reason: &str| Error::Config { setting: "redis.url", reason: reason.to_owned() };
        let rest = self.0.strip_prefix("redis://").ok_or_else(|| refuse("it does not begin with redis:// (TLS is not supported)"))?;
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, _)| rest.split_at(user.len() + 1));
        let (hosts, database) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let hosts: Vec<_> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        let is_host = |host: &String| host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
        if !hosts.iter().all(is_host) {
            return Err(refuse("write redis://HOST:PORT, and further nodes of a cluster as ,HOST:PORT"));
        }
        if !matches!(database, "" | "/") && database[1..].parse::<u16>().is_err() {
            return Err(refuse("behind the slash stands the number of a database"));
        }
        Ok(RedisUrlParts { user: user.to_owned(), hosts, database: database.to_owned() })
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self { url: RedisUrl::default(), prefix: "anabranch".to_owned(), lookup_timeout_ms: 1_000, timeout_ms: 10_000 }
    }
}

impl RedisConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// [`Error::Config`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        self.url.parts()?;
        let refuse = |setting, reason: &str| Err(Error::Config { setting, reason: reason.to_owned() });
        let known = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        if !(1..=160).contains(&self.prefix.len()) || !self.prefix.chars().all(known) {
            return refuse("redis.prefix", "it must be 1 to 160 letters, digits and _ - . :");
        }
        if self.lookup_timeout_ms == 0 {
            return refuse("redis.lookup_timeout_ms", "0 is less than 1");
        }
        if self.timeout_ms < self.lookup_timeout_ms {
            return refuse("redis.timeout_ms", "it is less than lookup_timeout_ms");
        }
        Ok(())
    }
}

/// Settings of the store on a server that speaks CQL: Cassandra or Scylla.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CqlConfig {
    /// Some of the nodes, `host:port[,host:port…]`; the others are learnt from them.
    pub contact_points: String,
    /// The keyspace: a letter, then letters, digits and `_`, all lower case. It is made where it is not there.
    pub keyspace: String,
    /// What the names of the tables begin with, in the characters of a keyspace.
    pub prefix: String,
    /// On how many nodes of each data centre a row lies, where the keyspace is made.
    pub replication_factor: u8,
    /// The data centre that rows are written to and read from; empty where there is one.
    pub datacenter: String,
    /// How many nodes answer before a call returns.
    pub consistency: CqlConsistency,
    /// The user; empty without authentication.
    pub user: String,
    /// The user's password.
    pub password: Password,
    /// How long a lookup may take.
    pub lookup_timeout_ms: u64,
    /// How long a write, or one round of anything else, may take.
    pub timeout_ms: u64,
}

/// How many replicas answer before a call returns. Fewer would not do: a read must see the writes that returned before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CqlConsistency {
    /// Most replicas of all data centres.
    Quorum,
    /// Most replicas of one data centre.
    LocalQuorum,
}

/// A password. Its `Debug` does not show it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Default for CqlConfig {
    fn default() -> Self {
        Self {
            contact_points: "127.0.0.1:9042".to_owned(),
            keyspace: "anabranch".to_owned(),
            prefix: "online".to_owned(),
            replication_factor: 3,
            datacenter: String::new(),
            consistency: CqlConsistency::Quorum,
            user: String::new(),
            password: Password::default(),
            lookup_timeout_ms: 1_000,
            timeout_ms: 10_000,
        }
    }
}

impl CqlConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// [`Error::Config`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let refuse = |setting, reason: &str| Err(Error::Config { setting, reason: reason.to_owned() });
        let is_name = |name: &str, longest| {
            (1..=longest).contains(&name.len())
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        self.hosts()?;
        if !is_name(&self.keyspace, 48) {
            return refuse("cql.keyspace", "it must be a letter and up to 47 letters, digits and _, all lower case");
        }
        if !is_name(&self.prefix, 40) {
            return refuse("cql.prefix", "it must be a letter and up to 39 letters, digits and _, all lower case");
        }
        if !(1..=64).contains(&self.replication_factor) {
            return refuse("cql.replication_factor", "it must be 1 to 64");
        }
        if !self.datacenter.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
            return refuse("cql.datacenter", "it must be letters, digits and _ - .");
        }
        if self.consistency == CqlConsistency::LocalQuorum && self.datacenter.is_empty() {
            return refuse("cql.datacenter", "it is empty, and cql.consistency is local_quorum: say which data centre is meant");
        }
        if self.user.is_empty() && !self.password.0.is_empty() {
            return refuse("cql.user", "it is empty, and there is a password");
        }
        if self.lookup_timeout_ms == 0 {
            return refuse("cql.lookup_timeout_ms", "0 is less than 1");
        }
        if self.timeout_ms < self.lookup_timeout_ms {
            return refuse("cql.timeout_ms", "it is less than lookup_timeout_ms");
        }
        Ok(())
    }

    pub(crate) fn hosts(&self) -> Result<Vec<String>> {
        let hosts: Vec<_> = self.contact_points.split(',').map(|host| host.trim().to_owned()).collect();
        let is_host = |host: &String| {
            host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && !name.contains(['/', '@']) && port.parse::<u16>().is_ok())
        };
        if hosts.iter().all(is_host) {
            return Ok(hosts);
        }
        let reason = "write HOST:PORT, and further nodes as ,HOST:PORT (TLS is not supported; user and password are settings of their own)";
        Err(Error::Config { setting: "cql.contact_points", reason: reason.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        EmbeddedConfig::default().validate().unwrap();
        let error = EmbeddedConfig { journal_bytes: 1, ..EmbeddedConfig::default() }.validate().unwrap_err();
        assert!(error.to_string().contains("journal_bytes"), "{error}");
        assert!(serde_json::from_str::<EmbeddedConfig>(r#"{"hot_byte": 1}"#).is_err());
    }

    #[test]
    fn a_redis_url_is_taken_apart_and_its_password_is_not_shown() {
        let url = RedisUrl("redis://ada:s%40ecret@h1:1,h2:2/3".to_owned());
        let parts = url.parts().unwrap();
        assert_eq!((&*parts.user, parts.hosts.as_slice(), &*parts.database), ("ada:s%40ecret@", &["h1:1".to_owned(), "h2:2".to_owned()][..], "/3"));
        assert_eq!(format!("{url:?}"), "redis://h1:1,h2:2");
        RedisConfig::default().validate().unwrap();
        for wrong in ["", "rediss://h:1", "redis://h", "redis://h:1,", "redis://:1", "redis://h:1/x", "redis://u:secret@h:port"] {
            let error = RedisConfig { url: RedisUrl(wrong.to_owned()), ..RedisConfig::default() }.validate().unwrap_err().to_string();
            assert!(error.contains("redis.url") && !error.contains("secret"), "{wrong}: {error}");
        }
        for (setting, wrong) in [
            ("redis.prefix", RedisConfig { prefix: "a*".to_owned(), ..RedisConfig::default() }),
            ("redis.lookup_timeout_ms", RedisConfig { lookup_timeout_ms: 0, ..RedisConfig::default() }),
            ("redis.timeout_ms", RedisConfig { timeout_ms: 1, ..RedisConfig::default() }),
        ] {
            assert!(wrong.validate().unwrap_err().to_string().contains(setting));
        }
    }

    #[test]
    fn settings_of_the_store_on_cql_are_checked_and_its_password_is_not_shown() {
        let fine = CqlConfig { user: "ada".to_owned(), password: Password("secret".to_owned()), ..CqlConfig::default() };
        fine.validate().unwrap();
        assert!(!format!("{fine:?}").contains("secret"));
        assert_eq!(CqlConfig { contact_points: "h1:1, h2:2".to_owned(), ..fine.clone() }.hosts().unwrap(), ["h1:1", "h2:2"]);
        for (setting, wrong) in [
            ("cql.contact_points", CqlConfig { contact_points: "h".to_owned(), ..fine.clone() }),
            ("cql.contact_points", CqlConfig { contact_points: "https://h:1".to_owned(), ..fine.clone() }),
            ("cql.contact_points", CqlConfig { contact_points: "ada:secret@h:1".to_owned(), ..fine.clone() }),
            ("cql.keyspace", CqlConfig { keyspace: "Feature Store".to_owned(), ..fine.clone() }),
            ("cql.prefix", CqlConfig { prefix: "1st".to_owned(), ..fine.clone() }),
            ("cql.prefix", CqlConfig { prefix: "p".repeat(41), ..fine.clone() }),
            ("cql.replication_factor", CqlConfig { replication_factor: 0, ..fine.clone() }),
            ("cql.datacenter", CqlConfig { datacenter: "a'b".to_owned(), ..fine.clone() }),
            ("cql.datacenter", CqlConfig { consistency: CqlConsistency::LocalQuorum, ..fine.clone() }),
            ("cql.user", CqlConfig { user: String::new(), ..fine.clone() }),
            ("cql.lookup_timeout_ms", CqlConfig { lookup_timeout_ms: 0, ..fine.clone() }),
            ("cql.timeout_ms", CqlConfig { timeout_ms: 1, ..fine.clone() }),
        ] {
            let error = wrong.validate().unwrap_err().to_string();
            assert!(error.contains(setting) && !error.contains("secret"), "{setting}: {error}");
        }
        let one = serde_json::from_str::<CqlConfig>(r#"{"consistency": "one"}"#).unwrap_err().to_string();
        assert!(one.contains("quorum"), "{one}");
    }
}
