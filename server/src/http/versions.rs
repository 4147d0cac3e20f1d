//! Branches, tags, history, differences and merges over HTTP.

use anabranch_core::Timestamp;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Answer;
use super::call::Call;
use crate::auth::Verb;
use crate::wire;

/// What most reads name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct At {
    repository: String,
    r#ref: String,
    limit: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Between {
    repository: String,
    left: String,
    right: String,
    limit: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Named {
    repository: String,
    prefix: String,
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
}

pub(super) async fn log(call: Call) -> Answer {
    let query: At = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.r#ref).await?;
    let page = scope.log(query.limit).await?;
    let commits: Vec<_> = page.commits.iter().map(commit).collect();
    Ok(axum::Json(json!({"commits": commits})))
}

pub(super) async fn diff(call: Call) -> Answer {
    let query: Between = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, &query.left).await?;
    let report = wire::diff(scope.diff(&query.right, query.limit).await?);
    let line = |line: &anabranch_proto::v1::Difference| json!({"kind": line.kind, "key": line.key, "change": line.change, "summary": line.summary});
    let differences: Vec<_> = report.differences.iter().map(line).collect();
    let (left, right) = (report.left_commit, report.right_commit);
    Ok(axum::Json(json!({"left": left, "right": right, "differences": differences, "truncated": report.truncated})))
}

pub(super) async fn branches(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, "").await?;
    let branches: Vec<_> = scope.branches(&query.prefix).await?.into_iter().map(branch).collect();
    Ok(axum::Json(json!({"branches": branches})))
}

pub(super) async fn create_branch(mut call: Call) -> Answer {
    let body: NewRef = call.json().await?;
    let scope = call.enter(Verb::WriteRefs, &body.repository, &body.from).await?;
    Ok(axum::Json(branch(scope.create_branch(&body.name).await?)))
}

pub(super) async fn tags(call: Call) -> Answer {
    let query: Named = call.query()?;
    let scope = call.enter(Verb::ReadVersions, &query.repository, "").await?;
    let tags: Vec<_> = scope.tags(&query.prefix).await?.into_iter().map(tag).collect();
    Ok(axum::Json(json!({"tags": tags})))
}

pub(super) async fn create_tag(mut call: Call) -> Answer {
    let body: NewRef = call.json().await?;
    let scope = call.enter(Verb::WriteRefs, &body.repository, &body.from).await?;
    Ok(axum::Json(tag(scope.create_tag(&body.name).await?)))
}

pub(super) async fn merge(mut call: Call) -> Answer {
    let body: NewMerge = call.json().await?;
    let scope = call.enter(Verb::Merge, &body.repository, &body.into).await?;
    let merged = scope.merge(&body.source, &body.author).await?;
    Ok(axum::Json(json!({"commit": merged.commit.to_string(), "outcome": merged.outcome})))
}

fn commit(info: &anabranch_versioning::CommitInfo) -> Json {
    let commit = wire::commit(info);
    json!({
        "id": commit.id,
        "root": commit.root,
        "parents": commit.parents,
        "author": commit.author,
        "message": commit.message,
        "time": Timestamp(commit.time_us).to_string(),
        "metadata": info.commit.metadata,
    })
}

fn branch(info: anabranch_versioning::BranchInfo) -> Json {
    json!({"name": info.name, "id": info.id.0, "commit": info.head.to_string()})
}

fn tag(info: anabranch_versioning::TagInfo) -> Json {
    json!({"name": info.name, "commit": info.commit.to_string()})
}
