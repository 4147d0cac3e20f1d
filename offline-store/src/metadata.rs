//! A table at a commit: its metadata without snapshots from a blob, its snapshots from the map.
//!
//! The blob is JSON, keys sorted: `{"format":1,"metadata":{…}}`, where `metadata` is Iceberg's table metadata (format v2) less all that grows with the
//! history: snapshots, their log, refs, sequence number. Its location is relative (`data/<uuid>`), so that a repository can be moved. The whole
//! `metadata.json` that an outside reader wants is a function of this blob, the newest snapshots and the id marks ([`assemble`]); it is nowhere stored.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::definition::{Column, Role};
use anabranch_core::name::reserved;
use bytes::Bytes;
use iceberg::spec::{PartitionField, Schema, SortOrder, TableMetadata};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::entry::{SnapshotEntry, TableEntry};
use crate::schema::TableField;
use crate::storage::Locations;
use crate::table::TableName;
use crate::{Error, Result};

const FORMAT: u64 = 1;

/// What an empty table's partition field ids begin behind.
pub(crate) const LAST_PARTITION_ID: i32 = 999;

/// What a blob leaves out.
const HISTORY: [&str; 6] = ["snapshots", "snapshot-log", "metadata-log", "refs", "current-snapshot-id", "last-sequence-number"];

/// Properties that depend on where the repository lies.
const DATA_PATH: &str = "write.data.path";
const METADATA_PATH: &str = "write.metadata.path";

/// A table at a commit.
#[derive(Debug, Clone)]
pub struct TableState {
    pub(crate) name: TableName,
    pub(crate) entry: TableEntry,
    pub(crate) definition: Arc<TableDefinition>,
}

/// What a blob holds.
#[derive(Debug)]
pub(crate) struct TableDefinition {
    /// Iceberg's metadata as of no snapshot.
    pub(crate) metadata: TableMetadata,
    /// The fields of the current schema.
    pub(crate) fields: Vec<TableField>,
}

impl TableState {
    /// Its name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// What the map holds of it.
    pub fn entry(&self) -> &TableEntry {
        &self.entry
    }

    /// The fields of its current schema, in order.
    pub fn fields(&self) -> &[TableField] {
        &self.definition.fields
    }

    /// The field of a name in its current schema.
    pub fn field(&self, name: &str) -> Option<&TableField> {
        self.fields().iter().find(|field| field.name == name)
    }

    pub(crate) fn metadata(&self) -> &TableMetadata {
        &self.definition.metadata
    }

    /// Its columns, as a scan takes them; the one that rows are sorted by last is the event time.
    pub fn columns(&self) -> Vec<Column> {
        let event = self.event_column();
        let role = |name: &str| match name {
            reserved::ARRIVAL | reserved::SOURCE | reserved::POSITION | reserved::TOMBSTONE => Role::Reserved,
            name if event == Some(name) => Role::EventTime,
            _ => Role::Feature,
        };
        self.fields().iter().map(|field| Column { name: field.name.clone(), data_type: field.data_type, role: role(&field.name) }).collect()
    }

    /// The column of event times: the one that rows are sorted by last.
    pub(crate) fn event_column(&self) -> Option<&str> {
        let id = self.metadata().default_sort_order().fields.last()?.source_id;
        self.fields().iter().find(|field| field.id == id).map(|field| field.name.as_str())
    }
}

/// The path in the object store below which a table's data files lie.
pub(crate) fn data_path(table: Uuid) -> String {
    format!("data/{table}")
}

/// The path in the object store below which a table's manifests lie.
pub(crate) fn metadata_path(table: Uuid) -> String {
    format!("metadata/{table}")
}

/// What makes a new table.
pub(crate) struct NewTable {
    pub(crate) uuid: Uuid,
    pub(crate) schema: Schema,
    pub(crate) sort_order: SortOrder,
    pub(crate) partition: Option<PartitionField>,
    pub(crate) properties: HashMap<String, String>,
    pub(crate) time_ms: i64,
}

