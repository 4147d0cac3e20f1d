//! Kill -9, at every named crash point and at random, again and again over one folder.
//!
//! The test starts itself as a child, with [`FOLDER`] set. The child works on the folder until it dies, and writes down what it sent and what was
//! acknowledged; after some deaths the parent opens the folder and holds it to what must be so:
//!
//! - every row that was acknowledged is in exactly one of the tables and their quarantines, and no row is in twice;
//! - the positions of the log up to the offset are all there, each once: nothing was dropped on the way;
//! - a load is in as a whole or not at all, and one that was reverted is not;
//! - both stores agree: the law.
//!
//! The seed is printed; `ANABRANCH_KILL_SEED` sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_core::ids::Ids;
use anabranch_core::{ErrorKind, Kinded, RandomIds};
use anabranch_ingest::{CrashPoint, CrashPoints, Rebuild};
use anabranch_offline_store::{Namespace, ScanRequest, TableName, quarantine_shape};
use anabranch_versioning::{LogQuery, MergeRequest, RefSpec, ReplayRequest};
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};

use crate::world::{Parts, World, definitions, weather};

const FOLDER: &str = "ANABRANCH_KILL_FOLDER";
const PLAN: &str = "ANABRANCH_KILL_PLAN";
const SEED: &str = "ANABRANCH_KILL_SEED";
const NAME: &str = "kill::a_hundred_kills_lose_and_double_nothing";

const KILLS: u64 = 100;
const CHECK_EVERY: u64 = 25;
/// Rows of each file that children load.
const FILE_ROWS: i64 = 30;

/// Kills the process at the n-th time that a point is reached.
#[derive(Debug)]
struct KillAt {
    point: Option<CrashPoint>,
    left: AtomicI64,
}

impl CrashPoints for KillAt {
    fn reach(&self, point: CrashPoint) {
        if self.point == Some(point) && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            // The signal is on its way; nothing further may happen.
            loop {
                std::thread::park();
            }
        }
    }
}

/// What a child is told: its number, where it dies (`-` for nowhere of its own), and the how manieth time.
#[derive(Debug, Clone, Copy)]
struct Plan {
    child: u64,
    point: Option<CrashPoint>,
    nth: i64,
}

impl Plan {
    fn to_text(self) -> String {
        let point = self.point.and_then(|point| CrashPoint::ALL.iter().position(|other| *other == point));
        format!("{} {} {}", self.child, point.map_or_else(|| "-".to_owned(), |at| at.to_string()), self.nth)
    }

    fn from_text(text: &str) -> Self {
        let parts: Vec<_> = text.split(' ').collect();
        let point = parts[1].parse::<usize>().ok().map(|at| CrashPoint::ALL[at]);
        Self { child: parts[0].parse().unwrap(), point, nth: parts[2].parse().unwrap() }
    }
}

/// What a child writes down; a killed process leaves it to the system's page cache, which is enough.
#[derive(Debug)]
struct Ledger(Mutex<File>);

impl Ledger {
    fn path(folder: &Path) -> PathBuf {
        folder.join("ledger")
    }

    fn open(folder: &Path) -> Self {
        Self(Mutex::new(OpenOptions::new().create(true).append(true).open(Self::path(folder)).unwrap()))
    }

    fn note(&self, line: &str) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[test]
fn a_hundred_kills_lose_and_double_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::var(FOLDER) {
        Ok(folder) => runtime.block_on(child(Path::new(&folder), Plan::from_text(&std::env::var(PLAN).unwrap()))),
        Err(_) => parent(&runtime),
    }
}

fn parent(runtime: &tokio::runtime::Runtime) {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    eprintln!("{SEED}={seed}");
    let (random, folder) = (RandomIds::seeded(seed), tempfile::tempdir().unwrap());
    let points = CrashPoint::ALL.len() as u64;
    let mut reached = BTreeMap::<String, u64>::new();
    for kill in 0..KILLS {
        // Each point four times, later and later in the life of the process; then at random.
        let point = (kill < 4 * points).then(|| CrashPoint::ALL[(kill % points) as usize]);
        let plan = Plan { child: kill, point, nth: 1 + 2 * (kill / points) as i64 };
        let limit = match point {
            Some(_) => Duration::from_secs(10),
            None => Duration::from_millis(u64::try_from(random.random() % 350).unwrap()),
        };
        let died = die(folder.path(), plan, limit);
        if let Some(point) = point.filter(|_| died) {
            *reached.entry(format!("{point:?}")).or_default() += 1;
        }
        if kill % CHECK_EVERY == CHECK_EVERY - 1 {
            runtime.block_on(check(folder.path()));
        }
    }
    let missed: Vec<_> = CrashPoint::ALL.iter().filter(|point| !reached.contains_key(&format!("{point:?}"))).collect();
    assert!(missed.is_empty(), "no child died at {missed:?}");
}

