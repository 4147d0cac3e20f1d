//! Settings of the embedded store.

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
}
