//! Small chunks taken together: the rows of each entity from all of them, in the order of their times.
//!
//! Each chunk lies by entity, so entities are taken in blocks, of each of which every chunk has a piece. The pieces of a block are put together by a
//! counting sort that stays in a core's cache. Chunks are put in from the earliest to the latest: those that a stream left follow one another in time, and
//! then nothing is left to order.

use std::ops::Range;

use super::entities::Run;
use super::keys::ChunkKeys;
use super::matching::{Place, place_of};
use super::rows::ChunkInfo;

/// Rows of a block, about.
const BLOCK_ROWS: usize = 1 << 13;

/// Chunks of more rows are taken by themselves.
const SMALL_ROWS: usize = 1 << 17;

/// A row of a view, as far as matching looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) event: i64,
    pub(super) known: i64,
    pub(super) place: Place,
}

impl Candidate {
    pub(super) fn time(&self) -> (i64, i64) {
        (self.event, self.known)
    }
}

/// Chunks whose rows are put together, block by block.
#[derive(Debug)]
pub(super) struct Together<'a> {
    /// From the latest to the earliest.
    chunks: &'a [(u32, ChunkKeys)],
    /// The first run of each that is not in a block yet.
    next: Vec<usize>,
    /// How many entities make a block, and how many there are.
    of_block: usize,
    entities: usize,
    first: usize,
    /// The rows of a block by entity, where each entity's begin, and one more.
    rows: Vec<Candidate>,
    starts: Vec<u32>,
}

impl<'a> Together<'a> {
    /// Whether a chunk is worth it, and its entities ascend.
    pub(super) fn takes(info: &ChunkInfo, keys: &ChunkKeys) -> bool {
        info.rows < SMALL_ROWS && keys.runs.is_sorted_by(|run, next| run.entity < next.entity)
    }

    pub(super) fn new(chunks: &'a [(u32, ChunkKeys)], entities: usize) -> Self {
        let rows: usize = chunks.iter().map(|(_, keys)| keys.event.len()).sum();
        let of_block = (entities * BLOCK_ROWS / rows.max(1)).clamp(1, entities.max(1));
        Self { chunks, next: vec![0; chunks.len()], of_block, entities, first: 0, rows: Vec::new(), starts: Vec::new() }
    }

    /// The entities of the next block that have rows.
    pub(super) fn block(&mut self) -> Option<impl Iterator<Item = (u32, &[Candidate])>> {
        if self.first >= self.entities {
            return None;
        }
        let first = self.first;
        self.first = (first + self.of_block).min(self.entities);
        self.fill(first);
        let (rows, starts) = (&self.rows, &self.starts);
        let range = move |entity: usize| starts[entity] as usize..starts[entity + 1] as usize;
        Some((0..starts.len() - 1).map(move |entity| ((first + entity) as u32, &rows[range(entity)])).filter(|(_, rows)| !rows.is_empty()))
    }

    fn fill(&mut self, first: usize) {
        let (chunks, end, entities) = (self.chunks, self.first as u32, self.first - first);
        self.starts.clear();
        self.starts.resize(entities + 2, 0);
        let ranges: Vec<Range<usize>> = chunks
            .iter()
            .zip(&mut self.next)
            .map(|((_, keys), next)| {
                let start = *next;
                *next += keys.runs[start..].iter().take_while(|run| run.entity < end).count();
                start..*next
            })
            .collect();
        let pieces = || chunks.iter().zip(&ranges).rev().map(|((chunk, keys), piece)| (*chunk, keys, &keys.runs[piece.clone()]));
        for run in pieces().flat_map(|(_, _, runs)| runs) {
            self.starts[run.entity as usize - first + 2] += run.end - run.start;
        }
        for entity in 2..self.starts.len() {
            self.starts[entity] += self.starts[entity - 1];
        }
        let nobody = Candidate { event: 0, known: 0, place: 0 };
        self.rows.clear();
        self.rows.resize(self.starts[entities + 1] as usize, nobody);
        // While rows come in, an entity's start is kept by the one after it.
        for (chunk, keys, runs) in pieces() {
            for run in runs {
                let next = &mut self.starts[run.entity as usize - first + 1];
                for place in run.start as usize..run.end as usize {
                    self.rows[*next as usize] =
                        Candidate { event: keys.event[place], known: keys.known_at(place), place: place_of(chunk, keys.row(place)) };
                    *next += 1;
                }
            }
        }
        self.starts.pop();
        for entity in self.starts.windows(2) {
            let rows = &mut self.rows[entity[0] as usize..entity[1] as usize];
            if !rows.is_sorted_by_key(Candidate::time) {
                rows.sort_unstable_by_key(Candidate::time);
            }
        }
    }
}

/// The rows of an entity in each of some chunks, in the chunks' order.
pub(super) fn runs_of(chunks: &[(u32, ChunkKeys)], entity: u32) -> impl Iterator<Item = (u32, &ChunkKeys, Run)> {
    chunks.iter().filter_map(move |(chunk, keys)| {
        let place = keys.runs.binary_search_by_key(&entity, |run| run.entity).ok()?;
        Some((*chunk, keys, keys.runs[place]))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A chunk of rows, each an entity and a time, sorted by both.
    fn chunk(mut rows: Vec<(u32, i64)>) -> ChunkKeys {
        rows.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for (row, (entity, _)) in (0..).zip(&rows) {
            match runs.last_mut().filter(|run| run.entity == *entity) {
                Some(run) => run.end = row + 1,
                None => runs.push(Run { entity: *entity, start: row, end: row + 1 }),
            }
        }
        ChunkKeys::sorted(runs, rows.into_iter().map(|(_, time)| time).collect())
    }

    proptest! {
        #[test]
        fn blocks_hold_every_row_once_by_entity_and_time(
            chunks in prop::collection::vec(prop::collection::vec((0_u32..50, -9_i64..9), 0..60), 0..6),
            of_block in 1_usize..60,
        ) {
            let chunks: Vec<_> = (0..).zip(chunks.into_iter().map(chunk)).collect();
            let mut expected: Vec<_> = chunks
                .iter()
                .flat_map(|(number, keys)| {
                    let places = keys.runs.iter().flat_map(|run| (run.start..run.end).map(|row| (run.entity, row)));
                    places.map(|(entity, row)| (entity, keys.event[row as usize], place_of(*number, row)))
                })
                .collect();
            let mut found = Vec::new();
            let mut together = Together { of_block, ..Together::new(&chunks, 50) };
            while let Some(entities) = together.block() {
                for (entity, rows) in entities {
                    prop_assert!(rows.is_sorted_by_key(Candidate::time));
                    prop_assert_eq!(rows.len(), runs_of(&chunks, entity).map(|(_, _, run)| (run.end - run.start) as usize).sum::<usize>());
                    found.extend(rows.iter().map(|row| (entity, row.event, row.place)));
                }
            }
            prop_assert!(found.is_sorted_by_key(|(entity, ..)| *entity));
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
