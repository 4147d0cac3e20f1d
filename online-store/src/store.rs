//! The contract of every online store.

use std::fmt;

use anabranch_core::{EntityKey, Generation, RowOrder};
use async_trait::async_trait;
use bytes::Bytes;

use crate::row::MAX_ROW_BYTES;
use crate::{Error, Result};

/// Longest entity key that a store takes, in its canonical bytes.
pub const MAX_KEY_BYTES: usize = 32 << 10;

/// Longest name of a commit that [`OnlineStore::advance`] takes.
pub const MAX_COMMIT_BYTES: usize = 64;

/// Keeps, under each generation and for each entity, the greatest row that was written.
///
/// # Contract
///
/// **Order.** Rows are compared by their bytes, which begin with the 36 of [`RowOrder`]: the greatest is the row that is last in the total order. Rows
/// of one order are one row, perhaps packed under two layouts; the greater bytes stay, so that every store and every interleaving ends alike.
///
/// **Idempotence.** Writing a row again, or a lesser one, changes nothing. What a set of writes leaves behind is a function of the set: not of their
/// order, their number, their batches or the writers.
///
/// **Atomicity** is by generation and entity. A write that fails or is cancelled may have taken effect for any of its rows; whoever wrote them writes
/// them again.
///
/// **Consistency.** A read that begins after a write has returned sees that write or a greater row.
///
/// **Durability.** What [`OnlineStore::write`], [`OnlineStore::advance`] and [`OnlineStore::drop_generation`] did before a call of
/// [`OnlineStore::sync`] survives loss of power once that call has returned. What was not synced may be lost, but never so that an advance survives
/// which a row written before it does not. A store that cannot promise this changes its incarnation when it loses anything.
///
/// **Loss.** What was advanced under one incarnation is not answered for under another: a store that lost anything knows no commits. A caller that looks
/// at the incarnation before it writes rows, syncs, and looks again knows by equality that the rows are there; one that looks after a read knows whether
/// what it did not find was lost.
///
/// **Time.** Every call ends within a limit that the store is configured with, and is an error of kind `unavailable` where it would not.
#[async_trait]
pub trait OnlineStore: Send + Sync + fmt::Debug + 'static {
    /// Keeps each row where it is greater than what its generation holds of its entity.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Corrupt`] for a row or key over the limits, before anything is written; [`Error::DiskFull`].
    async fn write(&self, rows: &[Write]) -> Result<()>;

    /// The rows of every key of a group in every generation of that group, in one round trip where the medium allows.
    ///
    /// They come group by group, in it generation by generation, and in that in the order of the keys; `None` where there is no row. Keys and
    /// generations may repeat.
    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>>;

    /// Reads of these rows that begin later go to the medium, whatever a layer above it keeps of them; where there is no such layer, nothing is done.
    fn forget_cached(&self, _groups: &[ReadGroup<'_>]) {}

    /// Makes durable whatever was done before.
    async fn sync(&self) -> Result<()>;

    /// The commit that a generation answers for; `None` for a generation that was never advanced.
    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>>;

    /// Says which commit a generation answers for from now on. Only the one who publishes to a generation advances it, after it wrote the rows under
    /// the incarnation that it names.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the name of the commit is longer than [`MAX_COMMIT_BYTES`]; [`Error::Lost`] where the store is another incarnation by
    /// now. Should it become one meanwhile, the generation answers for no commit.
    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()>;

    /// Names the content: a random number given to an empty store, another one after a loss of what was said to be durable. It is the one that the last
    /// call that reached the store found, so that asking costs nothing; after [`OnlineStore::sync`] it is the store's own.
    async fn incarnation(&self) -> Result<Incarnation>;

    /// Forgets a generation: first the commit that it answers for, then its rows. Nobody may write to it meanwhile or later: a generation is a number that
    /// is given once, and what a store does with rows of one that was dropped is its own. After a crash it is repeated.
    async fn drop_generation(&self, generation: Generation) -> Result<()>;

    /// Up to `limit` rows of a generation, from where the cursor of the page before stands; for audits.
    ///
    /// The order is the store's own. A row that is there from the first page to the last comes at least once. A page may be short or empty and yet have
    /// a cursor; without one it is the last.
    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page>;
}

/// What follows from the contract.
#[async_trait]
pub trait OnlineStoreExt: OnlineStore {
    /// One row.
    async fn get(&self, generation: Generation, key: &EntityKey) -> Result<Option<Bytes>> {
        let group = ReadGroup { generations: &[generation], keys: std::slice::from_ref(key) };
        Ok(self.read(&[group]).await?.pop().flatten())
    }

    /// Every row of a generation, for tests and small audits.
    async fn scan_all(&self, generation: Generation) -> Result<Vec<(EntityKey, Bytes)>> {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let page = self.scan(generation, after.as_ref(), 1_000).await?;
            rows.extend(page.rows);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(rows),
            }
        }
    }
}

impl<S: OnlineStore + ?Sized> OnlineStoreExt for S {}

/// A row on its way into a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The generation of the view on its branch.
    pub generation: Generation,
    /// The entity.
    pub key: EntityKey,
    /// The packed row.
    pub row: Bytes,
}

impl Write {
    /// Checks the limits that every store holds its rows to; stores do so before they write any.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or [`Error::Corrupt`] where the row is shorter than its order.
    pub fn check(&self) -> Result<()> {
        if self.row.len() < RowOrder::LEN {
            return Err(Error::corrupt_row(format!("{} bytes are fewer than the {} of its order", self.row.len(), RowOrder::LEN)));
        }
        limit("an entity key's number of bytes", self.key.as_bytes().len(), MAX_KEY_BYTES)?;
        limit("a packed row's number of bytes", self.row.len(), MAX_ROW_BYTES)
    }

    /// Cuts rows into parts of bounded number and size; a row that is larger is a part of its own.
    pub(crate) fn chunks(rows: &[Self], most_rows: usize, most_bytes: usize) -> Vec<&[Self]> {
        let (mut chunks, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (i, row) in rows.iter().enumerate() {
            let more = row.key.as_bytes().len() + row.row.len();
            if i > start && (i - start == most_rows || bytes + more > most_bytes) {
                chunks.push(&rows[start..i]);
                (start, bytes) = (i, 0);
            }
            bytes += more;
        }
        chunks.push(&rows[start..]);
        chunks.retain(|chunk| !chunk.is_empty());
        chunks
    }
}

/// Checks the name of a commit.
pub(crate) fn check_commit(commit: &[u8]) -> Result<()> {
    limit("a commit's number of bytes", commit.len(), MAX_COMMIT_BYTES)
}

fn limit(what: &str, bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        return Err(Error::TooLarge { what: what.to_owned(), bytes: bytes as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Keys to be read in several generations: those of the views that are looked up by the same key columns.
#[derive(Debug, Clone, Copy)]
pub struct ReadGroup<'a> {
    /// The generations, one for each view.
    pub generations: &'a [Generation],
    /// The entities.
    pub keys: &'a [EntityKey],
}

impl ReadGroup<'_> {
    /// How many rows the group asks for.
    pub const fn len(&self) -> usize {
        self.generations.len() * self.keys.len()
    }

    /// Whether the group asks for none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names the content of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where a scan goes on; its bytes mean something to the store alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// A part of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Entities with their rows.
    pub rows: Vec<(EntityKey, Bytes)>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}
