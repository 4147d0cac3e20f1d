//! The store on a real Cassandra 5: every law of the kit, and what happens to servers. Tests that end their server have one of their own; the others
//! share one, under prefixes of their own.

#![expect(clippy::unwrap_used, reason = "what helps a test fails it")]

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use anabranch_core::{ErrorKind, Generation, Kinded, RandomIds};
use anabranch_online_store::testkit::cql::{DURABLE, PERIODIC, TestCassandra};
use anabranch_online_store::testkit::{StoreUnderTest, advance, at, entity, every_law, order, row, write};
use anabranch_online_store::{CqlConfig, CqlOnlineStore, Error, MAX_ROW_BYTES, OnlineStore, OnlineStoreExt, Password, ReadGroup, Write};
use async_trait::async_trait;

const G: Generation = Generation(1);

/// The server that tests share; it ends with the last of them, so hold it.
fn shared() -> Arc<TestCassandra> {
    static SHARED: OnceLock<Mutex<Weak<TestCassandra>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        // By default it gives a page up that passes over 100,000 tombstones.
        let server = Arc::new(TestCassandra::start(&format!("{DURABLE}\ntombstone_warn_threshold: 100\ntombstone_failure_threshold: 200")));
        *shared = Arc::downgrade(&server);
        server
    })
}

async fn open(config: &CqlConfig) -> CqlOnlineStore {
    CqlOnlineStore::open(config, Arc::new(RandomIds::from_os())).await.unwrap()
}

async fn refusal(config: &CqlConfig) -> Error {
    CqlOnlineStore::open(config, Arc::new(RandomIds::from_os())).await.unwrap_err()
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

/// Crashes by `kill -9` of the server, the first time of each law that crashes more than once; else the store alone is opened again.
struct OnCassandra {
    server: TestCassandra,
    store: Arc<CqlOnlineStore>,
    crashes: usize,
}

#[async_trait]
impl StoreUnderTest for OnCassandra {
    fn store(&self) -> Arc<dyn OnlineStore> {
        Arc::clone(&self.store) as _
    }

    async fn crash(&mut self) {
        // A server takes its time to start: the laws crash eight times.
        if [0, 3, 7].contains(&self.crashes) {
            self.server.kill();
            self.server.run();
        }
        self.crashes += 1;
        self.store = Arc::new(open(&self.server.config("laws")).await);
    }
}

/// One after the other on one server, for a server takes its time to start.
#[tokio::test(flavor = "multi_thread")]
async fn a_cassandra_keeps_every_law_and_whatever_happens_to_it_is_noticed() {
    let server = TestCassandra::start(DURABLE);
    let store = Arc::new(open(&server.config("laws")).await);
    let mut under_test = OnCassandra { server, store, crashes: 0 };
    every_law(&mut under_test).await;
    let OnCassandra { mut server, store, .. } = under_test;
    one_that_does_not_answer_is_an_error_in_time_and_is_used_again_when_it_does(&server).await;
    one_that_comes_back_empty_is_another_incarnation_that_answers_for_nothing(&mut server, &store).await;
    one_that_syncs_now_and_then_is_another_incarnation_once_it_began_anew(server, store).await;
}

async fn one_that_does_not_answer_is_an_error_in_time_and_is_used_again_when_it_does(server: &TestCassandra) {
    open(&server.config("frozen")).await;
    let store = open(&CqlConfig { lookup_timeout_ms: 500, timeout_ms: 5_000, ..server.config("frozen") }).await;
    let one = [write(G, 1, at(1), b"x")];
    until_well(|| store.write(&one)).await;
    server.freeze(true);
    let error = store.get(G, &entity(1)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { limit_ms: 500, .. }) && error.kind() == ErrorKind::Unavailable, "{error}");
    let two = rows(10, 2);
    let changes = [store.write(&two), store.sync(), store.drop_generation(Generation(2))];
    for changed in futures::future::join_all(changes).await {
        assert!(matches!(changed.unwrap_err(), Error::Timeout { limit_ms: 5_000, .. }));
    }
    server.freeze(false);
    until_well(|| store.sync()).await;
    until_well(|| async { store.get(G, &entity(1)).await.map(|_| ()) }).await;
}

