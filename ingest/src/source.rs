//! Source ids: who has which, and since when.
//!
//! An id is given once by the metadata database and never again. What it was given to is recorded beside it, for people and for audits:
//!
//! | space | key | value |
//! | -- | -- | -- |
//! | `ingest.source` | id, `u32` BE | the origin as JSON |
//! | `ingest.load` | BLAKE3 of what is loaded, its view and the digest of the definitions | version 1, id `u32` BE, arrival `i64` BE |
//!
//! The same file or stream, loaded into the same view under the same definitions, is the same source with the same arrival, however often it is tried
//! and on whatever branch, so that verdicts repeat and rows never double. Under other definitions it is another source.

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::{BranchId, Clock, SourceId, Timestamp};
use anabranch_versioning::MetadataStore;
use serde_json::json;

use crate::{Error, Result};

/// The mark that source ids come from.
pub const MARK: &str = "source";
/// The space of origins, by id.
pub const ORIGINS: &str = "ingest.source";
/// The space of loads.
pub const LOADS: &str = "ingest.load";
const LOAD_FORMAT: u8 = 1;

/// What is loaded as a whole, rather than pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadOrigin {
    /// A file, by its content.
    File { name: String, hash: [u8; 32] },
    /// A bulk stream, by the id that its producer gave it.
    Stream { id: String },
}

/// A source that is loaded as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadSource {
    pub(crate) source: SourceId,
    pub(crate) arrival: Timestamp,
}

fn below(error: anabranch_versioning::Error) -> Error {
    Error::below("the source id", error)
}

async fn give(metadata: &dyn MetadataStore, origin: &serde_json::Value) -> Result<SourceId> {
    let id = metadata.allocate(MARK, 1).await.map_err(below)?;
    let id = u32::try_from(id).ok().and_then(|id| SourceId::new(id).ok());
    let id = id.ok_or_else(|| Error::invalid("source", "the repository has used up its 2^31 source ids"))?;
    let origin = origin.to_string();
    metadata.swap_value(ORIGINS, &id.get().to_be_bytes(), None, Some(origin.as_bytes())).await.map_err(below)?;
    Ok(id)
}

/// A source for a new log.
pub(crate) async fn of_log(metadata: &dyn MetadataStore, branch: BranchId, clock: &dyn Clock) -> Result<SourceId> {
    give(metadata, &json!({"kind": "log", "branch": branch, "since": clock.now().to_string()})).await
}

/// Whether an id was ever given.
pub(crate) async fn is_known(metadata: &dyn MetadataStore, source: SourceId) -> Result<bool> {
    Ok(metadata.value(ORIGINS, &source.get().to_be_bytes()).await.map_err(below)?.is_some())
}

/// The source of a load: the one that it had before, or a new one.
pub(crate) async fn of_load(
    metadata: &dyn MetadataStore,
    origin: &LoadOrigin,
    view: &str,
    digest: DefinitionDigest,
    clock: &dyn Clock,
) -> Result<LoadSource> {
    let key = load_key(origin, view, digest);
    loop {
        if let Some(bytes) = metadata.value(LOADS, &key).await.map_err(below)? {
            return decode(&bytes);
        }
        let arrival = clock.now();
        let (kind, what) = match origin {
            LoadOrigin::File { name, hash } => ("file", json!({"name": name, "blake3": blake3::Hash::from_bytes(*hash).to_hex().as_str()})),
            LoadOrigin::Stream { id } => ("stream", json!({"id": id})),
        };
        let origin = json!({"kind": kind, kind: what, "view": view, "definitions": digest.to_string(), "since": arrival.to_string()});
        let source = give(metadata, &origin).await?;
        let value = encode(LoadSource { source, arrival });
        // Another loader of the same may have been faster; then its id counts and ours is spent.
        if metadata.swap_value(LOADS, &key, None, Some(&value)).await.map_err(below)? {
            return Ok(LoadSource { source, arrival });
        }
    }
}

fn load_key(origin: &LoadOrigin, view: &str, digest: DefinitionDigest) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    match origin {
        // The name does not count: a file that is renamed is the same file.
        LoadOrigin::File { hash, .. } => {
            part(b"file");
            part(hash);
        }
        LoadOrigin::Stream { id } => {
            part(b"stream");
            part(id.as_bytes());
        }
    }
    part(view.as_bytes());
    part(&digest.0);
    *hasher.finalize().as_bytes()
}

fn encode(load: LoadSource) -> Vec<u8> {
    let mut bytes = vec![LOAD_FORMAT];
    bytes.extend_from_slice(&load.source.get().to_be_bytes());
    bytes.extend_from_slice(&load.arrival.0.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<LoadSource> {
    let malformed = || Error::Malformed { what: "source of a load", reason: format!("{} bytes, or another format than {LOAD_FORMAT}", bytes.len()) };
    let bytes: &[u8; 13] = bytes.try_into().map_err(|_| malformed())?;
    let (source, arrival) = (bytes[1..5].first_chunk(), bytes[5..].first_chunk());
    match (bytes[0], source, arrival) {
        (LOAD_FORMAT, Some(source), Some(arrival)) => {
            Ok(LoadSource { source: SourceId::new(u32::from_be_bytes(*source))?, arrival: Timestamp(i64::from_be_bytes(*arrival)) })
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ManualClock;
    use anabranch_versioning::MemoryMetadata;

    use super::*;

    #[tokio::test]
    async fn a_load_keeps_its_source_and_arrival_and_other_definitions_make_another() {
        let (metadata, clock) = (MemoryMetadata::new(&anabranch_core::RandomIds::seeded(1)), ManualClock::new(Timestamp(5)));
        let file = |name: &str| LoadOrigin::File { name: name.to_owned(), hash: [1; 32] };
        let (one, two) = (DefinitionDigest([1; 32]), DefinitionDigest([2; 32]));
        let first = of_load(&metadata, &file("a"), "v", one, &clock).await.unwrap();
        clock.set(Timestamp(9));
        assert_eq!(of_load(&metadata, &file("renamed"), "v", one, &clock).await.unwrap(), first);
        assert_eq!(first.arrival, Timestamp(5));
        for (origin, view, digest) in [(file("a"), "w", one), (file("a"), "v", two), (LoadOrigin::Stream { id: "a".to_owned() }, "v", one)] {
            assert_ne!(of_load(&metadata, &origin, view, digest, &clock).await.unwrap().source, first.source);
        }
        assert!(is_known(&metadata, first.source).await.unwrap());
        assert!(!is_known(&metadata, SourceId::new(99).unwrap()).await.unwrap());
        assert_eq!(decode(&encode(first)).unwrap(), first);
        // As recorded: what was loaded once must be found again by every later version.
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&encode(LoadSource { source: SourceId::new(258).unwrap(), arrival: Timestamp(-2) })), "0100000102fffffffffffffffe");
        assert_eq!(hex(&load_key(&file("a"), "v", one)), include_str!("../tests/golden/load-key-1.txt").trim());
        assert!(decode(&[2; 13]).is_err());
    }
}
