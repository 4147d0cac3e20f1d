//! The join of one view, as its rows come by.
//!
//! Under `knowledge = spine` a row is seen from `max(event time, known time)` on, otherwise from its event time. So the candidates of a spine row that
//! lie before its time are a prefix of its entity's rows in the order in which they come into sight, and the match is that prefix's last in the *total*
//! order: one merge of two sorted runs with a running maximum. The maximum has the latest event time of the prefix, so if it is older than the lookback
//! reaches, every candidate is.
//!
//! A row that is the match of no spine row among some of the view's rows is the match of none among all of them. So whenever the rows held outgrow the
//! buffer, all but the present matches are dropped: memory is bounded by the spine and the buffer, however long the history, and each row is read once.
//!
//! Where rows are equal in the whole order, the one that was read first stays; they are equal in every value by the rules of merging.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};

use super::candidates::{Candidate, candidates, within_lookback};
use super::entities::{Groups, NONE};
use super::plan::{Buffer, ViewPlan};
use super::{JoinError, gather};

/// Kept rows are packed into blocks of about so many, so that long histories don't leave a crumb for every batch.
const BLOCK_ROWS: usize = 1 << 16;
/// And of no more than so many bytes, far from where 32-bit offsets end.
const BLOCK_BYTES: usize = 64 << 20;

/// The features of some rows, a column each.
type Block = Vec<ArrayRef>;

/// One view's rows as they come by.
#[derive(Debug)]
pub(super) struct ViewJoin {
    plan: Arc<ViewPlan>,
    buffer: Buffer,
    blocks: Vec<Block>,
    candidates: Vec<Candidate>,
    bytes: usize,
    /// Rows and bytes that were matches when last looked at.
    settled: Buffer,
}

/// What each row of the spine matched in one view.
#[derive(Debug)]
pub(super) struct Matches {
    pub(super) blocks: Vec<Block>,
    /// For each row of the spine the block and the row there, or [`gather::NULL`].
    pub(super) at: Vec<(u32, u32)>,
}

impl ViewJoin {
    pub(super) fn new(plan: Arc<ViewPlan>, buffer: Buffer) -> Self {
        Self { plan, buffer, blocks: Vec::new(), candidates: Vec::new(), bytes: 0, settled: Buffer { rows: 0, bytes: 0 } }
    }

    /// Takes rows of the view.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        let (found, features) = candidates(&self.plan, batch, self.blocks.len() as u32)?;
        if found.is_empty() {
            return Ok(());
        }
        self.bytes += bytes(&features);
        self.blocks.push(features);
        self.candidates.extend(found);
        // Growing by as much as was kept makes the whole work linear in the view's rows, up to a factor.
        let outgrown = |now: usize, settled: usize, buffer: usize| now - settled >= buffer.max(settled).max(1);
        if outgrown(self.candidates.len(), self.settled.rows, self.buffer.rows) || outgrown(self.bytes, self.settled.bytes, self.buffer.bytes) {
            self.settle()?;
        }
        Ok(())
    }

    /// The matches among all rows that were pushed.
    pub(super) fn finish(self) -> Matches {
        let place = |winner: &u32| match self.candidates.get(*winner as usize) {
            Some(candidate) if !candidate.tombstone => (candidate.block, candidate.row),
            _ => gather::NULL,
        };
        let at = self.winners().iter().map(place).collect();
        Matches { at, blocks: self.blocks }
    }

    /// For each row of the spine the number of the candidate that it matches, or [`NONE`].
    fn winners(&self) -> Vec<u32> {
        let timeline = &self.plan.timeline;
        let candidate = |number: u32| &self.candidates[number as usize];
        let mut by_entity = Groups::new(self.candidates.len(), timeline.rows.len(), |number| self.candidates[number].entity);
        by_entity.sort_by_key(|number| candidate(number).visible);
        let mut winners = vec![NONE; timeline.spine_rows];
        for entity in 0..by_entity.len() {
            let mut coming = by_entity.members(entity).iter().copied().peekable();
            if coming.peek().is_none() {
                continue;
            }
            let mut last: Option<u32> = None;
            for place in timeline.rows.range(entity) {
                let (row, time) = (timeline.rows.all()[place], timeline.times[place]);
                while let Some(next) = coming.next_if(|next| candidate(*next).visible <= time) {
                    if last.is_none_or(|last| candidate(next).order > candidate(last).order) {
                        last = Some(next);
                    }
                }
                if let Some(last) = last.filter(|last| within_lookback(&self.plan, &candidate(*last).order, time)) {
                    winners[row as usize] = last;
                }
            }
        }
        winners
    }

    /// Drops every row that matches nothing so far.
    fn settle(&mut self) -> Result<(), JoinError> {
        let mut wins = vec![false; self.candidates.len()];
        for winner in self.winners().into_iter().filter(|winner| *winner != NONE) {
            wins[winner as usize] = true;
        }
        let mut wins = wins.into_iter();
        self.candidates.retain(|_| wins.next().unwrap_or(false));
        self.pack()?;
        self.settled = Buffer { rows: self.candidates.len(), bytes: self.bytes };
        Ok(())
    }

    /// Makes new blocks of the rows that candidates refer to. Candidates stand in the order of their blocks and rows, and stay so.
    fn pack(&mut self) -> Result<(), JoinError> {
        let mut packer = Packer::default();
        let old = std::mem::take(&mut self.blocks);
        for kept in self.candidates.chunk_by_mut(|a, b| a.block == b.block) {
            let block = &old[kept[0].block as usize];
            let all = block.first().is_some_and(|column| column.len() == kept.len());
            let rows = UInt32Array::from_iter_values(kept.iter().map(|candidate| candidate.row));
            let block: Block = if all { block.clone() } else { block.iter().map(|column| take(column, &rows, None)).collect::<Result<_, _>>()? };
            let (number, first) = packer.add(block, kept.len())?;
            for (row, candidate) in kept.iter_mut().enumerate() {
                (candidate.block, candidate.row) = (number, first + row as u32);
            }
        }
        self.blocks = packer.finish()?;
        self.bytes = self.blocks.iter().map(|block| bytes(block)).sum();
        Ok(())
    }
}

/// Puts small blocks together.
#[derive(Default)]
struct Packer {
    done: Vec<Block>,
    open: Vec<Block>,
    rows: usize,
    bytes: usize,
}

impl Packer {
    /// Adds a block and tells the number of the block that its rows will lie in, and where they will begin there.
    fn add(&mut self, block: Block, rows: usize) -> Result<(u32, u32), JoinError> {
        let bytes = bytes(&block);
        if self.rows + rows > BLOCK_ROWS || self.bytes + bytes > BLOCK_BYTES {
            self.close()?;
        }
        let place = (self.done.len() as u32, self.rows as u32);
        self.open.push(block);
        self.rows += rows;
        self.bytes += bytes;
        Ok(place)
    }

    fn close(&mut self) -> Result<(), JoinError> {
        let open = std::mem::take(&mut self.open);
        let columns = open.first().map_or(0, Vec::len);
        if open.len() == 1 {
            self.done.extend(open);
        } else if !open.is_empty() {
            let column = |place: usize| concat(&open.iter().map(|block| block[place].as_ref()).collect::<Vec<_>>());
            self.done.push((0..columns).map(column).collect::<Result<_, _>>()?);
        }
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Block>, JoinError> {
        self.close()?;
        Ok(self.done)
    }
}

fn bytes(block: &[ArrayRef]) -> usize {
    block.iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())).sum()
}
