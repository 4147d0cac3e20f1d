//! Feast's feature server, as its own clients speak to it (the shapes of Feast 0.67): an online store of `type: remote` needs nothing but the address.
//!
//! | route | here |
//! | -- | -- |
//! | `POST /get-online-features` | a lookup on the served branch; the answer has the entities' columns first, then the features |
//! | `POST /push` | rows for every feature view whose source, or else whose own name, is the push source's |
//! | `POST /write-to-online-store` | rows for one feature view |
//! | `POST /materialize`, `/materialize-incremental` | whatever is committed is online when the call returns |
//! | `GET /health` | as everywhere |
//!
//! # Where this differs from Feast
//!
//! - A row that is written is in both stores, whichever of them the caller names: online is what history says, here. The call returns when it is visible.
//! - Ingest keeps the online store current, so materialising has little to do. It covers the time that was asked for, and any other.
//! - A caller's mistake is 404 (something that does not exist) or 422, where Feast answers 500. The body is Feast's: a JSON string that holds
//!   `{"module", "class", "message"}`, of which its client makes the exception again.
//! - Key columns that the features do not need are taken where they are join keys or entities, as Feast does, and otherwise refused.
//! - Features of one name in several views are called `view__feature`, where Feast refuses.

mod frame;
mod vectors;

use std::collections::BTreeMap;

use anabranch_core::selection::Selection;
use anabranch_core::{ErrorKind, Kinded, Timestamp};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::call::{self, Call};
use crate::app::{Keys, PushRequest, RowsPayload, Scope};
use crate::auth::Verb;
use crate::error::Error;
use crate::status;

/// What went wrong, as Feast's client is told.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    class: &'static str,
    error: Error,
}

type Outcome = Result<Response, Refused>;

#[derive(Debug, Deserialize)]
struct Wanted {
    entities: BTreeMap<String, Vec<Json>>,
    feature_service: Option<String>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    full_feature_names: bool,
}

#[derive(Debug, Deserialize)]
struct Pushed {
    push_source_name: String,
    df: BTreeMap<String, Json>,
    #[serde(default = "online")]
    to: String,
}

#[derive(Debug, Deserialize)]
struct Written {
    feature_view_name: String,
    df: BTreeMap<String, Json>,
}

