//! JSON rows: an object is a row, an array of objects or one object after the other (JSON lines) are several.

use anabranch_core::definition::{Role, ViewLayout};
use anabranch_core::{Position, Value};
use bytes::Bytes;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::rows::RowsBuilder;
use super::{Decoded, OriginalFormat, Originals, PAYLOAD, SCHEMA, failure};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// The text of each row.
pub(super) fn split(payload: &Bytes) -> Result<Vec<Bytes>> {
    let malformed = |error: serde_json::Error| Error::Payload { format: "json", reason: error.to_string() };
    let rows: Vec<&RawValue> = match payload.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => serde_json::from_slice(payload).map_err(malformed)?,
        Some(b'{') => serde_json::Deserializer::from_slice(payload).into_iter().collect::<Result<_, _>>().map_err(malformed)?,
        _ => return Err(Error::Payload { format: "json", reason: "it is neither an object nor an array of objects".to_owned() }),
    };
    Ok(rows.into_iter().map(|row| payload.slice_ref(row.get().as_bytes())).collect())
}

pub(super) fn decode(layout: &ViewLayout, kind: RecordKind, payload: &Bytes, first: Position) -> Result<Decoded> {
    decode_texts(layout, kind, split(payload)?, first)
}

/// Rows of which each is the text of an object, or should be.
pub(super) fn decode_texts(layout: &ViewLayout, kind: RecordKind, texts: Vec<Bytes>, first: Position) -> Result<Decoded> {
    let mut builder = RowsBuilder::new(layout);
    for text in &texts {
        decode_row(layout, kind, text, &mut builder);
        builder.end_row();
    }
    builder.finish(kind, first, Originals::Texts { format: OriginalFormat::Json, header: Bytes::new(), rows: texts })
}

fn decode_row(layout: &ViewLayout, kind: RecordKind, text: &Bytes, builder: &mut RowsBuilder<'_>) {
    let row = builder.row();
    let object = match serde_json::from_slice(text) {
        Ok(Json::Object(object)) => object,
        Ok(_) => return builder.verdicts.add(row, failure(SCHEMA, "", "the row is no object")),
        Err(error) => return builder.verdicts.add(row, failure(PAYLOAD, "", format!("the row is no JSON: {error}"))),
    };
    for (name, cell) in &object {
        match layout.columns().iter().position(|column| &column.name == name) {
            Some(column) => builder.set(column, Value::from_json(layout.columns()[column].data_type, cell)),
            None => builder.verdicts.add(row, failure(SCHEMA, name, format!("feature view {:?} has no such column", layout.name()))),
        }
    }
    for column in layout.columns() {
        let known_later = kind == RecordKind::Tombstones && column.role == Role::KnownTime;
        if !column.nullable() && !known_later && !object.contains_key(&column.name) {
            builder.verdicts.add(row, failure(SCHEMA, &column.name, "the row leaves it out"));
        }
    }
}
