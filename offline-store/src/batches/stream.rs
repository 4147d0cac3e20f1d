//! Batches on their way out: gathered in chunks of whole batches, a fixed number of chunks ahead of the reader.
//!
//! A chunk is some batches of a rank, one behind the other, as much as the reader asked for at a time, and one batch where that is more. At most [`AHEAD`]
//! chunks are gathered or wait at any time, each on a thread that may block; when the stream is dropped nothing new begins.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{Stream, StreamExt, stream};

use super::{BatchesError, Cursor, PackedRows, RowOrder, RowSet, Stripe};

/// Chunks that are gathered before they are asked for.
pub const AHEAD: usize = 2;
/// Batches of a chunk at most, so that what is said of each stays short beside them.
const MAX_BATCHES: u64 = 256;

/// What a rank reads.
#[derive(Debug, Clone)]
pub struct ChunkRequest {
    /// The rows of the dataset.
    pub rows: Arc<PackedRows>,
    /// The columns wanted.
    pub columns: Arc<[usize]>,
    /// Which of them the order speaks of: its row n is the n-th of these.
    pub among: Arc<RowSet>,
    /// The order.
    pub order: Arc<RowOrder>,
    /// The rank's part of it.
    pub stripe: Stripe,
    /// A place in the epoch, for the cursors.
    pub cursor: Cursor,
    /// About how many bytes a chunk has.
    pub chunk_bytes: u64,
}

/// Some batches.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Their rows.
    pub rows: RecordBatch,
    /// How many rows each has.
    pub sizes: Vec<u32>,
    /// Where all ranks stand after each.
    pub cursors: Vec<Cursor>,
}

/// All batches of a rank, in order.
pub fn chunks(request: ChunkRequest) -> impl Stream<Item = Result<Chunk, BatchesError>> + Send + 'static {
    let batches = request.stripe.batches();
    let per_chunk = request.batches_per_chunk();
    let request = Arc::new(request);
    let firsts = (0..batches.div_ceil(per_chunk)).map(move |chunk| chunk * per_chunk);
    let gather = move |first: u64| {
        let request = Arc::clone(&request);
        async move {
            let gathered = tokio::task::spawn_blocking(move || request.gather(first, per_chunk.min(batches - first)));
            gathered.await.map_err(|_| BatchesError::Closing)?
        }
    };
    stream::iter(firsts).map(gather).buffered(AHEAD)
}

impl ChunkRequest {
    fn batches_per_chunk(&self) -> u64 {
        let row_bytes = (self.rows.bytes() / self.rows.rows().max(1)).max(1);
        let batch_bytes = row_bytes.saturating_mul(u64::from(self.stripe.batch_size));
        (self.chunk_bytes / batch_bytes).clamp(1, MAX_BATCHES)
    }

    fn gather(&self, first: u64, batches: u64) -> Result<Chunk, BatchesError> {
        let striped: Vec<_> = (first..first + batches).map(|index| self.stripe.batch(index)).collect();
        let positions = striped.iter().flat_map(|batch| batch.positions());
        let rows: Option<Vec<_>> = positions.map(|position| self.among.nth(self.order.row(position))).collect();
        let rows = rows.ok_or(BatchesError::Damaged("the split has fewer rows than its order"))?;
        Ok(Chunk {
            rows: self.rows.pick(&rows, &self.columns)?,
            sizes: striped.iter().map(|batch| batch.rows).collect(),
            cursors: striped.iter().map(|batch| self.cursor.at(batch.after)).collect(),
        })
    }
}
