//! Compaction: many small packs become a few large ones, while others read and write.
//!
//! Every group of commits leaves a pack. Compaction takes the small ones, smallest first, into groups of about the target size; a pack larger than all the
//! smaller ones together waits, so that whoever is moved comes into a pack of twice the size at least. For each group:
//!
//! 1. read the packs whole; each must have its name for a hash and every entry its own, and what the index places in them goes into one new pack. (A hash
//!    that several packs hold is looked up in the first that was published: only that copy is moved, the others go with their packs.) A damaged pack is
//!    told and left as it is;
//! 2. write down the old packs and the new one as *suspects*, with the time, in the space [`SUSPECTS`];
//! 3. PUT the new pack, durably;
//! 4. one metadata transaction ([`crate::MetadataStore::replace_packs`]): what was looked up in the old packs is looked up in the new one, and the old ones
//!    are forgotten; or nothing, if one of the old packs is gone, because another server was faster.
//!
//! A suspect is a pack that may be without a name. When the grace is over, whoever compacts next *claims* it by compare-and-set, looks whether the index
//! knows the pack, deletes the object if not, and strikes the suspect off:
//!
//! ```text
//!            2 (again: the time is set anew)
//!            +--+
//!            v  |   grace over, by compare-and-set
//! nothing -> waiting ------------------------------> claimed --> object deleted, if the index does not know the pack --> nothing
//!                                                     |  ^
//!                                                     +--+ grace over again: the claimer died
//! ```
//!
//! A pack is named by its bytes, so that two servers, or one after a crash, may come to the same new pack. Step 2 refuses a group of which a pack is
//! claimed: step 3 never writes an object that somebody is about to delete. (A claimer that stands still for longer than the grace and then goes on could;
//! the grace is to be longer than any pause.)
//!
//! | crash after | left behind | cleared by |
//! | -- | -- | -- |
//! | 1 | nothing | – |
//! | 2 | suspects: old packs that are known, a new one that was not written | the next compaction after the grace: struck off |
//! | 3 | as before, and a pack that nothing names | the same: the object is deleted |
//! | 4, or its answer lost | suspects: a new pack that is known, old ones that are not | the same: the old objects are deleted |
//! | a claim | a claimed suspect, its object perhaps deleted | the compaction after another grace: deleted again, struck off |
//!
//! Readers go by the index: one that looked before step 4 reads the old pack, which stays for the grace; one that is slower than the grace finds it missing
//! and looks again ([`crate::store`]). Writers never wait: a group of commits whose pack comes to have the bytes of a suspect finds all its entries indexed
//! elsewhere, and what happens to that object concerns nobody.

use std::collections::HashSet;

use anabranch_core::{Span, Timestamp};
use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::Repository;
use crate::pack::{PackBuilder, unpack};
use crate::store::pack_path;
use crate::{Error, IndexEntry, PackId, PackIndex, PackSummary, Result};

/// Where suspects are written down: pack id → state (u8: 1 waiting, 2 claimed) | since when, in microseconds (i64, big-endian).
const SUSPECTS: &str = "packs.retired";
const WAITING: u8 = 1;
const CLAIMED: u8 = 2;
/// Packs and suspects that are listed at a time.
const PAGE: usize = 1000;

/// What is compacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionOptions {
    /// The size of new packs; packs below a quarter of it are rewritten.
    pub target_bytes: u64,
    /// Fewer small packs than this are left alone.
    pub min_packs: usize,
    /// How long packs that nothing names any longer stay; longer than any reader or writer takes.
    pub grace: Span,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self { target_bytes: 64 << 20, min_packs: 8, grace: Span::seconds(3600) }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Packs that the index knew before.
    pub packs_before: u64,
    /// And after.
    pub packs_after: u64,
    /// Nodes and commits that lie in a new pack now.
    pub entries_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Objects deleted, of this compaction and of earlier ones.
    pub objects_deleted: u64,
    /// What is wrong with packs that were left as they are, one line for each.
    pub damaged: Vec<String>,
}

/// A new pack in the making.
struct Gathered {
    pack: PackBuilder,
    old: Vec<PackId>,
}

impl Repository {
    /// Rewrites small packs into larger ones and deletes those rewritten earlier whose grace is over. Readers and writers go on meanwhile, and several
    /// servers may compact at once.
    ///
    /// # Errors
    /// Those of the two stores; what was begun is finished by the next compaction. A damaged pack is no error, it is told in the answer.
    pub async fn compact(&self, options: &CompactionOptions) -> Result<Compaction> {
        let packs = self.packs().await?;
        let mut done = Compaction { packs_before: packs.len() as u64, packs_after: packs.len() as u64, ..Compaction::default() };
        for group in groups(packs, options) {
            self.compact_group(&group, &mut done).await?;
        }
        self.delete_suspects(options.grace, &mut done).await?;
        tracing::info!(
            packs = done.packs_before,
            left = done.packs_after,
            bytes = done.bytes_moved,
            deleted = done.objects_deleted,
            "packs compacted"
        );
        Ok(done)
    }

