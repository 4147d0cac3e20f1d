//! Tables as files.

use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::Answer;
use super::call::{self, Call};
use crate::app::CompactRequest;
use crate::auth::Verb;
use crate::error::{Error, Result};
use crate::wire::tables;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Compaction {
    repository: String,
    branch: String,
    views: Vec<String>,
    full: bool,
    author: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    repository: String,
    r#ref: String,
    view: String,
}

/// Rewrites files of tables of a branch as fewer and larger ones.
pub(super) async fn compact(mut call: Call) -> Answer {
    let Compaction { repository, branch, views, full, author } = call.json().await?;
    let scope = call.enter(Verb::Compact, &repository, &branch).await?;
    let done = scope.compact(CompactRequest { views, full, author }).await?;
    Ok(axum::Json(json!({"tables": done.into_iter().map(tables::compacted_json).collect::<Vec<_>>()})))
}

/// The data files of a view's table at a ref.
pub(super) async fn files(call: Call) -> Answer {
    let wanted: Wanted = call.query()?;
    let scope = call.enter(Verb::ReadRows, &wanted.repository, &wanted.r#ref).await?;
    let (commit, files) = scope.table_files(&wanted.view).await?;
    Ok(axum::Json(json!({"commit": commit.to_string(), "files": files.into_iter().map(tables::file_json).collect::<Vec<_>>()})))
}

/// The Iceberg metadata of a view's table at a ref, as it is.
pub(super) async fn metadata(call: Call) -> Result<Response, Error> {
    let wanted: Wanted = call.query()?;
    let scope = call.enter(Verb::ReadRows, &wanted.repository, &wanted.r#ref).await?;
    let (_, metadata) = scope.table_metadata(&wanted.view).await?;
    Ok(call::of_type("application/json", metadata))
}
