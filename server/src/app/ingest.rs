//! Rows in, and waiting for them.

use std::time::Duration;

use anabranch_core::definition::FileFormat;
use anabranch_core::{Ids, RandomIds};
use anabranch_ingest::{
    BulkStream, FileInput, FileLoad, FileOptions, Loaded, PayloadFormat, PipelineStatus, Push, Pushed, RecordKind, StreamLoad, Token, Visibility,
};
use anabranch_versioning::CommitId;
use bytes::Bytes;

use super::uploads::Spooled;
use super::{DEFAULT_BRANCH, Scope};
use crate::error::{Error, Result};
use crate::metrics::{RepositoryLabels, StageLabels};

const DEFAULT_TIMEOUT_MS: u32 = 5_000;

/// Rows as a face received them.
#[derive(Debug)]
pub(crate) enum RowsPayload {
    /// JSON: an object, an array of them or one a line.
    Json(Bytes),
    /// An Arrow IPC stream.
    Arrow(Bytes),
    /// Keys and times to be deleted, as JSON.
    Tombstones(Bytes),
}

/// Rows to be pushed.
#[derive(Debug)]
pub(crate) struct PushRequest {
    pub(crate) view: String,
    pub(crate) rows: RowsPayload,
    /// Empty for none.
    pub(crate) idempotency_key: String,
}

/// What a file is and where its rows go.
#[derive(Debug)]
pub(crate) struct FileUpload {
    pub(crate) view: String,
    /// Empty to go by the name's ending.
    pub(crate) format: String,
    pub(crate) name: String,
    pub(crate) author: String,
    pub(crate) message: String,
}

/// A pipeline and the head of its branch.
#[derive(Debug)]
pub(crate) struct BranchStatus {
    pub(crate) head: CommitId,
    /// None where nothing was ever pushed.
    pub(crate) pipeline: Option<PipelineStatus>,
}

impl Scope {
    /// Makes rows durable.
    pub(crate) async fn push(&self, request: PushRequest) -> Result<Pushed> {
        let PushRequest { view, rows, idempotency_key } = request;
        if view.is_empty() {
            return Err(Error::argument("view", "it is empty: name the feature view that the rows are of"));
        }
        let (kind, format, payload) = match rows {
            RowsPayload::Json(json) => (RecordKind::Rows, PayloadFormat::Json, json),
            RowsPayload::Arrow(ipc) => (RecordKind::Rows, PayloadFormat::Arrow, ipc),
            RowsPayload::Tombstones(json) => (RecordKind::Tombstones, PayloadFormat::Json, json),
        };
        let idempotency_key = (!idempotency_key.is_empty()).then(|| Bytes::from(idempotency_key));
        let pushed = self.repo.ingest.push(&self.branch_name().await?, Push { view, kind, format, payload, idempotency_key }).await?;
        if !pushed.duplicate {
            self.app.metrics().rows_pushed.get_or_create(&self.labels()).inc_by(u64::from(pushed.rows));
        }
        Ok(pushed)
    }

    /// Waits until all that was acknowledged is in a commit; on `main`, what was drawn of what was served, too.
    pub(crate) async fn flush(&self) -> Result<CommitId> {
        if self.is_on_main() {
            self.repo.serving_log.flush().await;
        }
        Ok(self.repo.ingest.flush(&self.branch_name().await?).await?)
    }

    /// Where the branch's pipeline stands.
    pub(crate) async fn status(&self) -> Result<BranchStatus> {
        let branch = self.branch().await?;
        Ok(BranchStatus { head: branch.head, pipeline: self.repo.ingest.status_of(&branch.name).await? })
    }

