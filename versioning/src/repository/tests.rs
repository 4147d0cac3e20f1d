//! What a repository promises, and what it leaves behind at each point where it can be cut short.

mod commits;
mod compaction;
mod crashes;
mod damage;
mod leases;
mod merges;
mod names;
mod refs;
mod release;
mod replays;
mod simulation;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::{ManualClock, RandomIds, Timestamp};
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::{
    Change, CommitId, CommitRequest, Committed, Key, KeyKind, MemoryMetadata, MetadataStore, RefSpec, Repository, RepositoryOptions, Result, Scan,
    SqliteMetadata, local_objects, scan_all,
};

struct Fixture {
    repository: Arc<Repository>,
    metadata: Arc<dyn MetadataStore>,
    objects: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
}

async fn open(metadata: &Arc<dyn MetadataStore>, objects: &Arc<dyn ObjectStore>) -> Fixture {
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let ids = Arc::new(RandomIds::seeded(1));
    let repository = Repository::open(metadata.clone(), objects.clone(), clock.clone(), ids, RepositoryOptions::default()).await.unwrap();
    Fixture { repository, metadata: metadata.clone(), objects: objects.clone(), clock }
}

async fn in_memory() -> Fixture {
    let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::new(&RandomIds::seeded(2)));
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    open(&metadata, &objects).await
}

async fn on_disk(folder: &Path) -> Fixture {
    let metadata: Arc<dyn MetadataStore> = Arc::new(SqliteMetadata::open(&folder.join("metadata.sqlite"), &RandomIds::seeded(2)).await.unwrap());
    open(&metadata, &local_objects(&folder.join("objects")).unwrap()).await
}

fn key(name: &str) -> Key {
    Key::new(KeyKind::Object, &[name.as_bytes()]).unwrap()
}

fn put(name: &str, value: &str) -> Change {
    Change::put(key(name), value.to_owned())
}

fn request(changes: Vec<Change>) -> CommitRequest {
    CommitRequest::new("ada", "change things", changes)
}

async fn commit(fixture: &Fixture, changes: Vec<Change>) -> Result<Committed> {
    fixture.repository.commit("main", request(changes)).await
}

async fn head(fixture: &Fixture) -> CommitId {
    fixture.repository.branch("main").await.unwrap().head
}

/// The whole map at a commit, which must be readable.
async fn content(repository: &Repository, commit: &CommitId) -> BTreeMap<Key, Bytes> {
    let view = repository.at(commit).await.unwrap();
    scan_all(&view, Scan::all().limit(7)).await.unwrap().into_iter().map(|entry| (entry.key, entry.value)).collect()
}

fn spec(text: &str) -> RefSpec {
    text.parse().unwrap()
}
