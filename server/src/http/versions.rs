//! Branches, tags, history, differences and merges over HTTP.
//!
//! Lists come in pages: an answer with a `next_page_token` has more behind it, which the same request with that `page_token` gives. A conflict is an
//! error of status 409 whose details list every key.

mod json;

use anabranch_core::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::Answer;
use super::call::Call;
use crate::app::{DiffRequest, LogRequest, MergeOptions, Replay, ReplayOptions, ResetOptions};
use crate::auth::Verb;
use crate::error::{Error, Result};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogQuery {
    repository: String,
    r#ref: String,
    limit: u32,
    page_token: String,
    path: String,
    since: String,
    until: String,
    author: String,
    first_parent: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Between {
    repository: String,
    left: String,
    right: String,
    limit: u32,
    page_token: String,
    three_dot: bool,
    path: String,
    values: bool,
    summary_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ShowQuery {
    repository: String,
    r#ref: String,
    parent: u32,
    limit: u32,
    page_token: String,
    values: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pair {
    repository: String,
    left: String,
    right: String,
}

/// A list of names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listing {
    repository: String,
    prefix: String,
    limit: u32,
    page_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Moves {
    repository: String,
    branch: String,
    limit: u32,
    page_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Named {
    repository: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRef {
    #[serde(default)]
    repository: String,
    name: String,
    /// Where the branch starts, or what the tag names; empty for `main`.
    #[serde(default)]
    from: String,
    #[serde(default)]
    author: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renaming {
    #[serde(default)]
    repository: String,
    name: String,
    new_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Protection {
    #[serde(default)]
    repository: String,
    name: String,
    protected: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMerge {
    #[serde(default)]
    repository: String,
    source: String,
    #[serde(default)]
    into: String,
    #[serde(default)]
    author: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    strategy: String,
    #[serde(default)]
    squash: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    values: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewReplay {
    #[serde(default)]
    repository: String,
    commit: String,
    #[serde(default)]
    branch: String,
    #[serde(default)]
    parent: u32,
    #[serde(default)]
    author: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    strategy: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewReset {
    #[serde(default)]
    repository: String,
    to: String,
    #[serde(default)]
    branch: String,
    #[serde(default)]
    expected: String,
    #[serde(default)]
    rewind_offsets: bool,
    #[serde(default)]
    author: String,
}

pub(super) async fn log(call: Call) -> Answer {
    let query: LogQuery = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.r#ref).await?;
    let page = scope
        .log(LogRequest {
            limit: query.limit,
            page_token: query.page_token,
            paths: Some(query.path).filter(|path| !path.is_empty()).into_iter().collect(),
            since: time("since", &query.since)?,
            until: time("until", &query.until)?,
            author: query.author,
            first_parent: query.first_parent,
        })
        .await?;
    let commits: Vec<_> = page.commits.iter().map(json::commit).collect();
    let next = page.next.map(|next| next.to_string()).unwrap_or_default();
    Ok(axum::Json(json::paged(json!({"commits": commits}), next)))
}

pub(super) async fn show(call: Call) -> Answer {
    let query: ShowQuery = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.r#ref).await?;
    let ShowQuery { parent, limit, page_token, values, .. } = query;
    let shown = scope.show(parent, &DiffRequest { limit, page_token, values, ..DiffRequest::default() }).await?;
    Ok(axum::Json(json!({"commit": json::commit(&shown.commit), "changes": json::diff(shown.changes)})))
}

pub(super) async fn diff(call: Call) -> Answer {
    let query: Between = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.left).await?;
    let Between { right, limit, page_token, three_dot, path, values, summary_only, .. } = query;
    let report = scope.diff(&right, three_dot, &DiffRequest { limit, page_token, path, values, summary_only }).await?;
    Ok(axum::Json(json::diff(report)))
}

pub(super) async fn merge_base(call: Call) -> Answer {
    let query: Pair = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.left).await?;
    let base = scope.merge_base(&query.right).await?;
    Ok(axum::Json(json!({"commit": base.as_ref().map(json::commit)})))
}

pub(super) async fn branches(call: Call) -> Answer {
    let query: Listing = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, "").await?;
    let listed = scope.branches(&query.prefix, query.limit, &query.page_token).await?;
    let branches: Vec<_> = listed.items.into_iter().map(json::branch).collect();
    Ok(axum::Json(json::paged(json!({"branches": branches}), listed.next)))
}

pub(super) async fn branch(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.name).await?;
    Ok(axum::Json(json::branch(scope.named_branch().await?)))
}

pub(super) async fn create_branch(mut call: Call) -> Answer {
    let body: NewRef = call.json().await?;
    let scope = call.enter(Verb::WriteRefs, &body.repository, &body.from).await?;
    Ok(axum::Json(json::branch(scope.create_branch(&body.name, &body.author).await?)))
}

pub(super) async fn delete_branch(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::WriteRefs, &query.repository, &query.name).await?;
    scope.delete_branch(&query.name).await?;
    Ok(axum::Json(json!({"deleted": query.name})))
}

pub(super) async fn rename_branch(mut call: Call) -> Answer {
    let body: Renaming = call.json().await?;
    let scope = call.enter(Verb::WriteRefs, &body.repository, &body.name).await?;
    Ok(axum::Json(json::branch(scope.rename_branch(&body.name, &body.new_name).await?)))
}

pub(super) async fn protect_branch(mut call: Call) -> Answer {
    let body: Protection = call.json().await?;
    let scope = call.enter(Verb::Protect, &body.repository, &body.name).await?;
    Ok(axum::Json(json::branch(scope.protect_branch(&body.name, body.protected).await?)))
}

pub(super) async fn reflog(call: Call) -> Answer {
    let query: Moves = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.branch).await?;
    let listed = scope.reflog(query.limit, &query.page_token).await?;
    let moves: Vec<_> = listed.items.into_iter().map(json::head_move).collect();
    Ok(axum::Json(json::paged(json!({"moves": moves}), listed.next)))
}

pub(super) async fn tags(call: Call) -> Answer {
    let query: Listing = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, "").await?;
    let listed = scope.tags(&query.prefix, query.limit, &query.page_token).await?;
    let tags: Vec<_> = listed.items.into_iter().map(json::tag).collect();
    Ok(axum::Json(json::paged(json!({"tags": tags}), listed.next)))
}

pub(super) async fn create_tag(mut call: Call) -> Answer {
    let body: NewRef = call.json().await?;
    let scope = call.enter(Verb::WriteRefs, &body.repository, &body.from).await?;
    Ok(axum::Json(json::tag(scope.create_tag(&body.name).await?)))
}

pub(super) async fn delete_tag(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::WriteRefs, &query.repository, &query.name).await?;
    scope.delete_tag(&query.name).await?;
    Ok(axum::Json(json!({"deleted": query.name})))
}

pub(super) async fn merge(mut call: Call) -> Answer {
    let body: NewMerge = call.json().await?;
    let scope = call.enter(Verb::Merge, &body.repository, &body.into).await?;
    let (limit, values) = (body.limit, body.values);
    let options = MergeOptions { source: body.source, author: body.author, message: body.message, strategy: body.strategy, squash: body.squash };
    let merged = if body.dry_run { scope.preview_merge(options, limit, values).await? } else { scope.merge(options).await? };
    Ok(axum::Json(json::merge(merged)))
}

pub(super) async fn revert(call: Call) -> Answer {
    replay(Replay::Revert, call).await
}

pub(super) async fn cherry_pick(call: Call) -> Answer {
    replay(Replay::CherryPick, call).await
}

async fn replay(which: Replay, mut call: Call) -> Answer {
    let body: NewReplay = call.json().await?;
    let scope = call.enter(Verb::Replay, &body.repository, &body.branch).await?;
    let NewReplay { commit, parent, author, message, strategy, .. } = body;
    let made = scope.replay(which, ReplayOptions { commit, parent, author, message, strategy }).await?;
    Ok(axum::Json(json!({"commit": made.commit.to_string(), "from": made.previous.to_string()})))
}

pub(super) async fn reset(mut call: Call) -> Answer {
    let body: NewReset = call.json().await?;
    let scope = call.enter(Verb::Reset, &body.repository, &body.branch).await?;
    let NewReset { to, expected, rewind_offsets, author, .. } = body;
    let reset = scope.reset(ResetOptions { to, expected, rewind_offsets, author }).await?;
    Ok(axum::Json(json!({"from": reset.from.to_string(), "to": reset.to.to_string()})))
}

fn time(field: &str, text: &str) -> Result<Option<Timestamp>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|error: anabranch_core::Error| Error::argument(field, error.to_string())) }
}
