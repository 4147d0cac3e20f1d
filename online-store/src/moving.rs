//! Two stores, of which one takes the other's place without a pause.
//!
//! ```text
//! serving: A   ── follow ──▶ serving: A, B is written too ── copy, compare ──▶ swap ──▶ serving: B, A is written too
//! ```
//!
//! Reads, advances and the incarnation are the serving store's. What is written goes to the serving store first, so whatever the other one holds the serving one holds,
//! or a greater row. Where the other one fails it is *behind*: it is written to no more, and must be followed and copied anew; whoever writes is not told.
//!
//! A copy may go on beside writers: rows are idempotent, and the greatest stays. Only with all writers kept away do the two hold the same, which is when
//! [`MovingStore::swap`] may be called; who calls sees to that, and advances the other store's generations first.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::{EntityKey, Generation};
use async_trait::async_trait;
use bytes::Bytes;

use crate::{Cursor, Error, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};

/// Rows that are copied or compared at once.
const ROWS: usize = 2_000;

/// A store that is served, and one that is to take its place.
pub struct MovingStore {
    stores: [Arc<dyn OnlineStore>; 2],
    /// The second one is served.
    moved: AtomicBool,
    /// The one that is not served is written to.
    following: AtomicBool,
    /// Why it is not any more.
    behind: Mutex<Option<Error>>,
}

impl fmt::Debug for MovingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovingStore").field("serving", self.serving()).field("following", &self.is_following()).finish_non_exhaustive()
    }
}

impl MovingStore {
    /// Serves the first store.
    pub fn new(serving: Arc<dyn OnlineStore>, next: Arc<dyn OnlineStore>) -> Self {
        Self { stores: [serving, next], moved: AtomicBool::new(false), following: AtomicBool::new(false), behind: Mutex::new(None) }
    }

    fn serving(&self) -> &Arc<dyn OnlineStore> {
        &self.stores[usize::from(self.moved.load(Ordering::Acquire))]
    }

    /// The store that is not served.
    pub fn other(&self) -> &Arc<dyn OnlineStore> {
        &self.stores[usize::from(!self.moved.load(Ordering::Acquire))]
    }

    /// Whether the other store was swapped in.
    pub fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Writes the other store, too, from now on.
    pub fn follow(&self) {
        self.following.store(true, Ordering::Release);
    }

