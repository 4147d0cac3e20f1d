//! Health, readiness and metrics.

use axum::response::Response;
use serde_json::json;

use super::Answer;
use super::call::{self, Call};
use crate::auth::Verb;
use crate::error::Error;

/// Whether the process answers at all.
pub(super) async fn health(call: Call) -> Answer {
    call.app.admit(&call.caller, Verb::Observe).await?;
    Ok(axum::Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})))
}

/// Whether requests may be sent here: every repository is open and its pipeline runs.
pub(super) async fn ready(call: Call) -> Answer {
    call.app.admit(&call.caller, Verb::Observe).await?;
    if call.app.closing().is_cancelled() {
        return Err(Error::Closing);
    }
    call.app.check_ready().await?;
    Ok(axum::Json(json!({"status": "ready", "repositories": call.app.repository_names().collect::<Vec<_>>()})))
}

/// Metrics for Prometheus.
pub(super) async fn metrics(call: Call) -> Result<Response, Error> {
    call.app.admit(&call.caller, Verb::Observe).await?;
    call.app.measure();
    call.app.measure_datasets();
    let text = call.app.metrics().encode()?;
    Ok(call::of_type("application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}
