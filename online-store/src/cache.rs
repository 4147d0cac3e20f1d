//! A cache above a store that is reached over a network: the rows that were looked up lately, bounded in bytes, with absences.
//!
//! # What it promises
//!
//! The contract of [`OnlineStore`] for whoever reads and writes through it: a read that begins after a write has returned sees that write or a greater
//! row. What others write to the medium is seen after a *staleness* at the latest; without one nobody else writes there, and nothing grows old.
//!
//! # How
//!
//! The table beneath is that of the embedded store ([`crate::hot`] has the proof): a write goes to the medium first and to the table after; a read that
//! misses fills the table unless a write came between. An entity of which any view is unknown is read whole, which on the medium is one command.
//!
//! ```text
//! event                                       the table
//! a write returns                             its rows replace lesser ones that are known; what is unknown stays so
//! a write fails or is cancelled               its rows are forgotten, for the medium may have them
//! a generation is dropped, or half dropped    its rows are forgotten
//! the medium is another incarnation           everything is forgotten; what was read under two incarnations is kept of neither
//! [`OnlineStore::forget_cached`]              those rows are forgotten
//! ```
//!
//! While a write is under way, one reader may see it and the next not yet; once it has returned, all do.
//!
//! An incarnation is noticed when a call reaches the medium, as that store says; a hit before is of what was there.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_core::{Clock, EntityKey, Generation, Span, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;

use crate::hot::{Epoch, Fresh, HotTable};
use crate::{Cursor, Error, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};

/// A store with a table of its latest rows above it.
pub struct CachedOnlineStore {
    medium: Arc<dyn OnlineStore>,
    hot: HotTable,
    /// What the medium was when the table's rows were read.
    incarnation: RwLock<Option<Incarnation>>,
    staleness: Option<Span>,
    clock: Arc<dyn Clock>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl fmt::Debug for CachedOnlineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedOnlineStore").field("medium", &self.medium).field("staleness", &self.staleness).finish_non_exhaustive()
    }
}

/// What the table knew of a read.
struct Looked {
    rows: Vec<Option<Bytes>>,
    /// For each group the places of the keys that are to be read, and what the table said when it did not know them.
    missed: Vec<Vec<(usize, Epoch)>>,
}

impl CachedOnlineStore {
    /// Puts a table of so many bytes above a store. `staleness` is how long what others write there may go unseen; `None` where nobody else does.
    pub fn new(medium: Arc<dyn OnlineStore>, bytes: u64, staleness: Option<Span>, clock: Arc<dyn Clock>) -> Self {
        let (incarnation, hits, misses) = (RwLock::default(), AtomicU64::new(0), AtomicU64::new(0));
        Self { medium, hot: HotTable::new(bytes), incarnation, staleness, clock, hits, misses }
    }

    /// Entities that were looked up, in as many views as were asked for at once: how many were all there, and how many the store had to be asked for.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Forgets everything where the medium is not what it was.
    fn stand_for(&self, incarnation: Incarnation) {
        if *self.incarnation.read().unwrap_or_else(PoisonError::into_inner) == Some(incarnation) {
            return;
        }
        let mut standing = self.incarnation.write().unwrap_or_else(PoisonError::into_inner);
        if *standing != Some(incarnation) {
            self.hot.clear();
            *standing = Some(incarnation);
        }
    }

    /// The times at which rows may have been read to be of use at a time.
    fn fresh(&self, now: Timestamp) -> Fresh {
        match self.staleness {
            Some(span) => now.minus(span)..=now,
            None => Timestamp::MIN..=Timestamp::MAX,
        }
    }

