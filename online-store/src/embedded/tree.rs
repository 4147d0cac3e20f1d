//! What blocks: the tree, the stripes of its writers and the table above it.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::{EntityKey, Generation};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::folder;
use crate::hot::{Epoch, HotTable, SHARDS, shard_of};
use crate::{Cursor, EmbeddedConfig, Error, Incarnation, Page, ReadGroup, Result, Write};

const FORMAT: u8 = 1;
const FORMAT_KEY: &[u8] = b"\0format";
const INCARNATION_KEY: &[u8] = b"\0incarnation";
const PUBLISHED: u8 = 1;
const ROW: u8 = 2;

/// The tree of a folder.
pub(super) struct Tree {
    path: PathBuf,
    reserve_bytes: u64,
    database: Database,
    rows: Keyspace,
    hot: HotTable,
    stripes: Vec<Mutex<()>>,
    incarnation: Incarnation,
}

/// A row that the table did not know.
pub(super) struct Miss {
    at: usize,
    generation: Generation,
    key: EntityKey,
    epoch: Epoch,
}

/// What the table knew of a read.
pub(super) struct KnownRows {
    pub(super) rows: Vec<Option<Bytes>>,
    pub(super) misses: Vec<Miss>,
}

impl KnownRows {
    /// Puts in what the tree had for the misses.
    pub(super) fn complete(&mut self, found: Vec<(usize, Option<Bytes>)>) {
        for (at, row) in found {
            self.rows[at] = row;
        }
    }
}

