//! Rows in over HTTP, and how they fare.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Answer;
use super::call::Call;
use crate::app::{PushRequest, RowsPayload};
use crate::auth::Verb;
use crate::wire;

/// The content type of an Arrow IPC stream; every other body is JSON.
pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";

/// Where the rows of a body go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Into {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    view: String,
    #[serde(default)]
    idempotency_key: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pipeline {
    repository: String,
    r#ref: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Refused {
    repository: String,
    r#ref: String,
    view: String,
    limit: u32,
}

pub(super) async fn push(call: Call) -> Answer {
    write(call, false).await
}

pub(super) async fn delete(call: Call) -> Answer {
    write(call, true).await
}

async fn write(mut call: Call, delete: bool) -> Answer {
    let into: Into = call.query()?;
    let scope = call.enter(Verb::WriteRows, &into.repository, &into.r#ref).await?;
    let arrow = call.is(ARROW);
    let body = call.body(scope.app.config().limits.push_bytes).await?;
    let rows = match (delete, arrow) {
        (true, _) => RowsPayload::Tombstones(body),
        (false, true) => RowsPayload::Arrow(body),
        (false, false) => RowsPayload::Json(body),
    };
    let push = PushRequest { view: into.view, rows, idempotency_key: into.idempotency_key };
    let reply = wire::pushed(scope.push(push).await?);
    Ok(axum::Json(json!({"token": reply.token, "rows": reply.rows, "duplicate": reply.duplicate})))
}

pub(super) async fn flush(mut call: Call) -> Answer {
    let body = call.body(1 << 16).await?;
    // Both an object and nothing at all are taken.
    let of: Pipeline = if body.is_empty() { call.query()? } else { super::call::parse(&body)? };
    let scope = call.enter(Verb::WatchIngest, &of.repository, &of.r#ref).await?;
    Ok(axum::Json(json!({"commit": scope.flush().await?.to_string()})))
}

pub(super) async fn status(call: Call) -> Answer {
    let of: Pipeline = call.query()?;
    let scope = call.enter(Verb::WatchIngest, &of.repository, &of.r#ref).await?;
    let status = wire::status(scope.status().await?);
    Ok(axum::Json(json!({
        "commit": status.commit,
        "source": status.source,
        "appended": status.appended,
        "published": status.published,
        "committed": status.committed,
        "definitions": status.definitions,
        "last_error": status.last_error,
    })))
}

pub(super) async fn quarantine(call: Call) -> Answer {
    let of: Refused = call.query()?;
    let scope = call.enter(Verb::ReadQuarantine, &of.repository, &of.r#ref).await?;
    let (rows, total) = scope.quarantine(&of.view, of.limit).await?;
    Ok(axum::Json(json!({"rows": rows.into_iter().map(refused).collect::<Vec<_>>(), "total": total})))
}

fn refused(row: anabranch_ingest::quarantine::QuarantinedRow) -> Json {
    let failures = serde_json::to_value(&row.failures).unwrap_or_default();
    let mut json = json!({
        "view": row.view,
        "source": row.source.get(),
        "position": row.position.get(),
        "arrival": row.arrival.to_string(),
        "format": row.format,
        "failures": failures,
    });
    // Text as text, for people; bytes as base64.
    match std::str::from_utf8(&row.payload) {
        Ok(text) => json["payload"] = text.into(),
        Err(_) => json["payload_base64"] = BASE64_STANDARD.encode(&row.payload).into(),
    }
    json
}
