//! The latest rows in memory, above the files of the embedded store: bounded in bytes, read without a hash of more than the entity.
//!
//! An entity's rows of all generations lie together, so that a lookup over several views costs one probe. Shards are chosen by the entity alone. What
//! is kept is judged by CLOCK: a read marks the entity, the hand clears marks and evicts what it finds unmarked.
//!
//! # Never behind the files
//!
//! A writer changes the files first and the table after, under its entity's stripe. A reader that misses reads the files and *fills* the table with
//! what it found, which a writer may have outdated meanwhile:
//!
//! - if the writer's row is still in the table, the fill keeps the greater one;
//! - if it was evicted or dropped since, the fill is refused: evicting an entity that was written moves the shard's epoch, and a fill brings the epoch
//!   that its miss saw.
//!
//! So a row in the table is never less than what was written before, and an absence in the table is true.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use anabranch_core::{EntityKey, Generation};
use bytes::Bytes;

/// Shards of the table, and stripes of the writers.
pub(crate) const SHARDS: usize = 64;

/// Bytes that an entity costs beside its key and rows, and a row beside its bytes.
const ENTITY_OVERHEAD: usize = 160;
const ROW_OVERHEAD: usize = 64;

/// What the table knows of a row: it, its absence, or nothing.
pub(crate) type Known = Option<Option<Bytes>>;

/// What a miss saw of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// The latest rows in memory.
#[derive(Debug)]
pub(crate) struct HotTable {
    shards: Vec<RwLock<Shard>>,
    shard_bytes: usize,
}

#[derive(Debug, Default)]
struct Shard {
    index: HashMap<EntityKey, usize>,
    slots: Vec<Option<Entity>>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
    epoch: u64,
}

#[derive(Debug)]
struct Entity {
    key: EntityKey,
    rows: Vec<(Generation, Option<Bytes>)>,
    bytes: usize,
    /// Whether a writer put a row here, rather than a reader.
    written: bool,
    marked: AtomicBool,
}

/// The shard and stripe of an entity (FxHash's step over words of 8 bytes).
pub(crate) fn shard_of(key: &EntityKey) -> usize {
    let mut hash = 0_u64;
    for chunk in key.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x51_7c_c1_b7_27_22_0a_95);
    }
    (hash >> 58) as usize % SHARDS
}

impl HotTable {
    pub(crate) fn new(bytes: u64) -> Self {
        let shard_bytes = usize::try_from(bytes).unwrap_or(usize::MAX) / SHARDS;
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), shard_bytes }
    }

    /// Tells for each generation what is known of the entity's row, and the epoch that a fill after a miss must bring.
    pub(crate) fn read(&self, key: &EntityKey, generations: &[Generation], mut tell: impl FnMut(usize, Known, Epoch)) {
        let shard = self.shards[shard_of(key)].read().unwrap_or_else(PoisonError::into_inner);
        let entity = shard.index.get(key).and_then(|slot| shard.slots[*slot].as_ref());
        for (i, generation) in generations.iter().enumerate() {
            tell(i, entity.and_then(|entity| entity.row(*generation)).cloned(), Epoch(shard.epoch));
        }
        if let Some(entity) = entity {
            entity.marked.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps what a reader found in the files after a miss that saw `epoch`.
    pub(crate) fn fill(&self, key: &EntityKey, generation: Generation, row: Option<Bytes>, epoch: Epoch) {
        self.change(key, |shard| {
            if Epoch(shard.epoch) == epoch {
                let entity = shard.entity(key);
                entity.marked.store(true, Ordering::Relaxed);
                shard.merge(key, generation, row);
            }
        });
    }

    /// Keeps a row that was written to the files.
    pub(crate) fn put(&self, key: &EntityKey, generation: Generation, row: &[u8]) {
        // A copy of its own: the writer's bytes may be a small part of a large buffer, which the table's bound would not see.
        let row = Bytes::copy_from_slice(row);
        self.change(key, |shard| {
            shard.entity(key).written = true;
            shard.merge(key, generation, Some(row));
        });
    }

    /// Forgets an entity's row of a generation, which was removed from the files.
    pub(crate) fn forget(&self, key: &EntityKey, generation: Generation) {
        self.change(key, |shard| {
            shard.epoch += 1;
            if let Some(entity) = shard.index.get(key).and_then(|slot| shard.slots[*slot].as_mut()) {
                let before = entity.bytes;
                entity.rows.retain(|(of, _)| *of != generation);
                entity.weigh();
                shard.bytes = shard.bytes - before + entity.bytes;
            }
        });
    }

    fn change(&self, key: &EntityKey, change: impl FnOnce(&mut Shard)) {
        if self.shard_bytes == 0 {
            return;
        }
        let mut shard = self.shards[shard_of(key)].write().unwrap_or_else(PoisonError::into_inner);
        change(&mut shard);
        shard.shrink_to(self.shard_bytes);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap().bytes).sum()
    }
}

