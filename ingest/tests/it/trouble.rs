//! Stores that fail: nothing is lost, the state is visible, and the pipeline goes on by itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anabranch_core::{ErrorKind, Generation, Kinded, RandomIds};
use anabranch_ingest::Visibility;
use anabranch_online_store::{Cursor, Incarnation, MemoryOnlineStore, OnlineStore, Page, ReadGroup, Write};
use anabranch_versioning::testkit::LossyFiles;
use async_trait::async_trait;
use bytes::Bytes;

use crate::world::{LONG, Parts, World, definitions, weather};

/// An online store that fails while it is told to, and counts its syncs.
#[derive(Debug)]
struct Flaky {
    inner: MemoryOnlineStore,
    down: AtomicBool,
    syncs: AtomicU64,
}

impl Flaky {
    fn check(&self) -> anabranch_online_store::Result<()> {
        if self.down.load(Ordering::SeqCst) { Err(anabranch_online_store::Error::Timeout { doing: "write", limit_ms: 1 }) } else { Ok(()) }
    }
}

#[async_trait]
impl OnlineStore for Flaky {
    async fn write(&self, rows: &[Write]) -> anabranch_online_store::Result<()> {
        // A write that fails may have taken effect for any of its rows.
        self.inner.write(&rows[..rows.len() / 2]).await?;
        self.check()?;
        self.inner.write(rows).await
    }
    async fn read(&self, groups: &[ReadGroup<'_>]) -> anabranch_online_store::Result<Vec<Option<Bytes>>> {
        self.inner.read(groups).await
    }
    async fn sync(&self) -> anabranch_online_store::Result<()> {
        self.check()?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.inner.sync().await
    }
    async fn published_to(&self, generation: Generation) -> anabranch_online_store::Result<Option<Bytes>> {
        self.inner.published_to(generation).await
    }
    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> anabranch_online_store::Result<()> {
        self.check()?;
        self.inner.advance(generation, commit, incarnation).await
    }
    async fn incarnation(&self) -> anabranch_online_store::Result<Incarnation> {
        self.inner.incarnation().await
    }
    async fn drop_generation(&self, generation: Generation) -> anabranch_online_store::Result<()> {
        self.inner.drop_generation(generation).await
    }
    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> anabranch_online_store::Result<Page> {
        self.inner.scan(generation, after, limit).await
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn an_online_store_that_is_down_holds_the_pipeline_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let flaky = Arc::new(Flaky { inner: MemoryOnlineStore::new(&RandomIds::seeded(1)), down: AtomicBool::new(false), syncs: AtomicU64::new(0) });
    let online: Arc<dyn OnlineStore> = flaky.clone();
    let world = World::open(Parts { online, ..Parts::in_memory(folder.path()) }).await;
    world.apply(definitions(60)).await.unwrap();
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    assert!(flaky.syncs.load(Ordering::SeqCst) > 0, "online is synced before the commit");
    flaky.down.store(true, Ordering::SeqCst);
    for n in 2..20 {
        // Pushes are still acknowledged: the log has them.
        world.push("weather", weather("JFK", n, 1.0, n)).await.unwrap();
    }
    until("the failure shows", || world.ingest.status()[0].failures > 2).await;
    let status = world.ingest.status()[0].clone();
    assert!(status.last_error.is_some() && status.committed == 1, "{status:?}");
    let token = anabranch_ingest::Token { source: status.source, next: status.appended };
    let error = world.ingest.wait_visible(&token, Visibility::Online, std::time::Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("failing"), "{error}");
    flaky.down.store(false, Ordering::SeqCst);
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, (1..20).collect::<Vec<_>>());
    assert_eq!(world.ingest.status()[0].last_error, None);
}

/// An object store whose puts fail while it is told to.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn object_store::ObjectStore>,
    down: AtomicBool,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl object_store::ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &object_store::path::Path,
        payload: object_store::PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        if self.down.load(Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(object_store::Error::Generic { store: "faulty", source: Box::new(source) });
        }
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        location: &object_store::path::Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        if self.down.load(Ordering::SeqCst) {
            return Err(object_store::Error::NotImplemented {
                operation: "put_multipart".to_owned(),
                implementer: "a store that is down".to_owned(),
            });
        }
        self.inner.put_multipart_opts(location, options).await
    }
    async fn get_opts(
        &self,
        location: &object_store::path::Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<object_store::path::Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::path::Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&object_store::path::Path>) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&object_store::path::Path>) -> object_store::Result<object_store::ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(
        &self,
        from: &object_store::path::Path,
        to: &object_store::path::Path,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_full_object_store_fails_commits_cleanly_and_loads_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::in_memory(folder.path());
    let faulty = Arc::new(Faulty { inner: Arc::clone(&parts.objects), down: AtomicBool::new(false) });
    let world = World::open(Parts { objects: faulty.clone(), ..parts }).await;
    world.apply(definitions(60)).await.unwrap();
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    let before = world.head().await;
    faulty.down.store(true, Ordering::SeqCst);
    let pushed = world.push("weather", weather("JFK", 2, 2.0, 2)).await.unwrap();
    world.ingest.wait_visible(&pushed.token, Visibility::Online, LONG).await.unwrap();
    until("the failure shows", || world.ingest.status()[0].failures > 1).await;
    let error = crate::load::load(&world, "main", "w.csv", crate::load::csv(0..5, 1.0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert_eq!(world.head().await, before);
    faulty.down.store(false, Ordering::SeqCst);
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2]);
}

#[tokio::test]
async fn a_full_log_refuses_pushes_and_takes_them_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let lossy = LossyFiles::default();
    let world = World::open(Parts { files: Arc::new(lossy.clone()), ..Parts::in_memory(&folder.path().join("wal")) }).await;
    world.apply(definitions(60)).await.unwrap();
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    lossy.set_full(true);
    assert_eq!(world.push("weather", weather("JFK", 2, 1.0, 2)).await.unwrap_err().kind(), ErrorKind::Exhausted);
    lossy.set_full(false);
    world.push("weather", weather("JFK", 3, 1.0, 3)).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 3]);
}

#[tokio::test]
async fn a_lost_online_store_is_filled_from_history_before_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    for n in 0..10 {
        world.push("weather", weather(&format!("a{}", n % 3), n, 1.0, n)).await.unwrap();
    }
    world.check_law().await;
    let parts = world.parts.clone();
    world.end().await;
    let online: Arc<dyn OnlineStore> = Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(2)));
    let world = World::open(Parts { online, ..parts }).await;
    if let Err(error) = world.ingest.served() {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    world.check_law().await;
    assert_eq!(world.ingest.served().unwrap().views.len(), 2);
}

#[tokio::test]
async fn a_log_that_ends_before_the_offset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    let parts = world.parts.clone();
    world.end().await;
    // An old copy of the log is put back: its positions were given to other rows since.
    let log = std::fs::read_dir(folder.path().join("1")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..36]).unwrap();
    let error = World::try_open(parts).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("ends at 0"), "{error}");
}