impl Tree {
    /// Opens a folder; where it is new, its incarnation is `fresh`.
    pub(super) fn open(path: &Path, config: &EmbeddedConfig, fresh: Incarnation) -> Result<Self> {
        folder::prepare(path)?;
        let failed = |error| storage(path, "open", error);
        let builder = Database::builder(path).cache_size(config.block_cache_bytes).max_journaling_size(config.journal_bytes);
        let database = builder.open().map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(config.memtable_bytes);
        let rows = database.keyspace("online", options).map_err(failed)?;
        let mut tree = Self {
            path: path.to_owned(),
            reserve_bytes: config.reserve_bytes,
            database,
            rows,
            hot: HotTable::new(config.hot_bytes),
            stripes: (0..SHARDS).map(|_| Mutex::new(())).collect(),
            incarnation: fresh,
        };
        tree.incarnation = tree.identify(fresh)?;
        Ok(tree)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Checks the format and reads the incarnation; a new tree gets both.
    fn identify(&self, fresh: Incarnation) -> Result<Incarnation> {
        let corrupt = |reason: &str| Error::Corrupt { what: "the online store's folder", reason: reason.to_owned() };
        match self.get(FORMAT_KEY)?.as_deref() {
            None => {
                let mut batch = self.database.batch();
                batch.insert(&self.rows, FORMAT_KEY, [FORMAT]);
                batch.insert(&self.rows, INCARNATION_KEY, fresh.0.to_be_bytes());
                self.commit(batch, "open")?;
                self.sync()?;
                return Ok(fresh);
            }
            Some([FORMAT]) => {}
            Some([found]) if *found > FORMAT => return Err(Error::NewerFormat { what: "the online store's folder", found: *found, known: FORMAT }),
            Some(_) => return Err(corrupt("it has no known format")),
        }
        let incarnation = self.get(INCARNATION_KEY)?.ok_or_else(|| corrupt("it has no incarnation"))?;
        let bytes = incarnation[..].try_into().map_err(|_| corrupt("its incarnation is not 16 bytes"))?;
        Ok(Incarnation(u128::from_be_bytes(bytes)))
    }

    /// Keeps the rows that are greater than those held.
    pub(super) fn write(&self, rows: &[Write]) -> Result<()> {
        let mut greatest: HashMap<(Generation, &EntityKey), &Bytes> = HashMap::with_capacity(rows.len());
        for write in rows {
            let row = greatest.entry((write.generation, &write.key)).or_insert(&write.row);
            *row = (*row).max(&write.row);
        }
        let _stripes = self.lock(greatest.keys().map(|(_, key)| *key));
        let mut batch = self.database.batch();
        let mut newer = Vec::with_capacity(greatest.len());
        for ((generation, key), row) in greatest {
            if self.held(generation, key)?.is_none_or(|held| held < *row) {
                batch.insert(&self.rows, row_key(generation, key.as_bytes()), &row[..]);
                newer.push((generation, key, row));
            }
        }
        if newer.is_empty() {
            return Ok(());
        }
        self.check_space()?;
        self.commit(batch, "write")?;
        for (generation, key, row) in newer {
            self.hot.put(key, generation, row);
        }
        Ok(())
    }

    /// Reads what the table knows.
    pub(super) fn read_known(&self, groups: &[ReadGroup<'_>]) -> KnownRows {
        let mut known = KnownRows { rows: vec![None; groups.iter().map(ReadGroup::len).sum()], misses: Vec::new() };
        let mut base = 0;
        for group in groups {
            for (i, key) in group.keys.iter().enumerate() {
                self.hot.read(key, group.generations, |g, row, epoch| {
                    let at = base + g * group.keys.len() + i;
                    match row {
                        Some(row) => known.rows[at] = row,
                        None => known.misses.push(Miss { at, generation: group.generations[g], key: key.clone(), epoch }),
                    }
                });
            }
            base += group.len();
        }
        known
    }

    /// Reads what the table did not know, and tells the table.
    pub(super) fn read_missed(&self, misses: &[Miss]) -> Result<Vec<(usize, Option<Bytes>)>> {
        let mut found = Vec::with_capacity(misses.len());
        for miss in misses {
            let row = self.get(&row_key(miss.generation, miss.key.as_bytes()))?;
            self.hot.fill(&miss.key, miss.generation, row.as_deref(), miss.epoch);
            found.push((miss.at, row));
        }
        Ok(found)
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(|error| storage(&self.path, "sync", error))
    }

    pub(super) fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.get(&published_key(generation))
    }

    pub(super) fn advance(&self, generation: Generation, commit: &[u8]) -> Result<()> {
        self.check_space()?;
        let mut batch = self.database.batch();
        batch.insert(&self.rows, published_key(generation), commit);
        self.commit(batch, "advance")
    }

    pub(super) fn forget_commit(&self, generation: Generation) -> Result<()> {
        let mut batch = self.database.batch();
        batch.remove(&self.rows, published_key(generation));
        self.commit(batch, "drop a generation")
    }

    /// Removes up to `limit` rows of a generation; gives where to go on.
    pub(super) fn drop_some(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Option<Cursor>> {
        let page = self.scan(generation, after, limit)?;
        let _stripes = self.lock(page.rows.iter().map(|(key, _)| key));
        let mut batch = self.database.batch();
        for (key, _) in &page.rows {
            batch.remove(&self.rows, row_key(generation, key.as_bytes()));
        }
        self.commit(batch, "drop a generation")?;
        for (key, _) in &page.rows {
            self.hot.forget(key, generation);
        }
        Ok(page.next)
    }

    pub(super) fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        let prefix = row_key(generation, &[]);
        let from = match after {
            Some(Cursor(key)) => Bound::Excluded(row_key(generation, key)),
            None => Bound::Included(prefix.clone()),
        };
        let mut page = Page::default();
        for entry in self.rows.range::<Vec<u8>, _>((from, Bound::Unbounded)).take(limit) {
            let (key, row) = entry.into_inner().map_err(|error| storage(&self.path, "scan", error))?;
            let Some(key) = key.strip_prefix(&prefix[..]) else {
                return Ok(page);
            };
            page.rows.push((EntityKey::from_bytes(Bytes::copy_from_slice(key))?, Bytes::copy_from_slice(&row)));
        }
        let last = page.rows.last().filter(|_| page.rows.len() == limit);
        page.next = last.map(|(key, _)| Cursor(Bytes::copy_from_slice(key.as_bytes())));
        Ok(page)
    }

    /// What the table or the tree holds; the caller has the entity's stripe.
    fn held(&self, generation: Generation, key: &EntityKey) -> Result<Option<Bytes>> {
        let mut known = None;
        self.hot.read(key, &[generation], |_, row, _| known = row);
        known.map_or_else(|| self.get(&row_key(generation, key.as_bytes())), Ok)
    }

    /// Takes the stripes of entities. Always in ascending order, so that no two writers wait for each other.
    fn lock<'a>(&self, keys: impl Iterator<Item = &'a EntityKey>) -> Vec<MutexGuard<'_, ()>> {
        let mut wanted = [false; SHARDS];
        keys.for_each(|key| wanted[shard_of(key)] = true);
        let stripes = self.stripes.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        stripes.map(|(stripe, _)| stripe.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        // A copy: the slice keeps its whole block in memory.
        let found = self.rows.get(key).map_err(|error| storage(&self.path, "read", error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn commit(&self, batch: OwnedWriteBatch, doing: &'static str) -> Result<()> {
        batch.commit().map_err(|error| storage(&self.path, doing, error))
    }

    /// Refuses before the tree meets a full disk, which it does not survive.
    fn check_space(&self) -> Result<()> {
        if folder::free_bytes(&self.path)? < self.reserve_bytes {
            return Err(Error::DiskFull { path: self.path.clone(), source: None });
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn rows_to_files(&self) {
        self.rows.rotate_memtable_and_wait().unwrap();
    }
}

fn published_key(generation: Generation) -> [u8; 9] {
    let mut key = [PUBLISHED; 9];
    key[1..].copy_from_slice(&generation.0.to_be_bytes());
    key
}

fn row_key(generation: Generation, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + key.len());
    bytes.push(ROW);
    bytes.extend(generation.0.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Our error for one of the tree's.
fn storage(path: &Path, doing: &'static str, error: fjall::Error) -> Error {
    let path = path.to_owned();
    match error {
        fjall::Error::Locked => Error::Locked { path },
        fjall::Error::Poisoned => Error::Stopped { path },
        error if folder::is_full(&error) => Error::DiskFull { path, source: Some(error.into()) },
        error => Error::Storage { doing, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let path = Path::new("/data");
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(storage(path, "write", fjall::Error::Io(full())), Error::DiskFull { .. }));
        assert!(matches!(storage(path, "write", fjall::Error::Storage(fjall::LsmError::Io(full()))), Error::DiskFull { .. }));
        assert!(matches!(storage(path, "write", fjall::Error::Unrecoverable), Error::Storage { .. }));
        assert!(matches!(storage(path, "write", fjall::Error::Poisoned), Error::Stopped { .. }));
    }
}
