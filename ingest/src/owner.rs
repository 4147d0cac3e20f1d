//! What offsets name beyond the map: the definitions that judge the rows from there on, and the ids of their branch and source.

use anabranch_versioning::{Digest, Entry, EntryOwner, FileRef, KeyKind, Named};
use async_trait::async_trait;

use crate::offset::{Offset, OffsetKey};
use crate::source::MARK;

/// Verifies that entries are offsets.
#[derive(Debug, Clone, Copy, Default)]
pub struct OffsetOwner;

#[async_trait]
impl EntryOwner for OffsetOwner {
    fn kind(&self) -> KeyKind {
        KeyKind::Offset
    }

    fn entry(&self, entry: &Entry) -> anabranch_versioning::Result<Named> {
        let damaged = |error: crate::Error| anabranch_versioning::Error::Corrupt { object: entry.key.to_string(), reason: error.to_string() };
        let key = OffsetKey::from_key(&entry.key).map_err(damaged)?;
        let offset = Offset::from_bytes(&entry.value).map_err(damaged)?;
        let ids = vec![(MARK.to_owned(), u64::from(key.source.get()))];
        Ok(Named { files: vec![FileRef::blob(Digest(offset.digest.0))], ids, branch: Some(key.branch.0) })
    }
}