    /// Loads a file that was uploaded.
    pub(crate) async fn ingest_file(&self, upload: FileUpload, file: Spooled) -> Result<Loaded> {
        let FileUpload { view, format, name, author, message } = upload;
        let format = match format.as_str() {
            "" => None,
            "parquet" => Some(FileFormat::Parquet),
            "csv" => Some(FileFormat::Csv),
            "json_lines" => Some(FileFormat::JsonLines),
            other => return Err(Error::argument("format", format!("{other:?} is none of parquet, csv and json_lines"))),
        };
        let input = FileInput::Spooled { name, path: file.path().to_owned() };
        let load = FileLoad { view, input, options: FileOptions { format, ..FileOptions::default() }, author: Self::author(&author), message };
        let loaded = self.repo.ingest.load_file(&self.branch_name().await?, load).await?;
        self.count_load(&loaded);
        Ok(loaded)
    }

    /// Begins a bulk stream; without an id it is one that nobody can send again.
    pub(crate) async fn bulk_stream(&self, view: String, stream_id: String, author: &str, message: String) -> Result<BulkStream> {
        let stream_id = if stream_id.is_empty() { format!("{:032x}", RandomIds::from_os().random()) } else { stream_id };
        let load = StreamLoad { view, stream_id, author: Self::author(author), message };
        Ok(self.repo.ingest.load_stream(&self.branch_name().await?, load).await?)
    }

    /// Counts what a load brought.
    pub(crate) fn count_load(&self, loaded: &Loaded) {
        self.app.metrics().rows_ingested.get_or_create(&self.labels()).inc_by(loaded.rows + loaded.quarantined);
    }

    /// Waits until lookups see what a token stands for; an empty token stands for nothing.
    pub(crate) async fn wait_visible(&self, token: &str, timeout_ms: u32) -> Result<()> {
        self.wait(token, Visibility::Online, timeout_ms).await
    }

    /// Waits until what a token stands for is in a commit.
    pub(crate) async fn wait_committed(&self, token: &str, timeout_ms: u32) -> Result<()> {
        if !token.is_empty() {
            // A tag or commit never changes, so it would be waited for in vain.
            self.branch().await?;
        }
        self.wait(token, Visibility::Committed, timeout_ms).await
    }

    async fn wait(&self, token: &str, visibility: Visibility, timeout_ms: u32) -> Result<()> {
        if token.is_empty() {
            return Ok(());
        }
        let timeout_ms = if timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { timeout_ms };
        let token: Token = token.parse()?;
        Ok(self.repo.ingest.wait_visible(&token, visibility, Duration::from_millis(u64::from(timeout_ms))).await?)
    }

    /// The branch that is written to.
    pub(crate) async fn branch_name(&self) -> Result<String> {
        match self.reference.as_str() {
            DEFAULT_BRANCH => Ok(DEFAULT_BRANCH.to_owned()),
            _ => Ok(self.branch().await?.name),
        }
    }

    fn labels(&self) -> RepositoryLabels {
        RepositoryLabels { repository: self.repo.name().to_owned() }
    }
}

impl super::App {
    /// Refuses while a repository cannot serve.
    pub(crate) async fn check_ready(&self) -> Result<()> {
        for repo in self.repos() {
            repo.ingest.served()?;
            for status in repo.ingest.status() {
                if let Some(error) = status.last_error {
                    let message = format!("the pipeline of branch {:?} of repository {:?} is failing: {error}", status.branch, repo.name());
                    return Err(Error::Part { kind: anabranch_core::ErrorKind::Unavailable, message, details: serde_json::Value::Null });
                }
            }
        }
        Ok(())
    }

    /// Takes the measures that are read rather than counted: where the served pipelines stand.
    pub(crate) fn measure(&self) {
        for repo in self.repos() {
            for status in repo.ingest.status().into_iter().filter(|status| status.branch == DEFAULT_BRANCH) {
                let stages = [("appended", status.appended), ("published", status.published), ("committed", status.committed)];
                for (stage, position) in stages {
                    let labels = StageLabels { repository: repo.name().to_owned(), stage };
                    self.metrics().pipeline_position.get_or_create(&labels).set(i64::try_from(position).unwrap_or(i64::MAX));
                }
            }
            repo.measure_cache(self.metrics());
            repo.measure_serving_log(self.metrics());
        }
    }
}
