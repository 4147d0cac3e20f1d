//! Datasets that were saved under a name.
//!
//! Saving and refreshing take as long as the join and the writing of rows take; these calls have no time limit.

use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::Ticket;
use serde::Serialize;
use serde_json::Value as Json;

use crate::client::{Retry, unary};
use crate::flight::command;
use crate::{Client, Error, HistoricalQuery, ServerSpine, Table};

/// A dataset saved under a name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SavedDataset {
    /// Its name.
    pub name: String,
    /// All that it takes to make it again.
    pub manifest: Json,
}

/// Which rows of a saved dataset to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetQuery {
    /// The dataset.
    pub name: String,
    /// Only the rows of this split; empty for all.
    pub split: String,
    /// The columns; empty for all.
    pub columns: Vec<String>,
}

impl Client {
    /// The datasets saved at the client's ref, by name.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn list_datasets(&self) -> Result<Vec<SavedDataset>, Error> {
        let request = v1::ListDatasetsRequest { target: Some(self.target()) };
        let reply = unary!(self, datasets.list_datasets(request), Retry::Safe).await?;
        reply.datasets.into_iter().map(saved).collect()
    }

    /// One saved dataset.
    ///
    /// # Errors
    /// `not_found` where none has that name.
    pub async fn describe_dataset(&self, name: &str) -> Result<SavedDataset, Error> {
        let request = v1::DescribeDatasetRequest { target: Some(self.target()), name: name.to_owned() };
        unary!(self, datasets.describe_dataset(request), Retry::Safe).await.and_then(saved)
    }

    /// Saves a dataset whose spine the server makes, under the query's `save_as`.
    ///
    /// # Errors
    /// `conflict` where another dataset has the name; as [`Client::get_historical_features`].
    pub async fn create_dataset(&self, query: &HistoricalQuery, spine: &ServerSpine) -> Result<SavedDataset, Error> {
        let request = v1::CreateDatasetRequest { historical: Some(self.historical(query, Some(spine.source()))) };
        let reply = self.datasets().create_dataset(request).await.map_err(|status| self.error(&status))?;
        saved(reply.into_inner())
    }

    /// Saves a dataset as it is at the head of the client's branch under a name of its own; rows that cannot have changed are taken over. `from_ref` says
    /// where the first one is found, if it is not that branch.
    ///
    /// # Errors
    /// `not_found` where there is no such dataset, `conflict` where another one has the name, `failed_precondition` where its rows were never stored.
    pub async fn refresh_dataset(&self, name: &str, save_as: &str, from_ref: &str) -> Result<SavedDataset, Error> {
        let (name, save_as, from_ref) = (name.to_owned(), save_as.to_owned(), from_ref.to_owned());
        let request = v1::RefreshDatasetRequest { target: Some(self.target()), name, save_as, from_ref, author: self.author() };
        let reply = self.datasets().refresh_dataset(request).await.map_err(|status| self.error(&status))?;
        saved(reply.into_inner())
    }

    /// What differs between two saved datasets, as JSON: `left`, `right`, `same_content`, `request`, `definitions`, `data` and `columns`. An empty ref is
    /// the client's.
    ///
    /// # Errors
    /// `not_found` where there is no such dataset.
    pub async fn diff_datasets(&self, left: &str, left_ref: &str, right: &str, right_ref: &str) -> Result<Json, Error> {
        let (left, left_ref, right, right_ref) = (left.to_owned(), left_ref.to_owned(), right.to_owned(), right_ref.to_owned());
        let request = v1::DiffDatasetsRequest { target: Some(self.target()), left, right, left_ref, right_ref };
        let reply = unary!(self, datasets.diff_datasets(request), Retry::Safe).await?;
        serde_json::from_str(&reply.diff).map_err(|error| Error::Protocol(format!("difference of datasets: {error}")))
    }

    /// The rows of a saved dataset, in their order.
    ///
    /// # Errors
    /// `not_found` where there is no such dataset or split, `invalid_argument` for an unknown column, `failed_precondition` where its rows were never
    /// stored.
    pub async fn read_dataset(&self, query: &DatasetQuery) -> Result<Table, Error> {
        let (name, split, columns) = (query.name.clone(), query.split.clone(), query.columns.clone());
        let wanted = v1::DatasetCommand { target: Some(self.target()), name, split, columns, content_digest: String::new() };
        let ticket = Ticket { ticket: command(Command::Dataset(wanted)) };
        let stream = self.flight().do_get(ticket).await.map_err(|status| self.error(&status))?.into_inner();
        let received = self.receive(stream).await?;
        Ok(Table { schema: received.schema, batches: received.batches })
    }
}

fn saved(reply: v1::Dataset) -> Result<SavedDataset, Error> {
    let manifest = serde_json::from_str(&reply.manifest).map_err(|error| Error::Protocol(format!("dataset {:?}: {error}", reply.name)))?;
    Ok(SavedDataset { name: reply.name, manifest })
}
