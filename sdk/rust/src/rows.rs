//! Small amounts of rows: push, delete, flush, where the pipeline stands, and what was refused.

use anabranch_core::Timestamp;
use anabranch_proto::v1;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::client::{Retry, unary};
use crate::versions::as_text;
use crate::{Client, Error};

/// Rows to push, in one of the forms that the wire takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// A JSON object, an array of them, or one object a line.
    Json(Bytes),
    /// An Arrow IPC stream.
    ArrowIpc(Bytes),
}

impl Rows {
    /// Rows written as JSON.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::Json(text.into())
    }

    /// Rows in Arrow.
    ///
    /// # Errors
    /// [`Error::Arrow`] where they cannot be encoded.
    pub fn arrow(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self, Error> {
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        batches.iter().try_for_each(|batch| writer.write(batch))?;
        Ok(Self::ArrowIpc(writer.into_inner()?.into()))
    }
}

/// What goes with a push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// The same key again, within the server's window, is the same push again; empty for none.
    pub idempotency_key: String,
    /// The place of this batch in the producer's stream.
    pub batch_number: u64,
}

/// The server has the rows durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// Given to a later read as `at_least`.
    pub token: String,
    /// How many rows.
    pub rows: u64,
    /// The push was known already by its idempotency key.
    pub duplicate: bool,
}

/// Where the pipeline of a branch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PipelineStatus {
    /// The head.
    pub commit: String,
    /// The source id of the branch's log.
    pub source: u32,
    /// The next position in the log.
    pub appended: u64,
    /// Rows before this position are visible online.
    pub published: u64,
    /// Rows before this position are in a commit.
    pub committed: u64,
    /// The digest of the definitions that judge rows.
    pub definitions: String,
    /// Empty where all is well.
    pub last_error: String,
}

/// Rows that were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantine {
    /// Some of them.
    pub rows: Vec<QuarantinedRow>,
    /// How many there are.
    pub total: u64,
}

/// A row that was refused, as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantinedRow {
    /// The view that it was meant for.
    pub view: String,
    /// The source that it came from.
    pub source: u32,
    /// Its position there.
    pub position: u64,
    /// When it came.
    #[serde(serialize_with = "as_text")]
    pub arrival: Timestamp,
    /// The format of the payload.
    pub format: String,
    /// The original bytes.
    #[serde(serialize_with = "lossy")]
    pub payload: Bytes,
    /// Every check that it failed.
    pub failures: Vec<Failure>,
}

/// A check that a row failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The check.
    pub check: String,
    /// The column that it looked at.
    pub column: String,
    /// What was wrong.
    pub reason: String,
}

impl Client {
    /// Pushes rows to a view; returns when they are durable.
    ///
    /// # Errors
    /// `not_found` for an unknown view, `invalid_argument` where the bytes are no rows, `exhausted` where they are too many at once.
    pub async fn push(&self, view: &str, rows: Rows) -> Result<Acknowledgement, Error> {
        self.push_with(view, rows, &PushOptions::default()).await
    }

    /// Pushes rows with options.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub async fn push_with(&self, view: &str, rows: Rows, options: &PushOptions) -> Result<Acknowledgement, Error> {
        let rows = match rows {
            Rows::Json(json) => v1::push_request::Rows::Json(json),
            Rows::ArrowIpc(ipc) => v1::push_request::Rows::ArrowIpc(ipc),
        };
        let request = v1::PushRequest {
            target: Some(self.target()),
            view: view.to_owned(),
            rows: Some(rows),
            idempotency_key: options.idempotency_key.clone(),
            batch_number: options.batch_number,
        };
        unary!(self, ingest.push(request), retry(&options.idempotency_key)).await.map(acknowledgement)
    }

    /// Deletes entities as of an event time: JSON objects of the view's join keys and timestamps.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub async fn delete(&self, view: &str, rows: impl Into<Bytes>, idempotency_key: &str) -> Result<Acknowledgement, Error> {
        let request =
            v1::DeleteRequest { target: Some(self.target()), view: view.to_owned(), json: rows.into(), idempotency_key: idempotency_key.to_owned() };
        unary!(self, ingest.delete(request), retry(idempotency_key)).await.map(acknowledgement)
    }

    /// Waits until all that was acknowledged before is in a commit, and gives that commit.
    ///
    /// # Errors
    /// `unavailable` where the pipeline stands still.
    pub async fn flush(&self) -> Result<String, Error> {
        let request = v1::FlushRequest { target: Some(self.target()) };
        unary!(self, ingest.flush(request), Retry::Safe).await.map(|reply| reply.commit)
    }

    /// Where the pipeline of the client's branch stands.
    ///
    /// # Errors
    /// `not_found` for an unknown branch.
    pub async fn status(&self) -> Result<PipelineStatus, Error> {
        let request = v1::StatusRequest { target: Some(self.target()) };
        let reply = unary!(self, ingest.status(request), Retry::Safe).await?;
        Ok(PipelineStatus {
            commit: reply.commit,
            source: reply.source,
            appended: reply.appended,
            published: reply.published,
            committed: reply.committed,
            definitions: reply.definitions,
            last_error: reply.last_error,
        })
    }

    /// Rows of a view that were refused, or of all views where it is empty; 0 for the server's limit.
    ///
    /// # Errors
    /// `not_found` for an unknown ref or view.
    pub async fn quarantine(&self, view: &str, limit: u32) -> Result<Quarantine, Error> {
        let request = v1::ListQuarantineRequest { target: Some(self.target()), view: view.to_owned(), limit };
        let reply = unary!(self, ingest.list_quarantine(request), Retry::Safe).await?;
        Ok(Quarantine { rows: reply.rows.into_iter().map(quarantined).collect(), total: reply.total })
    }
}

fn retry(idempotency_key: &str) -> Retry {
    if idempotency_key.is_empty() { Retry::Never } else { Retry::Safe }
}

fn acknowledgement(reply: v1::PushReply) -> Acknowledgement {
    Acknowledgement { token: reply.token, rows: reply.rows, duplicate: reply.duplicate }
}

fn quarantined(row: v1::QuarantinedRow) -> QuarantinedRow {
    let failure = |failure: v1::Failure| Failure { check: failure.check, column: failure.column, reason: failure.reason };
    QuarantinedRow {
        view: row.view,
        source: row.source,
        position: row.position,
        arrival: Timestamp(row.arrival_us),
        format: row.format,
        payload: row.payload,
        failures: row.failures.into_iter().map(failure).collect(),
    }
}

fn lossy<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}
