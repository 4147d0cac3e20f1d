//! The reference store: maps in memory. It shows the contract in a page, and lets tests lose what was not synced.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::{EntityKey, Generation, Ids};
use async_trait::async_trait;
use bytes::Bytes;

use crate::store::check_commit;
use crate::{Cursor, Error, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};

/// Keeps everything in memory.
#[derive(Debug)]
pub struct MemoryOnlineStore(Mutex<State>);

#[derive(Debug)]
struct State {
    incarnation: Incarnation,
    rows: BTreeMap<Generation, BTreeMap<EntityKey, Bytes>>,
    published: BTreeMap<Generation, Bytes>,
    /// What the synced state had where it was changed since.
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Row(Generation, EntityKey, Option<Bytes>),
    Published(Generation, Option<Bytes>),
}

impl MemoryOnlineStore {
    /// An empty store.
    pub fn new(ids: &dyn Ids) -> Self {
        Self(Mutex::new(State { incarnation: Incarnation(ids.random()), rows: BTreeMap::new(), published: BTreeMap::new(), undo: Vec::new() }))
    }

    /// Loses whatever was not synced, as a loss of power may.
    pub fn crash(&self) {
        let mut state = self.state();
        while let Some(undo) = state.undo.pop() {
            match undo {
                Undo::Row(generation, key, Some(row)) => drop(state.rows.entry(generation).or_default().insert(key, row)),
                Undo::Row(generation, key, None) => drop(state.rows.entry(generation).or_default().remove(&key)),
                Undo::Published(generation, Some(commit)) => drop(state.published.insert(generation, commit)),
                Undo::Published(generation, None) => drop(state.published.remove(&generation)),
            }
        }
    }

    /// Loses everything and becomes another incarnation, as a disk that is replaced does.
    pub fn lose(&self, ids: &dyn Ids) {
        let mut state = self.state();
        state.incarnation = Incarnation(ids.random());
        state.rows.clear();
        state.published.clear();
        state.undo.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl OnlineStore for MemoryOnlineStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        rows.iter().try_for_each(Write::check)?;
        let mut state = self.state();
        for Write { generation, key, row } in rows {
            let held = state.rows.entry(*generation).or_default();
            if held.get(key).is_none_or(|held| held < row) {
                let before = held.insert(key.clone(), row.clone());
                state.undo.push(Undo::Row(*generation, key.clone(), before));
            }
        }
        Ok(())
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        let state = self.state();
        let mut rows = Vec::with_capacity(groups.iter().map(ReadGroup::len).sum());
        for group in groups {
            for generation in group.generations {
                let held = state.rows.get(generation);
                rows.extend(group.keys.iter().map(|key| held.and_then(|held| held.get(key)).cloned()));
            }
        }
        Ok(rows)
    }

    async fn sync(&self) -> Result<()> {
        self.state().undo.clear();
        Ok(())
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        Ok(self.state().published.get(&generation).cloned())
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        check_commit(commit)?;
        let mut state = self.state();
        if incarnation != state.incarnation {
            return Err(Error::Lost);
        }
        let before = state.published.insert(generation, Bytes::copy_from_slice(commit));
        state.undo.push(Undo::Published(generation, before));
        Ok(())
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        Ok(self.state().incarnation)
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        let mut state = self.state();
        let before = state.published.remove(&generation);
        state.undo.push(Undo::Published(generation, before));
        for (key, row) in state.rows.remove(&generation).unwrap_or_default() {
            state.undo.push(Undo::Row(generation, key, Some(row)));
        }
        Ok(())
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        let state = self.state();
        let Some(held) = state.rows.get(&generation) else {
            return Ok(Page::default());
        };
        let from = match after {
            Some(cursor) => Bound::Excluded(EntityKey::from_bytes(cursor.0.clone())?),
            None => Bound::Unbounded,
        };
        let limit = limit.max(1);
        let rows: Vec<_> = held.range((from, Bound::Unbounded)).take(limit).map(|(key, row)| (key.clone(), row.clone())).collect();
        let last = rows.last().filter(|_| rows.len() == limit);
        let next = last.map(|(key, _)| Cursor(Bytes::copy_from_slice(key.as_bytes())));
        Ok(Page { rows, next })
    }
}
