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
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};

/// The number of no entity, no row and no candidate.
pub(super) const NONE: u32 = u32::MAX;

/// From keys to dense numbers. One of the two maps is in use, by the types of the key.
#[derive(Debug, Default)]
pub(super) struct EntityIndex {
    integers: HashMap<i64, u32, RandomState>,
    texts: HashMap<Box<[u8]>, u32, RandomState>,
}

impl EntityIndex {
    /// How many entities there are.
    pub(super) fn len(&self) -> usize {
        self.integers.len() + self.texts.len()
    }

    /// The number of each row's entity, a new one for a new key; [`NONE`] where a part of the key is null.
    pub(super) fn assign(&mut self, key: &[(Scalar, ArrayRef)], rows: usize) -> Result<Vec<u32>, Error> {
        // Fewer than 2^32 - 1 keys: each is of a row of a spine.
        let (integers, texts) = (&mut self.integers, &mut self.texts);
        let integer = |key: i64| {
            let next = integers.len() as u32;
            *integers.entry(key).or_insert(next)
        };
        let text = |key: &[u8]| {
            let next = texts.len() as u32;
            match texts.get(key) {
                Some(known) => *known,
                None => {
                    texts.insert(key.into(), next);
                    next
                }
            }
        };
        map_keys(key, rows, integer, text)
    }

    /// The number of each row's entity; [`NONE`] where it has none.
    pub(super) fn find(&self, key: &[(Scalar, ArrayRef)], rows: usize) -> Result<Vec<u32>, Error> {
        // Files are often sorted by entity, so the key before is the likeliest.
        let mut last = (0, self.integers.get(&0).copied().unwrap_or(NONE));
        let integer = |key: i64| {
            if key != last.0 {
                last = (key, self.integers.get(&key).copied().unwrap_or(NONE));
            }
            last.1
        };
        map_keys(key, rows, integer, |key| self.texts.get(key).copied().unwrap_or(NONE))
    }
}

fn map_keys(
    key: &[(Scalar, ArrayRef)],
    rows: usize,
    mut integer: impl FnMut(i64) -> u32,
    mut text: impl FnMut(&[u8]) -> u32,
) -> Result<Vec<u32>, Error> {
    Ok(match key {
        [(Scalar::I64, column)] => column.as_primitive::<Int64Type>().iter().map(|key| key.map_or(NONE, &mut integer)).collect(),
        [(Scalar::I32, column)] => column.as_primitive::<Int32Type>().iter().map(|key| key.map_or(NONE, |key| integer(i64::from(key)))).collect(),
        [(Scalar::String, column)] => column.as_string::<i32>().iter().map(|key| key.map_or(NONE, |key| text(key.as_bytes()))).collect(),
        [(Scalar::Bytes, column)] => column.as_binary::<i32>().iter().map(|key| key.map_or(NONE, &mut text)).collect(),
        _ => {
            let columns = KeyColumns::new(key.to_vec())?;
            let mut writer = KeyWriter::default();
            (0..rows).map(|row| if columns.write(row, &mut writer) { text(writer.as_bytes()) } else { NONE }).collect()
        }
    })
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

    /// The members of a group.
    pub(super) fn members(&self, group: usize) -> &[u32] {
        &self.members[self.range(group)]
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
