//! The store on real Redis servers, alone and as a cluster of three: every law of the kit, and what happens to servers.

#![expect(clippy::unwrap_used, reason = "what helps a test fails it")]

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{ErrorKind, Generation, Kinded, RandomIds};
use anabranch_online_store::testkit::redis::{DURABLE, TestCluster, TestRedis, VOLATILE};
use anabranch_online_store::testkit::{StoreUnderTest, advance, at, entity, every_law, row, write};
use anabranch_online_store::{Error, OnlineStore, OnlineStoreExt, ReadGroup, RedisConfig, RedisOnlineStore, RedisUrl, Write};
use async_trait::async_trait;

const G: Generation = Generation(1);

async fn open(config: &RedisConfig) -> RedisOnlineStore {
    RedisOnlineStore::open(config, Arc::new(RandomIds::from_os())).await.unwrap()
}

async fn refusal(config: &RedisConfig) -> Error {
    RedisOnlineStore::open(config, Arc::new(RandomIds::from_os())).await.unwrap_err()
}

fn rows(count: i64, time: i64) -> Vec<Write> {
    (0..count).map(|i| write(G, i, at(time), b"x")).collect()
}

/// How many of a number of entities have the row of a time.
async fn count(store: &dyn OnlineStore, entities: i64, time: i64) -> usize {
    let keys: Vec<_> = (0..entities).map(entity).collect();
    let held = store.read(&[ReadGroup { generations: &[G], keys: &keys }]).await.unwrap();
    held.iter().filter(|held| **held == Some(row(at(time), b"x"))).count()
}

/// Crashes by `kill -9` of every server; the store is opened again.
struct OnRedis {
    servers: Servers,
    store: Arc<RedisOnlineStore>,
}

enum Servers {
    Single(TestRedis),
    Cluster(TestCluster),
}

impl Servers {
    fn config(&self) -> RedisConfig {
        match self {
            Self::Single(server) => server.config(),
            Self::Cluster(cluster) => cluster.config(),
        }
    }
}

impl OnRedis {
    async fn new(servers: Servers) -> Self {
        let store = Arc::new(open(&servers.config()).await);
        Self { servers, store }
    }
}

#[async_trait]
impl StoreUnderTest for OnRedis {
    fn store(&self) -> Arc<dyn OnlineStore> {
        Arc::clone(&self.store) as _
    }