/// From here on it syncs its log now and then.
async fn one_that_comes_back_empty_is_another_incarnation_that_answers_for_nothing(server: &mut TestCassandra, store: &CqlOnlineStore) {
    store.write(&rows(10, 1)).await.unwrap();
    advance(store, G, b"c1").await;
    let before = store.incarnation().await.unwrap();
    server.kill();
    let error = store.get(G, &entity(1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && !error.to_string().is_empty(), "{error}");
    assert!(store.read(&[]).await.is_ok(), "what asks for nothing needs no server");
    server.reconfigure(PERIODIC);
    server.run_empty();
    // A lookup finds nothing, and with it that the store is another. Nothing is opened again.
    assert_eq!(store.get(G, &entity(1)).await.unwrap(), None);
    let after = store.incarnation().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(store.published_to(G).await.unwrap(), None);
    assert!(matches!(store.advance(G, b"c1", before).await.unwrap_err(), Error::Lost));
    store.write(&rows(10, 1)).await.unwrap();
    assert_eq!(count(store, 10, 1).await, 10);
    assert_eq!(open(&server.config("laws")).await.incarnation().await.unwrap(), after);
}

async fn one_that_syncs_now_and_then_is_another_incarnation_once_it_began_anew(mut server: TestCassandra, store: Arc<CqlOnlineStore>) {
    store.write(&rows(10, 10)).await.unwrap();
    advance(&*store, G, b"c2").await;
    store.sync().await.unwrap();
    let before = store.incarnation().await.unwrap();
    // It goes while rows are on their way; whoever wrote them writes them again.
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for time in 11..=200 {
                while let Err(error) = store.write(&rows(50, time)).await {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    });
    while count(&*store, 1, 10).await == 1 {}
    let restarting = tokio::task::spawn_blocking(move || {
        server.kill();
        server.run();
        server
    });
    let _server = restarting.await.unwrap();
    writer.await.unwrap();
    assert_eq!(count(&*store, 50, 200).await, 50);
    store.sync().await.unwrap();
    assert_ne!(store.incarnation().await.unwrap(), before);
    assert_eq!(store.published_to(G).await.unwrap(), None);
}

/// Tries again what may fail for as long as a loaded machine is slower than the limit.
async fn until_well<F: Future<Output = anabranch_online_store::Result<()>>>(mut work: impl FnMut() -> F) {
    let trying = async {
        while let Err(error) = work().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
    };
    tokio::time::timeout(Duration::from_secs(120), trying).await.unwrap();
}

#[tokio::test]
async fn times_at_the_edges_of_what_can_be_said_are_ordered_as_any_other() {
    let server = shared();
    let store = open(&server.config("edges")).await;
    // Several of them have one timestamp: the bytes decide.
    let times = [i64::MIN, i64::MIN + 1, -8_193, -8_192, -1, 0, 1, 8_191, 8_192, i64::MAX - 1, i64::MAX];
    for (i, pair) in times.windows(2).enumerate() {
        for (i, written) in [(i as i64, [pair[0], pair[1]]), (i as i64 + 100, [pair[1], pair[0]])] {
            for time in written {
                store.write(&[write(G, i, at(time), b"x")]).await.unwrap();
            }
            assert_eq!(store.get(G, &entity(i)).await.unwrap(), Some(row(at(pair[1]), b"x")), "{pair:?}");
        }
    }
    // A generation ends with all of its rows, those of the greatest time too.
    store.drop_generation(G).await.unwrap();
    assert_eq!(store.scan_all(G).await.unwrap(), []);
    // What comes late for it is not kept.
    store.write(&rows(1, i64::MAX)).await.unwrap();
    assert_eq!(store.scan_all(G).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_instant_leave_the_greatest_row_on_every_interleaving() {
    let server = shared();
    let store = Arc::new(open(&server.config("ties")).await);
    let ties: Vec<_> = (0..24_u64).map(|n| write(G, 1, order([5, 5, 5], (n % 3) as u32, n / 3), &n.to_le_bytes())).collect();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, mut mine) = (Arc::clone(&store), ties.clone());
            mine.rotate_left(writer * 7);
            if writer % 2 == 1 {
                mine.reverse();
            }
            tokio::spawn(async move {
                for tie in mine {
                    store.write(&[tie]).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.get(G, &entity(1)).await.unwrap().as_ref(), ties.iter().map(|write| &write.row).max());
}

#[tokio::test]
async fn a_row_that_is_more_than_the_cluster_takes_is_an_error_and_nothing_else_suffers() {
    let server = shared();
    let store = open(&server.config("large")).await;
    let large = |bytes: usize| Write { generation: G, key: entity(1), row: row(at(1), &vec![7; bytes]) };
    store.write(&[large(10 << 20)]).await.unwrap();
    assert_eq!(store.get(G, &entity(1)).await.unwrap().unwrap().len(), (10 << 20) + 36);
    let error = store.write(&[Write { generation: Generation(2), ..large(MAX_ROW_BYTES - 36) }]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert_eq!(store.get(G, &entity(1)).await.unwrap().unwrap().len(), (10 << 20) + 36);
}

#[tokio::test]
async fn a_walk_goes_past_more_tombstones_than_the_cluster_reads_at_once() {
    let server = shared();
    let store = open(&server.config("walk")).await;
    let other = Generation(2);
    store.write(&(0..1_500).flat_map(|i| [write(G, i, at(1), b"x"), write(other, i, at(1), b"x")]).collect::<Vec<_>>()).await.unwrap();
    for _ in 0..2 {
        store.drop_generation(G).await.unwrap();
        assert_eq!(store.scan_all(G).await.unwrap(), []);
    }
    assert_eq!(store.scan_all(other).await.unwrap().len(), 1_500);
}

#[tokio::test]
async fn stores_under_other_prefixes_are_apart_and_tables_that_are_gone_are_made_again() {
    let server = shared();
    let (one, other) = (open(&server.config("one")).await, open(&server.config("other")).await);
    one.write(&rows(10, 1)).await.unwrap();
    advance(&one, G, b"c1").await;
    assert_eq!((other.scan_all(G).await.unwrap().len(), other.published_to(G).await.unwrap()), (0, None));
    let before = one.incarnation().await.unwrap();
    assert_ne!(before, other.incarnation().await.unwrap());
    other.drop_generation(G).await.unwrap();
    assert_eq!(one.scan_all(G).await.unwrap().len(), 10);
    let again = open(&server.config("one")).await;
    assert_eq!((again.incarnation().await.unwrap(), again.published_to(G).await.unwrap().as_deref()), (before, Some(&b"c1"[..])));
}

#[tokio::test]
async fn servers_that_open_an_empty_keyspace_at_once_agree_on_its_incarnation() {
    let server = shared();
    // Tables are there: to make one at the same time is what Cassandra itself asks not to be done.
    open(&server.config("many")).await;
    let opening = (0..4).map(|_| async { open(&server.config("many")).await });
    let mut incarnations = Vec::new();
    for store in futures::future::join_all(opening).await {
        store.sync().await.unwrap();
        incarnations.push(store.incarnation().await.unwrap());
    }
    incarnations.dedup();
    assert_eq!(incarnations.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_and_named() {
    let nobody = CqlConfig { contact_points: "127.0.0.1:1".to_owned(), timeout_ms: 5_000, lookup_timeout_ms: 1_000, ..CqlConfig::default() };
    let error = refusal(&nobody).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("connect to CQL"), "{error}");
    let server = shared();
    // A server without authentication takes any user; the password is nowhere to be seen.
    let config = CqlConfig { user: "ada".to_owned(), password: Password("secret".to_owned()), ..server.config("auth") };
    assert!(!format!("{:?}", open(&config).await).contains("secret"));
    // Three replicas are more than one server can give: the keyspace is made, and its rows cannot be acknowledged.
    let three = CqlConfig { keyspace: "three".to_owned(), replication_factor: 3, ..server.config("three") };
    assert_eq!(refusal(&three).await.kind(), ErrorKind::Unavailable);
}
