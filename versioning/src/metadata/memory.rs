//! [`MemoryMetadata`]: the contract of [`MetadataStore`] in maps behind one lock, for tests and for repositories that are thrown away.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::{BranchId, Ids, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

use super::{BranchInfo, HeadMove, Location, MetadataStore, MetadataWrite, Publication, ReflogEntry, TagInfo, check_count};
use crate::{CommitId, EntryKind, Result};

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
        let seq = self.reflog.len() as u64 + 1;
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
        if publication.head.as_ref().is_some_and(|head| !state.move_head(head)) {
            return Ok(false);
        }
        if let Some(pack) = &publication.pack {
            for entry in &pack.entries {
                let location = Location { pack: pack.pack, offset: entry.offset, len: entry.len };
                state.index.entry(entry.hash).or_insert((entry.kind, location));
            }
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
        let found = state.branches.get(name).is_some_and(|branch| branch.id == id);
        if found {
            state.branches.remove(name);
        }
        Ok(found)
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