#[derive(Debug, Deserialize)]
struct Materialize {
    start_ts: Option<String>,
    end_ts: Option<String>,
    feature_views: Option<Vec<String>>,
    #[serde(default)]
    disable_event_timestamp: bool,
    version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mode {
    r#async: bool,
}

fn online() -> String {
    "online".to_owned()
}

pub(super) async fn get_online_features(mut call: Call) -> Outcome {
    let wanted: Wanted = call.json().await?;
    let scope = call.enter(Verb::Lookup, "", "").await?;
    let selection = match wanted.feature_service {
        Some(service) => Selection::Service(service),
        None => Selection::Features(wanted.features),
    };
    let served = scope.served().await?;
    let lookup = scope.prepare(&served, &selection, wanted.full_feature_names)?;
    let entities = vectors::entities(wanted.entities, lookup.key_columns(), &served.definitions)?;
    let keys = Keys::Json(vectors::keys(&entities, lookup.key_columns()));
    let looked = scope.look_up(&served, &selection, lookup, keys).await.map_err(|error| match error.kind() {
        // Too many keys at once: Feast's client would ask again after a 429, in vain.
        ErrorKind::Exhausted => Refused { status: StatusCode::UNPROCESSABLE_ENTITY, class: "FeastError", error },
        _ => error.into(),
    })?;
    let body = vectors::answer(&looked, &entities)?;
    Ok(call::of_type("application/json", body))
}

pub(super) async fn push(mut call: Call) -> Outcome {
    let limit = call.app.config().limits.push_bytes;
    let pushed: Pushed = call::parse(&call.body(limit).await?)?;
    let scope = call.enter(Verb::WriteRows, "", "").await?;
    if !matches!(pushed.to.as_str(), "online" | "offline" | "online_and_offline") {
        return Err(Error::argument("to", format!("{:?} is none of online, offline and online_and_offline", pushed.to)).into());
    }
    let definitions = scope.served_definitions()?;
    let name = &pushed.push_source_name;
    let mut views: Vec<_> = definitions.views().filter(|view| view.source.as_ref() == Some(name)).map(|view| view.name.clone()).collect();
    if views.is_empty() {
        views.extend(definitions.view(name).map(|view| view.name.clone()));
    }
    if views.is_empty() {
        let missing = format!("there is no push source {name:?}: name the source of a feature view, or a feature view");
        return Err(Refused::missing("PushSourceNotFoundException", missing));
    }
    write(&scope, &views, &pushed.df).await?;
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn write_to_online_store(mut call: Call) -> Outcome {
    let limit = call.app.config().limits.push_bytes;
    let written: Written = call::parse(&call.body(limit).await?)?;
    let scope = call.enter(Verb::WriteRows, "", "").await?;
    let view = view_of(&scope, written.feature_view_name)?;
    write(&scope, &[view], &written.df).await?;
    Ok(axum::Json(Json::Null).into_response())
}

pub(super) async fn materialize(mut call: Call) -> Outcome {
    let asked: Materialize = call.json().await?;
    if !asked.disable_event_timestamp {
        let (start, end) = (time("start_ts", asked.start_ts.as_deref())?, time("end_ts", asked.end_ts.as_deref())?);
        if start >= end {
            return Err(Error::argument("start_ts", format!("{start} is not before end_ts, {end}")).into());
        }
    }
    publish(&call, asked).await
}

pub(super) async fn materialize_incremental(mut call: Call) -> Outcome {
    let asked: Materialize = call.json().await?;
    time("end_ts", asked.end_ts.as_deref())?;
    publish(&call, asked).await
}

/// Makes rows of a frame durable in views, and waits until they are visible online. Nothing is written unless every view takes every row.
async fn write(scope: &Scope, views: &[String], df: &BTreeMap<String, Json>) -> Result<(), Refused> {
    let definitions = scope.served_definitions()?;
    let frame = frame::Frame::new(df)?;
    let layouts = views.iter().map(|view| definitions.layout(view).map_err(Error::from)).collect::<Result<Vec<_>, _>>()?;
    frame.check_columns(&layouts)?;
    let payloads = layouts.iter().map(|layout| frame.rows_of(layout)).collect::<Result<Vec<_>, _>>()?;
    for (view, payload) in views.iter().zip(payloads) {
        if let Some(payload) = payload {
            let request = PushRequest { view: view.clone(), rows: RowsPayload::Json(payload.into()), idempotency_key: String::new() };
            let pushed = scope.push(request).await?;
            scope.wait_visible(&pushed.token.to_string(), 0).await?;
        }
    }
    Ok(())
}

async fn publish(call: &Call, asked: Materialize) -> Outcome {
    let mode: Mode = call.query()?;
    let scope = call.enter(Verb::WriteRows, "", "").await?;
    if let Some(version) = asked.version {
        return Err(
            Error::argument("version", format!("{version:?}: feature views have no versions here; branches and tags version them all")).into()
        );
    }
    let views = match asked.feature_views {
        Some(views) => views.into_iter().map(|view| view_of(&scope, view)).collect::<Result<_, _>>()?,
        None => scope.served_definitions()?.views().map(|view| view.name.clone()).collect::<Vec<_>>(),
    };
    scope.publish_committed().await?;
    Ok(match mode.r#async {
        true => (StatusCode::ACCEPTED, axum::Json(json!({"status": "accepted", "feature_views": views}))).into_response(),
        false => axum::Json(Json::Null).into_response(),
    })
}

fn view_of(scope: &Scope, name: String) -> Result<String, Refused> {
    match scope.served_definitions()?.view(&name) {
        Some(_) => Ok(name),
        None => Err(Refused::missing("FeatureViewNotFoundException", format!("there is no feature view {name:?}"))),
    }
}

fn time(field: &'static str, text: Option<&str>) -> Result<Timestamp, Error> {
    let text = text.ok_or_else(|| Error::argument(field, "it is missing"))?;
    text.parse().map_err(|error: anabranch_core::Error| Error::argument(field, error.to_string()))
}

impl Refused {
    fn missing(class: &'static str, message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, class, error: Error::Missing(message) }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        // What a selection names and does not exist is an error of its definition.
        let unknown = match error.details()["kind"].as_str() {
            Some("feature_service") => Some("FeatureServiceNotFoundException"),
            Some("feature_view") => Some("FeatureViewNotFoundException"),
            _ => None,
        };
        let (status, class) = match (error.kind(), unknown) {
            (ErrorKind::InvalidArgument, Some(class)) => (StatusCode::NOT_FOUND, class),
            (ErrorKind::InvalidArgument, None) => (StatusCode::UNPROCESSABLE_ENTITY, "FeastError"),
            (ErrorKind::Forbidden, _) => (StatusCode::FORBIDDEN, "FeastPermissionError"),
            (kind, _) => (StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "FeastError"),
        };
        Self { status, class, error }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        status::log(&self.error);
        let told = json!({"module": "feast.errors", "class": self.class, "message": self.error.to_string()});
        (self.status, axum::Json(Json::String(told.to_string()))).into_response()
    }
}
