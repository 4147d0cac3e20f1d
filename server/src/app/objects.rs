//! Objects: files that a repository keeps beside its tables, named by a path. The map holds what the file is; its bytes are a blob.
//!
//! The value of an `object` entry is canonical JSON, keys sorted:
//!
//! ```text
//! {"address":"blob:<64 hex digits>","checksum":"blake3:<64 hex digits>","content_type":"application/json","format":1,"size":123}
//! ```

use anabranch_versioning::{Digest, Key, KeyKind, MapReader, Scan, scan_all};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Repo;
use crate::error::{Error, Result};

const FORMAT: u64 = 1;

/// What the map holds of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectEntry {
    /// Where its bytes lie.
    address: String,
    /// The hash of its bytes.
    checksum: String,
    /// What its bytes are.
    content_type: String,
    /// The version of this format.
    format: u64,
    /// How many bytes it has.
    size: u64,
}

impl ObjectEntry {
    /// An object whose bytes are a blob.
    pub(crate) fn of_blob(digest: &Digest, content_type: &str, size: usize) -> Self {
        Self {
            address: format!("blob:{digest}"),
            checksum: format!("blake3:{digest}"),
            content_type: content_type.to_owned(),
            format: FORMAT,
            size: size as u64,
        }
    }

    /// The value in the map.
    pub(crate) fn to_bytes(&self) -> Bytes {
        // Fields are declared in the order of their names, so the JSON is canonical; strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value of the map.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: String| Error::Part {
            kind: anabranch_core::ErrorKind::Internal,
            message: format!("an object's entry is damaged: {reason}"),
            details: serde_json::Value::Null,
        };
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        match entry.format {
            FORMAT => Ok(entry),
            other => Err(damaged(format!("format {other} is not known to this version, which reads {FORMAT}"))),
        }
    }

    fn blob(&self) -> Result<Digest> {
        let digest =
            self.address.strip_prefix("blob:").ok_or_else(|| Error::Missing(format!("object address {:?} is not read here", self.address)))?;
        Ok(digest.parse::<Digest>()?)
    }
}

/// The key of an object.
pub(crate) fn object_key(path: &str) -> Result<Key> {
    Ok(Key::new(KeyKind::Object, &[path.as_bytes()])?)
}

impl Repo {
    /// The bytes of an object in one state of the map, if it is there.
    pub(crate) async fn object(&self, map: &dyn MapReader, path: &str) -> Result<Option<Bytes>> {
        let Some(entry) = map.get(&object_key(path)?).await? else { return Ok(None) };
        Ok(Some(self.versions.blob(&ObjectEntry::from_bytes(&entry)?.blob()?).await?))
    }

    /// The paths and bytes of all objects whose path begins with `prefix`.
    pub(crate) async fn objects(&self, map: &dyn MapReader, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let mut found = Vec::new();
        for entry in scan_all(map, Scan::prefix(Key::prefix(KeyKind::Object, &[])?)).await? {
            let path = entry.key.part(0).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            if path.starts_with(prefix) {
                found.push((path, self.versions.blob(&ObjectEntry::from_bytes(&entry.value)?.blob()?).await?));
            }
        }
        // Keys of unlike length order by length.
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_golden_bytes() {
        let golden = include_str!("../../tests/golden/object.v1.json").trim_end();
        let digest: Digest = "ab".repeat(32).parse().unwrap();
        let entry = ObjectEntry::of_blob(&digest, "application/json", 123);
        assert_eq!(entry.to_bytes(), golden.as_bytes());
        assert_eq!(ObjectEntry::from_bytes(golden.as_bytes()).unwrap(), entry);
        assert_eq!(entry.blob().unwrap(), digest);
        assert!(ObjectEntry::from_bytes(golden.replace("\"format\":1", "\"format\":2").as_bytes()).is_err());
    }
}
