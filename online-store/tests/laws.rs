//! Every store keeps every law of the kit, and holds the greatest row of each entity whatever random writers do.

#![expect(clippy::unwrap_used, reason = "what helps a test fails it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::{EntityKey, Generation, RandomIds, Span, SystemClock};
use anabranch_online_store::testkit::redis::{DURABLE, TestRedis};
use anabranch_online_store::testkit::{StoreUnderTest, entity, every_law, order, write};
use anabranch_online_store::{
    CachedOnlineStore, CoalescingOnlineStore, EmbeddedConfig, EmbeddedOnlineStore, MemoryOnlineStore, OnlineStore, OnlineStoreExt, RedisOnlineStore,
    Write,
};
use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

struct Memory(Arc<MemoryOnlineStore>);

#[async_trait]
impl StoreUnderTest for Memory {
    fn store(&self) -> Arc<dyn OnlineStore> {
        Arc::clone(&self.0) as _
    }

    async fn crash(&mut self) {
        self.0.crash();
    }
}

/// Crashes by being dropped without a sync; `kill.rs` kills.
struct Embedded {
    folder: TempDir,
    config: EmbeddedConfig,
    store: Option<Arc<EmbeddedOnlineStore>>,
}

impl Embedded {
    async fn new(hot_bytes: u64) -> Self {
        let config = EmbeddedConfig { hot_bytes, memtable_bytes: 1 << 20, reserve_bytes: 0, ..EmbeddedConfig::default() };
        let mut embedded = Self { folder: tempfile::tempdir().unwrap(), config, store: None };
        embedded.open().await;
        embedded
    }

    async fn open(&mut self) {
        let store = EmbeddedOnlineStore::open(self.folder.path().join("online"), &self.config, &RandomIds::from_os()).await;
        self.store = Some(Arc::new(store.unwrap()));
    }
}

#[async_trait]
impl StoreUnderTest for Embedded {
    fn store(&self) -> Arc<dyn OnlineStore> {
        Arc::clone(self.store.as_ref().unwrap()) as _
    }

    async fn crash(&mut self) {
        self.store = None;
        self.open().await;
    }
}

/// The memory store under layers that end with their process.
struct Layered {
    medium: Arc<MemoryOnlineStore>,
    store: Arc<dyn OnlineStore>,
    bytes: u64,
}

impl Layered {
    fn new(bytes: u64) -> Self {
        let medium = Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(1)));
        let store = Self::layers(&medium, bytes);
        Self { medium, store, bytes }
    }

    fn layers(medium: &Arc<MemoryOnlineStore>, bytes: u64) -> Arc<dyn OnlineStore> {
        let once = Arc::new(CoalescingOnlineStore::new(Arc::clone(medium) as _));
        Arc::new(CachedOnlineStore::new(once, bytes, Some(Span::seconds(3_600)), Arc::new(SystemClock)))
    }
}

#[async_trait]
impl StoreUnderTest for Layered {
    fn store(&self) -> Arc<dyn OnlineStore> {
        Arc::clone(&self.store)
    }

