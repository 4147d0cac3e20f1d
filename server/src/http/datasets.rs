//! Saved datasets over HTTP: what they are, what differs, and making them of a spine that the server makes. Rows travel by Flight.

use anabranch_core::selection::Selection;
use anabranch_offline_store::dataset::DatasetManifest;
use anabranch_offline_store::join::JoinOptions;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Answer;
use super::call::Call;
use crate::app::{DatasetRequest, RefreshRequest, SpineRows};
use crate::auth::Verb;
use crate::error::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    #[serde(default)]
    left: String,
    #[serde(default)]
    right: String,
    #[serde(default)]
    left_ref: String,
    #[serde(default)]
    right_ref: String,
}

/// Either `service` or `features`; the spine is `{"events": view}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    name: String,
    spine: Spine,
    service: Option<String>,
    features: Option<Vec<String>>,
    #[serde(default)]
    time_column: String,
    #[serde(default)]
    knowledge: String,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    full_names: bool,
    #[serde(default)]
    splits: String,
    #[serde(default)]
    split_by: Vec<String>,
    #[serde(default)]
    split_seed: u64,
    #[serde(default)]
    author: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Spine {
    Events(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refreshed {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    name: String,
    save_as: String,
    #[serde(default)]
    from_ref: String,
    #[serde(default)]
    author: String,
}

pub(super) async fn list(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::ReadDataset, &query.repository, &query.r#ref).await?;
    let datasets = scope.datasets().await?;
    Ok(axum::Json(json!({"datasets": datasets.iter().map(dataset).collect::<Vec<_>>()})))
}

pub(super) async fn show(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::ReadDataset, &query.repository, &query.r#ref).await?;
    Ok(axum::Json(dataset(&scope.described_dataset(&query.name).await?)))
}

pub(super) async fn diff(call: Call) -> Answer {
    let query: Pair = call.query()?;
    let scope = call.enter(Verb::ReadDataset, &query.repository, &query.r#ref).await?;
    Ok(axum::Json(scope.diff_datasets(&query.left, &query.left_ref, &query.right, &query.right_ref).await?))
}

pub(super) async fn create(mut call: Call) -> Answer {
    let wanted: Wanted = call.json().await?;
    let scope = call.enter(Verb::SaveDataset, &wanted.repository, &wanted.r#ref).await?;
    call.enter(Verb::ReadRows, &wanted.repository, &wanted.r#ref).await?;
    let Spine::Events(view) = &wanted.spine;
    let spine = SpineRows::Events(view.clone());
    Ok(axum::Json(dataset(&scope.dataset(wanted.request()?, spine).await?.manifest)))
}

pub(super) async fn refresh(mut call: Call) -> Answer {
    let wanted: Refreshed = call.json().await?;
    let scope = call.enter(Verb::SaveDataset, &wanted.repository, &wanted.r#ref).await?;
    let Refreshed { name, save_as, from_ref, author, .. } = wanted;
    Ok(axum::Json(dataset(&scope.refresh_dataset(RefreshRequest { name, from_ref, save_as, author }).await?.manifest)))
}

impl Wanted {
    fn request(self) -> Result<DatasetRequest> {
        let selection = match (self.service, self.features) {
            (Some(service), None) => Selection::Service(service),
            (None, Some(features)) => Selection::Features(features),
            _ => return Err(Error::argument("body", "give either service or features")),
        };
        Ok(DatasetRequest {
            selection,
            options: JoinOptions { knowledge: DatasetRequest::knowledge(&self.knowledge)?, strict: self.strict, full_names: self.full_names },
            time_column: DatasetRequest::time_column(&self.time_column),
            save_as: Some(self.name),
            splits: DatasetRequest::splits(&self.splits, self.split_by, self.split_seed)?,
            author: self.author,
        })
    }
}

fn dataset(manifest: &DatasetManifest) -> Json {
    let spec = serde_json::from_slice::<Json>(&manifest.to_bytes()).unwrap_or_default();
    json!({"name": manifest.name, "manifest": spec})
}
