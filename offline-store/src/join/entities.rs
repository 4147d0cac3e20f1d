//! Entities numbered densely, and things grouped by them.
//!
//! One [`EntityIndex`] numbers the keys that one set of the spine's columns holds; views that join on the same columns share it. A single integer or
//! text column is looked up as it is; every other key by its canonical bytes. Integers of every width are one key space.

use std::collections::HashMap;
use std::ops::Range;

use ahash::RandomState;
use anabranch_core::Error;
use anabranch_core::columns::KeyColumns;
use anabranch_core::key::KeyWriter;
use anabranch_core::types::Scalar;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{max, min};
use arrow::datatypes::{Int32Type, Int64Type};

/// The number of no entity, no row and no candidate.
pub(super) const NONE: u32 = u32::MAX;

/// From keys to dense numbers. One of the maps is in use, by the types of the key.
#[derive(Debug, Default)]
pub(super) struct EntityIndex {
    integers: Integers,
    texts: HashMap<Box<[u8]>, u32, RandomState>,
}

/// Integer keys: a table where they lie close together, which most ids do, and a map where not.
#[derive(Debug, Default)]
struct Integers {
    numbers: HashMap<i64, u32, RandomState>,
    first: i64,
    table: Vec<u32>,
}

/// A table takes so many places for each key, and some more.
const TABLE_SPREAD: usize = 16;
const TABLE_SPARE: usize = 1 << 16;

impl Integers {
    /// Looks at all keys of the spine before the first is numbered.
    fn spread(&mut self, keys: usize, range: Option<(i64, i64)>) {
        if let Some((first, last)) = range
            && let Some(places) = last.checked_sub(first).and_then(|span| usize::try_from(span).ok())
            && places < keys.saturating_mul(TABLE_SPREAD).saturating_add(TABLE_SPARE)
        {
            self.first = first;
            self.table = vec![NONE; places + 1];
        }
    }

    fn place(&self, key: i64) -> Option<usize> {
        key.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()).filter(|place| *place < self.table.len())
    }

    fn find(&self, key: i64) -> u32 {
        match self.table.is_empty() {
            true => self.numbers.get(&key).copied().unwrap_or(NONE),
            false => self.place(key).map_or(NONE, |place| self.table[place]),
        }
    }

    fn assign(&mut self, key: i64, next: u32) -> u32 {
        match self.place(key) {
            Some(place) if self.table[place] == NONE => {
                self.table[place] = next;
                next
            }
            Some(place) => self.table[place],
            None => *self.numbers.entry(key).or_insert(next),
        }
    }
}

/// Rows of one key that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) entity: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl EntityIndex {
    /// Numbers the keys of a spine, a batch at a time; gives each row's entity, [`NONE`] where a part of the key is null, and how many there are.
    pub(super) fn of(keys: &[Vec<(Scalar, ArrayRef)>], rows: &[usize]) -> Result<(Self, Vec<u32>, usize), Error> {
        let mut index = Self::default();
        let total = rows.iter().sum();
        index.integers.spread(total, integer_range(keys));
        let mut ids = Vec::with_capacity(total);
        // Fewer than 2^32 - 1 keys: each is of a row of a spine.
        let mut entities = 0_u32;
        for (key, rows) in keys.iter().zip(rows) {
            let (integers, texts) = (&mut index.integers, &mut index.texts);
            let assigned = std::cell::Cell::new(entities);
            let integer = |key: i64| {
                let id = integers.assign(key, assigned.get());
                assigned.set(assigned.get() + u32::from(id == assigned.get()));
                id
            };
            let text = |key: &[u8]| match texts.get(key) {
                Some(known) => *known,
                None => {
                    let id = assigned.get();
                    texts.insert(key.into(), id);
                    assigned.set(id + 1);
                    id
                }
            };
            map_keys(key, *rows, integer, text, |id| ids.push(id))?;
            entities = assigned.get();
        }
        Ok((index, ids, entities as usize))
    }

    /// The runs of rows whose key is one of the spine's.
    pub(super) fn runs(&self, key: &[(Scalar, ArrayRef)], rows: usize) -> Result<Vec<Run>, Error> {
        let mut runs: Vec<Run> = Vec::new();
        let mut row = 0;
        // Rows of one key often lie side by side, so the key before is the likeliest.
        let mut last = (0, self.integers.find(0));
        let integer = |key: i64| {
            if key != last.0 {
                last = (key, self.integers.find(key));
            }
            last.1
        };
        map_keys(
            key,
            rows,
            integer,
            |key| self.texts.get(key).copied().unwrap_or(NONE),
            |entity| {
                match runs.last_mut() {
                    Some(run) if run.entity == entity && run.end == row => run.end += 1,
                    _ if entity == NONE => {}
                    _ => runs.push(Run { entity, start: row, end: row + 1 }),
                }
                row += 1;
            },
        )?;
        Ok(runs)
    }

    /// The keys, where a provider may look for them among bounds.
    pub(super) fn hint(&self, key: &[Scalar]) -> Option<KeyHint> {
        match key {
            [Scalar::I64 | Scalar::I32] => {
                let table = self.integers.table.iter().enumerate().filter(|(_, id)| **id != NONE);
                let mut keys: Vec<i64> = table.map(|(place, _)| self.integers.first + place as i64).collect();
                keys.extend(self.integers.numbers.keys());
                keys.sort_unstable();
                Some(KeyHint::Integers(keys))
            }
            [Scalar::String] => {
                let mut keys: Vec<_> = self.texts.keys().cloned().collect();
                keys.sort_unstable();
                Some(KeyHint::Texts(keys))
            }
            _ => None,
        }
    }
}