/// Starts a child and sees to it that it dies; answers whether it did so by itself, at its point.
fn die(folder: &Path, plan: Plan, limit: Duration) -> bool {
    let log = File::create(folder.join("child.log")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(PLAN, plan.to_text())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let died = wait(&mut child, limit);
    if !died {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    died
}

/// Waits for a child to die; an end of another kind is a failure of the child.
fn wait(child: &mut Child, limit: Duration) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let mut waited = Duration::ZERO;
    while waited < limit {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.signal(), Some(9), "the child failed: see child.log in its folder");
            return true;
        }
        // A process is waited for here, whose end no channel tells.
        std::thread::sleep(Duration::from_millis(2));
        waited += Duration::from_millis(2);
    }
    false
}

async fn child(folder: &Path, plan: Plan) {
    let ledger = Arc::new(Ledger::open(folder));
    let crash = Arc::new(KillAt { point: plan.point, left: AtomicI64::new(plan.nth) });
    let world = Arc::new(World::open(Parts { crash, ..Parts::in_folder(folder).await }).await);
    if world.repository.log(&LogQuery::new(world.head().await, 2)).await.unwrap().commits.len() < 2 {
        world.apply(definitions(60)).await.unwrap();
    }
    let ids = Arc::new(AtomicU64::new(plan.child * 1_000_000_000));
    let mut tasks = Vec::new();
    // A merge only moves forward, and so wants a branch that rests; a revert takes back what it knows to be the last commit.
    if plan.point == Some(CrashPoint::GenerationSettled) || plan.child % 7 == 5 {
        tasks.push(tokio::spawn(reverts(Arc::clone(&world), plan.child)));
    } else if plan.point == Some(CrashPoint::Merged) || plan.child % 7 == 6 {
        tasks.push(tokio::spawn(merge(Arc::clone(&world), Arc::clone(&ledger), plan.child, Arc::clone(&ids))));
    } else {
        for _ in 0..3 {
            tasks.push(tokio::spawn(push(Arc::clone(&world), Arc::clone(&ledger), Arc::clone(&ids))));
        }
        tasks.push(tokio::spawn(loads(Arc::clone(&world), Arc::clone(&ledger), plan.child)));
        tasks.push(tokio::spawn(applies(Arc::clone(&world))));
        tasks.push(tokio::spawn(rebuilds(Arc::clone(&world))));
    }
    for task in tasks {
        // Every task works for ever; one that ends has failed.
        task.await.unwrap();
    }
}

/// A row that some definitions refuse, some accept, and all judge by its offset's.
async fn push_one(world: &World, ledger: &Ledger, ids: &AtomicU64) {
    let rows = 1 + ids.load(Ordering::SeqCst) % 3;
    let first = ids.fetch_add(rows, Ordering::SeqCst);
    let named: Vec<_> = (first..first + rows).collect();
    for id in &named {
        ledger.note(&format!("sent {id}"));
    }
    let json: Vec<_> =
        named.iter().map(|id| weather(&format!("a{}", id % 7), (id % 13) as i64, [20.0, 70.0, 90.0][(id % 3) as usize], *id as i64)).collect();
    world.push("weather", format!("[{}]", json.join(","))).await.unwrap();
    for id in &named {
        ledger.note(&format!("acked {id}"));
    }
}

async fn push(world: Arc<World>, ledger: Arc<Ledger>, ids: Arc<AtomicU64>) {
    loop {
        push_one(&world, &ledger, &ids).await;
    }
}

async fn load_one(world: &World, ledger: &Ledger, branch: &str, file: u64) {
    let first = -1_000 * (file as i64 + 1);
    let content = crate::load::csv(0..FILE_ROWS, 1.0).replace(",1,", &format!(",{},", -first));
    let loaded = crate::load::load(world, branch, "f.csv", content).await.unwrap();
    if branch == "main" {
        ledger.note(&format!("loaded {}", loaded.source));
    }
}

