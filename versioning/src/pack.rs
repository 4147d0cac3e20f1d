//! Packs: a group of commits, with the nodes that they add, as one object of the object store.
//!
//! ```text
//! 0                   8
//! +-------------------+---------+---------+----+-------+---------+
//! | "ANBPACK" version | entry   | entry   | …  | index | trailer |
//! |   = 1             |         |         |    |       |  52 B   |
//! +-------------------+---------+---------+----+-------+---------+
//!
//! entry:    encoding (u8: 0 as is, 1 zstd) | length of the canonical bytes (u32) | bytes
//! index:    for each entry: hash (32 B) | kind (u8: 1 node, 2 commit) | offset of the entry (u64) | length of the entry (u32)
//! trailer:  offset of the index (u64) | entries (u32) | BLAKE3 of everything before the trailer (32 B) | "ANBPACK" version
//! ```
//!
//! Numbers are big-endian. A pack is named by the BLAKE3 of all its bytes and lies at `packs/<64 hex digits>`. The index serves to rebuild the metadata
//! database, where lookups are made; an entry read alone is verified against its hash. Refused: other versions, lengths that do not fit, entries that
//! would unpack to more than [`MAX_ENTRY_BYTES`].

use std::collections::HashSet;

use bytes::Bytes;

use crate::codec::Reader;
use crate::{Error, PackId, Result};

/// No node or commit is longer.
const MAX_ENTRY_BYTES: usize = crate::tree::MAX_NODE_BYTES;

const MAGIC: &[u8; 8] = b"ANBPACK\x01";
const INDEX_ENTRY_BYTES: usize = 45;
const TRAILER_BYTES: usize = 52;
const RAW: u8 = 0;
const ZSTD: u8 = 1;
const ZSTD_LEVEL: i32 = 1;
/// Shorter entries are kept as they are: a frame around them saves nothing.
const COMPRESS_FROM_BYTES: usize = 256;

/// What an entry of a pack is; the numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A node of a tree.
    Node = 1,
    /// A commit.
    Commit = 2,
}

/// Where one entry lies in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The BLAKE3 hash of the entry's canonical bytes.
    pub hash: [u8; 32],
    /// What it is.
    pub kind: EntryKind,
    /// Its first byte in the pack.
    pub offset: u64,
    /// Its length in the pack.
    pub len: u32,
}

/// The index of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    /// The pack.
    pub pack: PackId,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it holds.
    pub entries: Vec<IndexEntry>,
}

impl PackIndex {
    /// Reads the index out of a whole pack.
    ///
    /// # Errors
    /// Refuses bytes that are not a pack or fail its checksum.
    pub fn read(pack: &[u8]) -> Result<Self> {
        Self::parse(pack, true)
    }

    /// As [`PackIndex::read`] without the checksum: what a damaged pack says that it holds.
    pub(crate) fn read_unverified(pack: &[u8]) -> Result<Self> {
        Self::parse(pack, false)
    }

    fn parse(pack: &[u8], verify: bool) -> Result<Self> {
        let mut reader = Reader::new("pack", pack);
        let body = reader.take(pack.len().checked_sub(TRAILER_BYTES).ok_or_else(|| reader.malformed("cut short"))?)?;
        let (offset, count, checksum, magic) = (reader.u64()?, reader.u32()?, reader.take(32)?, reader.take(8)?);
        if magic != MAGIC || !body.starts_with(MAGIC) {
            return Err(reader.malformed("not a pack of a version that this program knows"));
        }
        if verify && blake3::hash(body).as_bytes() != checksum {
            return Err(reader.malformed("its checksum is wrong"));
        }
        let index = usize::try_from(offset).ok().and_then(|offset| body.get(offset..)).ok_or_else(|| reader.malformed("no index"))?;
        let mut reader = Reader::new("pack index", index);
        let mut entries = Vec::with_capacity((count as usize).min(index.len() / INDEX_ENTRY_BYTES));
        for _ in 0..count {
            let mut hash = [0; 32];
            hash.copy_from_slice(reader.take(32)?);
            let kind = match reader.u8()? {
                1 => EntryKind::Node,
                2 => EntryKind::Commit,
                _ => return Err(reader.malformed("unknown kind of entry")),
            };
            entries.push(IndexEntry { hash, kind, offset: reader.u64()?, len: reader.u32()? });
        }
        reader.end()?;
        Ok(Self { pack: PackId::of(pack), bytes: pack.len() as u64, entries })
    }
}

/// Makes entries out of canonical bytes.
pub(crate) struct Encoder {
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL).ok() }
    }

    pub(crate) fn encode(&mut self, canonical: &[u8]) -> Vec<u8> {
        let packed = match (canonical.len(), &mut self.compressor) {
            (COMPRESS_FROM_BYTES.., Some(compressor)) => compressor.compress(canonical).ok().filter(|packed| packed.len() < canonical.len()),
            _ => None,
        };
        let bytes = packed.as_deref().unwrap_or(canonical);
        let mut entry = Vec::with_capacity(5 + bytes.len());
        entry.push(if packed.is_some() { ZSTD } else { RAW });
        entry.extend_from_slice(&(canonical.len() as u32).to_be_bytes());
        entry.extend_from_slice(bytes);
        entry
    }
}

/// Writes a pack.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    bytes: Vec<u8>,
    entries: Vec<IndexEntry>,
    held: HashSet<[u8; 32]>,
}

