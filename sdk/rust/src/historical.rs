//! Point-in-time datasets, and reading a view's table.

use anabranch_core::selection::Selection;
use anabranch_proto::v1;
use anabranch_proto::v1::dataset_spine::Source;
use anabranch_proto::v1::flight_command::Command;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightData, Ticket};
use futures::FutureExt;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::flight::{Received, command, encode, reader_of};
use crate::online::selection;
use crate::upload::upload;
use crate::{Client, Error, Reader};

/// Which features to join to a spine, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoricalQuery {
    /// The features.
    pub features: Selection,
    /// Name every output column `view__feature`.
    pub full_names: bool,
    /// The spine's time column; empty for `event_timestamp`.
    pub time_column: String,
    /// `spine`, `any` or a time; empty for `spine`.
    pub knowledge: String,
    /// Only rows before the spine's time, not at it.
    pub strict: bool,
    /// A token whose rows must be in a commit first; only on branches. Empty for none.
    pub at_least: String,
    /// How long to wait for it, in milliseconds; 0 for the server's default.
    pub timeout_ms: u32,
    /// Where not empty, the dataset is saved under this name on the branch, rows and all.
    pub save_as: String,
    /// How a dataset that is saved is split.
    pub splits: SplitQuery,
    /// The file that the spine is out of, as the saved dataset shall name it; empty where there is none.
    pub spine_file: String,
    /// Save the dataset, and send no rows back.
    pub without_rows: bool,
}

/// How a dataset is split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitQuery {
    /// `train=0.8,test=0.2` by a hash, or `train<2026-01-01,test` by time; empty for no splits.
    pub splits: String,
    /// The spine's columns that are hashed; none for the join keys.
    pub columns: Vec<String>,
    /// Another seed gives other splits.
    pub seed: u64,
}

/// A spine that the server makes at the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSpine {
    /// A query over the tables.
    Sql(String),
    /// Every event of a view: its keys and its time.
    Events(String),
}

impl HistoricalQuery {
    /// Features, by the default rules.
    pub fn new(features: Selection) -> Self {
        Self {
            features,
            full_names: false,
            time_column: String::new(),
            knowledge: String::new(),
            strict: false,
            at_least: String::new(),
            timeout_ms: 0,
            save_as: String::new(),
            splits: SplitQuery::default(),
            spine_file: String::new(),
            without_rows: false,
        }
    }
}

/// Rows, batch by batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

impl Table {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// A spine with its features as they were known at each row's time.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The spine's rows and columns in their order, then the features.
    pub table: Table,
    /// How many rows it has, also where they were not sent.
    pub rows: u64,
    /// The commit that it was read from.
    pub commit: String,
    /// A digest of the values: the same for the same dataset.
    pub content_digest: String,
    /// All that it takes to make it again.
    pub manifest: Json,
}

/// What the server sends with the last message of a dataset.
#[derive(Deserialize)]
struct Trailer {
    commit: String,
    rows: u64,
    content_digest: String,
    #[serde(default)]
    manifest: Json,
}

/// Which part of a view's table to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadQuery {
    /// The view.
    pub view: String,
    /// The columns; empty for all.
    pub columns: Vec<String>,
    /// Read the view's quarantine instead.
    pub quarantine: bool,
}

impl Client {
    /// Joins features to a spine, each row as of its own time.
    ///
    /// # Errors
    /// `invalid_argument` for an unknown feature, a missing key or time column or a null time, naming it; `not_found` for an unknown ref.
    pub async fn get_historical_features(&self, query: &HistoricalQuery, spine: Reader) -> Result<Dataset, Error> {
        let file = (!query.spine_file.is_empty()).then(|| Source::File(query.spine_file.clone()));
        let historical = self.historical(query, file);
        let (messages, mut failure) = upload(encode(command(Command::Historical(historical)), spine), FlightData::default());
        let mut flight = self.flight();
        let answer = async move { flight.do_exchange(messages).await }.boxed();
        let stream = self.uploaded(answer, &mut failure).await?.into_inner();
        // The server may answer before it has read all: a failure of the spine may still come.
        let received = self.receive(stream).await;
        if let Ok(Some(error)) = failure.try_recv() {
            return Err(error);
        }
        dataset(received?, query.without_rows)
    }

    /// Joins features to a spine that the server makes.
    ///
    /// # Errors
    /// As [`Client::get_historical_features`], and where the spine cannot be made.
    pub async fn get_historical_features_at(&self, query: &HistoricalQuery, spine: &ServerSpine) -> Result<Dataset, Error> {
        let ticket = Ticket { ticket: command(Command::Historical(self.historical(query, Some(spine.source())))) };
        let stream = self.flight().do_get(ticket).await.map_err(|status| self.error(&status))?.into_inner();
        dataset(self.receive(stream).await?, query.without_rows)
    }

    pub(crate) fn historical(&self, query: &HistoricalQuery, spine: Option<Source>) -> v1::HistoricalCommand {
        v1::HistoricalCommand {
            target: Some(self.target()),
            selection: Some(selection(&query.features)),
            full_names: query.full_names,
            time_column: query.time_column.clone(),
            knowledge: query.knowledge.clone(),
            strict: query.strict,
            at_least: query.at_least.clone(),
            timeout_ms: query.timeout_ms,
            save_as: query.save_as.clone(),
            author: self.author(),
            splits: query.splits.splits.clone(),
            split_by: query.splits.columns.clone(),
            split_seed: query.splits.seed,
            without_rows: query.without_rows,
            spine: spine.map(|source| v1::DatasetSpine { source: Some(source) }),
        }
    }

    /// Joins features to a spine of one batch, as [`Client::get_historical_features`] does.
    ///
    /// # Errors
    /// As [`Client::get_historical_features`].
    pub async fn get_historical_features_of(&self, query: &HistoricalQuery, spine: RecordBatch) -> Result<Dataset, Error> {
        self.get_historical_features(query, reader_of(spine)).await
    }

    /// Reads the rows of a view's table, or of its quarantine, at the client's ref.
    ///
    /// # Errors
    /// `not_found` for an unknown view or ref, `invalid_argument` for an unknown column.
    pub async fn read_view(&self, query: &ReadQuery) -> Result<Table, Error> {
        let read =
            v1::ReadCommand { target: Some(self.target()), view: query.view.clone(), columns: query.columns.clone(), quarantine: query.quarantine };
        let ticket = Ticket { ticket: command(Command::Read(read)) };
        let stream = self.flight().do_get(ticket).await.map_err(|status| self.error(&status))?.into_inner();
        let received = self.receive(stream).await?;
        Ok(Table { schema: received.schema, batches: received.batches })
    }
}

impl ServerSpine {
    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Sql(query) => Source::Sql(query.clone()),
            Self::Events(view) => Source::Events(view.clone()),
        }
    }
}

fn dataset(received: Received, without_rows: bool) -> Result<Dataset, Error> {
    let trailer: Trailer = serde_json::from_slice(&received.metadata).map_err(|error| Error::Protocol(format!("dataset: {error}")))?;
    let table = Table { schema: received.schema, batches: received.batches };
    if !without_rows && table.rows() as u64 != trailer.rows {
        return Err(Error::Protocol(format!("dataset: {} rows came of {}", table.rows(), trailer.rows)));
    }
    Ok(Dataset { table, rows: trailer.rows, commit: trailer.commit, content_digest: trailer.content_digest, manifest: trailer.manifest })
}
