//! What is served online, over HTTP.

use anabranch_ingest::{AuditRequest, Moved, Rebuild};
use serde::Deserialize;
use serde_json::json;

use super::Answer;
use super::call::Call;
use crate::auth::Verb;
use crate::wire::serving;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    repository: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Served {
    repository: String,
    branch: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rebuilt {
    repository: String,
    branch: String,
    views: Vec<String>,
    rows_per_second: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Audited {
    repository: String,
    branch: String,
    views: Vec<String>,
    repair: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Move {
    repository: String,
    compare: bool,
}

/// How branches are served.
pub(super) async fn list(call: Call) -> Answer {
    let wanted: Wanted = call.query()?;
    let scope = call.enter(Verb::WatchIngest, &wanted.repository, "").await?;
    let branches = scope.serving().await?;
    Ok(axum::Json(json!({"branches": branches.into_iter().map(serving::served_json).collect::<Vec<_>>()})))
}

/// Serves a branch from now on.
pub(super) async fn serve(mut call: Call) -> Answer {
    let Served { repository, branch } = call.json().await?;
    let scope = call.enter(Verb::ServeOnline, &repository, &branch).await?;
    Ok(axum::Json(serving::served_json(scope.serve().await?)))
}

/// Serves a branch no longer.
pub(super) async fn unserve(mut call: Call) -> Answer {
    let Served { repository, branch } = call.json().await?;
    let scope = call.enter(Verb::ServeOnline, &repository, &branch).await?;
    scope.unserve().await?;
    Ok(axum::Json(json!({})))
}

/// Begins to rebuild what is online of a branch.
pub(super) async fn rebuild(mut call: Call) -> Answer {
    let Rebuilt { repository, branch, views, rows_per_second } = call.json().await?;
    let scope = call.enter(Verb::ServeOnline, &repository, &branch).await?;
    Ok(axum::Json(serving::served_json(scope.rebuild(Rebuild { views, rows_per_second }).await?)))
}

/// Moves what is online to the next store.
pub(super) async fn move_online(mut call: Call) -> Answer {
    let Move { repository, compare } = call.json().await?;
    let scope = call.enter(Verb::ServeOnline, &repository, "").await?;
    let Moved { copied, again, moved } = scope.move_online(!compare).await?;
    Ok(axum::Json(json!({"copied": copied, "again": again, "moved": moved})))
}

/// Compares what is online of a branch with its history.
pub(super) async fn audit(mut call: Call) -> Answer {
    let Audited { repository, branch, views, repair } = call.json().await?;
    let verb = if repair { Verb::ServeOnline } else { Verb::WatchIngest };
    let scope = call.enter(verb, &repository, &branch).await?;
    let views = scope.audit(AuditRequest { views, repair }).await?;
    Ok(axum::Json(json!({"views": views.into_iter().map(serving::audited_json).collect::<Vec<_>>()})))
}