impl NewTable {
    /// The blob.
    pub(crate) fn blob(&self) -> Result<Bytes> {
        let fields: Vec<_> = self.partition.iter().collect();
        let last_partition_id = self.partition.as_ref().map_or(LAST_PARTITION_ID, |field| field.field_id);
        let mut sort_orders = vec![json!({"order-id": 0, "fields": []})];
        let mut default_sort_order = 0;
        if !self.sort_order.fields.is_empty() {
            sort_orders.push(to_json(&self.sort_order)?);
            default_sort_order = self.sort_order.order_id;
        }
        blob(&json!({
            "format-version": 2,
            "table-uuid": self.uuid,
            "location": data_path(self.uuid),
            "last-updated-ms": self.time_ms,
            "last-column-id": self.schema.highest_field_id(),
            "schemas": [to_json(&self.schema)?],
            "current-schema-id": self.schema.schema_id(),
            "partition-specs": [{"spec-id": 0, "fields": to_json(&fields)?}],
            "default-spec-id": 0,
            "last-partition-id": last_partition_id,
            "properties": to_json(&self.properties)?,
            "sort-orders": sort_orders,
            "default-sort-order-id": default_sort_order,
        }))
    }
}

/// The blob of a table's metadata, less its history.
pub(crate) fn strip(metadata: &TableMetadata) -> Result<Bytes> {
    let mut json = to_json(metadata)?;
    if let Some(object) = json.as_object_mut() {
        HISTORY.iter().for_each(|key| drop(object.remove(*key)));
        // Iceberg keeps these in hash maps: sorted, so that equal definitions have equal bytes.
        for (list, id) in [("schemas", "schema-id"), ("partition-specs", "spec-id"), ("sort-orders", "order-id")] {
            if let Some(list) = object.get_mut(list).and_then(Json::as_array_mut) {
                list.sort_by_key(|item| item[id].as_i64());
            }
        }
        object.insert("location".to_owned(), data_path(metadata.uuid()).into());
        if let Some(properties) = object.get_mut("properties").and_then(Json::as_object_mut) {
            properties.remove(DATA_PATH);
            properties.remove(METADATA_PATH);
        }
    }
    blob(&json)
}

/// What a blob holds, placed where the repository lies.
pub(crate) fn read(table: &str, bytes: &[u8], locations: &Locations) -> Result<TableDefinition> {
    let json = place(parse(bytes)?, locations);
    let metadata: TableMetadata = serde_json::from_value(json).map_err(|error| Error::corrupt("table metadata", error))?;
    let fields = crate::schema::fields(table, &metadata)?;
    Ok(TableDefinition { metadata, fields })
}

/// What [`assemble`] needs beside the blob.
pub(crate) struct History<'a> {
    pub(crate) entry: &'a TableEntry,
    /// The newest snapshots, newest first.
    pub(crate) snapshots: &'a [(i64, SnapshotEntry)],
    pub(crate) last_column_id: i32,
    pub(crate) last_partition_id: i32,
}

/// The whole metadata as Iceberg knows it.
pub(crate) fn assemble(bytes: &[u8], history: &History<'_>, locations: &Locations) -> Result<TableMetadata> {
    let mut json = place(parse(bytes)?, locations);
    let updated = json["last-updated-ms"].as_i64().unwrap_or(0).max(history.snapshots.first().map_or(0, |(_, snapshot)| snapshot.time_ms));
    let log: Vec<_> = history.snapshots.iter().rev().map(|(id, snapshot)| json!({"snapshot-id": id, "timestamp-ms": snapshot.time_ms})).collect();
    let snapshots: Vec<_> = history.snapshots.iter().map(|(id, snapshot)| snapshot_json(*id, snapshot, locations)).collect();
    let at_least = |json: &Json, mark: i32| json.as_i64().unwrap_or(0).max(i64::from(mark));
    json["last-column-id"] = at_least(&json["last-column-id"], history.last_column_id).into();
    json["last-partition-id"] = at_least(&json["last-partition-id"], history.last_partition_id).into();
    json["last-updated-ms"] = updated.into();
    json["last-sequence-number"] = history.entry.last_sequence_number.into();
    json["snapshots"] = snapshots.into();
    json["snapshot-log"] = log.into();
    if let Some(current) = history.entry.current_snapshot {
        json["current-snapshot-id"] = current.into();
        json["refs"] = json!({"main": {"snapshot-id": current, "type": "branch"}});
    }
    serde_json::from_value(json).map_err(|error| Error::corrupt("table metadata", error))
}

fn snapshot_json(id: i64, snapshot: &SnapshotEntry, locations: &Locations) -> Json {
    let mut json = json!({
        "snapshot-id": id,
        "sequence-number": snapshot.sequence_number,
        "timestamp-ms": snapshot.time_ms,
        "manifest-list": locations.location(&snapshot.manifest_list),
        "summary": snapshot.summary,
        "schema-id": snapshot.schema_id,
    });
    if let Some(parent) = snapshot.parent {
        json["parent-snapshot-id"] = parent.into();
    }
    json
}