    async fn packs(&self) -> Result<Vec<PackSummary>> {
        let mut packs: Vec<PackSummary> = Vec::new();
        loop {
            let page = self.store.metadata.packs(packs.last().map(|pack| &pack.id), PAGE).await?;
            let ended = page.len() < PAGE;
            packs.extend(page);
            if ended {
                return Ok(packs);
            }
        }
    }

    /// Steps 1 to 4 for one group.
    async fn compact_group(&self, group: &[PackSummary], done: &mut Compaction) -> Result<()> {
        let Gathered { pack, old } = self.gather(group, done).await?;
        let built = tokio::task::spawn_blocking(move || (!pack.is_empty()).then(|| pack.finish()));
        let new = built.await.map_err(|error| Error::backend("writing a pack", error))?;
        if old.is_empty() || old.len() == 1 && new.is_some() {
            return Ok(());
        }
        for pack in old.iter().chain(new.as_ref().map(|(_, index)| &index.pack)) {
            if !self.suspect(pack).await? {
                return Ok(());
            }
        }
        let mut indexes: Vec<PackIndex> = Vec::new();
        if let Some((bytes, index)) = new {
            self.store.put_pack(&index.pack, bytes).await?;
            indexes.push(index);
        }
        if self.store.metadata.replace_packs(&indexes, &old).await? {
            done.packs_after = (done.packs_after + indexes.len() as u64).saturating_sub(old.len() as u64);
            let entries = indexes.iter().flat_map(|index| &index.entries);
            done.entries_moved += indexes.iter().map(|index| index.entries.len() as u64).sum::<u64>();
            done.bytes_moved += entries.map(|entry| u64::from(entry.len)).sum::<u64>();
        }
        Ok(())
    }

    /// Step 1: what the index places in the packs of a group.
    async fn gather(&self, group: &[PackSummary], done: &mut Compaction) -> Result<Gathered> {
        let mut gathered = Gathered { pack: PackBuilder::new(), old: Vec::new() };
        for PackSummary { id, entries, .. } in group {
            // Nothing is looked up in it; whether its object is there concerns nobody.
            if *entries > 0 {
                match self.add_pack(id, &mut gathered.pack).await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error @ Error::Corrupt { .. }) => {
                        tracing::error!(pack = %id, %error, "a damaged pack is not compacted");
                        done.damaged.push(error.to_string());
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            gathered.old.push(*id);
        }
        Ok(gathered)
    }

    /// Adds what the index places in a pack; `false` if another server has compacted it away meanwhile.
    async fn add_pack(&self, id: &PackId, pack: &mut PackBuilder) -> Result<bool> {
        let path = pack_path(id);
        let failed = |error| Error::backend(format!("reading {path}"), error);
        let bytes = match self.store.objects.get(&path).await {
            Ok(object) => object.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) if !self.is_known(id).await? => return Ok(false),
            Err(object_store::Error::NotFound { .. }) => return Err(Error::corrupt(path.to_string(), "the pack is missing")),
            Err(error) => return Err(failed(error)),
        };
        let (id, whole, object) = (*id, bytes.clone(), path.to_string());
        let checked = tokio::task::spawn_blocking(move || check(&id, &whole, &object)).await;
        let entries = checked.map_err(|error| Error::backend(format!("checking {path}"), error))??;
        let hashes: Vec<_> = entries.iter().map(|entry| entry.hash).collect();
        for (entry, location) in entries.iter().zip(self.store.metadata.locate(&hashes).await?) {
            if location.is_some_and(|location| location.pack == id) {
                pack.add_encoded(entry.kind, entry.hash, &slice(&bytes, entry));
            }
        }
        Ok(true)
    }

    async fn is_known(&self, pack: &PackId) -> Result<bool> {
        let found = self.store.metadata.packs(before(pack).as_ref(), 1).await?;
        Ok(found.first().is_some_and(|found| found.id == *pack))
    }

    /// Step 2 for one pack; `false` if it is claimed.
    async fn suspect(&self, pack: &PackId) -> Result<bool> {
        let metadata = &self.store.metadata;
        loop {
            let held = metadata.value(SUSPECTS, &pack.0).await?;
            if held.as_ref().is_some_and(|held| held.first() != Some(&WAITING)) {
                return Ok(false);
            }
            if metadata.swap_value(SUSPECTS, &pack.0, held.as_deref(), Some(&record(WAITING, self.clock.now()))).await? {
                return Ok(true);
            }
        }
    }

    /// Deletes the objects of suspects whose grace is over and that the index does not know.
    async fn delete_suspects(&self, grace: Span, done: &mut Compaction) -> Result<()> {
        let (metadata, now) = (&self.store.metadata, self.clock.now());
        let mut after: Option<Bytes> = None;
        loop {
            let page = metadata.values(SUSPECTS, &[], after.as_deref(), PAGE).await?;
            for (key, held) in &page {
                let pack = PackId::from_slice(key).map_err(|_| Error::corrupt(SUSPECTS, "a key is not the name of a pack"))?;
                let claim = record(CLAIMED, now);
                if !is_over(since(held)?, now, grace) || !metadata.swap_value(SUSPECTS, key, Some(held), Some(&claim)).await? {
                    continue;
                }
                if !self.is_known(&pack).await? {
                    let path = pack_path(&pack);
                    match self.store.objects.delete(&path).await {
                        Ok(()) => done.objects_deleted += 1,
                        Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => return Err(Error::backend(format!("deleting {path}"), error)),
                    }
                }
                metadata.swap_value(SUSPECTS, key, Some(&claim), None).await?;
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(()),
            }
        }
    }
}

