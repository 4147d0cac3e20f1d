//! What is served online: branches, rebuilds, audits, and the sampler that looks for skew always.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Ids, RandomIds};
use anabranch_ingest::{AuditRequest, Moved, Rebuild, ServedBranch, ViewAudit};

use super::{App, Scope};
use crate::error::{Error, Result};
use crate::metrics::RepositoryLabels;

impl Scope {
    /// How branches are served.
    pub(crate) async fn serving(&self) -> Result<Vec<ServedBranch>> {
        Ok(self.repo.ingest.serving().await?)
    }

    /// Serves the scope's branch from now on.
    pub(crate) async fn serve(&self) -> Result<ServedBranch> {
        Ok(self.repo.ingest.serve(&self.branch_name().await?).await?)
    }

    /// Serves the scope's branch no longer.
    pub(crate) async fn unserve(&self) -> Result<()> {
        Ok(self.repo.ingest.unserve(&self.branch_name().await?).await?)
    }

    /// Begins to rebuild what is online of the scope's branch.
    pub(crate) async fn rebuild(&self, rebuild: Rebuild) -> Result<ServedBranch> {
        Ok(self.repo.ingest.rebuild(&self.branch_name().await?, &rebuild).await?)
    }

    /// Moves what is online of every branch to the store that the settings name as the next one; or copies and compares only.
    pub(crate) async fn move_online(&self, cut_over: bool) -> Result<Moved> {
        let none = || Error::Precondition("there is no store to move to: name it as online.next in the settings and restart the server".to_owned());
        let moving = self.repo.moving.as_ref().ok_or_else(none)?;
        if moving.has_moved() {
            return Err(Error::Precondition(
                "it has moved already: name the new store as online.backend in the settings, and none as online.next".to_owned(),
            ));
        }
        Ok(self.repo.ingest.move_online(moving, cut_over).await?)
    }

    /// Compares what is online of the scope's branch with its history.
    pub(crate) async fn audit(&self, request: AuditRequest) -> Result<Vec<ViewAudit>> {
        Ok(self.repo.ingest.audit(&self.branch_name().await?, &request).await?)
    }
}

/// Samples what is online of every repository, again and again until the server closes.
pub(crate) async fn sample_always(app: Arc<App>) {
    let (every, ids) = (app.config().online.sample_every, RandomIds::from_os());
    if every.micros() <= 0 {
        return;
    }
    loop {
        tokio::select! {
            () = app.closing().cancelled() => return,
            () = tokio::time::sleep(Duration::from_micros(every.micros().unsigned_abs())) => {}
        }
        for repo in app.repos() {
            // What a store that is down cannot answer, lookups complain about.
            let Ok(samples) = repo.ingest.sample(ids.random() as u64).await else { continue };
            for (branch, view, looked, skewed) in samples {
                let labels = RepositoryLabels { repository: repo.name().to_owned() };
                app.metrics().rows_sampled.get_or_create(&labels).inc_by(looked);
                app.metrics().rows_skewed.get_or_create(&labels).inc_by(skewed);
                if skewed > 0 {
                    let repository = repo.name();
                    tracing::error!(repository, branch, view, looked, skewed, "rows of history are not online: run `anabranch audit --repair`");
                }
            }
        }
    }
}