    async fn crash(&mut self) {
        match &mut self.servers {
            Servers::Single(server) => {
                server.kill();
                server.run();
            }
            Servers::Cluster(cluster) => {
                cluster.nodes.iter_mut().for_each(TestRedis::kill);
                cluster.nodes.iter_mut().for_each(TestRedis::run);
                cluster.wait_until_whole();
            }
        }
        self.store = Arc::new(open(&self.servers.config()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_redis_keeps_every_law() {
    every_law(&mut OnRedis::new(Servers::Single(TestRedis::start(DURABLE))).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_keeps_every_law() {
    every_law(&mut OnRedis::new(Servers::Cluster(TestCluster::start(DURABLE))).await).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_another_incarnation_that_answers_for_nothing() {
    let mut server = TestRedis::start(VOLATILE);
    let store = open(&server.config()).await;
    store.write(&rows(10, 1)).await.unwrap();
    advance(&store, G, b"c1").await;
    let before = store.incarnation().await.unwrap();
    server.kill();
    server.run();
    // A lookup finds nothing, and with it that the store is another.
    assert_eq!(store.get(G, &entity(1)).await.unwrap(), None);
    let after = store.incarnation().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(store.published_to(G).await.unwrap(), None);
    assert!(matches!(store.advance(G, b"c1", before).await.unwrap_err(), Error::Lost));
    store.write(&rows(10, 1)).await.unwrap();
    assert_eq!(count(&store, 10, 1).await, 10);
    assert_eq!(open(&server.config()).await.incarnation().await.unwrap(), after);
}

#[tokio::test]
async fn a_redis_that_comes_back_with_an_old_snapshot_is_another_incarnation() {
    let mut server = TestRedis::start(VOLATILE);
    let store = open(&server.config()).await;
    store.write(&rows(10, 1)).await.unwrap();
    advance(&store, G, b"c1").await;
    server.ask(&["SAVE"]);
    store.write(&rows(10, 2)).await.unwrap();
    let before = store.incarnation().await.unwrap();
    server.kill();
    server.run();
    store.sync().await.unwrap();
    assert_ne!(store.incarnation().await.unwrap(), before);
    assert_eq!(store.published_to(G).await.unwrap(), None);
    // What the snapshot had is true all the same, and gives way to what is greater.
    assert_eq!(count(&store, 10, 1).await, 10);
    store.write(&rows(10, 2)).await.unwrap();
    assert_eq!(count(&store, 10, 2).await, 10);
}

/// A runtime's connection for lookups is younger than what was verified of the process that it leads to.
#[tokio::test]
async fn a_runtime_that_looks_up_first_finds_a_redis_that_was_replaced() {
    let mut server = TestRedis::start(VOLATILE);
    let store = open(&server.config()).await;
    store.write(&rows(10, 1)).await.unwrap();
    server.ask(&["SAVE"]);
    store.write(&rows(10, 2)).await.unwrap();
    let before = store.incarnation().await.unwrap();
    server.kill();
    server.run();
    let elsewhere = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(count(&store, 10, 1));
    let found = std::thread::scope(|scope| scope.spawn(elsewhere).join()).unwrap();
    assert_eq!(found, 10);
    assert_ne!(store.incarnation().await.unwrap(), before, "rows of an old snapshot were served as the newest");
}

#[tokio::test]
async fn a_durable_redis_that_is_killed_is_what_it_was_and_nothing_is_restarted() {
    let mut server = TestRedis::start(DURABLE);
    let store = open(&server.config()).await;
    store.write(&rows(10, 1)).await.unwrap();
    advance(&store, G, b"c1").await;
    let before = store.incarnation().await.unwrap();
    for _ in 0..3 {
        server.kill();
        server.run();
        assert_eq!(count(&store, 10, 1).await, 10);
        assert_eq!(store.incarnation().await.unwrap(), before);
        assert_eq!(store.published_to(G).await.unwrap().as_deref(), Some(&b"c1"[..]));
    }
    // A disk that was replaced is a loss like any other.
    server.kill();
    server.run_empty();
    store.sync().await.unwrap();
    assert_ne!(store.incarnation().await.unwrap(), before);
    // A log that is not synced with every write promises nothing.
    let before = store.incarnation().await.unwrap();
    server.ask(&["CONFIG", "SET", "appendfsync", "everysec"]);
    store.sync().await.unwrap();
    assert_eq!(store.incarnation().await.unwrap(), before);
    server.kill();
    server.run();
    store.sync().await.unwrap();
    assert_ne!(store.incarnation().await.unwrap(), before);
}

#[tokio::test]
async fn a_flush_is_found_by_the_next_lookup_and_by_the_next_sync() {
    let server = TestRedis::start(DURABLE);
    let store = open(&server.config()).await;
    store.write(&rows(1, 1)).await.unwrap();
    let first = store.incarnation().await.unwrap();
    server.ask(&["FLUSHALL"]);
    assert_eq!(store.get(G, &entity(0)).await.unwrap(), None);
    let second = store.incarnation().await.unwrap();
    server.ask(&["FLUSHALL"]);
    store.sync().await.unwrap();
    let third = store.incarnation().await.unwrap();
    assert!(first != second && second != third);
}

#[tokio::test]
async fn a_node_that_comes_back_empty_makes_the_cluster_another_incarnation() {
    let mut cluster = TestCluster::start(DURABLE);
    let store = open(&cluster.config()).await;
    let other = open(&cluster.config()).await;
    store.write(&rows(300, 1)).await.unwrap();
    advance(&store, G, b"c1").await;
    let before = store.incarnation().await.unwrap();
    cluster.nodes[1].kill();
    cluster.nodes[1].run_empty();
    cluster.wait_until_whole();
    let left = count(&store, 300, 1).await;
    assert!((100..300).contains(&left), "{left} rows are left");
    let after = store.incarnation().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(store.published_to(G).await.unwrap(), None);
    // Another server hears of it with its next lookup, wherever that goes.
    for i in 0..3 {
        other.get(G, &entity(i)).await.unwrap();
    }
    assert_eq!(other.incarnation().await.unwrap(), after);
    store.write(&rows(300, 1)).await.unwrap();
    assert_eq!(count(&other, 300, 1).await, 300);
}

#[tokio::test]
async fn slots_that_move_while_rows_are_written_and_read_lose_none() {
    let cluster = Arc::new(TestCluster::start(DURABLE));
    let store = Arc::new(open(&cluster.config()).await);
    let before = store.incarnation().await.unwrap();
    store.write(&rows(400, 0)).await.unwrap();
    let moving = tokio::task::spawn_blocking({
        let cluster = Arc::clone(&cluster);
        move || {
            cluster.move_slots(0, 1, 300);
            cluster.move_slots(1, 2, 300);
        }
    });
    let mut time = 0;
    while !moving.is_finished() {
        time += 1;
        store.write(&rows(400, time)).await.unwrap();
        assert_eq!(count(&*store, 400, time).await, 400);
    }
    moving.await.unwrap();
    store.write(&rows(400, time + 1)).await.unwrap();
    assert_eq!(count(&*store, 400, time + 1).await, 400);
    assert_eq!(store.scan_all(G).await.unwrap().len(), 400);
    store.sync().await.unwrap();
    assert_eq!(store.incarnation().await.unwrap(), before);
    assert_eq!(open(&cluster.config()).await.incarnation().await.unwrap(), before);
}

#[tokio::test]
async fn lookups_cost_one_question_again_once_the_slot_of_their_marker_has_moved() {
    let cluster = TestCluster::start(DURABLE);
    let store = open(&cluster.config()).await;
    store.write(&rows(300, 1)).await.unwrap();
    let questions = || -> u64 {
        let stats = cluster.nodes[0].ask(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls=")?.split(',').next()?.parse().ok());
        calls.unwrap_or_default()
    };
    // The last of the node's slots is the one whose marker its lookups carry.
    cluster.move_slot(5_460, 0, 1);
    let mut asked = Vec::new();
    for i in 0..300 {
        let before = questions();
        assert!(store.get(G, &entity(i)).await.unwrap().is_some());
        asked.push(questions() - before);
    }
    // The first lookup there finds out; entities of other nodes cost this one nothing.
    asked.retain(|questions| *questions > 0);
    assert!(asked.len() > 50 && asked[1..].iter().all(|questions| *questions == 1), "{asked:?}");
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_an_error_in_time_and_is_used_again_when_it_does() {
    let server = TestRedis::start(DURABLE);
    let store = open(&RedisConfig { lookup_timeout_ms: 200, timeout_ms: 400, ..server.config() }).await;
    store.write(&rows(10, 1)).await.unwrap();
    server.freeze(true);
    for _ in 0..2 {
        let error = store.get(G, &entity(1)).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { limit_ms: 200, .. }) && error.kind() == ErrorKind::Unavailable, "{error}");
        let error = store.write(&rows(10, 2)).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { limit_ms: 400, .. }), "{error}");
        assert_eq!(store.sync().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(store.drop_generation(G).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(store.scan(G, None, 10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    server.freeze(false);
    until_well(|| store.sync()).await;
    until_well(|| async { store.get(G, &entity(1)).await.map(|_| ()) }).await;
}

/// Tries again what may fail for as long as a loaded machine is slower than the limit.
async fn until_well<F: Future<Output = anabranch_online_store::Result<()>>>(mut work: impl FnMut() -> F) {
    let trying = async {
        while let Err(error) = work().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), trying).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_is_gone_is_an_error_and_is_used_again_when_it_is_back() {
    let mut server = TestRedis::start(DURABLE);
    let store = Arc::new(open(&server.config()).await);
    // It goes while rows are on their way; whoever wrote them writes them again.
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut failures = 0;
            for time in 1..=200 {
                while let Err(error) = store.write(&rows(50, time)).await {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            failures
        }
    });
    while store.get(G, &entity(0)).await.unwrap().is_none() {}
    server.kill();
    let error = store.get(G, &entity(1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && !error.to_string().is_empty(), "{error}");
    assert!(store.read(&[]).await.is_ok(), "what asks for nothing needs no server");
    server.run();
    writer.await.unwrap();
    assert_eq!(count(&*store, 50, 200).await, 50);
}

#[tokio::test]
async fn a_redis_that_forgot_the_script_is_told_again() {
    let server = TestRedis::start(VOLATILE);
    let store = open(&server.config()).await;
    store.write(&rows(1_000, 1)).await.unwrap();
    server.ask(&["SCRIPT", "FLUSH"]);
    store.write(&rows(1_000, 2)).await.unwrap();
    assert_eq!(count(&store, 1_000, 2).await, 1_000);
}

#[tokio::test]
async fn a_full_memory_refuses_rows_and_keeps_those_it_has() {
    let server = TestRedis::start(VOLATILE);
    let store = open(&server.config()).await;
    store.write(&rows(100, 1)).await.unwrap();
    server.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let error = store.write(&rows(100, 2)).await.unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }) && error.kind() == ErrorKind::Exhausted, "{error}");
    assert!(error.to_string().contains("maxmemory"), "{error}");
    assert_eq!(count(&store, 100, 1).await, 100);
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    store.write(&rows(100, 2)).await.unwrap();
    assert_eq!(count(&store, 100, 2).await, 100);
}

#[tokio::test]
async fn what_cannot_be_relied_on_is_refused_and_named() {
    let server = TestRedis::start(VOLATILE);
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let error = refusal(&server.config()).await;
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("noeviction"), "{error}");
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let two = format!("redis://{},127.0.0.1:1", server.address());
    let error = refusal(&RedisConfig { url: RedisUrl(two), ..server.config() }).await;
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("no node of a cluster"), "{error}");
    server.ask(&["CONFIG", "SET", "requirepass", "secret"]);
    let error = refusal(&server.config()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let with_password = RedisConfig { url: RedisUrl(format!("redis://:secret@{}", server.address())), ..server.config() };
    let store = open(&with_password).await;
    assert!(!format!("{store:?}").contains("secret"));
    let nobody = RedisConfig { url: RedisUrl("redis://127.0.0.1:1".to_owned()), ..server.config() };
    assert_eq!(refusal(&nobody).await.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn stores_under_other_prefixes_are_apart() {
    let server = TestRedis::start(VOLATILE);
    let (one, other) = (open(&server.config()).await, open(&RedisConfig { prefix: "test2".to_owned(), ..server.config() }).await);
    one.write(&rows(10, 1)).await.unwrap();
    advance(&one, G, b"c1").await;
    assert_eq!((other.scan_all(G).await.unwrap().len(), other.published_to(G).await.unwrap()), (0, None));
    assert_ne!(one.incarnation().await.unwrap(), other.incarnation().await.unwrap());
    other.drop_generation(G).await.unwrap();
    assert_eq!(one.scan_all(G).await.unwrap().len(), 10);
}

#[tokio::test]
async fn the_last_generation_that_is_dropped_leaves_no_entity_behind() {
    let server = TestRedis::start(VOLATILE);
    let store = open(&server.config()).await;
    let empty: u64 = server.ask(&["DBSIZE"]).trim().parse().unwrap();
    for generation in [G, Generation(2)] {
        store.write(&(0..2_500).map(|i| write(generation, i, at(1), b"x")).collect::<Vec<_>>()).await.unwrap();
    }
    store.drop_generation(G).await.unwrap();
    assert_eq!(store.scan_all(Generation(2)).await.unwrap().len(), 2_500);
    store.drop_generation(Generation(2)).await.unwrap();
    assert_eq!(server.ask(&["DBSIZE"]).trim().parse::<u64>().unwrap(), empty);
}
