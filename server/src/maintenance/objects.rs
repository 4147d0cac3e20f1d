//! What object entries name, read from their canonical JSON.

use anabranch_versioning::{Digest, Entry, EntryOwner, Error, FileRef, KeyKind, Named, Result};
use async_trait::async_trait;
use serde::Deserialize;

/// Verifies that entries describe files, and names these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ObjectOwner;

#[derive(Deserialize)]
struct Written {
    address: String,
    checksum: String,
    format: u64,
    /// The blob of the hashes of its pieces.
    pieces: Option<String>,
    size: u64,
}

#[async_trait]
impl EntryOwner for ObjectOwner {
    fn kind(&self) -> KeyKind {
        KeyKind::Object
    }

    fn entry(&self, entry: &Entry) -> Result<Named> {
        let damaged = |reason: String| Error::Corrupt { object: entry.key.to_string(), reason };
        let written: Written = serde_json::from_slice(&entry.value).map_err(|error| damaged(error.to_string()))?;
        if !(1..=2).contains(&written.format) {
            return Err(damaged(format!("format {} is not known to this version", written.format)));
        }
        let digest = |text: &str| text.strip_prefix("blake3:").and_then(|hash| hash.parse::<Digest>().ok());
        let checksum = digest(&written.checksum).ok_or_else(|| damaged(format!("no checksum: {:?}", written.checksum)))?;
        let mut file = match written.address.split_once(':') {
            Some(("blob", hash)) if hash == checksum.to_string() => FileRef::blob(checksum),
            Some(("stored", id)) => FileRef::new(format!("objects/{id}"), "object"),
            Some(("import", path)) => FileRef::new(path, "object"),
            _ => return Err(damaged(format!("no address: {:?}", written.address))),
        };
        (file.size, file.digest) = (Some(written.size), Some(checksum));
        let mut files = vec![file];
        if let Some(pieces) = written.pieces {
            files.push(FileRef::blob(digest(&pieces).ok_or_else(|| damaged(format!("no hashes of pieces: {pieces:?}")))?));
        }
        Ok(Named { files, ..Named::default() })
    }
}
