//! Lookups over HTTP: JSON, written into one buffer, or Arrow for whoever accepts that.

use std::collections::BTreeMap;
use std::io::Write as _;

use anabranch_core::selection::Selection;
use anabranch_online_store::{NO_EVENT_TIME, Status};
use arrow::ipc::writer::StreamWriter;
use axum::response::Response;
use http::header::ACCEPT;
use serde::Deserialize;
use serde_json::Value as Json;

use super::call::{self, Call};
use super::ingest::ARROW;
use crate::app::{Keys, Looked, LookupRequest};
use crate::auth::Verb;
use crate::cells::{Statuses, Style, write_array, write_json, write_time, write_values};
use crate::error::{Error, Result};

/// Either `service` or `features`, and the key columns by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    service: Option<String>,
    features: Option<Vec<String>>,
    keys: BTreeMap<String, Vec<Json>>,
    #[serde(default)]
    full_names: bool,
    #[serde(default)]
    at_least: String,
    #[serde(default)]
    timeout_ms: u32,
}

pub(super) async fn online_features(mut call: Call) -> Result<Response> {
    let arrow = call.header(ACCEPT).is_some_and(|accept| accept.contains(ARROW));
    let wanted: Wanted = call.json().await?;
    let scope = call.enter(Verb::Lookup, &wanted.repository, &wanted.r#ref).await?;
    let selection = match (wanted.service, wanted.features) {
        (Some(service), None) => Selection::Service(service),
        (None, Some(features)) => Selection::Features(features),
        _ => return Err(Error::argument("body", "give either service or features")),
    };
    let Wanted { full_names, at_least, timeout_ms, keys, .. } = wanted;
    let looked = scope.lookup(LookupRequest { selection, full_names, keys: Keys::Json(keys), at_least, timeout_ms }).await?;
    if arrow {
        return Ok(call::of_type(ARROW, ipc(looked)?));
    }
    Ok(call::of_type("application/json", json(&looked)?))
}

fn ipc(looked: Looked) -> Result<Vec<u8>> {
    let batch = looked.into_batch()?;
    let written = StreamWriter::try_new(Vec::new(), &batch.schema()).and_then(|mut writer| {
        writer.write(&batch)?;
        writer.into_inner()
    });
    written.map_err(|error| Error::argument("lookup", error.to_string()))
}

fn json(looked: &Looked) -> Result<Vec<u8>> {
    let Looked { lookup, answer } = looked;
    let sections = looked.sections()?;
    // About the length of a float, its status and the rest.
    let mut out = Vec::with_capacity(64 + lookup.features().len() * (64 + answer.rows * 32));
    out.extend(b"{\"as_of\":");
    write_time(&mut out, answer.as_of.micros());
    out.extend(b",\"columns\":");
    let (mut told, mut names) = (None, Statuses::new(status_name));
    write_array(&mut out, lookup.features().iter().zip(sections.columns()).enumerate(), |out, (place, (feature, section))| {
        out.extend(b"{\"name\":");
        write_json(out, &feature.name);
        out.extend(b",\"type\":\"");
        // Writing to memory does not fail.
        drop(write!(out, "{}", feature.data_type));
        out.extend(b"\",\"values\":");
        let statuses = answer.statuses_of(place);
        write_values(out, Style::Anabranch, section, &answer.values, statuses);
        out.extend(b",\"statuses\":");
        names.write(out, statuses);
        // The first feature of a view tells its event times.
        if told.replace(feature.view) != Some(feature.view) {
            out.extend(b",\"event_times\":");
            write_array(out, answer.event_times_of(feature.view), |out, time| match *time {
                NO_EVENT_TIME => out.extend(b"null"),
                time => write_time(out, time),
            });
        }
        out.push(b'}');
    });
    out.push(b'}');
    Ok(out)
}

const fn status_name(status: Option<Status>) -> &'static [u8] {
    match status {
        Some(Status::Present) => b"\"PRESENT\"",
        Some(Status::NullValue) => b"\"NULL_VALUE\"",
        Some(Status::NotFound) => b"\"NOT_FOUND\"",
        Some(Status::OutsideTtl) => b"\"OUTSIDE_TTL\"",
        None => b"\"\"",
    }
}
