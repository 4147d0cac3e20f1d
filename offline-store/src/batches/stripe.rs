//! Who gets which positions of an epoch's order.
//!
//! W ranks with batches of B rows read the positions from S on in *global batches* of B·W: the i-th is S + i·B·W … S + (i+1)·B·W. Of each, rank r takes
//! the positions at a distance of r, r + W, r + 2W, … from its beginning. So
//!
//! - the ranks are disjoint, and together they are all of S … N;
//! - after its i-th batch every rank stands at the same position, S + i·B·W, and may go on from there in another number or with other batches;
//! - the rows of the i-th batches of all ranks, interleaved, are the global order, whatever W is.
//!
//! The last global batch may have fewer than B·W rows: ranks then get batches that differ by one row at most, some perhaps none, unless it is dropped for
//! all of them alike.

use super::BatchesError;

/// What one rank reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// How many positions the order has.
    pub rows: u64,
    /// Where all ranks begin.
    pub start: u64,
    /// Rows in a batch.
    pub batch_size: u32,
    /// Which rank, from 0.
    pub rank: u32,
    /// Of how many.
    pub world_size: u32,
    /// Leave out a last global batch that is not full.
    pub drop_last: bool,
}

/// One batch of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Striped {
    /// Its first position.
    pub first: u64,
    /// How many rows it has.
    pub rows: u32,
    /// The distance of its positions.
    pub step: u64,
    /// Where all ranks stand after it.
    pub after: u64,
}

impl Stripe {
    /// Holds a stripe to the rules.
    ///
    /// # Errors
    /// [`BatchesError::Invalid`] for a batch or world size of 0, a rank that the world does not have and a start beyond the end.
    pub fn check(&self) -> Result<(), BatchesError> {
        let refuse = |what, reason| Err(BatchesError::Invalid { what, reason });
        if self.batch_size == 0 {
            return refuse("batch_size", "it is 0: give how many rows a batch has".to_owned());
        }
        if self.world_size == 0 {
            return refuse("world_size", "it is 0: give how many workers there are".to_owned());
        }
        if self.rank >= self.world_size {
            return refuse("rank", format!("it is {} in a world of {}: ranks count from 0", self.rank, self.world_size));
        }
        if self.start > self.rows {
            return refuse("cursor", format!("it stands at row {} of {}", self.start, self.rows));
        }
        Ok(())
    }

    /// How many batches the rank gets.
    pub fn batches(&self) -> u64 {
        let (left, global) = (self.rows - self.start, self.global());
        let (full, rest) = (left / global, left % global);
        full + u64::from(!self.drop_last && rest > u64::from(self.rank))
    }

    /// A batch below [`Stripe::batches`].
    pub fn batch(&self, index: u64) -> Striped {
        let step = u64::from(self.world_size);
        let begin = self.start + index * self.global();
        let after = (begin + self.global()).min(self.rows);
        let rows = (after - begin).saturating_sub(u64::from(self.rank)).div_ceil(step);
        // At most the batch size.
        Striped { first: begin + u64::from(self.rank), rows: rows as u32, step, after }
    }

    fn global(&self) -> u64 {
        u64::from(self.batch_size) * u64::from(self.world_size)
    }
}

impl Striped {
    /// Its positions, in order.
    pub fn positions(self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.rows)).map(move |i| self.first + i * self.step)
    }
}
