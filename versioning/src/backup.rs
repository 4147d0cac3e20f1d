//! Backups: the bytes of everything mutable, and the index of packs made anew from the packs.
//!
//! What is immutable is never in a backup: it lies in the object store, which is kept by its own means.
//!
//! ```text
//! 0                   8            16                 24
//! +-------------------+------------+------------------+----------+--------+------+--------+-------+--------+--------+
//! | "ANBBACK" version | taken, i64 | last branch, u64 | branches | reflog | tags | values | marks | epochs | BLAKE3 |
//! |   = 1             | us         |                  |          |        |      |        |       |        |  32 B  |
//! +-------------------+------------+------------------+----------+--------+------+--------+-------+--------+--------+
//!
//! each list:  count (u64) | items
//! branch:     id (u64) | name | head (32 B) | protected (u8: 0, 1) | created (i64)
//! reflog:     branch id (u64) | seq (u64) | 00, or 01 and old (32 B) | new (32 B) | time (i64) | author | action
//! tag:        name | commit (32 B) | created (i64)
//! value:      space | key | value
//! mark, epoch: name | number (u64)
//! ```
//!
//! Numbers are big-endian, times are UTC microseconds, texts and bytes a `u32` length and the bytes. The hash is that of all bytes before it. Refused: other
//! versions, a hash that does not fit, bytes left over, what no database could have given.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{BranchId, Timestamp};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::codec::Reader;
use crate::pack::unpack;
use crate::store::pack_path;
use crate::{
    BranchInfo, CommitId, Damage, Error, Finding, MetadataDump, MetadataStore, PackId, PackIndex, Place, Publication, ReflogEntry, Result, TagInfo,
};

const MAGIC: &[u8; 8] = b"ANBBACK\x01";
const HASH_BYTES: usize = 32;

/// The bytes of a backup.
pub fn encode_backup(taken: Timestamp, dump: &MetadataDump) -> Vec<u8> {
    let mut writer = Writer(MAGIC.to_vec());
    writer.time(taken);
    writer.dump(dump);
    let hash = blake3::hash(&writer.0);
    writer.0.extend_from_slice(hash.as_bytes());
    writer.0
}

/// What a backup holds, and when it was taken.
///
/// # Errors
/// Refuses everything that [`encode_backup`] does not write.
pub fn decode_backup(bytes: &[u8]) -> Result<(Timestamp, MetadataDump)> {
    let malformed = |reason: &str| Error::invalid("backup", reason);
    let body = bytes.len().checked_sub(HASH_BYTES).map(|end| &bytes[..end]).ok_or_else(|| malformed("cut short"))?;
    if !body.starts_with(&MAGIC[..7]) {
        return Err(malformed("it does not begin like one"));
    }
    if body.get(7) != Some(&MAGIC[7]) {
        return Err(malformed("its format is not known to this version, which reads 1: use a newer one"));
    }
    if blake3::hash(body).as_bytes() != &bytes[body.len()..] {
        return Err(malformed("its bytes are not what its hash says: it is damaged"));
    }
    let mut reader = Reader::new("backup", &body[MAGIC.len()..]);
    let taken = time(&mut reader)?;
    let dump = read_dump(&mut reader)?;
    reader.end()?;
    Ok((taken, dump))
}

/// What was found in the packs of an object store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Packs.
    pub packs: u64,
    /// Nodes and commits that are whole.
    pub entries: u64,
    /// Packs that are damaged, and what in them; what is whole in them is indexed.
    pub findings: Vec<Finding>,
}

