//! [`MemoryMetadata`]: the contract of [`MetadataStore`] in maps behind one lock, for tests and for repositories that are thrown away.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::{BranchId, Ids, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BranchInfo, Fence, HeadMove, LeaseState, Location, MetadataDump, MetadataStore, MetadataWrite, PackSummary, Publication, ReflogEntry, Renamed,
    TagInfo, branch_lease, check_count,
};
use crate::{CommitId, EntryKind, Error, PackId, PackIndex, Result};

/// Keeps everything in memory; durable as long as it lives.
#[derive(Debug)]
pub struct MemoryMetadata {
    incarnation: u128,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    branches: BTreeMap<String, BranchInfo>,
    last_branch: u64,
    reflog: Vec<(BranchId, ReflogEntry)>,
    tags: BTreeMap<String, TagInfo>,
    index: BTreeMap<[u8; 32], (EntryKind, Location)>,
    values: BTreeMap<(String, Bytes), Bytes>,
    marks: BTreeMap<String, u64>,
    epochs: BTreeMap<String, u64>,
    leases: BTreeMap<String, LeaseState>,
    /// The sizes of packs.
    packs: BTreeMap<[u8; 32], u64>,
}

impl MemoryMetadata {
    /// An empty store.
    pub fn new(ids: &dyn Ids) -> Self {
        Self { incarnation: ids.random(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn log(&mut self, branch: BranchId, old: Option<CommitId>, new: CommitId, time: Timestamp, author: &str, action: &str) {
        let seq = self.reflog.last().map_or(0, |(_, entry)| entry.seq) + 1;
        self.reflog.push((branch, ReflogEntry { seq, old, new, time, author: author.to_owned(), action: action.to_owned() }));
    }

    fn move_head(&mut self, head: &HeadMove) -> bool {
        let Some(branch) = self.branches.values_mut().find(|branch| branch.id == head.branch && branch.head == head.expected) else {
            return false;
        };
        let mut old = head.expected;
        if let Some(last) = head.steps.last() {
            branch.head = last.commit;
        }
        for step in &head.steps {
            self.log(head.branch, Some(old), step.commit, step.time, &step.author, &step.action);
            old = step.commit;
        }
        true
    }

    fn index(&mut self, pack: &PackIndex) {
        self.packs.insert(pack.pack.0, pack.bytes);
        for entry in &pack.entries {
            let location = Location { pack: pack.pack, offset: entry.offset, len: entry.len };
            self.index.entry(entry.hash).or_insert((entry.kind, location));
        }
    }

    /// The branch of this name and id, if it is not protected.
    fn unprotected(&self, name: &str, id: BranchId) -> bool {
        self.branches.get(name).is_some_and(|branch| branch.id == id && !branch.protected)
    }

    fn write(&mut self, write: &MetadataWrite) {
        match write {
            MetadataWrite::Put { space, key, value } => drop(self.values.insert((space.clone(), key.clone()), value.clone())),
            MetadataWrite::Delete { space, key } => drop(self.values.remove(&(space.clone(), key.clone()))),
            MetadataWrite::RaiseMark { name, to } => {
                let mark = self.marks.entry(name.clone()).or_insert(1);
                *mark = (*mark).max(*to);
            }
            MetadataWrite::BumpEpoch { tag } => *self.epochs.entry(tag.clone()).or_default() += 1,
        }
    }
}

#[async_trait]
impl MetadataStore for MemoryMetadata {
    async fn incarnation(&self) -> Result<u128> {
        Ok(self.incarnation)
    }

    async fn publish(&self, publication: &Publication) -> Result<bool> {
        super::check_writes(&publication.writes)?;
        let mut state = self.state();
        if let Some(Fence { lease, token }) = &publication.fence
            && !state.leases.get_mut(lease).is_some_and(|lease| lease.renew(*token))
        {
            return Ok(false);
        }
        if publication.head.as_ref().is_some_and(|head| !state.move_head(head)) {
            return Ok(false);
        }
        if let Some(pack) = &publication.pack {
            state.index(pack);
        }
        publication.writes.iter().for_each(|write| state.write(write));
        Ok(true)
    }

    async fn locate(&self, hashes: &[[u8; 32]]) -> Result<Vec<Option<Location>>> {
        let state = self.state();
        Ok(hashes.iter().map(|hash| state.index.get(hash).map(|(_, location)| *location)).collect())
    }

    async fn commits_between(&self, low: &CommitId, high: &CommitId, limit: usize) -> Result<Vec<CommitId>> {
        let state = self.state();
        let commits = state.index.range(low.0..=high.0).filter(|(_, (kind, _))| *kind == EntryKind::Commit);
        Ok(commits.map(|(hash, _)| CommitId(*hash)).take(limit).collect())
    }

    async fn create_branch(&self, name: &str, head: &CommitId, time: Timestamp, author: &str) -> Result<Option<BranchInfo>> {
        let mut state = self.state();
        if state.branches.contains_key(name) {
            return Ok(None);
        }
        state.last_branch += 1;
        let id = BranchId(state.last_branch);
        let branch = BranchInfo { id, name: name.to_owned(), head: *head, protected: false, created: time };
        state.branches.insert(name.to_owned(), branch.clone());
        state.log(id, None, *head, time, author, "create");
        Ok(Some(branch))
    }

    async fn delete_branch(&self, name: &str, id: BranchId) -> Result<bool> {
        let mut state = self.state();
        let found = state.unprotected(name, id);
        if found {
            state.branches.remove(name);
            state.leases.remove(&branch_lease(id));
        }
        Ok(found)
    }

    async fn rename_branch(&self, name: &str, id: BranchId, new: &str) -> Result<Renamed> {
        let mut state = self.state();
        if !state.unprotected(name, id) {
            return Ok(Renamed::NoBranch);
        }
        if state.branches.contains_key(new) {
            return Ok(Renamed::Taken);
        }
        let Some(mut branch) = state.branches.remove(name) else { return Ok(Renamed::NoBranch) };
        branch.name = new.to_owned();
        state.branches.insert(new.to_owned(), branch.clone());
        Ok(Renamed::Done(branch))
    }

    async fn protect_branch(&self, name: &str, protected: bool) -> Result<bool> {
        Ok(self.state().branches.get_mut(name).map(|branch| branch.protected = protected).is_some())
    }

    async fn branch(&self, name: &str) -> Result<Option<BranchInfo>> {
        Ok(self.state().branches.get(name).cloned())
    }

    async fn branches(&self) -> Result<Vec<BranchInfo>> {
        Ok(self.state().branches.values().cloned().collect())
    }

    async fn branches_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BranchInfo>> {
        Ok(page(&self.state().branches, prefix, after, limit))
    }

    async fn reflog(&self, branch: BranchId, before: Option<u64>, limit: usize) -> Result<Vec<ReflogEntry>> {
        let state = self.state();
        let entries = state.reflog.iter().rev().filter(|(id, entry)| *id == branch && before.is_none_or(|before| entry.seq < before));
        Ok(entries.map(|(_, entry)| entry.clone()).take(limit).collect())
    }

    async fn head_at(&self, branch: BranchId, time: Timestamp) -> Result<Option<CommitId>> {
        let state = self.state();
        Ok(state.reflog.iter().rev().find(|(id, entry)| *id == branch && entry.time <= time).map(|(_, entry)| entry.new))
    }

    async fn create_tag(&self, name: &str, commit: &CommitId, time: Timestamp) -> Result<Option<TagInfo>> {
        let mut state = self.state();
        if state.tags.contains_key(name) {
            return Ok(None);
        }
        let tag = TagInfo { name: name.to_owned(), commit: *commit, created: time };
        state.tags.insert(name.to_owned(), tag.clone());
        Ok(Some(tag))
    }

    async fn delete_tag(&self, name: &str) -> Result<bool> {
        Ok(self.state().tags.remove(name).is_some())
    }

    async fn tag(&self, name: &str) -> Result<Option<TagInfo>> {
        Ok(self.state().tags.get(name).cloned())
    }

    async fn tags(&self) -> Result<Vec<TagInfo>> {
        Ok(self.state().tags.values().cloned().collect())
    }

    async fn tags_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<TagInfo>> {
        Ok(page(&self.state().tags, prefix, after, limit))
    }

    async fn value(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.state().values.get(&(space.to_owned(), Bytes::copy_from_slice(key))).cloned())
    }

    async fn values(&self, space: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let state = self.state();
        let at = |key: &[u8]| (space.to_owned(), Bytes::copy_from_slice(key));
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(at(after)),
            _ => Bound::Included(at(prefix)),
        };
        let range = state.values.range((start, Bound::Unbounded));
        let within = range.take_while(|((in_space, key), _)| in_space == space && key.starts_with(prefix));
        Ok(within.map(|((_, key), value)| (key.clone(), value.clone())).take(limit).collect())
    }

    async fn swap_value(&self, space: &str, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool> {
        let (mut state, key) = (self.state(), (space.to_owned(), Bytes::copy_from_slice(key)));
        if state.values.get(&key).map(|value| &value[..]) != expected {
            return Ok(false);
        }
        match new {
            Some(new) => drop(state.values.insert(key, Bytes::copy_from_slice(new))),
            None => drop(state.values.remove(&key)),
        }
        Ok(true)
    }

    async fn allocate(&self, mark: &str, count: u64) -> Result<u64> {
        let mut state = self.state();
        let next = state.marks.entry(mark.to_owned()).or_insert(1);
        let first = *next;
        *next = check_count(first.checked_add(count))? as u64;
        Ok(first)
    }

    async fn mark(&self, mark: &str) -> Result<u64> {
        Ok(self.state().marks.get(mark).copied().unwrap_or(1))
    }

    async fn epochs(&self, tags: &[&str]) -> Result<Vec<Option<u64>>> {
        let state = self.state();
        Ok(tags.iter().map(|tag| state.epochs.get(*tag).copied()).collect())
    }

    async fn lease(&self, name: &str) -> Result<LeaseState> {
        Ok(self.state().leases.get(name).cloned().unwrap_or_default())
    }

    async fn take_lease(&self, name: &str, holder: &str, dead: Option<(u64, u64)>) -> Result<LeaseState> {
        super::check_holder(holder)?;
        let mut state = self.state();
        let lease = state.leases.entry(name.to_owned()).or_default();
        lease.take(holder, dead);
        Ok(lease.clone())
    }

    async fn renew_lease(&self, fence: &Fence) -> Result<bool> {
        Ok(self.state().leases.get_mut(&fence.lease).is_some_and(|lease| lease.renew(fence.token)))
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<()> {
        if let Some(lease) = self.state().leases.get_mut(name) {
            lease.release(holder);
        }
        Ok(())
    }

    async fn packs(&self, after: Option<&PackId>, limit: usize) -> Result<Vec<PackSummary>> {
        let state = self.state();
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.0));
        let used = |pack: &[u8; 32]| state.index.values().filter(|(_, location)| location.pack.0 == *pack).count() as u64;
        let packs = state.packs.range((start, Bound::Unbounded)).take(limit);
        Ok(packs.map(|(pack, bytes)| PackSummary { id: PackId(*pack), entries: used(pack), bytes: *bytes }).collect())
    }

    async fn replace_packs(&self, new: &[PackIndex], old: &[PackId]) -> Result<bool> {
        let mut state = self.state();
        let offered: BTreeMap<_, _> = new.iter().flat_map(|pack| pack.entries.iter().map(move |entry| (entry.hash, (pack.pack, entry)))).collect();
        let in_use: Vec<_> = state.index.iter().filter(|(_, (_, location))| old.contains(&location.pack)).map(|(hash, _)| *hash).collect();
        if old.iter().any(|pack| !state.packs.contains_key(&pack.0) || new.iter().any(|new| new.pack == *pack))
            || in_use.iter().any(|hash| !offered.contains_key(hash))
        {
            return Ok(false);
        }
        for hash in in_use {
            let (pack, entry) = offered[&hash];
            state.index.insert(hash, (entry.kind, Location { pack, offset: entry.offset, len: entry.len }));
        }
        state.packs.retain(|pack, _| !old.iter().any(|old| old.0 == *pack));
        new.iter().for_each(|pack| state.index(pack));
        Ok(true)
    }

    async fn dump(&self) -> Result<MetadataDump> {
        let state = self.state();
        Ok(MetadataDump {
            last_branch: state.last_branch,
            branches: state.branches.values().cloned().collect(),
            reflog: state.reflog.clone(),
            tags: state.tags.values().cloned().collect(),
            values: state.values.iter().map(|((space, key), value)| (space.clone(), key.clone(), value.clone())).collect(),
            marks: state.marks.clone(),
            epochs: state.epochs.clone(),
        })
    }

    async fn load(&self, dump: &MetadataDump) -> Result<()> {
        super::check_dump(dump)?;
        let mut state = self.state();
        let State { branches, reflog, tags, values, marks, epochs, .. } = &*state;
        if !(branches.is_empty() && reflog.is_empty() && tags.is_empty() && values.is_empty() && marks.is_empty() && epochs.is_empty()) {
            return Err(Error::invalid("restore", super::NOT_EMPTY));
        }
        state.last_branch = dump.last_branch;
        state.branches = dump.branches.iter().map(|branch| (branch.name.clone(), branch.clone())).collect();
        state.reflog = dump.reflog.clone();
        state.tags = dump.tags.iter().map(|tag| (tag.name.clone(), tag.clone())).collect();
        state.values = dump.values.iter().map(|(space, key, value)| ((space.clone(), key.clone()), value.clone())).collect();
        state.marks = dump.marks.clone();
        state.epochs = dump.epochs.clone();
        Ok(())
    }
}

fn page<T: Clone>(map: &BTreeMap<String, T>, prefix: &str, after: Option<&str>, limit: usize) -> Vec<T> {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let range = map.range::<str, _>((start, Bound::Unbounded));
    range.take_while(|(name, _)| name.starts_with(prefix)).map(|(_, item)| item.clone()).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use anabranch_core::RandomIds;

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_laws_of_metadata() {
        crate::testkit::metadata_laws(&MemoryMetadata::new(&RandomIds::seeded(1))).await.unwrap();
    }
}
