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

use super::work::Cores;

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
    /// Whether a table will do, which is made then.
    fn spread(&mut self, keys: usize, range: Option<(i64, i64)>) -> bool {
        if let Some((first, last)) = range
            && let Some(places) = last.checked_sub(first).and_then(|span| usize::try_from(span).ok())
            && places < keys.saturating_mul(TABLE_SPREAD).saturating_add(TABLE_SPARE)
        {
            self.first = first;
            self.table = vec![NONE; places + 1];
        }
        !self.table.is_empty()
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

    /// Puts a key of the spine down in the table, for [`Integers::number`] to number it.
    fn mark(&mut self, key: i64) {
        if let Some(place) = self.place(key) {
            self.table[place] = 0;
        }
    }

    /// Numbers the table's keys in their order; gives how many there are.
    fn number(&mut self) -> usize {
        let mut next = 0;
        for id in self.table.iter_mut().filter(|id| **id != NONE) {
            *id = next;
            next += 1;
        }
        next as usize
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
    /// Numbers the keys of a spine in their own order, so that whoever reads files sorted by key meets them in theirs; gives each row's entity, [`NONE`]
    /// where a part of the key is null, and how many there are.
    pub(super) fn of(keys: &[Vec<(Scalar, ArrayRef)>], rows: &[usize]) -> Result<(Self, Vec<u32>, usize), Error> {
        let mut index = Self::default();
        let total = rows.iter().sum();
        let mut ids = Vec::with_capacity(total);
        if index.integers.spread(total, integer_range(keys)) {
            for (key, rows) in keys.iter().zip(rows) {
                let mark = |key| {
                    index.integers.mark(key);
                    NONE
                };
                map_keys(key, *rows, mark, |_| NONE, |_| {})?;
            }
            let entities = index.integers.number();
            for (key, rows) in keys.iter().zip(rows) {
                map_keys(key, *rows, |key| index.integers.find(key), |_| NONE, |id| ids.push(id))?;
            }
            return Ok((index, ids, entities));
        }
        // Fewer than 2^32 - 1 keys: each is of a row of a spine.
        let mut entities = 0_u32;
        for (key, rows) in keys.iter().zip(rows) {
            let (numbers, texts) = (&mut index.integers.numbers, &mut index.texts);
            let assigned = std::cell::Cell::new(entities);
            let integer = |key: i64| {
                let id = *numbers.entry(key).or_insert(assigned.get());
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
        let ranks = index.rank(entities as usize);
        for id in ids.iter_mut().filter(|id| **id != NONE) {
            *id = ranks[*id as usize];
        }
        Ok((index, ids, entities as usize))
    }

    /// Numbers the keys anew, in their order; gives the new number of each old one.
    fn rank(&mut self, entities: usize) -> Vec<u32> {
        let mut ranks = vec![0_u32; entities];
        let mut next = 0;
        let mut renumber = |id: &mut u32| {
            ranks[*id as usize] = next;
            *id = next;
            next += 1;
        };
        let mut numbers: Vec<_> = self.integers.numbers.iter_mut().collect();
        numbers.sort_unstable_by_key(|(key, _)| **key);
        numbers.into_iter().for_each(|(_, id)| renumber(id));
        let mut texts: Vec<_> = self.texts.iter_mut().collect();
        texts.sort_unstable_by(|a, b| a.0.cmp(b.0));
        texts.into_iter().for_each(|(_, id)| renumber(id));
        ranks
    }

    /// The runs of rows whose key is one of the spine's.
    pub(super) fn runs(&self, key: &[(Scalar, ArrayRef)], rows: usize) -> Result<Vec<Run>, Error> {
        match key {
            [(Scalar::I64, column)] if column.null_count() == 0 => return Ok(self.integer_runs(column.as_primitive::<Int64Type>().values())),
            [(Scalar::I32, column)] if column.null_count() == 0 => return Ok(self.integer_runs(column.as_primitive::<Int32Type>().values())),
            _ => {}
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut row = 0;
        map_keys(
            key,
            rows,
            |key| self.integers.find(key),
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

    /// Rows of one key mostly lie side by side, so a key is looked up once for all of them.
    fn integer_runs<K: Copy + PartialEq + Into<i64>>(&self, keys: &[K]) -> Vec<Run> {
        let mut end = 0;
        let run = |same: &[K]| {
            let start = end;
            end += same.len() as u32;
            Some(Run { entity: self.integers.find(same[0].into()), start, end }).filter(|run| run.entity != NONE)
        };
        keys.chunk_by(|key, next| key == next).filter_map(run).collect()
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
        let starts = starts(groups, (0..things).map(&group_of));
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
}

/// Where each group's members begin, and where the last one's end, if they lie group by group.
fn starts(groups: usize, of: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut starts = vec![0_u32; groups + 1];
    for group in of.filter(|group| *group != NONE) {
        starts[group as usize + 1] += 1;
    }
    for group in 0..groups {
        starts[group + 1] += starts[group];
    }
    starts
}

/// Groups of fewer rows are ordered by the calling thread alone.
const ROWS_FOR_THREADS: usize = 1 << 17;

impl Groups {
    /// Groups rows by their ids, each group in the order of its rows' times, and gives the times in that order; rows of id [`NONE`] are left out.
    pub(super) fn by_time(ids: &[u32], times: &[i64], groups: usize) -> (Self, Vec<i64>) {
        let starts = starts(groups, ids.iter().copied());
        let rows = starts[groups] as usize;
        let (mut members, mut ordered) = (vec![0_u32; rows], vec![0_i64; rows]);
        let parts = if rows < ROWS_FOR_THREADS { 1 } else { Cores::count().min(groups).max(1) };
        std::thread::scope(|scope| {
            let (mut members, mut ordered) = (members.as_mut_slice(), ordered.as_mut_slice());
            for part in 0..parts {
                let (first, end) = (groups * part / parts, groups * (part + 1) / parts);
                let starts = &starts[first..=end];
                let rows = (starts[starts.len() - 1] - starts[0]) as usize;
                let (of_part, times_of_part);
                (of_part, members) = members.split_at_mut(rows);
                (times_of_part, ordered) = ordered.split_at_mut(rows);
                let mut work = move || order(ids, times, first as u32, starts, of_part, times_of_part);
                if part + 1 < parts {
                    scope.spawn(work);
                } else {
                    work();
                }
            }
        });
        (Self { starts, members }, ordered)
    }
}

/// Orders the rows of some groups, the first of which is `first`, by group and time.
fn order(ids: &[u32], times: &[i64], first: u32, starts: &[u32], members: &mut [u32], ordered: &mut [i64]) {
    let place = |start: &u32| (start - starts[0]) as usize;
    let mut next: Vec<usize> = starts[..starts.len() - 1].iter().map(place).collect();
    // Times lie beside their rows, so that ordering a group looks at nothing else.
    let mut entries = vec![(0_i64, 0_u32); members.len()];
    for (row, (id, time)) in ids.iter().zip(times).enumerate() {
        // Rows of no group are beyond the last as those of other parts are.
        if let Some(next) = next.get_mut(id.wrapping_sub(first) as usize) {
            entries[*next] = (*time, row as u32);
            *next += 1;
        }
    }
    for group in starts.windows(2) {
        let group = &mut entries[place(&group[0])..place(&group[1])];
        // Rows of one time keep the spine's order, which is that of their numbers.
        if !group.is_sorted() {
            group.sort_unstable();
        }
    }
    for ((time, row), (member, at)) in entries.into_iter().zip(members.iter_mut().zip(ordered)) {
        (*member, *at) = (row, time);
    }
}
