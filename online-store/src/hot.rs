//! The latest rows in memory, above the files of the embedded store or a store that is reached over a network ([`crate::cache`]): bounded in bytes, read
//! without a hash of more than the entity.
//!
//! An entity's rows of all generations lie together in one buffer, so that a lookup over several views costs one probe and few lines of the processor's
//! cache; a row that is put makes the buffer anew. Shards are chosen by the entity alone. What is kept is judged by CLOCK: a read marks the entity, the
//! hand clears marks and evicts what it finds unmarked.
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
//!
//! # Above a medium that others write to
//!
//! There a row or absence is known as of the time at which it was read, and is of use only for so long. A row is only ever replaced by a greater one, also
//! where it was read too long ago, so that a fill that is late takes nothing back; the later of two readings says how old it is. What we write is put
//! where a row was known, for it may be less than what is there; elsewhere it moves the epoch, as evictions of what was filled do.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use anabranch_core::{EntityKey, Generation, Timestamp};
use bytes::Bytes;

/// Shards of the table, and stripes of the writers.
pub(crate) const SHARDS: usize = 64;

/// Bytes that an entity costs beside its key and rows, and a row beside its bytes, as a server's memory grows by them.
const ENTITY_OVERHEAD: usize = 256;
const ROW_OVERHEAD: usize = size_of::<Row>();

/// Between which times a row may have been read to be of use.
pub(crate) type Fresh = RangeInclusive<Timestamp>;

/// Of a medium that nobody else writes to, every reading is of use.
const ALWAYS: Fresh = Timestamp::MIN..=Timestamp::MAX;

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
    index: HashMap<EntityKey, usize, ahash::RandomState>,
    slots: Vec<Option<Entity>>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
    epoch: u64,
}

#[derive(Debug)]
struct Entity {
    key: EntityKey,
    rows: Vec<Row>,
    /// The rows' bytes, one after the other.
    buffer: Bytes,
    bytes: usize,
    /// Whether a fill may have been outdated by what is here.
    written: bool,
    marked: AtomicBool,
}

#[derive(Debug)]
struct Row {
    generation: Generation,
    /// Where it lies in the buffer; `None` where there is no row.
    place: Option<Place>,
    /// When it was read from a medium that others write to as well.
    read_at: Timestamp,
}

/// Half of what two words would take: no row is that long, and few entities have many.
#[derive(Debug, Clone, Copy)]
struct Place {
    begin: u32,
    length: NonZeroU32,
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
    pub(crate) fn read(&self, key: &EntityKey, generations: &[Generation], tell: impl FnMut(usize, Known, Epoch)) {
        self.read_fresh(key, generations, &ALWAYS, tell);
    }