/// The keys that a spine asks for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyHint {
    /// A single integer key.
    Integers(Vec<i64>),
    /// A single text key.
    Texts(Vec<Box<[u8]>>),
}

impl KeyHint {
    /// Whether a key lies within bounds of integers, both inclusive.
    pub fn any_integer(&self, low: i64, high: i64) -> bool {
        match self {
            Self::Integers(keys) => keys.get(keys.partition_point(|key| *key < low)).is_some_and(|key| *key <= high),
            Self::Texts(_) => true,
        }
    }

    /// Whether a key lies within bounds of texts, both inclusive.
    pub fn any_text(&self, low: &[u8], high: &[u8]) -> bool {
        match self {
            Self::Texts(keys) => keys.get(keys.partition_point(|key| key.as_ref() < low)).is_some_and(|key| key.as_ref() <= high),
            Self::Integers(_) => true,
        }
    }
}

/// The least and the greatest of a single integer key.
fn integer_range(keys: &[Vec<(Scalar, ArrayRef)>]) -> Option<(i64, i64)> {
    let ranges = keys.iter().filter_map(|key| match key.as_slice() {
        [(Scalar::I64, column)] => {
            let column = column.as_primitive::<Int64Type>();
            min(column).zip(max(column))
        }
        _ => None,
    });
    ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

fn map_keys(
    key: &[(Scalar, ArrayRef)],
    rows: usize,
    mut integer: impl FnMut(i64) -> u32,
    mut text: impl FnMut(&[u8]) -> u32,
    mut found: impl FnMut(u32),
) -> Result<(), Error> {
    match key {
        [(Scalar::I64, column)] if column.null_count() == 0 => {
            column.as_primitive::<Int64Type>().values().iter().for_each(|key| found(integer(*key)))
        }
        [(Scalar::I64, column)] => column.as_primitive::<Int64Type>().iter().for_each(|key| found(key.map_or(NONE, &mut integer))),
        [(Scalar::I32, column)] => {
            column.as_primitive::<Int32Type>().iter().for_each(|key| found(key.map_or(NONE, |key| integer(i64::from(key)))));
        }
        [(Scalar::String, column)] => column.as_string::<i32>().iter().for_each(|key| found(key.map_or(NONE, |key| text(key.as_bytes())))),
        [(Scalar::Bytes, column)] => column.as_binary::<i32>().iter().for_each(|key| found(key.map_or(NONE, &mut text))),
        _ => {
            let columns = KeyColumns::new(key.to_vec())?;
            let mut writer = KeyWriter::default();
            for row in 0..rows {
                found(if columns.write(row, &mut writer) { text(writer.as_bytes()) } else { NONE });
            }
        }
    }
    Ok(())
}

/// Things by the group that they belong to, in their own order within each (a counting sort).
#[derive(Debug)]
pub(super) struct Groups {
    starts: Vec<u32>,
    members: Vec<u32>,
}

impl Groups {
    /// Groups `0..things` by `group_of`; those of group [`NONE`] are left out.
    pub(super) fn new(things: usize, groups: usize, group_of: impl Fn(usize) -> u32) -> Self {
        let mut starts = vec![0_u32; groups + 1];
        for thing in 0..things {
            let group = group_of(thing);
            if group != NONE {
                starts[group as usize + 1] += 1;
            }
        }
        for group in 0..groups {
            starts[group + 1] += starts[group];
        }
        let mut members = vec![0; starts[groups] as usize];
        let mut next = starts.clone();
        for thing in 0..things {
            let group = group_of(thing);
            if group != NONE {
                members[next[group as usize] as usize] = thing as u32;
                next[group as usize] += 1;
            }
        }
        Self { starts, members }
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The places of a group's members among [`Groups::all`].
    pub(super) fn range(&self, group: usize) -> Range<usize> {
        self.starts[group] as usize..self.starts[group + 1] as usize
    }

    /// The members of all groups, group by group.
    pub(super) fn all(&self) -> &[u32] {
        &self.members
    }

    /// Sorts each group by a key, keeping the order of equals. Groups that are sorted already cost a look.
    pub(super) fn sort_by_key<K: Ord>(&mut self, key: impl Fn(u32) -> K) {
        for group in 0..self.len() {
            let range = self.range(group);
            let members = &mut self.members[range];
            if !members.is_sorted_by_key(|member| key(*member)) {
                members.sort_by_key(|member| key(*member));
            }
        }
    }
}
