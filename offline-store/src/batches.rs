//! Rows of a kept dataset in the order of a training epoch, gathered at memory speed from a bounded cache.
//!
//! A trainer asks for an epoch: a seed, a number, its rank among so many, a batch size. What it gets is a function of these and of the dataset's content:
//!
//! - [`RowOrder`] is the epoch's one global order of rows, whoever reads it and however many do;
//! - [`Stripe`] gives each rank its part of it, batch by batch: disjoint, complete, and with one position for all ranks after each batch;
//! - [`Cursor`] names such a position in a text that a trainer keeps in its checkpoint, whatever world and batch size it goes on with.
//!
//! A random order needs random access, which Parquet does not give. [`PackedRows`] is the dataset row by row, so that a row is one read however many
//! columns it has; [`RowCache`] makes it once for all who ask, keeps it in memory as far as its budget goes and in an unnamed file beyond that, and
//! forgets what nobody reads. [`chunks`] gathers ahead of its reader by a fixed number of chunks, and ends when its reader does.

mod cache;
mod cursor;
mod error;
mod groups;
mod order;
mod packed;
mod row_set;
mod rows;
mod stream;
mod stripe;

pub use cache::{CacheLimits, CacheUse, RowCache};
pub use cursor::Cursor;
pub use error::BatchesError;
pub use groups::GroupReader;
pub use order::RowOrder;
pub use packed::PackedColumn;
pub use row_set::RowSet;
pub use rows::{PackedRows, RowsBuilder};
pub use stream::{AHEAD, Chunk, ChunkRequest, chunks};
pub use stripe::{Stripe, Striped};