fn blob(metadata: &Json) -> Result<Bytes> {
    // serde_json's map is sorted (feature `preserve_order` off).
    Ok(Bytes::from(serde_json::to_vec(&json!({"format": FORMAT, "metadata": metadata})).map_err(|error| Error::corrupt("table metadata", error))?))
}

fn parse(bytes: &[u8]) -> Result<Json> {
    let mut json: Json = serde_json::from_slice(bytes).map_err(|error| Error::corrupt("table metadata", error))?;
    match json["format"].as_u64() {
        Some(FORMAT) => {}
        found => return Err(Error::corrupt("table metadata", format!("format {found:?} is not known to this version, which reads {FORMAT}"))),
    }
    let mut metadata = json["metadata"].take();
    if !metadata.is_object() || !metadata["properties"].is_object() {
        return Err(Error::corrupt("table metadata", "it is not an object with properties"));
    }
    metadata["last-sequence-number"] = 0.into();
    Ok(metadata)
}

/// Makes what is relative absolute.
fn place(mut json: Json, locations: &Locations) -> Json {
    let uuid: Uuid = json["table-uuid"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
    json["location"] = locations.location(&data_path(uuid)).into();
    json["properties"][DATA_PATH] = locations.location(&data_path(uuid)).into();
    json["properties"][METADATA_PATH] = locations.location(&metadata_path(uuid)).into();
    json
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<Json> {
    serde_json::to_value(value).map_err(|error| Error::corrupt("table metadata", error))
}

#[cfg(test)]
mod tests {
    use anabranch_core::definition::{Column, Role};

    use super::*;
    use crate::schema::{self, TableShape};

    fn table() -> NewTable {
        let column = |name: &str, data_type: &str, role| Column { name: name.to_owned(), data_type: data_type.parse().unwrap(), role };
        let shape = TableShape::new(vec![
            column("user", "i64", Role::Key),
            column("at", "timestamp", Role::EventTime),
            column("tags", "list<string>", Role::Feature),
            column("embedding", "vector<2>", Role::Feature),
        ]);
        let fields = schema::plan("t", None, &shape).unwrap().fields(1);
        NewTable {
            uuid: Uuid::from_u128(0xA1),
            schema: schema::schema(&fields, 0).unwrap(),
            sort_order: schema::sort_order(&fields, &shape),
            partition: Some(PartitionField { source_id: 2, field_id: 1000, name: "at__day".to_owned(), transform: iceberg::spec::Transform::Day }),
            properties: schema::properties(&fields, &shape).into_iter().collect(),
            time_ms: 5,
        }
    }

    #[test]
    fn a_blob_is_the_golden_one_and_reads_back() {
        let blob = table().blob().unwrap();
        assert_eq!(std::str::from_utf8(&blob).unwrap(), include_str!("../tests/golden/table_metadata.v1.json").trim_end());
        let read = read("t", &blob, &Locations::memory()).unwrap();
        assert_eq!(strip(&read.metadata).unwrap(), blob);
        let types: Vec<_> = read.fields.iter().map(|field| (field.id, field.element_id, field.data_type.to_string(), field.required)).collect();
        let expected = [(1, None, "i64", true), (2, None, "timestamp", true), (3, Some(4), "list<string>", false), (5, Some(6), "vector<2>", false)];
        assert_eq!(types, expected.map(|(id, element, name, required)| (id, element, name.to_owned(), required)));
        assert_eq!(read.metadata.location(), Locations::memory().location("data/00000000-0000-0000-0000-0000000000a1"));
    }

    #[test]
    fn damaged_or_newer_blobs_are_refused() {
        let blob = table().blob().unwrap();
        let locations = Locations::memory();
        for len in [0, 1, blob.len() / 2, blob.len() - 1] {
            assert!(read("t", &blob[..len], &locations).is_err());
        }
        let text = std::str::from_utf8(&blob).unwrap();
        assert!(read("t", text.replace("\"format\":1", "\"format\":2").as_bytes(), &locations).unwrap_err().to_string().contains("not known"));
        for odd in ["null", "{\"format\":1}", "{\"format\":1,\"metadata\":7}", "{\"format\":1,\"metadata\":{\"properties\":[]}}"] {
            assert!(read("t", odd.as_bytes(), &locations).is_err(), "{odd}");
        }
    }
}
