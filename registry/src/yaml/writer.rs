//! A definition as YAML that reads back as the same definition.
//!
//! Top-level fields a line each, most telling first; lists of parts an item a line, in flow style where that is short. A text stands without quotes where
//! it cannot be taken for anything else.

use anabranch_core::definition::Definition;
use serde_json::{Map, Value as Json};

use super::scalar;

/// How long an item of a list may be on one line, in bytes.
const FLOW_BYTES: usize = 110;

/// YAML wants a key within 1024 characters of its colon; longer ones are written in the explicit form.
const KEY_BYTES: usize = 1000;

/// The order of top-level fields; others follow by name.
const ORDER: [&str; 20] = [
    "name",
    "description",
    "owner",
    "tags",
    "join_keys",
    "entities",
    "event_timestamp",
    "known_timestamp",
    "fields",
    "lookback",
    "online_ttl",
    "retention",
    "max_future",
    "source",
    "partition",
    "view",
    "column",
    "rule",
    "features",
    "logging",
];

/// The definition as one YAML document, without a `---` line.
pub fn to_yaml(definition: &Definition) -> String {
    let mut out = format!("kind: {}\n", definition.kind());
    if let Json::Object(spec) = definition.spec() {
        let mut fields: Vec<_> = spec.iter().collect();
        fields.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
        for (name, value) in fields {
            field(&mut out, name, value);
        }
    }
    out
}

fn field(out: &mut String, name: &str, value: &Json) {
    match value {
        Json::Object(map) if name == "tags" && !map.is_empty() => {
            *out += "tags:\n";
            for (key, value) in map {
                let (key, value) = (text(key, true), flow(value));
                *out += &if key.len() > KEY_BYTES { format!("  ? {key}\n  : {value}\n") } else { format!("  {key}: {value}\n") };
            }
        }
        Json::Array(items) if items.iter().any(Json::is_object) => {
            *out += &format!("{name}:\n");
            items.iter().for_each(|part| item(out, part));
        }
        Json::String(value) => *out += &format!("{name}: {}\n", text(value, true)),
        value => *out += &format!("{name}: {}\n", flow(value)),
    }
}

fn item(out: &mut String, value: &Json) {
    let line = flow(value);
    match value {
        Json::Object(map) if line.len() > FLOW_BYTES => {
            for (i, (key, value)) in ordered(map).into_iter().enumerate() {
                let lead = if i == 0 { "-" } else { " " };
                *out += &format!("  {lead} {}: {}\n", text(key, false), flow(value));
            }
        }
        _ => *out += &format!("  - {line}\n"),
    }
}

fn flow(value: &Json) -> String {
    match value {
        Json::Object(map) => {
            let entries: Vec<_> = ordered(map).into_iter().map(|(key, value)| format!("{}: {}", text(key, false), flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::String(value) => text(value, false),
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// What a part is before what is said of it.
fn ordered(map: &Map<String, Json>) -> Vec<(&String, &Json)> {
    let mut entries: Vec<_> = map.iter().collect();
    let order = ["name", "view", "type", "min"];
    entries.sort_by_key(|(key, _)| order.iter().position(|known| known == key).unwrap_or(order.len()));
    entries
}

fn text(value: &str, block: bool) -> String {
    let word =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '<' | '>') || block && matches!(c, ' ' | '(' | ')' | ',' | '\'' | ';');
    let plain = value.starts_with(|c: char| c.is_alphanumeric()) && value.chars().all(word) && !value.ends_with(' ');
    if plain && value.len() <= KEY_BYTES && scalar::resolve(value).is_string() && !is_ambiguous(value) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            // Line separators and marks of byte order, which a reader may take for more than text; what YAML does not count as printable.
            '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}' => quoted += &format!("\\u{:04X}", u32::from(c)),
            c if c.is_control() => quoted += &format!("\\u{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Whether readers of older YAML would take a text for a truth, a date or a number.
fn is_ambiguous(value: &str) -> bool {
    let truths = ["yes", "no", "on", "off", "y", "n"];
    truths.iter().any(|truth| value.eq_ignore_ascii_case(truth)) || value.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '.' | '_'))
}