/// Indexes every pack of an object store anew.
///
/// # Errors
/// Where the stores fail; damage is no error but a [`Finding`].
pub async fn rebuild_index(metadata: &dyn MetadataStore, objects: &Arc<dyn ObjectStore>) -> Result<Rebuilt> {
    let failed = |error| Error::backend("listing packs", error);
    let listed: Vec<_> = objects.list(Some(&Path::from("packs"))).try_collect().await.map_err(failed)?;
    let mut rebuilt = Rebuilt::default();
    for meta in listed {
        let path = meta.location.to_string();
        // Whatever else lies there is none of ours.
        let Some(pack) = path.strip_prefix("packs/").and_then(|name| name.parse::<PackId>().ok()) else { continue };
        let failed = |error| Error::backend(format!("reading {path}"), error);
        let bytes = objects.get(&meta.location).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let read = tokio::task::spawn_blocking(move || salvage(&bytes, pack)).await.map_err(|error| Error::backend("reading a pack", error))?;
        let (index, findings) = read;
        rebuilt.packs += 1;
        rebuilt.findings.extend(findings);
        if let Some(index) = index {
            rebuilt.entries += index.entries.len() as u64;
            metadata.publish(&Publication { pack: Some(index), ..Publication::default() }).await?;
        }
    }
    Ok(rebuilt)
}

/// The index of a pack, of a damaged one less what is damaged.
fn salvage(bytes: &Bytes, pack: PackId) -> (Option<PackIndex>, Vec<Finding>) {
    match PackIndex::read(bytes) {
        Ok(index) if index.pack == pack => return (Some(index), Vec::new()),
        _ => {}
    }
    let path = pack_path(&pack).to_string();
    let Ok(index) = PackIndex::read_unverified(bytes) else {
        return (None, vec![Finding::new(Damage::Pack, path, "it is no whole pack")]);
    };
    let mut findings = vec![Finding::new(Damage::Pack, path, "its bytes are not what its name says")];
    let (mut whole, mut name) = (Vec::new(), String::new());
    for entry in index.entries {
        let end = entry.offset.checked_add(u64::from(entry.len)).filter(|end| *end <= bytes.len() as u64);
        name.clear();
        name.push_str(&crate::Digest(entry.hash).to_string());
        match end.map(|end| unpack(&bytes.slice(entry.offset as usize..end as usize), &entry.hash, &name)) {
            Some(Ok(_)) => whole.push(entry),
            _ => {
                let damage = if entry.kind == crate::EntryKind::Node { Damage::Node } else { Damage::Commit };
                let place = Some(Place { pack, offset: entry.offset });
                findings.push(Finding { place, ..Finding::new(damage, &name, "its bytes are not what its hash says") });
            }
        }
    }
    (Some(PackIndex { pack, bytes: bytes.len() as u64, entries: whole }), findings)
}

struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn time(&mut self, time: Timestamp) {
        self.0.extend_from_slice(&time.micros().to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Longer values than 4 GiB are in no database.
        self.0.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn dump(&mut self, dump: &MetadataDump) {
        self.u64(dump.last_branch);
        self.u64(dump.branches.len() as u64);
        for branch in &dump.branches {
            self.u64(branch.id.0);
            self.bytes(branch.name.as_bytes());
            self.0.extend_from_slice(branch.head.as_bytes());
            self.0.push(u8::from(branch.protected));
            self.time(branch.created);
        }
        self.u64(dump.reflog.len() as u64);
        for (branch, entry) in &dump.reflog {
            self.u64(branch.0);
            self.u64(entry.seq);
            self.0.push(u8::from(entry.old.is_some()));
            entry.old.iter().for_each(|old| self.0.extend_from_slice(old.as_bytes()));
            self.0.extend_from_slice(entry.new.as_bytes());
            self.time(entry.time);
            self.bytes(entry.author.as_bytes());
            self.bytes(entry.action.as_bytes());
        }
        self.u64(dump.tags.len() as u64);
        for tag in &dump.tags {
            self.bytes(tag.name.as_bytes());
            self.0.extend_from_slice(tag.commit.as_bytes());
            self.time(tag.created);
        }
        self.u64(dump.values.len() as u64);
        for (space, key, value) in &dump.values {
            self.bytes(space.as_bytes());
            self.bytes(key);
            self.bytes(value);
        }
        for numbers in [&dump.marks, &dump.epochs] {
            self.u64(numbers.len() as u64);
            for (name, number) in numbers {
                self.bytes(name.as_bytes());
                self.u64(*number);
            }
        }
    }
}

fn read_dump(reader: &mut Reader<'_>) -> Result<MetadataDump> {
    let last_branch = reader.u64()?;
    let branches = list(reader, |reader| {
        let (id, name, head) = (BranchId(reader.u64()?), text(reader)?, commit(reader)?);
        Ok(BranchInfo { id, name, head, protected: flag(reader)?, created: time(reader)? })
    })?;
    let reflog = list(reader, |reader| {
        let (branch, seq) = (BranchId(reader.u64()?), reader.u64()?);
        let old = if flag(reader)? { Some(commit(reader)?) } else { None };
        Ok((branch, ReflogEntry { seq, old, new: commit(reader)?, time: time(reader)?, author: text(reader)?, action: text(reader)? }))
    })?;
    let tags = list(reader, |reader| Ok(TagInfo { name: text(reader)?, commit: commit(reader)?, created: time(reader)? }))?;
    let values = list(reader, |reader| Ok((text(reader)?, blob(reader)?, blob(reader)?)))?;
    let mut numbers = || -> Result<BTreeMap<String, u64>> { Ok(list(reader, |reader| Ok((text(reader)?, reader.u64()?)))?.into_iter().collect()) };
    let (marks, epochs) = (numbers()?, numbers()?);
    Ok(MetadataDump { last_branch, branches, reflog, tags, values, marks, epochs })
}

fn list<T>(reader: &mut Reader<'_>, mut item: impl FnMut(&mut Reader<'_>) -> Result<T>) -> Result<Vec<T>> {
    // Grown as items are read, so that a wrong count takes no memory.
    let count = reader.u64()?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(reader)?);
    }
    Ok(items)
}