/// Small packs in groups of about the target size.
fn groups(mut packs: Vec<PackSummary>, options: &CompactionOptions) -> Vec<Vec<PackSummary>> {
    packs.retain(|pack| pack.entries == 0 || pack.bytes < options.target_bytes / 4);
    let size = |pack: &PackSummary| if pack.entries == 0 { 0 } else { pack.bytes };
    packs.sort_by_key(|pack| (size(pack), pack.id));
    let mut sum: u64 = packs.iter().map(size).sum();
    while let Some(largest) = packs.last().map(size)
        && largest > sum - largest
    {
        sum -= largest;
        packs.pop();
    }
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for pack in packs {
        bytes += size(&pack);
        group.push(pack);
        if bytes >= options.target_bytes {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
    }
    if group.len() >= options.min_packs.max(2) {
        groups.push(group);
    }
    groups
}

/// The entries of a pack, all of whose bytes are what their names say.
fn check(id: &PackId, bytes: &Bytes, object: &str) -> Result<Vec<IndexEntry>> {
    let index = PackIndex::read(bytes).map_err(|error| Error::corrupt(object, error.to_string()))?;
    if index.pack != *id {
        return Err(Error::corrupt(object, "its bytes are not what its name says"));
    }
    let mut seen = HashSet::new();
    for entry in &index.entries {
        let end = entry.offset.checked_add(u64::from(entry.len)).filter(|end| *end <= bytes.len() as u64);
        if end.is_none() || !seen.insert(entry.hash) {
            return Err(Error::corrupt(object, "an entry of its index lies outside or is there twice"));
        }
        unpack(&slice(bytes, entry), &entry.hash, object)?;
    }
    Ok(index.entries)
}

fn slice(bytes: &Bytes, entry: &IndexEntry) -> Bytes {
    let start = entry.offset as usize;
    bytes.slice(start..start + entry.len as usize)
}

/// The id just before this one; `None` before the first.
fn before(pack: &PackId) -> Option<PackId> {
    let mut id = pack.0;
    let last = id.iter().rposition(|byte| *byte > 0)?;
    id[last] -= 1;
    id[last + 1..].fill(u8::MAX);
    Some(PackId(id))
}

fn record(state: u8, time: Timestamp) -> Bytes {
    [&[state][..], &time.micros().to_be_bytes()].concat().into()
}

fn since(record: &[u8]) -> Result<Timestamp> {
    match record {
        [WAITING | CLAIMED, micros @ ..] => micros.try_into().ok().map(|micros| Timestamp(i64::from_be_bytes(micros))),
        _ => None,
    }
    .ok_or_else(|| Error::corrupt(SUSPECTS, "a value is not one that this program knows"))
}

fn is_over(since: Timestamp, now: Timestamp, grace: Span) -> bool {
    now.micros().checked_sub(since.micros()).is_some_and(|passed| passed >= grace.micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(groups: Vec<Vec<PackSummary>>) -> Vec<Vec<u64>> {
        groups.into_iter().map(|group| group.into_iter().map(|pack| pack.bytes).collect()).collect()
    }

    fn grouped(sizes_in: &[u64]) -> Vec<Vec<u64>> {
        let pack = |(at, bytes): (usize, &u64)| PackSummary { id: PackId([at as u8; 32]), entries: 1, bytes: *bytes };
        let options = CompactionOptions { target_bytes: 1000, min_packs: 3, ..CompactionOptions::default() };
        sizes(groups(sizes_in.iter().enumerate().map(pack).collect(), &options))
    }

    #[test]
    fn small_packs_are_grouped_to_the_target_and_a_large_one_waits_for_as_much_again() {
        assert_eq!(grouped(&[10, 20, 30]), [[10, 20, 30]]);
        assert_eq!(grouped(&[20, 10]), [[0; 0]; 0], "too few");
        assert_eq!(grouped(&[10, 20, 30, 61]), [[10, 20, 30]], "the largest is more than all the others");
        assert_eq!(grouped(&[10, 20, 30, 60]), [[10, 20, 30, 60]]);
        assert_eq!(grouped(&[249, 250, 251, 249, 249, 9000]), [[249, 249, 249]], "a quarter of the target is large enough");
        assert_eq!(grouped(&[200; 9]), [vec![200; 5], vec![200; 4]]);
    }

    #[test]
    fn the_id_before_another_is_the_next_smaller_one() {
        let id = |last: [u8; 2]| PackId([[7; 30].as_slice(), &last].concat().try_into().unwrap());
        assert_eq!(before(&id([1, 0])), Some(id([0, 255])));
        assert_eq!(before(&id([0, 9])), Some(id([0, 8])));
        assert_eq!(before(&PackId([0; 32])), None);
    }
}
