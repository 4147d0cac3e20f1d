//! Values of the map for people and programs: what they say as JSON, and what differs between two of them.
//!
//! A value that this version cannot read has no JSON and is told by its length; it never makes a call fail.

use std::collections::BTreeMap;

use anabranch_core::definition::Definition;
use anabranch_ingest::offset::Offset;
use anabranch_offline_store::entry::{SnapshotEntry, TableEntry, snapshot_key};
use anabranch_versioning::{Difference, KeyKind, MapReader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::error::Result;

/// How many fields are named in one line.
const FIELDS_IN_LINE: usize = 4;

/// How long a value may be in one line.
const VALUE_IN_LINE: usize = 40;

/// A value and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// As it is stored.
    pub(crate) raw: Bytes,
    /// What it says, where this version can read it.
    pub(crate) json: Option<Json>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldDifference {
    pub(crate) path: String,
    pub(crate) left: Option<Json>,
    pub(crate) right: Option<Json>,
}

impl Stored {
    /// What it says, or `{"base64": …}` where this version cannot read it.
    pub(crate) fn to_json(&self) -> Json {
        self.json.clone().unwrap_or_else(|| json!({"base64": STANDARD.encode(&self.raw)}))
    }

    pub(crate) fn new(kind: KeyKind, raw: Bytes) -> Self {
        Self { json: decoded(kind, &raw), raw }
    }
}

/// What a value says, where this version can read it.
pub(crate) fn decoded(kind: KeyKind, raw: &[u8]) -> Option<Json> {
    match kind {
        KeyKind::Table => TableEntry::decode(raw).ok().map(|table| {
            json!({
                "uuid": table.uuid.to_string(),
                "metadata": table.metadata.to_string(),
                "current_snapshot": table.current_snapshot,
                "last_sequence_number": table.last_sequence_number,
            })
        }),
        KeyKind::Snapshot => SnapshotEntry::decode(raw).ok().map(snapshot),
        KeyKind::Feature => Definition::from_bytes(raw).ok().map(|definition| definition.spec()),
        KeyKind::Offset => Offset::from_bytes(raw)
            .ok()
            .map(|offset| json!({"next": offset.next, "last_arrival": offset.last_arrival.to_string(), "definitions": offset.digest.to_string()})),
        _ => serde_json::from_slice(raw).ok().filter(Json::is_object),
    }
}

fn snapshot(entry: SnapshotEntry) -> Json {
    let interval = |interval: &anabranch_offline_store::entry::Interval| json!({"source": interval.source.get(), "first": interval.first.get(), "last": interval.last.get()});
    let files: Vec<_> = entry
        .files
        .iter()
        .map(|file| json!({"name": file.name, "rows": file.rows, "intervals": file.intervals.iter().map(interval).collect::<Vec<_>>()}))
        .collect();
    json!({
        "parent": entry.parent,
        "sequence_number": entry.sequence_number,
        "time": anabranch_core::Timestamp(entry.time_ms.saturating_mul(1_000)).to_string(),
        "schema_id": entry.schema_id,
        "manifest_list": entry.manifest_list,
        "summary": entry.summary,
        "files": files,
    })
}

/// The fields of two values that differ, by their paths. The parts of a list that have names go by them.
pub(crate) fn fields(left: &Json, right: &Json) -> Vec<FieldDifference> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), left, &mut old);
    flatten(String::new(), right, &mut new);
    let mut paths: Vec<_> = old.keys().chain(new.keys().filter(|path| !old.contains_key(*path))).cloned().collect();
    paths.sort();
    paths.retain(|path| old.get(path) != new.get(path));
    let difference = |path: String| FieldDifference { left: old.get(&path).cloned(), right: new.get(&path).cloned(), path };
    paths.into_iter().map(difference).collect()
}

fn flatten(path: String, value: &Json, into: &mut BTreeMap<String, Json>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Json::Object(fields) if !fields.is_empty() => fields.iter().for_each(|(name, value)| flatten(below(name), value, into)),
        Json::Array(items) if !items.is_empty() && items.iter().all(|item| item["name"].is_string()) => {
            for item in items {
                let Json::Object(mut fields) = item.clone() else { continue };
                let name = fields.remove("name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
                flatten(below(&name), &Json::Object(fields), into);
            }
        }
        leaf => {
            into.insert(path, leaf.clone());
        }
    }
}

/// What changed, in one line. Tables are read beyond their entries: their rows and files stand in their snapshots, on the maps that the difference is of.
pub(crate) async fn summary(
    difference: &Difference,
    fields: &[FieldDifference],
    (left_map, right_map): (Option<&dyn MapReader>, &dyn MapReader),
) -> Result<String> {
    let kind = difference.key.kind();
    let (left, right) = (difference.left.as_deref(), difference.right.as_deref());
    if kind == KeyKind::Table {
        let before = match left_map {
            Some(map) => figures(map, left).await?,
            None => None,
        };
        let after = figures(right_map, right).await?;
        if let Some(text) = amounts(before, after) {
            return Ok(text);
        }
    }
    let say = |raw: &[u8]| decoded(kind, raw).and_then(|json| said(kind, &json));
    Ok(match (left, right) {
        (Some(left), Some(right)) => match (decoded(kind, left), decoded(kind, right)) {
            (Some(_), Some(_)) if fields.is_empty() => "the order of its parts".to_owned(),
            (Some(_), Some(_)) => line(fields),
            _ => format!("{} bytes to {} bytes", left.len(), right.len()),
        },
        (None, Some(only)) | (Some(only), None) => say(only).unwrap_or_else(|| format!("{} bytes", only.len())),
        (None, None) => String::new(),
    })
}

