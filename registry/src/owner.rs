//! What definitions name beyond the map: nothing; but that they are definitions can be verified.

use anabranch_versioning::{Entry, EntryOwner, KeyKind, Named};
use async_trait::async_trait;

/// Verifies that entries are canonical definitions under their own keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefinitionOwner;

#[async_trait]
impl EntryOwner for DefinitionOwner {
    fn kind(&self) -> KeyKind {
        KeyKind::Feature
    }

    fn entry(&self, entry: &Entry) -> anabranch_versioning::Result<Named> {
        let damaged = |error: crate::Error| anabranch_versioning::Error::Corrupt { object: entry.key.to_string(), reason: error.to_string() };
        crate::load::decode(entry).map(|_| Named::default()).map_err(damaged)
    }
}
