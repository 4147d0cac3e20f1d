//! What object entries name: the file of each, and the blob of the hashes of its pieces.

use async_trait::async_trait;

use super::ObjectEntry;
use crate::{Entry, EntryOwner, Error, FileRef, KeyKind, Named, Result};

/// Verifies that entries describe files, and names these.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjectOwner;

#[async_trait]
impl EntryOwner for ObjectOwner {
    fn kind(&self) -> KeyKind {
        KeyKind::Object
    }

    fn entry(&self, entry: &Entry) -> Result<Named> {
        let object = ObjectEntry::from_bytes(&entry.value).map_err(|error| match error {
            Error::Corrupt { reason, .. } => Error::corrupt(entry.key.to_string(), reason),
            other => other,
        })?;
        let role = if matches!(object.address(), super::ObjectAddress::Blob(_)) { "blob" } else { "object" };
        let mut file = FileRef::new(object.address().location(), role);
        (file.size, file.digest) = (Some(object.size()), Some(object.checksum()));
        let mut files = vec![file];
        files.extend(object.pieces().map(FileRef::blob));
        Ok(Named { files, ..Named::default() })
    }
}
