//! Several servers on one branch: the rows of the tables of [`super::super::lease`], and simulations.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::{ErrorKind, Ids, Kinded};
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::commits::Increment;
use super::*;
use crate::metadata::branch_lease;
use crate::testkit::{FaultyMetadata, TestPostgres};
use crate::{Error, Expect, LeaseOptions, PostgresMetadata};

const TTL: Duration = Duration::from_secs(3);

/// A server: a repository of its own over what all share.
#[derive(Clone)]
struct Server {
    repository: Arc<Repository>,
    faults: Arc<FaultyMetadata>,
}

impl Server {
    async fn start(metadata: &Arc<dyn MetadataStore>, objects: &Arc<dyn ObjectStore>, holder: &str, seed: u64) -> Self {
        let faults = Arc::new(FaultyMetadata::new(metadata.clone()));
        let lease = Some(LeaseOptions { holder: holder.to_owned(), ttl: TTL });
        let options = RepositoryOptions { lease, ..RepositoryOptions::default() };
        let clock = Arc::new(ManualClock::new(Timestamp(seed as i64)));
        let ids = Arc::new(RandomIds::seeded(seed));
        let repository = Repository::open(faults.clone(), objects.clone(), clock, ids, options).await.unwrap();
        Self { repository, faults }
    }

    async fn increment(&self) -> Result<Committed> {
        self.repository.commit("main", request(vec![Change::Apply(Box::new(Increment(key("n"))))])).await
    }

    /// Ends the process, as far as the branch is concerned.
    fn kill(&self) {
        self.repository.committers.kill();
    }

    async fn lease(&self) -> crate::LeaseState {
        let main = self.repository.branch("main").await.unwrap();
        self.repository.metadata().lease(&branch_lease(main.id)).await.unwrap()
    }

