//! What others do while a compaction has its files half written.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::definition::Partition;
use anabranch_offline_store::{CompactionOutcome, OfflineStoreOptions};
use anabranch_versioning::{RefSpec, ResetRequest};
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use tokio::sync::Semaphore;

use super::{full, many_small};
use crate::evolution::evolve;
use crate::support::{World, batch, clicks, clicks_view, expected};

/// A store whose next put, once armed, waits until it is let go.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn ObjectStore>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    armed: AtomicBool,
    reached: Semaphore,
    open: Semaphore,
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gated({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.gate.armed.swap(false, Ordering::SeqCst) {
            self.gate.reached.add_permits(1);
            self.gate.open.acquire().await.unwrap().forget();
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Compacts, and does something else while the first new file is being written; gives the outcome.
async fn meanwhile(world: &World, gate: &Gate, something: impl AsyncFnOnce()) -> CompactionOutcome {
    gate.armed.store(true, Ordering::SeqCst);
    let store = Arc::clone(&world.store);
    let mut compaction = tokio::spawn(async move { store.compact("main", &clicks(), &full()).await });
    tokio::select! {
        reached = gate.reached.acquire() => reached.unwrap().forget(),
        ended = &mut compaction => panic!("it ended before it wrote a file: {ended:?}"),
    }
    something().await;
    gate.open.add_permits(1);
    compaction.await.unwrap().unwrap().outcome
}

async fn gated() -> (World, Arc<Gate>) {
    let gate = Arc::new(Gate { armed: AtomicBool::new(false), reached: Semaphore::new(0), open: Semaphore::new(0) });
    let wrapped = Arc::clone(&gate);
    let world = World::memory_with(OfflineStoreOptions::default(), |inner| Arc::new(Gated { inner, gate: wrapped }) as Arc<dyn ObjectStore>).await;
    (world, gate)
}

#[tokio::test]
async fn rows_that_are_appended_meanwhile_are_kept_and_left_for_the_next() {
    let (world, gate) = gated().await;
    let mut rows = many_small(&world, Partition::None, 4).await;
    let outcome = meanwhile(&world, &gate, async || {
        for step in 0..20 {
            world.append("main", batch(2, step..step + 1)).await;
        }
    })
    .await;
    assert_eq!(outcome, CompactionOutcome::Compacted);
    rows.extend(expected(&[batch(2, 0..20)]));
    rows.sort();
    let head = world.head("main").await;
    assert_eq!(world.clicks(&head).await, rows);
    let done = super::compact(&world, &full()).await;
    assert_eq!((done.files_before, done.files_after), (21, 1));
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
}

#[tokio::test]
async fn other_columns_another_compaction_or_another_history_drop_it() {
    let (world, gate) = gated().await;
    let rows = many_small(&world, Partition::None, 4).await;
    let first = world.head("main").await;
    let view = || clicks_view().field("extra", "i64".parse().unwrap());
    let said = |outcome: CompactionOutcome| match outcome {
        CompactionOutcome::Superseded(reason) => reason,
        other => panic!("{other:?}"),
    };
    let outcome = meanwhile(&world, &gate, async || evolve(&world, "main", view()).await).await;
    assert!(said(outcome).contains("columns"));
    let outcome = meanwhile(&world, &gate, async || {
        let done = super::compact(&world, &full()).await;
        assert_eq!(done.files_after, 1);
    })
    .await;
    assert!(said(outcome).contains("compacted by another"));
    assert_eq!(world.clicks(&world.head("main").await).await, rows);

    world.append("main", batch(2, 0..3)).await;
    let back = RefSpec::commit(first);
    let outcome = meanwhile(&world, &gate, async || {
        world.repository.reset("main", ResetRequest::new(back, "test")).await.unwrap();
    })
    .await;
    assert!(matches!(outcome, CompactionOutcome::Superseded(_)), "{outcome:?}");
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_compactions_at_once_lose_nothing() {
    let world = World::memory().await;
    let mut rows = many_small(&world, Partition::Month, 2).await;
    let (one, two) = (Arc::clone(&world.store), world.another());
    let writer = |store: Arc<anabranch_offline_store::OfflineStore>, id: u32| async move {
        for step in 0..15 {
            store.append("main", crate::support::clicks_append(batch(id, step..step + 1))).await.unwrap();
        }
    };
    let compactor = |store: Arc<anabranch_offline_store::OfflineStore>| async move {
        for _ in 0..6 {
            store.compact("main", &clicks(), &full()).await.unwrap();
        }
    };
    let tasks = [
        tokio::spawn(writer(Arc::clone(&one), 2)),
        tokio::spawn(writer(Arc::clone(&two), 3)),
        tokio::spawn(compactor(Arc::clone(&one))),
        tokio::spawn(compactor(two)),
    ];
    for task in tasks {
        task.await.unwrap();
    }
    for id in [2, 3] {
        rows.extend(expected(&[batch(id, 0..15)]));
    }
    rows.sort();
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
}
