//! The keys of a column's values in ascending order: in memory, or, where there are more than fit, in a file without a name.
//!
//! ```text
//! keys -> runs of so many, each sorted, one behind the other in a file -> merged into a second file, which is read at any place
//! ```
//!
//! Both files hold bare numbers of 8 bytes, little-endian. A merge holds a piece of each run.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::join::{JoinError, SpillFiles};

const KEY_BYTES: usize = size_of::<u64>();

/// Keys that are read of a file at a time, at least.
const PIECE: usize = 512;

/// How many keys may be held, and where the others go.
#[derive(Clone)]
pub struct KeyRoom {
    /// The most that are held.
    pub keys: usize,
    /// Where to.
    pub files: SpillFiles,
}

impl fmt::Debug for KeyRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRoom").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Takes keys in any order.
#[derive(Debug)]
pub(super) struct Keys {
    held: Vec<u64>,
    room: Option<KeyRoom>,
    runs: Option<(BufWriter<File>, Vec<Range<usize>>)>,
}

impl Keys {
    /// In memory, or as far as there is room.
    pub(super) const fn new(room: Option<KeyRoom>) -> Self {
        Self { held: Vec::new(), room, runs: None }
    }

    pub(super) fn push(&mut self, key: u64) -> Result<(), JoinError> {
        if self.room.as_ref().is_some_and(|room| self.held.len() >= room.keys.max(1)) {
            self.put_aside().map_err(JoinError::Spill)?;
        }
        self.held.push(key);
        Ok(())
    }

    /// All keys in order.
    pub(super) fn sorted(mut self) -> Result<SortedKeys, JoinError> {
        if self.runs.is_none() {
            self.held.sort_unstable();
            return Ok(SortedKeys::InMemory(self.held));
        }
        self.merged().map_err(JoinError::Spill)
    }

    /// Writes those that are held as a run.
    fn put_aside(&mut self) -> io::Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        let (file, runs) = match &mut self.runs {
            Some(runs) => runs,
            runs => runs.insert((BufWriter::new((room.files)()?), Vec::new())),
        };
        self.held.sort_unstable();
        let start = runs.last().map_or(0, |run| run.end);
        runs.push(start..start + self.held.len());
        self.held.iter().try_for_each(|key| file.write_all(&key.to_le_bytes()))?;
        self.held.clear();
        Ok(())
    }

    fn merged(mut self) -> io::Result<SortedKeys> {
        self.put_aside()?;
        let (Some(room), Some((file, runs))) = (self.room, self.runs) else { return Ok(SortedKeys::InMemory(self.held)) };
        drop(self.held);
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let piece = (room.keys / runs.len().max(1)).max(PIECE);
        let mut runs: Vec<_> = runs.into_iter().map(|rest| Run { rest, piece: Vec::new(), at: 0 }).collect();
        let mut first = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            first.extend(run.next(&file, piece)?.map(|key| Reverse((key, number))));
        }
        let (mut merged, mut keys, mut distinct, mut last) = (BufWriter::new((room.files)()?), 0, 0, None);
        while let Some(Reverse((key, number))) = first.pop() {
            merged.write_all(&key.to_le_bytes())?;
            distinct += u64::from(last != Some(key));
            (keys, last) = (keys + 1, Some(key));
            first.extend(runs[number].next(&file, piece)?.map(|key| Reverse((key, number))));
        }
        let file = merged.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(SortedKeys::OnDisk { file, keys, distinct, piece: RefCell::new((0, Vec::new())) })
    }
}

/// What is left of a run.
struct Run {
    rest: Range<usize>,
    piece: Vec<u64>,
    at: usize,
}

impl Run {
    fn next(&mut self, file: &File, piece: usize) -> io::Result<Option<u64>> {
        if self.at == self.piece.len() {
            let end = self.rest.end.min(self.rest.start + piece);
            (self.piece, self.at) = (read(file, self.rest.start..end)?, 0);
            self.rest.start = end;
        }
        let key = self.piece.get(self.at).copied();
        self.at += 1;
        Ok(key)
    }
}

fn read(file: &File, keys: Range<usize>) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; keys.len() * KEY_BYTES];
    file.read_exact_at(&mut bytes, (keys.start * KEY_BYTES) as u64)?;
    Ok(bytes.chunks_exact(KEY_BYTES).map(|key| u64::from_le_bytes(key.first_chunk().copied().unwrap_or_default())).collect())
}

/// Keys in ascending order.
#[derive(Debug)]
pub(super) enum SortedKeys {
    InMemory(Vec<u64>),
    OnDisk {
        file: File,
        keys: usize,
        distinct: u64,
        /// The piece that was read last, and where it begins.
        piece: RefCell<(usize, Vec<u64>)>,
    },
}

impl SortedKeys {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::InMemory(keys) => keys.len(),
            Self::OnDisk { keys, .. } => *keys,
        }
    }

    /// How many different ones there are.
    pub(super) fn distinct(&self) -> u64 {
        match self {
            Self::InMemory(keys) => keys.chunk_by(|a, b| a == b).count() as u64,
            Self::OnDisk { distinct, .. } => *distinct,
        }
    }

    /// The key at a place that there is.
    pub(super) fn at(&self, place: usize) -> Result<u64, JoinError> {
        let missing = || JoinError::Spill(io::ErrorKind::InvalidData.into());
        match self {
            Self::InMemory(keys) => keys.get(place).copied().ok_or_else(missing),
            Self::OnDisk { file, keys, piece, .. } => {
                let mut piece = piece.borrow_mut();
                let (start, held) = &mut *piece;
                if !(*start..*start + held.len()).contains(&place) {
                    *start = place - place % PIECE;
                    *held = read(file, *start..keys.min(&(*start + PIECE)).to_owned()).map_err(JoinError::Spill)?;
                }
                held.get(place - *start).copied().ok_or_else(missing)
            }
        }
    }

    /// The first place in a range whose key is not below `bound`; the range's end where all are.
    pub(super) fn first_from(&self, range: Range<usize>, bound: u64) -> Result<usize, JoinError> {
        let Range { mut start, mut end } = range;
        while start < end {
            let middle = start + (end - start) / 2;
            if self.at(middle)? < bound { start = middle + 1 } else { end = middle }
        }
        Ok(start)
    }
}