    /// Whether the other store has taken every write since [`MovingStore::follow`].
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Acquire)
    }

    /// Why the other store is behind, where it fell behind since this was asked last.
    pub fn fell_behind(&self) -> Option<Error> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Copies a generation to the other store; answers how many rows it has.
    ///
    /// # Errors
    /// What either store fails with.
    pub async fn copy(&self, generation: Generation) -> Result<u64> {
        let (mut rows, mut after) = (0, None);
        loop {
            let page = self.serving().scan(generation, after.as_ref(), ROWS).await?;
            rows += page.rows.len() as u64;
            let writes: Vec<_> = page.rows.into_iter().map(|(key, row)| Write { generation, key, row }).collect();
            self.other().write(&writes).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(rows),
            }
        }
    }

    /// The entities of a generation whose rows are not the same in both stores; some may only have been written meanwhile.
    ///
    /// # Errors
    /// What either store fails with.
    pub async fn differing(&self, generation: Generation) -> Result<Vec<EntityKey>> {
        let mut differing = Vec::new();
        for (scanned, read) in [(self.serving(), self.other()), (self.other(), self.serving())] {
            let mut after = None;
            loop {
                let page = scanned.scan(generation, after.as_ref(), ROWS).await?;
                let keys: Vec<_> = page.rows.iter().map(|(key, _)| key.clone()).collect();
                let rows = read.read(&[ReadGroup { generations: &[generation], keys: &keys }]).await?;
                let unlike = page.rows.into_iter().zip(rows).filter(|((_, row), other)| other.as_ref() != Some(row));
                differing.extend(unlike.map(|((key, _), _)| key));
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        differing.sort_unstable();
        differing.dedup();
        Ok(differing)
    }

    /// Copies the rows of some entities to the other store, and answers how many of them differ afterwards: with all writers kept away those that cannot be
    /// the same, because the other store holds a greater row.
    ///
    /// # Errors
    /// What either store fails with.
    pub async fn copy_keys(&self, generation: Generation, keys: &[EntityKey]) -> Result<u64> {
        let mut differing = 0;
        for keys in keys.chunks(ROWS) {
            let group = [ReadGroup { generations: &[generation], keys }];
            let rows = self.serving().read(&group).await?;
            let there = keys.iter().zip(&rows).filter_map(|(key, row)| Some(Write { generation, key: key.clone(), row: row.clone()? }));
            self.other().write(&there.collect::<Vec<_>>()).await?;
            let others = self.other().read(&group).await?;
            differing += rows.iter().zip(&others).filter(|(row, other)| row != other).count() as u64;
        }
        Ok(differing)
    }

    /// Serves the other store from now on. Nobody writes meanwhile.
    pub fn swap(&self) {
        self.moved.fetch_xor(true, Ordering::AcqRel);
    }

    /// Falls behind where a write to the other store failed.
    fn followed(&self, done: Result<()>) {
        if let Err(error) = done {
            *self.behind.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.following.store(false, Ordering::Release);
        }
    }
}

#[async_trait]
impl OnlineStore for MovingStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        self.serving().write(rows).await?;
        if self.is_following() {
            self.followed(self.other().write(rows).await);
        }
        Ok(())
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        self.serving().read(groups).await
    }

    async fn sync(&self) -> Result<()> {
        self.serving().sync().await?;
        if self.is_following() {
            self.followed(self.other().sync().await);
        }
        Ok(())
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.serving().published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        self.serving().advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        self.serving().incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        self.serving().drop_generation(generation).await?;
        // What is left there of a generation that was dropped would never be dropped again.
        self.other().drop_generation(generation).await
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.serving().scan(generation, after, limit).await
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::RandomIds;
    use async_trait::async_trait;

    use super::*;
    use crate::testkit::{self, StoreUnderTest};
    use crate::{MemoryOnlineStore, OnlineStoreExt};

    const G: Generation = Generation(1);

    fn two() -> (Arc<MemoryOnlineStore>, Arc<MemoryOnlineStore>, MovingStore) {
        let (a, b) = (Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(1))), Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(2))));
        let moving = MovingStore::new(Arc::clone(&a) as _, Arc::clone(&b) as _);
        (a, b, moving)
    }

    struct Moving {
        serving: Arc<MemoryOnlineStore>,
        moving: Arc<MovingStore>,
    }

    #[async_trait]
    impl StoreUnderTest for Moving {
        fn store(&self) -> Arc<dyn OnlineStore> {
            Arc::clone(&self.moving) as _
        }

        async fn crash(&mut self) {
            self.serving.crash();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_laws_while_it_follows() {
        let (serving, _, moving) = two();
        moving.follow();
        testkit::every_law(&mut Moving { serving, moving: Arc::new(moving) }).await;
    }

    #[tokio::test]
    async fn rows_of_before_are_copied_and_rows_of_since_written_to_both() {
        let (_, b, moving) = two();
        let row = |i: i64, time: i64| testkit::write(G, i, testkit::at(time), b"x");
        moving.write(&[row(1, 1), row(2, 1)]).await.unwrap();
        assert!(b.scan_all(G).await.unwrap().is_empty());
        moving.follow();
        moving.write(&[row(2, 2), row(3, 1)]).await.unwrap();
        assert_eq!(moving.differing(G).await.unwrap(), [testkit::entity(1)]);
        assert_eq!(moving.copy(G).await.unwrap(), 3);
        assert!(moving.differing(G).await.unwrap().is_empty());
        moving.swap();
        assert_eq!(moving.incarnation().await.unwrap(), b.incarnation().await.unwrap());
        assert_eq!(moving.scan_all(G).await.unwrap().len(), 3);
        // Rows go on to both, so it may be moved back.
        moving.write(&[row(4, 1)]).await.unwrap();
        moving.swap();
        assert_eq!(moving.scan_all(G).await.unwrap().len(), 4);
    }

    #[tokio::test]
    async fn what_the_other_store_holds_too_much_differs_for_good() {
        let (_, b, moving) = two();
        moving.follow();
        let row = |i: i64, time: i64| testkit::write(G, i, testkit::at(time), b"x");
        moving.write(&[row(1, 1)]).await.unwrap();
        b.write(&[row(1, 9), row(7, 1)]).await.unwrap();
        let differing = moving.differing(G).await.unwrap();
        assert_eq!(differing, [testkit::entity(1), testkit::entity(7)]);
        assert_eq!(moving.copy_keys(G, &differing).await.unwrap(), 2);
    }
}