impl Shard {
    /// The entity, made where it is not there.
    fn entity(&mut self, key: &EntityKey) -> &mut Entity {
        let slot = match self.index.get(key) {
            Some(slot) => *slot,
            None => {
                let slot = self.free.pop().unwrap_or(self.slots.len());
                if slot == self.slots.len() {
                    self.slots.push(None);
                }
                self.index.insert(key.clone(), slot);
                slot
            }
        };
        let bytes = &mut self.bytes;
        self.slots[slot].get_or_insert_with(|| {
            let mut entity = Entity { key: key.clone(), rows: Vec::new(), bytes: 0, written: false, marked: AtomicBool::new(false) };
            entity.weigh();
            *bytes += entity.bytes;
            entity
        })
    }

    /// Keeps the greater of a row and what is known already.
    fn merge(&mut self, key: &EntityKey, generation: Generation, row: Option<Bytes>) {
        let entity = self.entity(key);
        let before = entity.bytes;
        match entity.rows.iter_mut().find(|(of, _)| *of == generation) {
            // `None` is less than every row.
            Some((_, known)) if *known < row => *known = row,
            Some(_) => {}
            None => entity.rows.push((generation, row)),
        }
        entity.weigh();
        let after = entity.bytes;
        self.bytes = self.bytes - before + after;
    }

    fn shrink_to(&mut self, limit: usize) {
        while self.bytes > limit && !self.index.is_empty() {
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let unmarked = self.slots[self.hand].take_if(|entity| !entity.marked.swap(false, Ordering::Relaxed));
            if let Some(entity) = unmarked {
                self.index.remove(&entity.key);
                self.free.push(self.hand);
                self.bytes -= entity.bytes;
                self.epoch += u64::from(entity.written);
            }
        }
    }
}

impl Entity {
    fn row(&self, generation: Generation) -> Option<&Option<Bytes>> {
        self.rows.iter().find(|(of, _)| *of == generation).map(|(_, row)| row)
    }

    fn weigh(&mut self) {
        let rows: usize = self.rows.iter().map(|(_, row)| ROW_OVERHEAD + row.as_ref().map_or(0, Bytes::len)).sum();
        self.bytes = ENTITY_OVERHEAD + 2 * self.key.as_bytes().len() + rows;
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Value;
    use proptest::prelude::*;

    use super::*;

    const G: Generation = Generation(1);

    fn key(i: i64) -> EntityKey {
        EntityKey::encode(&[Value::I64(i)]).unwrap().unwrap()
    }

    fn known(hot: &HotTable, i: i64) -> (Known, Epoch) {
        let mut found = (None, Epoch(0));
        hot.read(&key(i), &[G], |_, known, epoch| found = (known, epoch));
        found
    }

    #[test]
    fn a_fill_does_not_replace_a_greater_row() {
        let hot = HotTable::new(1 << 20);
        let (nothing, epoch) = known(&hot, 1);
        assert_eq!(nothing, None);
        hot.put(&key(1), G, b"new");
        hot.fill(&key(1), G, Some(Bytes::from_static(b"mid")), epoch);
        hot.fill(&key(1), G, None, epoch);
        assert_eq!(known(&hot, 1).0, Some(Some(Bytes::from_static(b"new"))));
    }

    #[test]
    fn a_fill_is_refused_once_a_written_row_was_evicted() {
        let hot = HotTable::new((SHARDS * 300) as u64);
        let (_, epoch) = known(&hot, 1);
        hot.put(&key(1), G, b"new");
        hot.put(&key(1), Generation(2), &[0; 300]);
        assert_eq!(known(&hot, 1).0, None, "the entity is over the bound of its shard");
        hot.fill(&key(1), G, Some(Bytes::from_static(b"mid")), epoch);
        assert_eq!(known(&hot, 1).0, None);
    }

    #[test]
    fn a_fill_is_refused_once_its_row_was_removed() {
        let hot = HotTable::new(1 << 20);
        let (_, epoch) = known(&hot, 1);
        hot.forget(&key(1), G);
        hot.fill(&key(1), G, Some(Bytes::from_static(b"old")), epoch);
        assert_eq!(known(&hot, 1).0, None);
    }

    #[test]
    fn what_is_read_outlives_what_is_only_written() {
        let hot = HotTable::new((SHARDS * 2_000) as u64);
        hot.put(&key(0), G, b"read");
        let shard = shard_of(&key(0));
        for i in (1..10_000).filter(|i| shard_of(&key(*i)) == shard) {
            assert!(known(&hot, 0).0.is_some());
            hot.put(&key(i), G, b"written");
        }
    }

    proptest! {
        #[test]
        fn the_table_keeps_its_bound_and_what_it_knows_is_the_greatest_row(steps in proptest::collection::vec((0..40_i64, any::<u8>(), 0..400_usize), 1..300)) {
            let hot = HotTable::new((SHARDS * 600) as u64);
            let mut files: HashMap<i64, Vec<u8>> = HashMap::new();
            for (i, first, length) in steps {
                let (found, epoch) = known(&hot, i);
                match found {
                    Some(row) => prop_assert_eq!(row.as_deref(), files.get(&i).map(Vec::as_slice)),
                    None => hot.fill(&key(i), G, files.get(&i).map(|row| Bytes::copy_from_slice(row)), epoch),
                }
                let row = vec![first; length + 1];
                if files.get(&i).is_none_or(|held| *held < row) {
                    files.insert(i, row.clone());
                    hot.put(&key(i), G, &row);
                }
                prop_assert!(hot.bytes() <= SHARDS * 600);
            }
        }
    }
}
