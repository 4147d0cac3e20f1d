//! A store whose process is killed keeps what was synced.
//!
//! The test starts itself again as a child that writes for ever: it counts up, writes the count to every entity and to the commit, syncs, and says so.
//! The parent kills it (`SIGKILL`) after a few counts, at no particular step, opens the folder and looks. It has no harness, as the child is no test.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, and its child, that no harness runs")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anabranch_core::{Generation, RandomIds};
use anabranch_online_store::testkit::{advance, at, entity, row, write};
use anabranch_online_store::{EmbeddedConfig, EmbeddedOnlineStore, OnlineStore, OnlineStoreExt};

const G: Generation = Generation(1);
const ENTITIES: i64 = 20;
const CHILD: &str = "--write-for-ever";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, flag, folder] if flag == CHILD => runtime.block_on(write_for_ever(Path::new(folder))),
        _ => {
            let folder = tempfile::tempdir().unwrap();
            let mut synced = 0;
            for round in 0..10 {
                synced = kill_while_writing(&folder.path().join("online"), round, synced);
                runtime.block_on(check(&folder.path().join("online"), synced));
            }
            println!("test what_was_synced_survives_a_kill ... ok ({synced} counts)");
        }
    }
}

async fn open(folder: &Path) -> EmbeddedOnlineStore {
    let config = EmbeddedConfig { memtable_bytes: 1 << 20, reserve_bytes: 0, ..EmbeddedConfig::default() };
    EmbeddedOnlineStore::open(folder, &config, &RandomIds::from_os()).await.unwrap()
}

async fn write_for_ever(folder: &Path) {
    let store = open(folder).await;
    let mut count = count(&store).await;
    loop {
        count += 1;
        let rows: Vec<_> = (0..ENTITIES).map(|i| write(G, i, at(count), &[0; 500])).collect();
        store.write(&rows).await.unwrap();
        advance(&store, G, &count.to_le_bytes()).await;
        store.sync().await.unwrap();
        println!("{count}");
        std::io::stdout().flush().unwrap();
    }
}

/// The count that the store answers for.
async fn count(store: &dyn OnlineStore) -> i64 {
    let commit = store.published_to(G).await.unwrap();
    commit.map_or(0, |commit| i64::from_le_bytes(commit[..].try_into().unwrap()))
}

/// Gives the last count that the child said it had synced.
fn kill_while_writing(folder: &Path, round: usize, before: i64) -> i64 {
    let mut child = start(folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut synced = before;
    for line in lines.by_ref().take(round * 3) {
        synced = line.unwrap().parse().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What the child said before it died, it had done.
    for line in lines {
        synced = line.unwrap().parse().unwrap_or(synced);
    }
    synced
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap()).arg(CHILD).arg(folder).stdout(Stdio::piped()).spawn().unwrap()
}

async fn check(folder: &Path, synced: i64) {
    let store = open(folder).await;
    let count = count(&store).await;
    assert!(count >= synced, "the store answers for {count}, and {synced} was synced");
    for i in 0..ENTITIES {
        let held = store.get(G, &entity(i)).await.unwrap();
        assert!(held >= (count > 0).then(|| row(at(count), &[0; 500])), "entity {i} is behind the commit of count {count}");
    }
}
