//! Tables as files: compaction, on request and in the background, and where a table's files lie.
//!
//! One table of a repository is compacted at a time, whoever asks. In the background a table of `main` is compacted once it has as many small files as the
//! configuration says; one that is as it was when it was last looked at is left alone. Compaction holds nothing up: rows are written on beside it, and
//! what is served online answers for its commit as soon as it is made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Kinded;
use anabranch_offline_store::{CompactOptions, Compaction, CompactionOutcome, CompactionScope, Namespace, TableFile, TableName};
use anabranch_versioning::CommitId;
use bytes::Bytes;

use super::versions::DEFAULT_BRANCH;
use super::{App, Repo, Scope};
use crate::config::CompactionConfig;
use crate::error::{Error, Result};
use crate::metrics::{CompactionLabels, Metrics, RepositoryLabels};

/// What is to be compacted.
#[derive(Debug, Default)]
pub(crate) struct CompactRequest {
    /// Empty for all.
    pub(crate) views: Vec<String>,
    pub(crate) full: bool,
    pub(crate) author: String,
}

impl Scope {
    /// Compacts tables of the scope's branch, in the order asked.
    pub(crate) async fn compact(&self, request: CompactRequest) -> Result<Vec<Compaction>> {
        let branch = self.branch().await?;
        let names = if request.views.is_empty() {
            all_tables(&self.repo, &branch.head).await?
        } else {
            request.views.iter().map(|view| TableName::from_text(view)).collect()
        };
        // Nothing is rewritten for a request that names what is not there.
        for name in &names {
            self.repo.offline.table(&branch.head, name).await?;
        }
        let scope = if request.full { CompactionScope::Full } else { CompactionScope::Small };
        let options = CompactOptions { author: Self::author(&request.author), scope, ..options(&self.app) };
        let mut done = Vec::with_capacity(names.len());
        for name in &names {
            done.push(self.repo.compact(self.app.metrics(), &branch.name, name, &options).await?);
        }
        Ok(done)
    }

    /// The data files of a view's table, or of another by its namespace and name, at the scope's ref, and the commit.
    pub(crate) async fn table_files(&self, view: &str) -> Result<(CommitId, Vec<TableFile>)> {
        let (commit, name) = self.table_of(view).await?;
        Ok((commit, self.repo.offline.table_files(&commit, &name).await?))
    }

    /// The Iceberg metadata of a view's table at the scope's ref, and the commit.
    pub(crate) async fn table_metadata(&self, view: &str) -> Result<(CommitId, Bytes)> {
        let (commit, name) = self.table_of(view).await?;
        Ok((commit, self.repo.offline.metadata_json(&commit, &name).await?))
    }

    async fn table_of(&self, view: &str) -> Result<(CommitId, TableName)> {
        if view.is_empty() {
            return Err(Error::argument("view", "it is empty: name a feature view"));
        }
        Ok((self.resolve().await?.commit, TableName::from_text(view)))
    }
}

impl Repo {
    /// Compacts one table, after whichever is being compacted.
    async fn compact(&self, metrics: &Metrics, branch: &str, name: &TableName, options: &CompactOptions) -> Result<Compaction> {
        let _turn = self.compaction.lock().await;
        let done = self.offline.compact(branch, name, options).await?;
        let (repository, outcome) = (self.name().to_owned(), done.outcome.name());
        metrics.compactions.get_or_create(&CompactionLabels { repository: repository.clone(), outcome }).inc();
        if !done.commits.is_empty() {
            metrics.compacted_rows.get_or_create(&RepositoryLabels { repository }).inc_by(done.rows);
        }
        if !done.commits.is_empty() && branch == DEFAULT_BRANCH {
            // There are no rows to bring online, only a commit to answer for; who comes next does it where this fails.
            if let Err(error) = self.ingest.publish().await {
                tracing::warn!(%error, repository = self.name(), "a compaction is committed, and what is served does not answer for its commit yet");
            }
        }
        Ok(done)
    }
}

fn options(app: &App) -> CompactOptions {
    let config = &app.config().compaction;
    CompactOptions {
        small_bytes: config.small_bytes,
        target_bytes: config.target_bytes,
        memory_bytes: config.memory_bytes,
        spill: Some(app.folder().spill()),
        ..CompactOptions::default()
    }
}

async fn all_tables(repo: &Repo, commit: &CommitId) -> Result<Vec<TableName>> {
    let mut names = Vec::new();
    for namespace in Namespace::ALL {
        names.extend(repo.offline.tables(commit, namespace).await?);
    }
    Ok(names)
}

/// Compacts tables of `main` that have many small files, until the server closes.
pub(crate) async fn compact_in_background(app: Arc<App>) {
    let CompactionConfig { enabled, every, .. } = app.config().compaction;
    if !enabled {
        return;
    }
    let every = Duration::from_micros(every.micros().unsigned_abs());
    let mut seen: HashMap<(String, TableName), Option<i64>> = HashMap::new();
    loop {
        tokio::select! {
            () = app.closing().cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        for repo in app.repos() {
            let repository = repo.name();
            // What it holds when it is cut off is nothing that a crash would not leave.
            let round = tokio::select! {
                () = app.closing().cancelled() => return,
                round = look(&app, repo, &mut seen) => round,
            };
            if let Err(error) = round {
                tracing::warn!(%error, repository, "tables were not compacted; the next round tries again");
            }
        }
    }
}

async fn look(app: &App, repo: &Repo, seen: &mut HashMap<(String, TableName), Option<i64>>) -> Result<()> {
    let options = options(app);
    let head = repo.versions.branch(DEFAULT_BRANCH).await?.head;
    for name in all_tables(repo, &head).await? {
        let place = (repo.name().to_owned(), name);
        let name = &place.1;
        let snapshot = repo.offline.table(&head, name).await?.entry().current_snapshot;
        if seen.get(&place) == Some(&snapshot) {
            continue;
        }
        if repo.offline.compactable_files(&head, name, &options).await? >= app.config().compaction.small_files {
            match repo.compact(app.metrics(), DEFAULT_BRANCH, name, &options).await {
                Ok(done) => told(repo.name(), &done),
                // One table that cannot be compacted does not keep the others from it.
                Err(error) => {
                    metrics_failed(app.metrics(), repo.name());
                    tracing::warn!(%error, kind = error.kind().name(), repository = repo.name(), table = %name, "the table was not compacted");
                }
            }
        }
        seen.insert(place, snapshot);
    }
    Ok(())
}

fn told(repository: &str, done: &Compaction) {
    let (before, after) = (done.files_before, done.files_after);
    match &done.outcome {
        CompactionOutcome::Compacted => tracing::info!(repository, table = %done.table, before, after, rows = done.rows, "compacted"),
        CompactionOutcome::Nothing => {}
        CompactionOutcome::Superseded(reason) => tracing::info!(repository, table = %done.table, reason, "a compaction was superseded"),
    }
}

fn metrics_failed(metrics: &Metrics, repository: &str) {
    metrics.compactions.get_or_create(&CompactionLabels { repository: repository.to_owned(), outcome: "failed" }).inc();
}
