//! Releasing the content of old commits, hourly, where a branch's history asks for it.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Timestamp;
use anabranch_offline_store::dataset::DatasetManifest;
use anabranch_versioning::{CommitId, Released};

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

/// Releases history every hour until the server closes.
pub(crate) async fn release_hourly(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.closing().cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        for repo in app.repos() {
            match repo.release_history(app.clock().now()).await {
                Ok(done) if done.released > 0 => tracing::info!(repository = repo.name(), released = done.released, "released old commits"),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, repository = repo.name(), "old commits were not released; the next hour tries again"),
            }
        }
    }
}