    /// The same, where what was not read between those times counts as unknown.
    pub(crate) fn read_fresh(&self, key: &EntityKey, generations: &[Generation], fresh: &Fresh, mut tell: impl FnMut(usize, Known, Epoch)) {
        let shard = self.shards[shard_of(key)].read().unwrap_or_else(PoisonError::into_inner);
        let entity = shard.index.get(key).and_then(|slot| shard.slots[*slot].as_ref());
        for (i, generation) in generations.iter().enumerate() {
            let known = entity.and_then(|entity| Some((entity, entity.row(*generation)?))).filter(|(_, row)| fresh.contains(&row.read_at));
            tell(i, known.map(|(entity, row)| row.place.map(|place| entity.buffer.slice(place.range()))), Epoch(shard.epoch));
        }
        if let Some(entity) = entity {
            entity.marked.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps what a reader found in the files after a miss that saw `epoch`.
    pub(crate) fn fill(&self, key: &EntityKey, generation: Generation, row: Option<&[u8]>, epoch: Epoch) {
        self.change(key, |shard| {
            if Epoch(shard.epoch) == epoch {
                let entity = shard.entity(key);
                entity.marked.store(true, Ordering::Relaxed);
                shard.merge(key, generation, row, Timestamp::MAX);
            }
        });
    }

    /// Keeps what a reader found at some time in a medium that others write to as well, after a miss that saw `epoch`.
    pub(crate) fn fill_read_at(&self, key: &EntityKey, generation: Generation, row: Option<&[u8]>, epoch: Epoch, read_at: Timestamp) {
        self.change(key, |shard| {
            if Epoch(shard.epoch) == epoch {
                let entity = shard.entity(key);
                entity.marked.store(true, Ordering::Relaxed);
                // A slower reader may have found less.
                entity.written = true;
                shard.merge(key, generation, row, read_at);
            }
        });
    }

    /// Keeps the greater row where one is known, of what was written to a medium that others write to as well; elsewhere fills under way are refused.
    pub(crate) fn update(&self, key: &EntityKey, generation: Generation, row: &[u8]) {
        self.change(key, |shard| {
            let entity = shard.index.get(key).and_then(|slot| shard.slots[*slot].as_ref());
            match entity.and_then(|entity| entity.row(generation)).map(|known| known.read_at) {
                Some(read_at) => shard.merge(key, generation, Some(row), read_at),
                None => shard.epoch += 1,
            }
        });
    }

    /// Keeps a row that was written to the files.
    pub(crate) fn put(&self, key: &EntityKey, generation: Generation, row: &[u8]) {
        self.change(key, |shard| {
            shard.entity(key).written = true;
            shard.merge(key, generation, Some(row), Timestamp::MAX);
        });
    }

    /// Forgets an entity's row of a generation, which was removed from the files.
    pub(crate) fn forget(&self, key: &EntityKey, generation: Generation) {
        self.change(key, |shard| {
            shard.epoch += 1;
            if let Some(entity) = shard.index.get(key).and_then(|slot| shard.slots[*slot].as_mut()) {
                let before = entity.bytes;
                entity.forget(generation);
                shard.bytes = shard.bytes - before + entity.bytes;
            }
        });
    }

    /// Forgets every row of a generation.
    pub(crate) fn forget_generation(&self, generation: Generation) {
        self.change_all(|shard| {
            let mut bytes = 0;
            for entity in shard.slots.iter_mut().flatten() {
                entity.forget(generation);
                bytes += entity.bytes;
            }
            shard.bytes = bytes;
        });
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.change_all(|shard| *shard = Shard { epoch: shard.epoch, ..Shard::default() });
    }

    /// Changes every shard, and refuses fills under way.
    fn change_all(&self, change: impl Fn(&mut Shard)) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.epoch += 1;
            change(&mut shard);
        }
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
            let (rows, buffer, marked) = (Vec::new(), Bytes::new(), AtomicBool::new(false));
            let mut entity = Entity { key: key.clone(), rows, buffer, bytes: 0, written: false, marked };
            entity.weigh();
            *bytes += entity.bytes;
            entity
        })
    }

    /// Keeps the greater of a row and what is known already.
    fn merge(&mut self, key: &EntityKey, generation: Generation, row: Option<&[u8]>, read_at: Timestamp) {
        let entity = self.entity(key);
        let before = entity.bytes;
        entity.merge(generation, row, read_at);
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
    fn row(&self, generation: Generation) -> Option<&Row> {
        self.rows.iter().find(|row| row.generation == generation)
    }

    fn bytes_of(&self, row: &Row) -> Option<&[u8]> {
        row.place.map(|place| &self.buffer[place.range()])
    }

    fn merge(&mut self, generation: Generation, row: Option<&[u8]>, read_at: Timestamp) {
        let known = self.rows.iter().position(|known| known.generation == generation);
        let at = known.unwrap_or_else(|| {
            self.rows.reserve_exact(1);
            self.rows.push(Row { generation, place: None, read_at });
            self.rows.len() - 1
        });
        self.rows[at].read_at = self.rows[at].read_at.max(read_at);
        // `None` is less than every row.
        if self.bytes_of(&self.rows[at]) < row {
            self.pack(|place| if place == at { row } else { None });
        }
        self.weigh();
    }

    fn forget(&mut self, generation: Generation) {
        if let Some(at) = self.rows.iter().position(|row| row.generation == generation) {
            self.rows.remove(at);
            self.pack(|_| None);
        }
        self.weigh();
    }

    /// Makes the buffer anew, of the rows that are there and those that are to replace them. It is the entity's own: what is put may be a small part of a
    /// large buffer, which the table's bound would not see.
    fn pack<'a>(&mut self, replace: impl Fn(usize) -> Option<&'a [u8]>) {
        let before = std::mem::take(&mut self.buffer);
        let of = |at: usize, row: &Row| replace(at).or_else(|| row.place.map(|place| &before[place.range()]));
        let mut buffer = Vec::with_capacity(self.rows.iter().enumerate().filter_map(|(at, row)| of(at, row)).map(<[u8]>::len).sum());
        let places: Vec<_> = self.rows.iter().enumerate().map(|(at, row)| Place::append(&mut buffer, of(at, row)?)).collect();
        for (row, place) in self.rows.iter_mut().zip(places) {
            row.place = place;
        }
        self.buffer = buffer.into();
    }

    fn weigh(&mut self) {
        self.bytes = ENTITY_OVERHEAD + 2 * self.key.as_bytes().len() + self.rows.len() * ROW_OVERHEAD + self.buffer.len();
    }
}

impl Place {
    /// Appends a row; `None` for one without bytes, which no store keeps.
    fn append(buffer: &mut Vec<u8>, row: &[u8]) -> Option<Self> {
        let place = Self { begin: u32::try_from(buffer.len()).ok()?, length: NonZeroU32::new(u32::try_from(row.len()).ok()?)? };
        buffer.extend_from_slice(row);
        Some(place)
    }

    const fn range(self) -> std::ops::Range<usize> {
        self.begin as usize..self.begin as usize + self.length.get() as usize
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
        hot.fill(&key(1), G, Some(&b"mid"[..]), epoch);
        hot.fill(&key(1), G, None, epoch);
        assert_eq!(known(&hot, 1).0, Some(Some(Bytes::from_static(b"new"))));
    }

    #[test]
    fn a_fill_is_refused_once_a_written_row_was_evicted() {
        let hot = HotTable::new((SHARDS * 400) as u64);
        let (_, epoch) = known(&hot, 1);
        hot.put(&key(1), G, b"new");
        hot.put(&key(1), Generation(2), &[0; 300]);
        assert_eq!(known(&hot, 1).0, None, "the entity is over the bound of its shard");
        hot.fill(&key(1), G, Some(&b"mid"[..]), epoch);
        assert_eq!(known(&hot, 1).0, None);
    }

    #[test]
    fn a_fill_is_refused_once_its_row_was_removed() {
        let hot = HotTable::new(1 << 20);
        let (_, epoch) = known(&hot, 1);
        hot.forget(&key(1), G);
        hot.fill(&key(1), G, Some(&b"old"[..]), epoch);
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
                    None => hot.fill(&key(i), G, files.get(&i).map(Vec::as_slice), epoch),
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