    fn look(&self, groups: &[ReadGroup<'_>], now: Timestamp) -> Looked {
        let fresh = self.fresh(now);
        let mut looked = Looked { rows: vec![None; groups.iter().map(ReadGroup::len).sum()], missed: Vec::with_capacity(groups.len()) };
        let (mut base, mut asked) = (0, 0);
        for group in groups {
            let mut missed = Vec::new();
            for (place, key) in group.keys.iter().enumerate() {
                let mut unknown = None;
                self.hot.read_fresh(key, group.generations, &fresh, |view, known, epoch| match known {
                    Some(row) => looked.rows[base + view * group.keys.len() + place] = row,
                    None => unknown = Some(epoch),
                });
                missed.extend(unknown.map(|epoch| (place, epoch)));
            }
            asked += group.keys.len();
            base += group.len();
            looked.missed.push(missed);
        }
        let misses: usize = looked.missed.iter().map(Vec::len).sum();
        self.hits.fetch_add((asked - misses) as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
        looked
    }

    /// Puts what the medium had into the answer and, where it is still what it was, into the table.
    fn fill(&self, groups: &[ReadGroup<'_>], looked: &mut Looked, found: Vec<Option<Bytes>>, under: Option<Incarnation>, now: Timestamp) {
        let standing = self.incarnation.read().unwrap_or_else(PoisonError::into_inner);
        let keeps = under.is_some() && *standing == under;
        let mut found = found.into_iter();
        let mut base = 0;
        for (group, missed) in groups.iter().zip(&looked.missed) {
            for (view, generation) in group.generations.iter().enumerate() {
                for ((place, epoch), row) in missed.iter().zip(found.by_ref()) {
                    if keeps {
                        self.hot.fill_read_at(&group.keys[*place], *generation, row.as_deref(), *epoch, now);
                    }
                    looked.rows[base + view * group.keys.len() + place] = row;
                }
            }
            base += group.len();
        }
    }
}

/// Forgets rows, unless what was done with them came to an end.
struct Forget<'a> {
    hot: &'a HotTable,
    rows: &'a [Write],
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        for row in self.rows {
            self.hot.forget(&row.key, row.generation);
        }
    }
}

/// Forgets a generation, however its drop ends.
struct ForgetGeneration<'a>(&'a HotTable, Generation);

impl Drop for ForgetGeneration<'_> {
    fn drop(&mut self) {
        self.0.forget_generation(self.1);
    }
}

#[async_trait]
impl OnlineStore for CachedOnlineStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        let mut forget = Forget { hot: &self.hot, rows };
        self.medium.write(rows).await?;
        forget.rows = &[];
        for row in rows {
            self.hot.update(&row.key, row.generation, &row.row);
        }
        Ok(())
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        let before = self.medium.incarnation().await?;
        self.stand_for(before);
        let now = self.clock.now();
        let mut looked = self.look(groups, now);
        if looked.missed.iter().all(Vec::is_empty) {
            return Ok(looked.rows);
        }
        let keys: Vec<Vec<EntityKey>> =
            groups.iter().zip(&looked.missed).map(|(group, missed)| missed.iter().map(|(place, _)| group.keys[*place].clone()).collect()).collect();
        let asked: Vec<_> = groups.iter().zip(&keys).map(|(group, keys)| ReadGroup { generations: group.generations, keys }).collect();
        let found = self.medium.read(&asked).await?;
        if found.len() != asked.iter().map(ReadGroup::len).sum::<usize>() {
            return Err(Error::Corrupt { what: "the online store's answer", reason: "it has not as many rows as were asked for".to_owned() });
        }
        let after = self.medium.incarnation().await?;
        self.fill(groups, &mut looked, found, (before == after).then_some(before), now);
        Ok(looked.rows)
    }

    fn forget_cached(&self, groups: &[ReadGroup<'_>]) {
        for group in groups {
            for (key, generation) in group.keys.iter().flat_map(|key| group.generations.iter().map(move |generation| (key, generation))) {
                self.hot.forget(key, *generation);
            }
        }
        self.medium.forget_cached(groups);
    }

    async fn sync(&self) -> Result<()> {
        self.medium.sync().await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.medium.published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        self.medium.advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        self.medium.incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        let _forget = ForgetGeneration(&self.hot, generation);
        self.medium.drop_generation(generation).await
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.medium.scan(generation, after, limit).await
    }
}
