//! A crash, or a full disk, at each step of an append: nothing is visible, and the same append made again is there once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::definition::Partition;
use anabranch_core::{ErrorKind, Kinded};
use anabranch_offline_store::OfflineStoreOptions;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

use crate::support::{World, batch, clicks_append, expected, layout};

/// A store whose puts fail once so many have been made.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) puts_left: Arc<AtomicI64>,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failing({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.puts_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(object_store::Error::Generic { store: "failing", source: Box::new(full) });
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

#[tokio::test]
async fn an_append_that_fails_at_any_file_shows_nothing_and_can_be_made_again() {
    let puts_left = Arc::new(AtomicI64::new(i64::MAX));
    let left = Arc::clone(&puts_left);
    // Every second append merges manifests too.
    let options = OfflineStoreOptions { merge_manifests: 2, ..OfflineStoreOptions::default() };
    let world = World::memory_with(options, |inner| Arc::new(Failing { inner, puts_left: left })).await;
    world.create(&layout(Partition::Month)).await;
    let mut rows = Vec::new();
    for round in 0..4 {
        let batch = batch(round, 0..40);
        let mut step = 0;
        loop {
            let before = world.head("main").await;
            puts_left.store(step, Ordering::SeqCst);
            let done = world.store.append("main", clicks_append(batch.clone())).await;
            puts_left.store(i64::MAX, Ordering::SeqCst);
            match done {
                Ok(_) => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
                    assert_eq!(world.head("main").await, before);
                    assert_eq!(world.clicks(&before).await, expected(&rows));
                }
            }
            step += 1;
        }
        // Two data files, a manifest and a list at least.
        assert!(step >= 4, "{step}");
        rows.push(batch);
        assert_eq!(world.clicks(&world.head("main").await).await, expected(&rows));
    }
}

#[tokio::test]
async fn a_missing_or_damaged_file_is_named_and_does_not_panic() {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let appended = world.append("main", batch(1, 0..40)).await;
    let (commit, name) = (appended.committed.commit, appended.tables[0].files[0].name.clone());
    let uuid = world.store.table(&commit, &crate::support::clicks()).await.unwrap().entry().uuid;
    let path = Path::from(format!("data/{uuid}/{name}"));
    let whole = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
    let request = anabranch_offline_store::ScanRequest::all(crate::support::clicks(), layout(Partition::None).table_columns());
    let scan = || async { world.store.scan(&commit, &request).await.unwrap().try_collect::<Vec<_>>().await };
    for len in [0, 3, whole.len() / 2, whole.len() - 1] {
        world.objects.put(&path, whole.slice(..len).into()).await.unwrap();
        let error = scan().await.unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    world.objects.delete(&path).await.unwrap();
    assert!(scan().await.unwrap_err().to_string().contains("the file is missing"));
}
