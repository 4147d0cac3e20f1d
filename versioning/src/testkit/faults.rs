//! [`FaultyMetadata`]: a decorator that fails a publication on command, loses the answer to a release, or stands still as a paused process does.

use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::{BranchId, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    BranchInfo, CommitId, Error, Fence, LeaseState, Location, MetadataDump, MetadataStore, PackId, PackIndex, PackSummary, Publication, ReflogEntry,
    Renamed, Result, TagInfo,
};

/// How the next publication fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataFault {
    /// The database is gone before the transaction.
    Before,
    /// The transaction is made, its answer is lost.
    After,
    /// As `After`, and the next look at a reflog fails too.
    AfterAndBlind,
    /// The transaction is made, then all stands still until [`FaultyMetadata::freeze`] says otherwise.
    AfterAndStill,
    /// Another writer is faster: the store answers as if the head had moved.
    Outrun,
}

/// A metadata store that fails when told.
#[derive(Debug)]
pub struct FaultyMetadata {
    inner: Arc<dyn MetadataStore>,
    fault: Mutex<Option<MetadataFault>>,
    blind: Mutex<bool>,
    lost_release: Mutex<bool>,
    frozen: watch::Sender<bool>,
}

impl FaultyMetadata {
    /// Passes everything on to `inner` until a fault is armed.
    pub fn new(inner: Arc<dyn MetadataStore>) -> Self {
        Self { inner, fault: Mutex::default(), blind: Mutex::default(), lost_release: Mutex::default(), frozen: watch::Sender::new(false) }
    }

    /// Makes the next publication fail.
    pub fn arm(&self, fault: MetadataFault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// While frozen, nothing is published and no lease is taken, renewed or released: such calls wait, before they are made.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// The next release of a lease is made, its answer is lost.
    pub fn lose_next_release(&self) {
        *self.lost_release.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    async fn thawed(&self) {
        // The sender is this value's own, so that it is never gone.
        drop(self.frozen.subscribe().wait_for(|frozen| !frozen).await);
    }

    fn lost() -> Error {
        Error::backend("the metadata database", std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    }

    fn check_sight(&self) -> Result<()> {
        if std::mem::take(&mut *self.blind.lock().unwrap_or_else(PoisonError::into_inner)) { Err(Self::lost()) } else { Ok(()) }
    }
}

#[async_trait]
impl MetadataStore for FaultyMetadata {
    async fn publish(&self, publication: &Publication) -> Result<bool> {
        self.thawed().await;
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match fault {
            None => self.inner.publish(publication).await,
            Some(MetadataFault::Before) => Err(Self::lost()),
            Some(MetadataFault::Outrun) => Ok(false),
            Some(fault) => {
                let made = self.inner.publish(publication).await?;
                if fault == MetadataFault::AfterAndStill {
                    self.freeze(true);
                    self.thawed().await;
                    return Ok(made);
                }
                *self.blind.lock().unwrap_or_else(PoisonError::into_inner) = fault == MetadataFault::AfterAndBlind;
                Err(Self::lost())
            }
        }
    }

    async fn branch(&self, name: &str) -> Result<Option<BranchInfo>> {
        self.inner.branch(name).await
    }

    async fn incarnation(&self) -> Result<u128> {
        self.inner.incarnation().await
    }

    async fn locate(&self, hashes: &[[u8; 32]]) -> Result<Vec<Option<Location>>> {
        self.inner.locate(hashes).await
    }

    async fn commits_between(&self, low: &CommitId, high: &CommitId, limit: usize) -> Result<Vec<CommitId>> {
        self.inner.commits_between(low, high, limit).await
    }

    async fn create_branch(&self, name: &str, head: &CommitId, time: Timestamp, author: &str) -> Result<Option<BranchInfo>> {
        self.inner.create_branch(name, head, time, author).await
    }

    async fn delete_branch(&self, name: &str, id: BranchId) -> Result<bool> {
        self.inner.delete_branch(name, id).await
    }

    async fn protect_branch(&self, name: &str, protected: bool) -> Result<bool> {
        self.inner.protect_branch(name, protected).await
    }

    async fn branches(&self) -> Result<Vec<BranchInfo>> {
        self.inner.branches().await
    }

    async fn reflog(&self, branch: BranchId, before: Option<u64>, limit: usize) -> Result<Vec<ReflogEntry>> {
        self.check_sight()?;
        self.inner.reflog(branch, before, limit).await
    }

    async fn head_at(&self, branch: BranchId, time: Timestamp) -> Result<Option<CommitId>> {
        self.inner.head_at(branch, time).await
    }

    async fn create_tag(&self, name: &str, commit: &CommitId, time: Timestamp) -> Result<Option<TagInfo>> {
        self.inner.create_tag(name, commit, time).await
    }

    async fn delete_tag(&self, name: &str) -> Result<bool> {
        self.inner.delete_tag(name).await
    }

    async fn tag(&self, name: &str) -> Result<Option<TagInfo>> {
        self.inner.tag(name).await
    }

    async fn tags(&self) -> Result<Vec<TagInfo>> {
        self.inner.tags().await
    }

    async fn value(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.value(space, key).await
    }

    async fn values(&self, space: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        self.inner.values(space, prefix, after, limit).await
    }

    async fn swap_value(&self, space: &str, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool> {
        self.inner.swap_value(space, key, expected, new).await
    }

    async fn allocate(&self, mark: &str, count: u64) -> Result<u64> {
        self.inner.allocate(mark, count).await
    }

    async fn mark(&self, mark: &str) -> Result<u64> {
        self.inner.mark(mark).await
    }

    async fn epochs(&self, tags: &[&str]) -> Result<Vec<Option<u64>>> {
        self.inner.epochs(tags).await
    }

    async fn rename_branch(&self, name: &str, id: BranchId, new: &str) -> Result<Renamed> {
        self.inner.rename_branch(name, id, new).await
    }

    async fn branches_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BranchInfo>> {
        self.inner.branches_page(prefix, after, limit).await
    }

    async fn tags_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<TagInfo>> {
        self.inner.tags_page(prefix, after, limit).await
    }

    async fn lease(&self, name: &str) -> Result<LeaseState> {
        self.inner.lease(name).await
    }

    async fn take_lease(&self, name: &str, holder: &str, dead: Option<(u64, u64)>) -> Result<LeaseState> {
        self.thawed().await;
        self.inner.take_lease(name, holder, dead).await
    }

    async fn renew_lease(&self, fence: &Fence) -> Result<bool> {
        self.thawed().await;
        self.inner.renew_lease(fence).await
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<()> {
        self.thawed().await;
        self.inner.release_lease(name, holder).await?;
        if std::mem::take(&mut *self.lost_release.lock().unwrap_or_else(PoisonError::into_inner)) { Err(Self::lost()) } else { Ok(()) }
    }

    async fn packs(&self, after: Option<&PackId>, limit: usize) -> Result<Vec<PackSummary>> {
        self.inner.packs(after, limit).await
    }

    async fn replace_packs(&self, new: &[PackIndex], old: &[PackId]) -> Result<bool> {
        self.inner.replace_packs(new, old).await
    }

    async fn dump(&self) -> Result<MetadataDump> {
        self.inner.dump().await
    }

    async fn load(&self, dump: &MetadataDump) -> Result<()> {
        self.inner.load(dump).await
    }
}
