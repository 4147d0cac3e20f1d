//! HTTP with JSON, for `curl`, dashboards and whoever has no gRPC. [`ROUTES`] lists what there is.
//!
//! Rows travel as the body of `/v1/push` and `/v1/delete`, their target in the query; other posts take one JSON object. Errors have the body
//! `{"error": {"kind", "message", "details"}}`. A body over its limit is refused before it is held. The routes without a version are those of Feast's
//! feature server, for its clients, with its shapes of requests, answers and errors.

mod call;
mod datasets;
mod definitions;
mod feast;
mod ingest;
mod objects;
mod online;
mod operations;
mod serving;
mod tables;
mod versions;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::Method;
use serde_json::Value as Json;

use crate::App;
use crate::error::Error;
use call::Call;

/// Every route: method and path.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/log"),
    ("GET", "/v1/show"),
    ("GET", "/v1/diff"),
    ("GET", "/v1/merge-base"),
    ("GET", "/v1/branches"),
    ("POST", "/v1/branches"),
    ("DELETE", "/v1/branches"),
    ("GET", "/v1/branches/show"),
    ("POST", "/v1/branches/rename"),
    ("POST", "/v1/branches/protect"),
    ("GET", "/v1/reflog"),
    ("GET", "/v1/tags"),
    ("POST", "/v1/tags"),
    ("DELETE", "/v1/tags"),
    ("POST", "/v1/merge"),
    ("POST", "/v1/revert"),
    ("POST", "/v1/cherry-pick"),
    ("POST", "/v1/reset"),
    ("GET", "/v1/definitions"),
    ("POST", "/v1/push"),
    ("POST", "/v1/delete"),
    ("POST", "/v1/flush"),
    ("GET", "/v1/status"),
    ("GET", "/v1/quarantine"),
    ("POST", "/v1/online-features"),
    ("GET", "/v1/datasets"),
    ("POST", "/v1/datasets"),
    ("GET", "/v1/datasets/show"),
    ("GET", "/v1/datasets/diff"),
    ("POST", "/v1/datasets/refresh"),
    ("POST", "/v1/compact"),
    ("GET", "/v1/tables/files"),
    ("GET", "/v1/tables/metadata"),
    ("GET", "/v1/objects"),
    ("GET", "/v1/objects/{*path}"),
    ("PUT", "/v1/objects/{*path}"),
    ("DELETE", "/v1/objects/{*path}"),
    ("POST", "/v1/copy-object"),
    ("POST", "/v1/rename-object"),
    ("POST", "/v1/import-objects"),
    ("POST", "/get-online-features"),
    ("POST", "/push"),
    ("POST", "/write-to-online-store"),
    ("POST", "/materialize"),
    ("POST", "/materialize-incremental"),
];

/// A JSON answer, or an error in JSON.
type Answer = Result<axum::Json<Json>, Error>;

/// The routes of the HTTP face.
pub(crate) fn routes(app: &Arc<App>) -> Router {
    Router::new()
        .route("/health", get(operations::health))
        .route("/ready", get(operations::ready))
        .route("/metrics", get(operations::metrics))
        .route("/v1/log", get(versions::log))
        .route("/v1/show", get(versions::show))
        .route("/v1/diff", get(versions::diff))
        .route("/v1/merge-base", get(versions::merge_base))
        .route("/v1/branches", get(versions::branches).post(versions::create_branch).delete(versions::delete_branch))
        .route("/v1/branches/show", get(versions::branch))
        .route("/v1/branches/rename", post(versions::rename_branch))
        .route("/v1/branches/protect", post(versions::protect_branch))
        .route("/v1/reflog", get(versions::reflog))
        .route("/v1/tags", get(versions::tags).post(versions::create_tag).delete(versions::delete_tag))
        .route("/v1/merge", post(versions::merge))
        .route("/v1/revert", post(versions::revert))
        .route("/v1/cherry-pick", post(versions::cherry_pick))
        .route("/v1/reset", post(versions::reset))
        .route("/v1/definitions", get(definitions::definitions))
        .route("/v1/push", post(ingest::push))
        .route("/v1/delete", post(ingest::delete))
        .route("/v1/flush", post(ingest::flush))
        .route("/v1/status", get(ingest::status))
        .route("/v1/quarantine", get(ingest::quarantine))
        .route("/v1/online-features", post(online::online_features))
        .route("/v1/online", get(serving::list))
        .route("/v1/online/serve", post(serving::serve))
        .route("/v1/online/unserve", post(serving::unserve))
        .route("/v1/online/rebuild", post(serving::rebuild))
        .route("/v1/online/move", post(serving::move_online))
        .route("/v1/online/audit", post(serving::audit))
        .route("/v1/datasets", get(datasets::list).post(datasets::create))
        .route("/v1/datasets/show", get(datasets::show))
        .route("/v1/datasets/diff", get(datasets::diff))
        .route("/v1/datasets/refresh", post(datasets::refresh))
        .route("/v1/compact", post(tables::compact))
        .route("/v1/tables/files", get(tables::files))
        .route("/v1/tables/metadata", get(tables::metadata))
        .route("/v1/objects", get(objects::list))
        .route("/v1/objects/{*path}", get(objects::get).put(objects::put).delete(objects::delete))
        .route("/v1/copy-object", post(objects::copy))
        .route("/v1/rename-object", post(objects::rename))
        .route("/v1/import-objects", post(objects::import))
        .route("/get-online-features", post(feast::get_online_features))
        .route("/push", post(feast::push))
        .route("/write-to-online-store", post(feast::write_to_online_store))
        .route("/materialize", post(feast::materialize))
        .route("/materialize-incremental", post(feast::materialize_incremental))
        .with_state(Arc::clone(app))
}

/// The routes that are asked thousands of times a second and cost some microseconds each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Light {
    OnlineFeatures,
    FeastOnlineFeatures,
}

impl Light {
    /// The route that a request takes, where it is one of these.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let route = [Self::OnlineFeatures, Self::FeastOnlineFeatures].into_iter().find(|light| light.path() == request.uri().path())?;
        (request.method() == Method::POST).then_some(route)
    }

    /// As it stands among [`ROUTES`].
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::OnlineFeatures => "/v1/online-features",
            Self::FeastOnlineFeatures => "/get-online-features",
        }
    }

    /// What the route's handler answers.
    pub(crate) async fn answer(self, app: &Arc<App>, request: Request) -> Response {
        let call = match Call::from_request(request, app).await {
            Ok(call) => call,
            Err(never) => match never {},
        };
        match self {
            Self::OnlineFeatures => online::online_features(call).await.into_response(),
            Self::FeastOnlineFeatures => feast::get_online_features(call).await.into_response(),
        }
    }
}

/// What answers where no route leads.
pub(crate) async fn nowhere(request: Request) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    if request.headers().get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented(format!("there is no {what}")).into_http::<axum::body::Body>();
    }
    Error::Missing(format!("there is no route {what}")).into_response()
}