fn time(reader: &mut Reader<'_>) -> Result<Timestamp> {
    Ok(Timestamp(reader.u64()? as i64))
}

fn commit(reader: &mut Reader<'_>) -> Result<CommitId> {
    CommitId::from_slice(reader.take(32)?)
}

fn flag(reader: &mut Reader<'_>) -> Result<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed("a flag is neither 0 nor 1")),
    }
}

fn blob(reader: &mut Reader<'_>) -> Result<Bytes> {
    let len = reader.u32()? as usize;
    Ok(Bytes::copy_from_slice(reader.take(len)?))
}

fn text(reader: &mut Reader<'_>) -> Result<String> {
    String::from_utf8(blob(reader)?.to_vec()).map_err(|_| reader.malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> MetadataDump {
        let (one, two) = (CommitId::of(b"one"), CommitId::of(b"two"));
        let log = |seq, old, new| ReflogEntry { seq, old, new, time: Timestamp(seq as i64), author: "ada".to_owned(), action: "commit".to_owned() };
        MetadataDump {
            last_branch: 3,
            branches: vec![BranchInfo { id: BranchId(1), name: "main".to_owned(), head: two, protected: true, created: Timestamp(-1) }],
            reflog: vec![(BranchId(1), log(1, None, one)), (BranchId(1), log(2, Some(one), two))],
            tags: vec![TagInfo { name: "v1".to_owned(), commit: one, created: Timestamp(7) }],
            values: vec![("space".to_owned(), Bytes::from_static(&[0, 255]), Bytes::new())],
            marks: BTreeMap::from([("source".to_owned(), 258)]),
            epochs: BTreeMap::from([("engine".to_owned(), 2)]),
        }
    }

    #[test]
    fn backup_bytes_are_the_golden_ones() {
        let golden = include_bytes!("../tests/golden/backup.v1");
        assert_eq!(encode_backup(Timestamp(5), &dump()), golden);
        assert_eq!(decode_backup(golden).unwrap(), (Timestamp(5), dump()));
    }

    #[test]
    fn damage_anywhere_is_found_and_a_newer_format_is_told() {
        let bytes = encode_backup(Timestamp(5), &dump());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(decode_backup(&damaged).is_err(), "byte {at}");
            assert!(decode_backup(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut newer = bytes;
        newer[7] = 2;
        assert!(decode_backup(&newer).unwrap_err().to_string().contains("use a newer one"));
    }
}
