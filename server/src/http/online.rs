//! Lookups over HTTP.

use std::collections::BTreeMap;

use anabranch_core::columns::value_at;
use anabranch_core::selection::Selection;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Answer;
use super::call::Call;
use crate::app::{Keys, Looked, LookupRequest};
use crate::auth::Verb;
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

pub(super) async fn online_features(mut call: Call) -> Answer {
    let wanted: Wanted = call.json().await?;
    let scope = call.enter(Verb::Lookup, &wanted.repository, &wanted.r#ref).await?;
    let selection = match (wanted.service, wanted.features) {
        (Some(service), None) => Selection::Service(service),
        (None, Some(features)) => Selection::Features(features),
        _ => return Err(Error::argument("body", "give either service or features")),
    };
    let Wanted { full_names, at_least, timeout_ms, keys, .. } = wanted;
    let looked = scope.lookup(LookupRequest { selection, full_names, keys: Keys::Json(keys), at_least, timeout_ms }).await?;
    Ok(axum::Json(answer(&looked)?))
}

fn answer(looked: &Looked) -> Result<Json> {
    let mut columns = Vec::new();
    for feature in looked.features() {
        let value = |row| Ok(value_at(feature.column, feature.data_type, row)?.to_json());
        let mut column = json!({
            "name": feature.name,
            "type": feature.data_type.to_string(),
            "values": (0..feature.column.len()).map(value).collect::<Result<Vec<_>>>()?,
            "statuses": feature.statuses.iter().map(|status| status.name()).collect::<Vec<_>>(),
        });
        if let Some(times) = &feature.event_times {
            column["event_times"] = times.iter().map(|time| time.map(|time| time.to_string())).collect::<Vec<_>>().into();
        }
        columns.push(column);
    }
    Ok(json!({"columns": columns}))
}
