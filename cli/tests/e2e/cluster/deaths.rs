//! What dies, hangs or is taken away in mid-join. A stopped process does nothing more until it is continued or killed, so a join whose only executor is
//! stopped is under way for as long as a test wants.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;

/// Into how many parts a spine is cut here.
const PARTS: usize = 24;
/// How soon an executor is taken for lost. One that lives must be heard within it on a busy machine, too: it is told to end otherwise.
const QUICK: &[&str] = &["--executor-timeout", "6"];

/// A server with rows, a scheduler, folders for executors, and what joins give.
struct World {
    folder: TempDir,
    address: SocketAddr,
    /// Killed when it is dropped.
    scheduler: Option<Process>,
    server: RunningServer,
    client: Client,
    spine: RecordBatch,
    digest: String,
}

impl World {
    async fn new(seed: u64, options: &[&str]) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), free());
        let server = server_with(&folder.path().join("data"), address, PARTS).await;
        let client = client_of(&server).await;
        fill(&client, seed).await;
        let spine = spine(seed + 1, 4_000);
        let digest = ask(&client, "datafusion", &spine).await.unwrap().content_digest;
        Self { folder, address, scheduler: Some(scheduler(address, options)), server, client, spine, digest }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn work(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("work-{number}"))
    }

    fn executor(&self, number: usize) -> Process {
        executor(self.address, &self.work(number))
    }

    /// How many parts an executor has begun.
    fn begun(&self, number: usize) -> usize {
        folders(&self.work(number).join("results"), 3)
    }

    /// Joins on the cluster.
    fn join(&self) -> JoinHandle<Result<Dataset, Error>> {
        let (client, spine) = (self.client.clone(), self.spine.clone());
        tokio::spawn(async move { ask(&client, "ballista", &spine).await })
    }

    /// A join under way on a stopped executor that is the only one, and has begun so many parts.
    async fn stopped_after(&self, parts: usize) -> (Process, JoinHandle<Result<Dataset, Error>>) {
        let executor = self.executor(0);
        loop {
            let join = self.join();
            until("the executor has begun", || join.is_finished() || self.begun(0) >= parts);
            executor.signal(Signal::STOP);
            if !join.is_finished() {
                return (executor, join);
            }
            // On a busy machine it may be done before anybody looks.
            executor.signal(Signal::CONT);
            self.agrees(join).await;
            until("the executor has nothing left", || self.begun(0) == 0);
        }
    }

    async fn agrees(&self, join: JoinHandle<Result<Dataset, Error>>) {
        assert_eq!(join.await.unwrap().unwrap().content_digest, self.digest);
    }

    /// That a join is refused as unavailable, and says this.
    async fn unavailable(&self, join: JoinHandle<Result<Dataset, Error>>, said: &str) {
        let error = join.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }

    async fn end(self, works: &[usize]) {
        let works: Vec<_> = works.iter().map(|number| self.work(*number)).collect();
        nothing_is_left(&self.data(), &works.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        self.server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_killed_in_mid_join_changes_nothing_but_the_time() {
    let world = World::new(3, QUICK).await;
    let (victim, join) = world.stopped_after(1).await;
    let _other = world.executor(1);
    until("the other has begun", || world.begun(1) > 0);
    victim.signal(Signal::KILL);
    world.agrees(join).await;
    world.end(&[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_killed_when_the_others_have_nothing_left_to_do_changes_nothing_but_the_time() {
    let world = World::new(5, QUICK).await;
    let (victim, join) = world.stopped_after(1).await;
    let _others = [world.executor(1), world.executor(2)];
    until("the others have begun all that the first has not", || world.begun(0) + world.begun(1) + world.begun(2) + 1 >= PARTS);
    victim.signal(Signal::KILL);
    world.agrees(join).await;
    world.end(&[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_killed_at_work_one_after_the_other_change_nothing_but_the_time() {
    let world = World::new(7, QUICK).await;
    let (first, second, join) = (world.executor(0), world.executor(1), world.join());
    until("both have begun", || join.is_finished() || world.begun(0).min(world.begun(1)) > 0);
    first.signal(Signal::KILL);
    let _third = world.executor(2);
    until("the third has begun", || join.is_finished() || world.begun(2) > 0);
    second.signal(Signal::KILL);
    world.agrees(join).await;
    world.end(&[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_told_to_end_does_so_at_once_and_others_do_its_work() {
    let world = World::new(9, &[]).await;
    let (mut told, join) = world.stopped_after(1).await;
    told.signal(Signal::TERM);
    told.signal(Signal::CONT);
    until("it has ended", || told.ended());
    let _other = world.executor(1);
    world.agrees(join).await;
    world.end(&[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_hangs_while_it_seems_to_live_is_worked_around() {
    let world = World::new(11, &["--executor-timeout", "600", "--part-timeout", "5"]).await;
    let (_hangs, join) = world.stopped_after(1).await;
    let _other = world.executor(1);
    world.agrees(join).await;
    world.end(&[1]).await;
}

fn inside(folders: &[PathBuf]) -> Vec<PathBuf> {
    folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_lost_before_they_are_fetched_are_joined_again() {
    let world = World::new(13, &["--executor-timeout", "600"]).await;
    // Of three that were begun, two are done.
    let (executor, join) = world.stopped_after(3).await;
    let results = world.work(0).join("results");
    let jobs = || -> BTreeSet<_> { std::fs::read_dir(&results).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect() };
    let first = jobs();
    for stage in inside(&inside(std::slice::from_ref(&results))) {
        for file in inside(&inside(std::slice::from_ref(&stage))) {
            std::fs::remove_file(file).unwrap();
        }
    }
    executor.signal(Signal::CONT);
    until("the join is run again", || join.is_finished() || !jobs().is_subset(&first));
    assert!(!join.is_finished(), "the results of one run were fetched though some were gone");
    world.agrees(join).await;
    world.end(&[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_no_executor_does_ends_and_says_so() {
    let world = World::new(15, &["--executor-timeout", "6", "--executor-wait", "2"]).await;
    world.unavailable(world.join(), "no executor for 2 s").await;
    let (last, join) = world.stopped_after(1).await;
    last.signal(Signal::KILL);
    world.unavailable(join, "no executor for 2 s").await;
    nothing_is_left(&world.data(), &[]);
    // The killed one's results are removed by the next that uses its folder.
    drop(last);
    let _next = world.executor(0);
    world.agrees(world.join()).await;
    world.end(&[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_scheduler_dies_ends_and_says_so() {
    let mut world = World::new(17, &[]).await;
    let (executor, join) = world.stopped_after(1).await;
    world.scheduler = None;
    world.unavailable(join, &world.address.to_string()).await;
    // Executors come back to a new one by themselves.
    executor.signal(Signal::CONT);
    world.scheduler = Some(scheduler(world.address, &[]));
    world.agrees(world.join()).await;
    world.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_given_up_leaves_nothing_behind() {
    let world = World::new(19, &[]).await;
    let (executor, join) = world.stopped_after(1).await;
    join.abort();
    assert!(join.await.unwrap_err().is_cancelled());
    executor.signal(Signal::CONT);
    nothing_is_left(&world.data(), &[&world.work(0)]);
    // What comes next finds the executor free.
    world.agrees(world.join()).await;
    world.end(&[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_executors_do_not_share_a_folder() {
    let world = World::new(21, &[]).await;
    let _one = world.executor(0);
    let (scheduler, work) = (world.address.to_string(), world.work(0));
    let arguments = ["executor", "--scheduler", &scheduler, "--listen", &free().to_string(), "--work", work.to_str().unwrap()];
    let mut other = Process::engine(&arguments);
    until("the other has ended", || other.ended());
    assert!(!other.0.wait().unwrap().success());
    world.end(&[0]).await;
}
