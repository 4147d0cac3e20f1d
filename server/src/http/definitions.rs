//! Definitions over HTTP.

use serde::Deserialize;
use serde_json::json;

use super::Answer;
use super::call::Call;
use crate::auth::Verb;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    repository: String,
    r#ref: String,
    kind: String,
    name: String,
}

pub(super) async fn definitions(call: Call) -> Answer {
    let wanted: Wanted = call.query()?;
    let scope = call.enter(Verb::ReadDefinitions, &wanted.repository, &wanted.r#ref).await?;
    let (commit, definitions) = scope.list_definitions(&wanted.kind, &wanted.name).await?;
    let definitions: Vec<_> = definitions
        .iter()
        .map(|definition| json!({"kind": definition.kind().name(), "name": definition.name(), "spec": definition.spec()}))
        .collect();
    Ok(axum::Json(json!({"commit": commit.to_string(), "definitions": definitions})))
}