async fn loads(world: Arc<World>, ledger: Arc<Ledger>, child: u64) {
    for file in 0.. {
        load_one(&world, &ledger, "main", (child + file) % 5).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn applies(world: Arc<World>) {
    for round in 0_i64.. {
        world.apply(definitions(60 + 20 * (round % 2))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn rebuilds(world: Arc<World>) {
    loop {
        // Until everything committed was published once there is nothing to rebuild.
        if let Err(error) = world.ingest.rebuild("main", &Rebuild::default()).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn merge(world: Arc<World>, ledger: Arc<Ledger>, child: u64, ids: Arc<AtomicU64>) {
    for round in 0_u64.. {
        push_one(&world, &ledger, &ids).await;
        world.ingest.flush("main").await.unwrap();
        let branch = format!("b-{child}-{round}");
        world.repository.create_branch(&branch, &RefSpec::branch("main"), "ada").await.unwrap();
        world.apply_on(&branch, definitions(60 + 20 * (round as i64 % 2))).await.unwrap();
        load_one(&world, &ledger, &branch, child + round).await;
        let request = MergeRequest::new(RefSpec::branch(&branch), "ada");
        world.ingest.merge("main", request).await.unwrap();
    }
}

/// Loads that are taken back: what is online of them goes with another generation.
async fn reverts(world: Arc<World>, child: u64) {
    for round in 0_i64.. {
        // What an earlier child pushed comes in before, lest the revert meets it.
        world.ingest.flush("main").await.unwrap();
        // No other child loads the like of it.
        let content = crate::load::csv(0..FILE_ROWS, 1.0 + child as f64).replace(",1970", &format!("r{round},1970"));
        let loaded = crate::load::load(&world, "main", "r.csv", content).await.unwrap();
        world.ingest.revert("main", ReplayRequest::new(RefSpec::commit(loaded.commit), "ada")).await.unwrap();
    }
}

/// Every row of every table: its source, position and the id in its column `n`, or in the JSON of a refused one.
async fn all_rows(world: &World) -> Vec<(i32, i64, Option<i64>)> {
    let mut all = Vec::new();
    let layout = world.layout("weather").await;
    let mut tables = vec![(TableName::features("weather"), layout.table_columns())];
    for table in world.offline.tables(&world.head().await, Namespace::Quarantine).await.unwrap() {
        tables.push((table, quarantine_shape().columns().to_vec()));
    }
    for (table, columns) in tables {
        for batch in world.scan(&ScanRequest::all(table, columns)).await {
            let source = batch.column_by_name("_source").unwrap().as_primitive::<Int32Type>();
            let position = batch.column_by_name("_position").unwrap().as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let id = match batch.column_by_name("n") {
                    Some(ids) => Some(ids.as_primitive::<Int64Type>().value(row)),
                    None => {
                        let payload = batch.column_by_name("payload").unwrap().as_binary::<i32>().value(row);
                        serde_json::from_slice::<serde_json::Value>(payload).ok().and_then(|json| json["n"].as_i64())
                    }
                };
                all.push((source.value(row), position.value(row), id));
            }
        }
    }
    all
}

async fn check(folder: &Path) {
    let world = World::open(Parts::in_folder(folder).await).await;
    // A rebuild that was under way goes on, and drops what it replaces.
    world.wait_filled("main").await;
    world.check_law().await;
    world.check_positions().await;
    let status = world.ingest.status().into_iter().find(|status| status.branch == "main").unwrap();
    assert_eq!(status.appended, status.committed);
    let rows = all_rows(&world).await;
    let of_log: BTreeSet<_> = rows.iter().filter(|(source, ..)| *source == status.source.as_i32()).map(|(_, position, _)| *position).collect();
    assert_eq!(of_log, (0..status.committed as i64).collect(), "the log up to the offset is in the tables, all of it");
    let mut ids = BTreeMap::<i64, usize>::new();
    for (_, _, id) in rows.iter().filter(|(source, ..)| *source == status.source.as_i32()) {
        *ids.entry(id.unwrap()).or_default() += 1;
    }
    let mut loads = BTreeMap::<i32, i64>::new();
    for (source, ..) in rows.iter().filter(|(source, ..)| *source != status.source.as_i32()) {
        *loads.entry(*source).or_default() += 1;
    }
    assert!(loads.values().all(|rows| *rows == FILE_ROWS), "a load is in as a whole or not at all: {loads:?}");
    let ledger = std::fs::read_to_string(Ledger::path(folder)).unwrap();
    let named = |word: &str| -> BTreeSet<i64> { ledger.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).collect() };
    let (sent, acked, loaded) = (named("sent "), named("acked "), named("loaded "));
    assert!(!acked.is_empty() && !loaded.is_empty());
    for id in &acked {
        assert_eq!(ids.get(id), Some(&1), "row {id} was acknowledged");
    }
    assert!(ids.iter().all(|(id, count)| *count == 1 && sent.contains(id)), "no row is in twice or from nowhere");
    assert!(loaded.iter().all(|source| loads.contains_key(&i32::try_from(*source).unwrap())), "every load that was acknowledged is in");
    world.end().await;
}