    async fn crash(&mut self) {
        self.medium.crash();
        self.store = Self::layers(&self.medium, self.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_under_a_cache_keeps_every_law() {
    every_law(&mut Layered::new(64 << 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_under_a_cache_that_is_far_too_small_keeps_every_law() {
    every_law(&mut Layered::new(64 * 400)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_keeps_every_law() {
    every_law(&mut Memory(Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(1))))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_law() {
    every_law(&mut Embedded::new(64 << 20).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_law_without_a_table_in_memory() {
    every_law(&mut Embedded::new(0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_law_with_a_table_that_is_far_too_small() {
    every_law(&mut Embedded::new(64 * 400).await).await;
}

#[tokio::test]
async fn a_memory_store_that_lost_all_is_another_incarnation() {
    let ids = RandomIds::seeded(1);
    let store = MemoryOnlineStore::new(&ids);
    let before = store.incarnation().await.unwrap();
    store.write(&[write(Generation(1), 1, order([1, 1, 1], 1, 1), b"")]).await.unwrap();
    store.lose(&ids);
    assert_ne!(store.incarnation().await.unwrap(), before);
    assert_eq!(store.get(Generation(1), &entity(1)).await.unwrap(), None);
}

fn random_write() -> impl Strategy<Value = Write> {
    let time = || prop_oneof![4 => -2..3_i64, 1 => any::<i64>()];
    let place = (0..2_u32, 0..3_u64);
    (0..2_u64, 0..4_i64, time(), time(), time(), place, proptest::collection::vec(any::<u8>(), 0..3)).prop_map(
        |(generation, i, event, known, arrival, (source, position), payload)| {
            write(Generation(generation), i, order([event, known, arrival], source, position), &payload)
        },
    )
}

/// Writes with replays, cut into batches.
fn history() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let replayed = proptest::collection::vec(random_write(), 1..40).prop_flat_map(|writes| {
        let again = proptest::sample::subsequence(writes.clone(), 0..=writes.len());
        (Just(writes), again).prop_map(|(writes, again)| [writes, again].concat()).prop_shuffle()
    });
    (replayed, 1..9_usize).prop_map(|(writes, size)| writes.chunks(size).map(<[Write]>::to_vec).collect())
}

fn greatest(batches: &[Vec<Write>]) -> BTreeMap<(Generation, EntityKey), Bytes> {
    let mut rows: BTreeMap<_, Bytes> = BTreeMap::new();
    for write in batches.iter().flatten() {
        let row = rows.entry((write.generation, write.key.clone())).or_default();
        *row = row.clone().max(write.row.clone());
    }
    rows
}

async fn held(store: &dyn OnlineStore, base: u64) -> BTreeMap<(Generation, EntityKey), Bytes> {
    let mut rows = BTreeMap::new();
    for generation in 0..2 {
        for (key, row) in store.scan_all(Generation(base + generation)).await.unwrap() {
            assert_eq!(store.get(Generation(base + generation), &key).await.unwrap().as_ref(), Some(&row), "a read and a scan agree");
            rows.insert((Generation(generation), key), row);
        }
    }
    rows
}

/// Applies a history with two concurrent writers of half the batches each, under generations from `base`.
async fn apply(store: &Arc<dyn OnlineStore>, base: u64, batches: &[Vec<Write>]) {
    let mut writers = Vec::new();
    for half in 0..2 {
        let (store, mut mine) = (Arc::clone(store), batches.iter().skip(half).step_by(2).cloned().collect::<Vec<_>>());
        writers.push(tokio::spawn(async move {
            for batch in &mut mine {
                batch.iter_mut().for_each(|write| write.generation.0 += base);
                store.write(batch).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[test]
fn stores_hold_the_greatest_row_of_each_entity_whatever_the_interleaving() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let memory: Arc<dyn OnlineStore> = Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(1)));
    let embedded = tokio::sync::Mutex::new(runtime.block_on(Embedded::new(64 * 600)));
    let server = std::sync::Mutex::new(TestRedis::start(DURABLE));
    let config = server.lock().unwrap().config();
    let redis: Arc<dyn OnlineStore> = Arc::new(runtime.block_on(RedisOnlineStore::open(&config, Arc::new(RandomIds::seeded(2)))).unwrap());
    let cases = AtomicU64::new(100);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) });
    let result = runner.run(&(history(), proptest::bool::weighted(0.05)), |(batches, reopen)| {
        let base = cases.fetch_add(1, Ordering::Relaxed) * 10;
        // A Redis that syncs every write takes its time.
        let on_redis = (base.is_multiple_of(40) || reopen).then(|| {
            runtime.block_on(apply(&redis, base, &batches));
            if reopen {
                let mut server = server.lock().unwrap();
                server.kill();
                server.run();
            }
            runtime.block_on(held(&*redis, base))
        });
        let (in_memory, in_folder) = runtime.block_on(async {
            apply(&memory, base, &batches).await;
            let mut embedded = embedded.lock().await;
            apply(&embedded.store(), base, &batches).await;
            if reopen {
                embedded.store().sync().await.unwrap();
                embedded.crash().await;
            }
            (held(&*memory, base).await, held(&*embedded.store(), base).await)
        });
        let expected = greatest(&batches);
        prop_assert_eq!(&in_memory, &expected);
        prop_assert_eq!(&in_folder, &expected);
        prop_assert!(on_redis.is_none_or(|on_redis| on_redis == expected));
        Ok(())
    });
    result.unwrap();
}