/// Rows and files of a table at its current snapshot.
async fn figures(map: &dyn MapReader, entry: Option<&[u8]>) -> Result<Option<(u64, u64)>> {
    let Some(table) = entry.and_then(|raw| TableEntry::decode(raw).ok()) else { return Ok(None) };
    let Some(current) = table.current_snapshot else { return Ok(Some((0, 0))) };
    let Ok(key) = snapshot_key(table.uuid, current) else { return Ok(None) };
    let entry = map.get(&key).await?.and_then(|raw| SnapshotEntry::decode(&raw).ok());
    let total = |entry: &SnapshotEntry, name: &str| entry.summary.get(name).and_then(|text| text.parse::<u64>().ok());
    Ok(entry.and_then(|entry| Some((total(&entry, "total-records")?, total(&entry, "total-data-files")?))))
}

fn amounts(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<String> {
    match (before, after) {
        (Some((rows, files)), Some((rows_now, files_now))) => Some(format!("{rows} to {rows_now} rows, {files} to {files_now} files")),
        (None, Some((rows, files))) | (Some((rows, files)), None) => Some(format!("{rows} rows, {files} files")),
        (None, None) => None,
    }
}

/// What one value is, in one line.
fn said(kind: KeyKind, json: &Json) -> Option<String> {
    let text = |field: &str| json[field].as_str().map(str::to_owned);
    match kind {
        KeyKind::Feature => Some(text("description").unwrap_or_default()),
        KeyKind::Snapshot => {
            let figure = |name: &str| json["summary"][name].as_str().unwrap_or("0").to_owned();
            let operation = json["summary"]["operation"].as_str().unwrap_or("snapshot");
            if operation == "replace" {
                let (before, after) = (figure("deleted-data-files"), figure("added-data-files"));
                return Some(format!("compaction: {} rows, {before} files to {after}", figure("added-records")));
            }
            Some(format!("{operation}: {} rows in {} files", figure("added-records"), figure("added-data-files")))
        }
        KeyKind::Offset => Some(format!("next is {}", json["next"])),
        KeyKind::Object => {
            let content_type = text("content_type").map(|content_type| format!(", {content_type}")).unwrap_or_default();
            json["size"].as_u64().map(|size| format!("{size} bytes{content_type}"))
        }
        _ => None,
    }
}

fn line(fields: &[FieldDifference]) -> String {
    let mut parts: Vec<_> = fields.iter().take(FIELDS_IN_LINE).map(phrase).collect();
    if fields.len() > FIELDS_IN_LINE {
        parts.push(format!("and {} more", fields.len() - FIELDS_IN_LINE));
    }
    parts.join(", ")
}

fn phrase(field: &FieldDifference) -> String {
    match (&field.left, &field.right) {
        (Some(left), Some(right)) => format!("{} {} to {}", field.path, short(left), short(right)),
        (None, Some(right)) => format!("{} added as {}", field.path, short(right)),
        (Some(_), None) => format!("{} removed", field.path),
        (None, None) => field.path.clone(),
    }
}

fn short(json: &Json) -> String {
    let text = json.as_str().map_or_else(|| json.to_string(), str::to_owned);
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(VALUE_IN_LINE).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

#[cfg(test)]
mod tests {
    use anabranch_core::definition::{FeatureView, Source};

    use super::*;

    #[test]
    fn parts_with_names_are_compared_by_them() {
        let left = json!({"a": 1, "fields": [{"name": "x", "type": "f64"}, {"name": "y", "type": "i64"}], "tags": {}});
        let right =
            json!({"fields": [{"name": "y", "type": "f64"}, {"name": "x", "type": "f64"}, {"name": "z", "type": "bool"}], "tags": {"k": "v"}});
        let found = fields(&left, &right);
        let told: Vec<_> = found.iter().map(phrase).collect();
        let expected = ["a removed", "fields.y.type i64 to f64", "fields.z.type added as bool", "tags removed", "tags.k added as v"];
        assert_eq!(told, expected);
        assert_eq!(line(&found), "a removed, fields.y.type i64 to f64, fields.z.type added as bool, tags removed, and 1 more");
        assert_eq!(fields(&left, &left), []);
    }

    #[test]
    fn definitions_say_their_fields() {
        let view = |view: FeatureView| decoded(KeyKind::Feature, &Definition::FeatureView(view).to_bytes()).unwrap();
        let old = FeatureView::new("weather", "time").entity("airport").field("temp", "f64".parse().unwrap());
        let new = old.clone().field("wind", "f32".parse().unwrap());
        assert_eq!(line(&fields(&view(old), &view(new))), "fields.wind.type added as f32");
    }

    #[test]
    fn what_cannot_be_read_has_no_json_and_is_no_error() {
        for kind in KeyKind::ALL {
            for raw in [&b"\x00\xff"[..], b"", b"[1]", b"{"] {
                assert_eq!(decoded(kind, raw), None, "{kind:?} {raw:?}");
            }
        }
        let source = Definition::Source(Source::push("flights")).to_bytes();
        assert_eq!(decoded(KeyKind::Feature, &source).unwrap()["name"], "flights");
    }

    #[test]
    fn long_values_are_cut_for_a_line() {
        assert_eq!(short(&json!("a\nb")), "a…");
        assert_eq!(short(&json!("ä".repeat(60))).chars().count(), VALUE_IN_LINE + 1);
        assert_eq!(short(&json!([1, 2])), "[1,2]");
    }
}
