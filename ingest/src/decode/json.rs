//! JSON rows: an object is a row, an array of objects or one object after the other (JSON lines) are several.

use anabranch_core::definition::{Role, ViewLayout};
use anabranch_core::{Position, Value};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::rows::RowsBuilder;
use super::{Decoded, OriginalFormat, Originals, PAYLOAD, SCHEMA, failure};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// The text of each row.
pub(super) fn split(payload: &Bytes) -> Result<Vec<Bytes>> {
    let mut at = skip_space(payload, 0);
    let mut rows = Vec::new();
    match payload.get(at) {
        Some(b'{') => {
            while at < payload.len() {
                let end = item_end(payload, at)?;
                rows.push(payload.slice(at..end));
                at = skip_space(payload, end);
            }
        }
        Some(b'[') => {
            at = skip_space(payload, at + 1);
            while payload.get(at) != Some(&b']') || !rows.is_empty() {
                let end = item_end(payload, at)?;
                rows.push(payload.slice(at..end));
                at = skip_space(payload, end);
                match payload.get(at) {
                    Some(b',') => at = skip_space(payload, at + 1),
                    Some(b']') => break,
                    _ => return Err(malformed(format!("at byte {at}: an array goes on with a comma or ends with a bracket"))),
                }
            }
            if skip_space(payload, at + 1) < payload.len() {
                return Err(malformed(format!("at byte {}: there is more behind the array", at + 1)));
            }
        }
        _ => return Err(malformed("it is neither an object nor an array of objects".to_owned())),
    }
    Ok(rows)
}

/// Where the JSON value that begins at `at` ends.
fn item_end(payload: &Bytes, at: usize) -> Result<usize> {
    let rest = &payload[at.min(payload.len())..];
    if matches!(rest.first(), Some(b'{' | b'[' | b'"')) {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        return match values.next() {
            Some(Ok(_)) => Ok(at + values.byte_offset()),
            Some(Err(error)) => Err(malformed(format!("from byte {at} on: {error}"))),
            None => Err(malformed(format!("at byte {at}: a value is missing"))),
        };
    }
    // A number or a word: no row, but told row by row.
    let len = rest.iter().position(|byte| b",]}".contains(byte) || byte.is_ascii_whitespace()).unwrap_or(rest.len());
    match serde_json::from_slice::<IgnoredAny>(&rest[..len]) {
        Ok(_) => Ok(at + len),
        Err(error) => Err(malformed(format!("from byte {at} on: {error}"))),
    }
}

fn skip_space(payload: &[u8], at: usize) -> usize {
    let rest = payload.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !b" \t\r\n".contains(byte)).unwrap_or(rest.len())
}

fn malformed(reason: String) -> Error {
    Error::Payload { format: "json", reason }
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
