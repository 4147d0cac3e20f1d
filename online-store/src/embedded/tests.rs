use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::{ErrorKind, Kinded, RandomIds};

use super::*;
use crate::OnlineStoreExt;
use crate::testkit::{at, entity, row, write};

const G: Generation = Generation(1);

fn config() -> EmbeddedConfig {
    EmbeddedConfig { reserve_bytes: 0, memtable_bytes: 1 << 20, ..EmbeddedConfig::default() }
}

async fn open(path: &Path) -> Result<EmbeddedOnlineStore> {
    EmbeddedOnlineStore::open(path, &config(), &RandomIds::from_os()).await
}

#[tokio::test]
async fn a_folder_that_is_open_is_refused_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/the/way");
    let first = open(&path).await.unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    first.write(&[write(G, 1, at(1), b"x")]).await.unwrap();
    drop(first);
    assert_eq!(open(&path).await.unwrap().get(G, &entity(1)).await.unwrap(), Some(row(at(1), b"x")));
}

#[tokio::test]
async fn a_folder_whose_making_was_cut_short_is_made_again() {
    for left_behind in [&["lock"][..], &["lock", "0.jnl"], &["lock", "0.jnl", "keyspaces/", "version"]] {
        let folder = tempfile::tempdir().unwrap();
        for name in left_behind {
            match name.strip_suffix('/') {
                Some(name) => std::fs::create_dir(folder.path().join(name)).unwrap(),
                None => std::fs::write(folder.path().join(name), b"").unwrap(),
            }
        }
        let store = open(folder.path()).await.unwrap();
        store.write(&[write(G, 1, at(1), b"x")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), b"dear").unwrap();
    assert!(open(folder.path()).await.is_err());
    assert_eq!(std::fs::read(folder.path().join("thesis.tex")).unwrap(), b"dear");
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_writes_before_the_tree_meets_it_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let full = EmbeddedConfig { reserve_bytes: u64::MAX, ..config() };
    let store = open(folder.path()).await.unwrap();
    store.write(&[write(G, 1, at(1), b"x")]).await.unwrap();
    drop(store);
    let store = EmbeddedOnlineStore::open(folder.path(), &full, &RandomIds::from_os()).await.unwrap();
    let error = store.write(&[write(G, 1, at(2), b"x"), write(G, 2, at(2), b"x")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert_eq!(store.advance(G, b"c", store.incarnation().await.unwrap()).await.unwrap_err().kind(), ErrorKind::Exhausted);
    assert_eq!(store.get(G, &entity(1)).await.unwrap(), Some(row(at(1), b"x")));
    assert_eq!(store.get(G, &entity(2)).await.unwrap(), None);
    // A replay of what is held needs no space.
    store.write(&[write(G, 1, at(1), b"x")]).await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).await.unwrap());
    let database = fjall::Database::builder(folder.path()).open().unwrap();
    let rows = database.keyspace("online", fjall::KeyspaceCreateOptions::default).unwrap();
    rows.insert(b"\0format", [9]).unwrap();
    drop((rows, database));
    let error = open(folder.path()).await.unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 9, .. }), "{error}");
}

#[tokio::test]
async fn an_incarnation_is_the_folders_own() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let incarnation = open(one.path()).await.unwrap().incarnation().await.unwrap();
    assert_eq!(open(one.path()).await.unwrap().incarnation().await.unwrap(), incarnation);
    assert_ne!(open(other.path()).await.unwrap().incarnation().await.unwrap(), incarnation);
}

#[tokio::test]
async fn rows_that_went_to_files_are_found_and_still_compared() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedOnlineStore::open(folder.path(), &EmbeddedConfig { hot_bytes: 0, ..config() }, &RandomIds::from_os()).await.unwrap();
    for time in 0..3 {
        store.write(&(0..300).map(|i| write(G, i, at(time * (i % 2)), b"x")).collect::<Vec<_>>()).await.unwrap();
        store.tree.rows_to_files();
    }
    store.write(&(0..300).map(|i| write(G, i, at(1), b"x")).collect::<Vec<_>>()).await.unwrap();
    for i in 0..300 {
        assert_eq!(store.get(G, &entity(i)).await.unwrap(), Some(row(at(1 + i % 2), b"x")));
    }
}

#[tokio::test]
async fn a_read_of_many_rows_comes_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    store.write(&(0..5_000).map(|i| write(G, i, at(i), b"x")).collect::<Vec<_>>()).await.unwrap();
    let keys: Vec<_> = (0..6_000).rev().map(entity).collect();
    let rows = store.read(&[ReadGroup { generations: &[G], keys: &keys }]).await.unwrap();
    let expected: Vec<_> = (0..6_000).rev().map(|i| (i < 5_000).then(|| row(at(i), b"x"))).collect();
    assert_eq!(rows, expected);
}

/// With a table of a few entities, reads fill and evict while a writer goes on: no read may be behind a write that returned, nor go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_reads_are_never_behind_and_never_go_back() {
    const ENTITIES: i64 = 64;
    let folder = tempfile::tempdir().unwrap();
    let small = EmbeddedConfig { hot_bytes: 64 * 500, ..config() };
    let store = Arc::new(EmbeddedOnlineStore::open(folder.path(), &small, &RandomIds::from_os()).await.unwrap());
    let written = Arc::new(AtomicI64::new(0));
    let writer = tokio::spawn({
        let (store, written) = (Arc::clone(&store), Arc::clone(&written));
        async move {
            for time in 1..=400 {
                store.write(&(0..ENTITIES).map(|i| write(G, i, at(time), &[0; 60])).collect::<Vec<_>>()).await.unwrap();
                written.store(time, Ordering::SeqCst);
            }
        }
    });
    let mut readers = Vec::new();
    for reader in 0..3 {
        let (store, written) = (Arc::clone(&store), Arc::clone(&written));
        readers.push(tokio::spawn(async move {
            let mut seen = vec![0; ENTITIES as usize];
            let mut i = reader;
            while written.load(Ordering::SeqCst) < 400 {
                i = (i + 7) % ENTITIES;
                let least = written.load(Ordering::SeqCst);
                let held = store.get(G, &entity(i)).await.unwrap();
                let time = held.map_or(0, |row| crate::PackedRow::parse(&[&row[..36], &[1; 1], &[0; 9]].concat()).unwrap().event_time().0);
                assert!(time >= least.max(seen[i as usize]), "entity {i}: {time} after {}, with {least} written", seen[i as usize]);
                seen[i as usize] = time;
            }
        }));
    }
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
}
