//! Fills of the online store that are cut off, and go on where they were.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anabranch_core::{Generation, RandomIds};
use anabranch_ingest::Rebuild;
use anabranch_online_store::{Cursor, Error, Incarnation, MemoryOnlineStore, OnlineStore, Page, ReadGroup, Result, Write};
use anabranch_versioning::{RefSpec, ResetRequest};
use async_trait::async_trait;
use bytes::Bytes;

use crate::world::{LONG, Parts, World, definitions, weather};

/// Rows of history.
const ROWS: u64 = 40;

/// A store that takes so many rows and then no more, and tells in which generations it took them.
#[derive(Debug)]
struct Rationed {
    inner: MemoryOnlineStore,
    left: AtomicU64,
    refused: AtomicBool,
    taken: Mutex<Vec<Generation>>,
}

impl Rationed {
    fn new(seed: u64) -> Arc<Self> {
        let inner = MemoryOnlineStore::new(&RandomIds::seeded(seed));
        Arc::new(Self { inner, left: AtomicU64::new(u64::MAX), refused: AtomicBool::new(false), taken: Mutex::default() })
    }

    /// Forgets what was taken, and takes so many rows from now on.
    fn ration(&self, rows: u64) {
        self.taken.lock().unwrap().clear();
        self.left.store(rows, Ordering::SeqCst);
        self.refused.store(false, Ordering::SeqCst);
    }

    fn taken(&self) -> (u64, BTreeSet<Generation>) {
        let taken = self.taken.lock().unwrap();
        (taken.len() as u64, taken.iter().copied().collect())
    }

    /// Waits until it is asked for more than it takes.
    async fn is_used_up(&self) {
        let used_up = async {
            while !self.refused.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, used_up).await.unwrap();
    }
}

#[async_trait]
impl OnlineStore for Rationed {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        let ration = |left: u64| left.checked_sub(rows.len() as u64);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, ration).is_err() {
            self.refused.store(true, Ordering::SeqCst);
            return Err(Error::Lost);
        }
        self.taken.lock().unwrap().extend(rows.iter().map(|row| row.generation));
        self.inner.write(rows).await
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        self.inner.read(groups).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.inner.published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        self.inner.advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        self.inner.incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        self.inner.drop_generation(generation).await
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.inner.scan(generation, after, limit).await
    }
}

/// A world whose history has [`ROWS`] rows, in one file, over a store of its own.
async fn world(wal: &std::path::Path, online: Arc<Rationed>) -> World {
    let mut parts = Parts { online, ..Parts::in_memory(wal) };
    (parts.config.fill_mark_rows, parts.config.commit_rows) = (5, 1_000);
    let world = World::open(parts).await;
    world.apply(definitions(60)).await.unwrap();
    let rows: Vec<_> = (0..ROWS as i64).map(|n| weather(&format!("a{n}"), n, 1.0, n)).collect();
    world.push_through("weather", format!("[{}]", rows.join(","))).await;
    world.ingest.publish().await.unwrap();
    world
}

/// Restarts a world whose fill took 25 rows and was cut off: nothing that was noted is written again, and all is there in the end.
async fn goes_on(world: World, online: &Rationed) -> (World, BTreeSet<Generation>) {
    online.is_used_up().await;
    let (taken, before) = online.taken();
    assert_eq!((taken, before.len()), (25, 1));
    let parts = world.parts.clone();
    world.end().await;
    online.ration(u64::MAX);
    let world = World::open(parts).await;
    world.wait_filled("main").await;
    assert_eq!(online.taken(), (ROWS - 25, before.clone()));
    world.check_law().await;
    (world, before)
}

#[tokio::test]
async fn a_first_fill_goes_on_within_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = world(folder.path(), Rationed::new(1)).await;
    // The same history under stores that have nothing.
    for seed in [2, 3] {
        let online = Rationed::new(seed);
        online.ration(25);
        let parts = Parts { online: Arc::clone(&online) as Arc<dyn OnlineStore>, ..world.parts.clone() };
        world.end().await;
        world = World::open(parts).await;
        online.is_used_up().await;
        // The second is lost meanwhile with what was noted of it, and filled from the beginning.
        if seed == 2 {
            world = goes_on(world, &online).await.0;
        }
    }
    let online = Rationed::new(4);
    let parts = Parts { online: Arc::clone(&online) as Arc<dyn OnlineStore>, ..world.parts.clone() };
    world.end().await;
    let world = World::open(parts).await;
    world.wait_filled("main").await;
    assert_eq!(online.taken().0, ROWS);
    world.check_law().await;
}

#[tokio::test]
async fn a_fill_after_a_move_that_took_rows_away_goes_on_in_its_generation() {
    let folder = tempfile::tempdir().unwrap();
    let online = Rationed::new(9);
    let world = world(folder.path(), Arc::clone(&online)).await;
    let kept = world.head().await;
    world.push_through("weather", weather("a1", 100, 1.0, 100)).await;
    world.ingest.publish().await.unwrap();
    let old = world.ingest.served().unwrap().views["weather"].generation;
    online.ration(25);
    let moved = world.ingest.reset("main", ResetRequest::new(RefSpec::commit(kept), "ada")).await;
    assert!(moved.is_err(), "it waits for the fill, which fails: {moved:?}");
    let (world, filled) = goes_on(world, &online).await;
    let new = world.ingest.served().unwrap().views["weather"].generation;
    assert!(new != old && filled.contains(&new));
    // Another move begins with another generation.
    let kept = world.head().await;
    world.push_through("weather", weather("a1", 200, 1.0, 200)).await;
    world.ingest.reset("main", ResetRequest::new(RefSpec::commit(kept), "ada")).await.unwrap();
    world.check_law().await;
    assert_ne!(world.ingest.served().unwrap().views["weather"].generation, new);
    assert_eq!(world.offline_ids("weather").await, (0..ROWS as i64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_rebuild_goes_on_within_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let online = Rationed::new(9);
    let world = world(folder.path(), Arc::clone(&online)).await;
    online.ration(25);
    world.ingest.rebuild("main", &Rebuild { views: vec!["weather".into()], rows_per_second: None }).await.unwrap();
    goes_on(world, &online).await;
}
