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
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use http::Method;
use serde_json::Value as Json;

use crate::App;
use crate::auth::Caller;
use crate::error::Error;
use call::Call;

/// A JSON answer, or an error in JSON.
type Answer = Result<axum::Json<Json>, Error>;

/// Makes the table of routes and the router of one list.
macro_rules! routes {
    ($($method:ident $path:literal => $handler:path,)*) => {
        /// Every route: method and path.
        pub const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        /// The routes of the HTTP face.
        pub(crate) fn routes(app: &Arc<App>) -> Router {
            Router::new()$(.route($path, on(MethodFilter::$method, $handler)))*.with_state(Arc::clone(app))
        }
    };
}

routes! {
    GET "/health" => operations::health,
    GET "/ready" => operations::ready,
    GET "/metrics" => operations::metrics,
    GET "/v1/log" => versions::log,
    GET "/v1/show" => versions::show,
    GET "/v1/diff" => versions::diff,
    GET "/v1/merge-base" => versions::merge_base,
    GET "/v1/branches" => versions::branches,
    POST "/v1/branches" => versions::create_branch,
    DELETE "/v1/branches" => versions::delete_branch,
    GET "/v1/branches/show" => versions::branch,
    POST "/v1/branches/rename" => versions::rename_branch,
    POST "/v1/branches/protect" => versions::protect_branch,
    GET "/v1/reflog" => versions::reflog,
    GET "/v1/tags" => versions::tags,
    POST "/v1/tags" => versions::create_tag,
    DELETE "/v1/tags" => versions::delete_tag,
    POST "/v1/merge" => versions::merge,
    POST "/v1/revert" => versions::revert,
    POST "/v1/cherry-pick" => versions::cherry_pick,
    POST "/v1/reset" => versions::reset,
    GET "/v1/definitions" => definitions::definitions,
    POST "/v1/push" => ingest::push,
    POST "/v1/delete" => ingest::delete,
    POST "/v1/flush" => ingest::flush,
    GET "/v1/status" => ingest::status,
    GET "/v1/quarantine" => ingest::quarantine,
    POST "/v1/online-features" => online::online_features,
    GET "/v1/online" => serving::list,
    POST "/v1/online/serve" => serving::serve,
    POST "/v1/online/unserve" => serving::unserve,
    POST "/v1/online/rebuild" => serving::rebuild,
    POST "/v1/online/move" => serving::move_online,
    POST "/v1/online/audit" => serving::audit,
    GET "/v1/datasets" => datasets::list,
    POST "/v1/datasets" => datasets::create,
    GET "/v1/datasets/show" => datasets::show,
    GET "/v1/datasets/diff" => datasets::diff,
    POST "/v1/datasets/refresh" => datasets::refresh,
    POST "/v1/compact" => tables::compact,
    GET "/v1/tables/files" => tables::files,
    GET "/v1/tables/metadata" => tables::metadata,
    GET "/v1/objects" => objects::list,
    GET "/v1/objects/{*path}" => objects::get,
    PUT "/v1/objects/{*path}" => objects::put,
    DELETE "/v1/objects/{*path}" => objects::delete,
    POST "/v1/copy-object" => objects::copy,
    POST "/v1/rename-object" => objects::rename,
    POST "/v1/import-objects" => objects::import,
    POST "/get-online-features" => feast::get_online_features,
    POST "/push" => feast::push,
    POST "/write-to-online-store" => feast::write_to_online_store,
    POST "/materialize" => feast::materialize,
    POST "/materialize-incremental" => feast::materialize_incremental,
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
    pub(crate) async fn answer(self, app: &Arc<App>, caller: Caller, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let call = Call::new(app, caller, parts, body);
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
