//! What a server does every hour: releasing the content of old commits, where a branch's history asks for it, and compacting packs.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Timestamp;
use anabranch_offline_store::dataset::DatasetManifest;
use anabranch_versioning::{CommitId, CompactionOptions, Released};

use super::datasets::FOLDER;
use super::{App, Repo};
use crate::error::Result;

const EVERY: Duration = Duration::from_secs(3600);

impl Repo {
    /// Releases what no branch, tag or dataset at a head keeps any more.
    pub(crate) async fn release_history(&self, now: Timestamp) -> Result<Released> {
        let branches = self.versions.branches().await?;
        let mut limited = false;
        for branch in &branches {
            limited |= self.versions.history(&branch.name).await?.is_some();
        }
        if !limited {
            return Ok(Released::default());
        }
        let mut named: Vec<CommitId> = Vec::new();
        for branch in &branches {
            let map = self.versions.at(&branch.head).await?;
            for (_, bytes) in self.objects(&map, FOLDER).await? {
                named.push(DatasetManifest::from_bytes(&bytes)?.commit.to_string().parse()?);
            }
        }
        Ok(self.versions.release_history(now, &named).await?)
    }
}

/// Does the upkeep of all repositories every hour until the server closes.
pub(crate) async fn upkeep_hourly(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.closing().cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        for repo in app.repos() {
            let repository = repo.name();
            match repo.release_history(app.clock().now()).await {
                Ok(done) if done.released > 0 => tracing::info!(repository, released = done.released, "released old commits"),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, repository, "old commits were not released; the next hour tries again"),
            }
            match repo.versions.compact(&CompactionOptions::default()).await {
                Ok(done) if done.damaged.is_empty() => {
                    tracing::info!(repository, before = done.packs_before, after = done.packs_after, "compacted packs");
                }
                Ok(done) => tracing::error!(repository, damaged = ?done.damaged, "packs are damaged: run `anabranch fsck`"),
                Err(error) => tracing::warn!(%error, repository, "packs were not compacted; the next hour tries again"),
            }
        }
    }
}