    /// Returns when this server holds the branch's lease.
    async fn holds(&self, name: &str) {
        while !self.lease().await.holder.is_some_and(|holder| holder.starts_with(name)) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn number(&self, name: &str) -> u64 {
        let head = self.repository.branch("main").await.unwrap().head;
        let held = self.repository.get(&head, &key(name)).await.unwrap();
        held.map_or(0, |held| std::str::from_utf8(&held).unwrap().parse().unwrap())
    }
}

fn shared() -> (Arc<dyn MetadataStore>, Arc<dyn ObjectStore>) {
    (Arc::new(MemoryMetadata::new(&RandomIds::seeded(2))), Arc::new(InMemory::new()))
}

async fn two() -> (Server, Server) {
    let (metadata, objects) = shared();
    (Server::start(&metadata, &objects, "one", 1).await, Server::start(&metadata, &objects, "two", 2).await)
}

#[tokio::test(start_paused = true)]
async fn two_servers_take_turns_and_neither_starves() {
    let (one, two) = two().await;
    let busy = |server: Server| async move {
        for _ in 0..200 {
            server.increment().await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
    };
    let begun = Instant::now();
    tokio::join!(busy(one.clone()), busy(two.clone()));
    assert_eq!(one.number("n").await, 400);
    assert!(begun.elapsed() < TTL * 4, "a handover waited for the lease to run out");
    assert!(one.lease().await.token >= 4, "one server had all it wanted before the other had anything");
    // Idle, the lease is given back, so that the next commit waits for nobody.
    sleep(TTL).await;
    let lease = one.lease().await;
    assert!(lease.holder.is_none() && lease.waiting.is_empty(), "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_holder_costs_the_ttl_and_loses_nothing_acknowledged() {
    // Killed in the transaction of its second commit, before or after it is made; or holding the lease with nothing to do.
    for (fault, least, most) in [(Some(false), 1, 1), (Some(true), 2, 2), (None, 1, 1)] {
        let (one, two) = two().await;
        one.increment().await.unwrap();
        match fault {
            Some(made) => {
                if made {
                    // The transaction is made and what follows stands still: the answer never comes.
                    one.faults.arm(crate::testkit::MetadataFault::AfterAndStill);
                } else {
                    one.faults.freeze(true);
                }
                let waiting = one.clone();
                let task = tokio::spawn(async move { waiting.increment().await });
                two.holds("one").await;
                sleep(Duration::from_millis(20)).await;
                one.kill();
                assert_eq!(task.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
            }
            None => one.kill(),
        }
        let begun = Instant::now();
        two.increment().await.unwrap();
        let waited = begun.elapsed();
        assert!(waited >= TTL - Duration::from_millis(100) && waited < TTL * 2, "{waited:?}");
        let number = two.number("n").await - 1;
        assert!((least..=most).contains(&number), "{fault:?}: {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_holder_publishes_nothing_when_it_wakes() {
    let (one, two) = two().await;
    one.increment().await.unwrap();
    one.faults.freeze(true);
    let waiting = one.clone();
    let paused = tokio::spawn(async move { waiting.increment().await });
    two.holds("one").await;
    two.increment().await.unwrap();
    let theirs = two.repository.branch("main").await.unwrap().head;
    // It wakes under an old token: its group starts again, upon what the other made, and is not lost.
    one.faults.freeze(false);
    let ours = paused.await.unwrap().unwrap();
    assert_eq!((ours.previous, two.number("n").await), (theirs, 3));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_died_waiting_is_passed_over() {
    let (metadata, objects) = shared();
    let [one, two, three] = ["one", "two", "three"].map(|name| (name, name.len() as u64 + u64::from(name.as_bytes()[0])));
    let (one, two, three) = (
        Server::start(&metadata, &objects, one.0, one.1).await,
        Server::start(&metadata, &objects, two.0, two.1).await,
        Server::start(&metadata, &objects, three.0, three.1).await,
    );
    one.faults.freeze(true);
    let holding = {
        let one = one.clone();
        tokio::spawn(async move { one.increment().await })
    };
    sleep(Duration::from_millis(1)).await;
    one.faults.freeze(false);
    let begun = Instant::now();
    holding.await.unwrap().unwrap();
    let dead = {
        let two = two.clone();
        tokio::spawn(async move { two.increment().await })
    };
    while !one.lease().await.waiting.iter().any(|holder| holder.starts_with("two")) {
        sleep(Duration::from_micros(100)).await;
        assert!(begun.elapsed() < TTL, "the second server never waited");
    }
    two.kill();
    assert!(dead.await.unwrap().is_err());
    three.increment().await.unwrap();
    assert!(begun.elapsed() < TTL * 2);
    assert_eq!(three.number("n").await, 2);
    assert!(three.lease().await.waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_answer_is_lost_costs_nothing() {
    let (one, two) = two().await;
    one.faults.lose_next_release();
    one.increment().await.unwrap();
    let begun = Instant::now();
    two.increment().await.unwrap();
    one.increment().await.unwrap();
    assert!(begun.elapsed() < TTL);
    assert_eq!(two.number("n").await, 3);
}

/// Three servers that are killed, replaced and paused at random, under writers that never give up.
#[tokio::test(start_paused = true)]
async fn whatever_befalls_the_servers_every_acknowledged_commit_is_there_once() {
    for seed in 0..12 {
        simulate(seed).await;
    }
}

async fn simulate(seed: u64) {
    let (metadata, objects) = shared();
    let random = Arc::new(RandomIds::seeded(seed));
    let below = |random: &RandomIds, bound: u64| (random.random() as u64) % bound;
    let mut servers = Vec::new();
    for number in 0..3 {
        servers.push(Server::start(&metadata, &objects, &format!("server {number}"), seed * 1000 + number).await);
    }
    let servers = Arc::new(Mutex::new(servers));
    let (acknowledged, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let clients = (0..12).map(|_| {
        let (servers, random, acknowledged, unknown) = (servers.clone(), random.clone(), acknowledged.clone(), unknown.clone());
        tokio::spawn(async move {
            for _ in 0..6 {
                sleep(Duration::from_millis(below(&random, 2_000))).await;
                let server = servers.lock().unwrap()[below(&random, 3) as usize].clone();
                match server.increment().await {
                    Ok(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.kind() == ErrorKind::Unavailable => unknown.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("seed {seed}: {error}"),
                };
            }
        })
    });
    let clients = clients.collect::<Vec<_>>();
    for round in 0..8 {
        sleep(Duration::from_millis(below(&random, 2_000))).await;
        let victim = below(&random, 3) as usize;
        let server = servers.lock().unwrap()[victim].clone();
        server.faults.freeze(true);
        sleep(Duration::from_millis(below(&random, 5_000))).await;
        if below(&random, 2) == 0 {
            server.kill();
            let fresh = Server::start(&metadata, &objects, &format!("server {victim}"), seed * 1000 + 10 + round).await;
            servers.lock().unwrap()[victim] = fresh;
        }
        server.faults.freeze(false);
    }
    for client in join_all(clients).await {
        client.unwrap();
    }
    let server = servers.lock().unwrap()[0].clone();
    let (number, acknowledged, unknown) = (server.number("n").await, acknowledged.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed));
    assert!((acknowledged..=acknowledged + unknown).contains(&number), "seed {seed}: {number} of {acknowledged} and at most {unknown} more");
    assert!(acknowledged > 0, "seed {seed}: nothing was tried");
}

/// Adds one to a number of the writer's own and, by reading and expecting, to one that all share; again where another was faster.
async fn write_both(server: &Server, writer: usize) -> Result<()> {
    let head = server.repository.branch("main").await?.head;
    let mut held = server.repository.get(&head, &key("expected")).await?;
    loop {
        let number: u64 = held.as_deref().map_or(0, |held| std::str::from_utf8(held).unwrap().parse().unwrap());
        let expect = held.clone().map_or(Expect::Absent, Expect::Value);
        let shared = Change::Put { key: key("expected"), value: (number + 1).to_string().into(), expect };
        let own = Change::Apply(Box::new(Increment(key(&format!("own/{writer}")))));
        match server.repository.commit("main", request(vec![own, shared])).await {
            Ok(_) => return Ok(()),
            Err(Error::Expect { .. }) => {
                let head = server.repository.branch("main").await?.head;
                held = server.repository.get(&head, &key("expected")).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Two hundred writers over two servers; the first is killed while it holds the lease, and its writers go to the second.
async fn two_hundred_writers(metadata: Arc<dyn MetadataStore>) {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (one, two) = (Server::start(&metadata, &objects, "one", 1).await, Server::start(&metadata, &objects, "two", 2).await);
    one.increment().await.unwrap();
    one.faults.freeze(true);
    let expecting = |writer: usize| writer.is_multiple_of(10);
    let writers = (0..200).map(|writer| {
        let (one, two) = (one.clone(), two.clone());
        tokio::spawn(async move {
            let own = format!("own/{writer}");
            let write = async |server: &Server| {
                if expecting(writer) {
                    return write_both(server, writer).await;
                }
                let changes = [key("n"), key(&own)].map(|key| Change::Apply(Box::new(Increment(key))));
                server.repository.commit("main", request(changes.into())).await.map(drop)
            };
            let first = if writer.is_multiple_of(2) { &one } else { &two };
            match write(first).await {
                Ok(()) => {}
                Err(error) if writer.is_multiple_of(2) && error.kind() == ErrorKind::Unavailable => {
                    // Whether it was made nobody said; the head does.
                    if two.number(&own).await == 0 {
                        write(&two).await.unwrap();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    two.holds("one").await;
    one.kill();
    one.faults.freeze(false);
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!((two.number("n").await, two.number("expected").await), (181, 20));
    for writer in 0..200 {
        assert_eq!(two.number(&format!("own/{writer}")).await, 1, "writer {writer}");
    }
    two.repository.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_over_two_servers_of_which_one_is_killed_lose_no_update_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    two_hundred_writers(Arc::new(SqliteMetadata::open(&folder.path().join("db.sqlite"), &RandomIds::seeded(1)).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_over_two_servers_of_which_one_is_killed_lose_no_update_on_postgres() {
    let url = TestPostgres::shared().database().await;
    two_hundred_writers(Arc::new(PostgresMetadata::open(&url, "repo", &RandomIds::seeded(1)).await.unwrap())).await;
}
