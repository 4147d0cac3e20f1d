//! Datasets that were saved under a name.

use anabranch_proto::v1;
use serde::Serialize;
use serde_json::Value as Json;

use crate::client::{Retry, unary};
use crate::{Client, Error};

/// A dataset saved under a name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SavedDataset {
    /// Its name.
    pub name: String,
    /// All that it takes to make it again.
    pub manifest: Json,
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
}

fn saved(reply: v1::Dataset) -> Result<SavedDataset, Error> {
    let manifest = serde_json::from_str(&reply.manifest).map_err(|error| Error::Protocol(format!("dataset {:?}: {error}", reply.name)))?;
    Ok(SavedDataset { name: reply.name, manifest })
}