impl PackBuilder {
    pub(crate) fn new() -> Self {
        Self { bytes: MAGIC.to_vec(), entries: Vec::new(), held: HashSet::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry as [`Encoder::encode`] made it, once.
    pub(crate) fn add_encoded(&mut self, kind: EntryKind, hash: [u8; 32], entry: &[u8]) {
        if self.held.insert(hash) {
            self.entries.push(IndexEntry { hash, kind, offset: self.bytes.len() as u64, len: entry.len() as u32 });
            self.bytes.extend_from_slice(entry);
        }
    }

    pub(crate) fn finish(mut self) -> (Bytes, PackIndex) {
        let index = self.bytes.len() as u64;
        for entry in &self.entries {
            self.bytes.extend_from_slice(&entry.hash);
            self.bytes.push(entry.kind as u8);
            self.bytes.extend_from_slice(&entry.offset.to_be_bytes());
            self.bytes.extend_from_slice(&entry.len.to_be_bytes());
        }
        // The pack's name is the hash of all that the checksum is of, and the trailer.
        let mut hasher = blake3::Hasher::new();
        let checksum = hasher.update(&self.bytes).finalize();
        let body = self.bytes.len();
        self.bytes.extend_from_slice(&index.to_be_bytes());
        self.bytes.extend_from_slice(&(self.entries.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(checksum.as_bytes());
        self.bytes.extend_from_slice(MAGIC);
        let pack = PackId(*hasher.update(&self.bytes[body..]).finalize().as_bytes());
        let index = PackIndex { pack, bytes: self.bytes.len() as u64, entries: self.entries };
        (self.bytes.into(), index)
    }
}

/// The canonical bytes of an entry, verified against its hash; `object` names it in errors.
pub(crate) fn unpack(entry: &Bytes, hash: &[u8; 32], object: &str) -> Result<Bytes> {
    let damaged = |reason: &str| Error::corrupt(object, reason);
    let mut reader = Reader::new("pack entry", entry);
    let (encoding, len) = reader.u8().and_then(|encoding| Ok((encoding, reader.u32()? as usize))).map_err(|_| damaged("its entry is cut short"))?;
    if len > MAX_ENTRY_BYTES {
        return Err(damaged("its entry claims to be longer than any node or commit"));
    }
    let packed = entry.slice(reader.position()..);
    let canonical = match encoding {
        RAW => packed,
        ZSTD => zstd::bulk::decompress(&packed, len).map_err(|error| damaged(&format!("it does not unpack: {error}")))?.into(),
        other => return Err(damaged(&format!("unknown encoding {other}"))),
    };
    if canonical.len() != len || blake3::hash(&canonical).as_bytes() != hash {
        return Err(damaged("its bytes are not what its hash says"));
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<(EntryKind, Vec<u8>)> {
        vec![(EntryKind::Node, b"a node".to_vec()), (EntryKind::Commit, b"a commit".to_vec()), (EntryKind::Node, vec![7; 5000])]
    }

    fn pack(entries: &[(EntryKind, Vec<u8>)]) -> (Bytes, PackIndex) {
        let (mut builder, mut encoder) = (PackBuilder::new(), Encoder::new());
        entries.iter().for_each(|(kind, bytes)| builder.add_encoded(*kind, *blake3::hash(bytes).as_bytes(), &encoder.encode(bytes)));
        builder.finish()
    }

    fn check(bytes: &Bytes, expected: &[(EntryKind, Vec<u8>)]) {
        let index = PackIndex::read(bytes).unwrap();
        assert_eq!(index.entries.len(), expected.len());
        for (entry, (kind, canonical)) in index.entries.iter().zip(expected) {
            let stored = bytes.slice(entry.offset as usize..entry.offset as usize + entry.len as usize);
            assert_eq!((entry.kind, &unpack(&stored, &entry.hash, "x").unwrap()[..]), (*kind, &canonical[..]));
        }
    }

    #[test]
    fn pack_bytes_are_the_golden_ones() {
        // What zstd makes of the third entry may change with its version, so that one is only read.
        assert_eq!(pack(&entries()[..2]).0, &include_bytes!("../tests/golden/pack.v1")[..]);
        check(&Bytes::from_static(include_bytes!("../tests/golden/pack.v1")), &entries()[..2]);
        check(&Bytes::from_static(include_bytes!("../tests/golden/pack-zstd.v1")), &entries());
    }

    #[test]
    fn entries_come_back_and_an_entry_added_twice_is_kept_once() {
        let twice: Vec<_> = entries().into_iter().chain(entries()).collect();
        let (bytes, index) = pack(&twice);
        assert_eq!(PackIndex::read(&bytes).unwrap(), index);
        check(&bytes, &entries());
    }

    #[test]
    fn damage_anywhere_is_found() {
        let (bytes, index) = pack(&entries());
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert!(PackIndex::read(&damaged).is_err(), "byte {at}");
            assert!(PackIndex::read(&bytes[..at]).is_err(), "cut at {at}");
        }
        let entry = index.entries[2];
        let stored = bytes.slice(entry.offset as usize..entry.offset as usize + entry.len as usize);
        for at in 0..stored.len() {
            let mut damaged = stored.to_vec();
            damaged[at] ^= 0x10;
            match unpack(&damaged.into(), &entry.hash, "node 5") {
                // A zstd frame has a bit that means nothing.
                Ok(canonical) => assert_eq!(canonical, entries()[2].1),
                Err(error) => assert!(error.to_string().contains("node 5"), "{error}"),
            }
        }
    }
}
