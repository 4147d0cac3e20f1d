//! One YAML document to one definition: short forms written out, scalars read by what their field holds.

use anabranch_core::definition::{Definition, DefinitionKind};
use serde_json::{Map, Value as Json};

use super::places::{Spot, Spots};
use super::reader::{At, Content, Key, Node};
use super::scalar;
use crate::error::{Fault, Place};

/// The definition in a document, and where its fields stand.
pub(super) fn definition(file: &str, node: Node) -> Result<(Definition, Spots), Fault> {
    let start = node.at;
    let refuse = |at: At, kind, reason: String| {
        let place = Some(Place { file: file.to_owned(), line: at.line, column: at.column });
        Fault { place, kind, name: String::new(), path: String::new(), reason }
    };
    let Content::Map(mut entries) = node.content else {
        return Err(refuse(start, None, "a definition is a mapping with kind and name".to_owned()));
    };
    let kinds = DefinitionKind::ALL.map(DefinitionKind::name).join(", ");
    let Some(index) = entries.iter().position(|(key, _)| key.text == "kind") else {
        return Err(refuse(start, None, format!("it has no kind: begin it with one of {kinds}")));
    };
    let (_, kind) = entries.remove(index);
    let name = match &kind.content {
        Content::Scalar { text, .. } => text.as_str(),
        Content::List(_) | Content::Map(_) => "",
    };
    let Some(kind) = DefinitionKind::from_name(name) else {
        return Err(refuse(kind.at, None, format!("{name:?} is no kind of definition: use one of {kinds}")));
    };
    write_out(kind, &mut entries).map_err(|(at, reason)| refuse(at, Some(kind), reason))?;
    let mut reading = Reading { kind, spots: Spots { file: file.to_owned(), spots: Vec::new() } };
    let spec = reading.json(Node { at: start, content: Content::Map(entries) }, start, String::new());
    let name = spec.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
    match Definition::from_spec(kind, spec) {
        Ok(definition) => Ok((definition, reading.spots)),
        Err(error) => Err(place(kind, &name, error, &reading.spots)),
    }
}

/// Where what `core` refused stands. An error about a name has no path: it is found by its text.
fn place(kind: DefinitionKind, name: &str, error: anabranch_core::Error, spots: &Spots) -> Fault {
    let found = match &error {
        anabranch_core::Error::Name { what, name, .. } => spots.find_text(name, |path| match *what {
            "column" => path != "name",
            "alias" => path.ends_with(".alias"),
            _ => path == "name",
        }),
        _ => None,
    };
    let fault = Fault::from_core(kind, name, error);
    // serde tells an unknown variant by the field that holds it: its own key is one deeper.
    let variant = fault.reason.strip_prefix("unknown variant `").and_then(|rest| rest.split('`').next());
    let path = variant.map_or_else(|| fault.path.clone(), |variant| format!("{}.{variant}", fault.path));
    let place = found.unwrap_or_else(|| spots.find(&path));
    Fault { place: Some(place), ..fault }
}

/// Writes the short forms out.
fn write_out(kind: DefinitionKind, entries: &mut Vec<(Key, Node)>) -> Result<(), (At, String)> {
    match kind {
        DefinitionKind::Entity => write_out_join_key(entries),
        DefinitionKind::Check => {
            for (_, rule) in entries.iter_mut().filter(|(key, _)| key.text == "rule") {
                write_out_rule(rule);
            }
            Ok(())
        }
        DefinitionKind::Source | DefinitionKind::FeatureView | DefinitionKind::FeatureService => Ok(()),
    }
}

fn write_out_join_key(entries: &mut Vec<(Key, Node)>) -> Result<(), (At, String)> {
    let Some(index) = entries.iter().position(|(key, _)| key.text == "join_key") else { return Ok(()) };
    if let Some((key, _)) = entries.iter().find(|(key, _)| key.text == "join_keys") {
        return Err((key.at, "it has both join_key and join_keys: keep one".to_owned()));
    }
    let (key, name) = entries.remove(index);
    let Some(type_index) = entries.iter().position(|(key, _)| key.text == "type") else {
        return Err((key.at, "a join_key needs a type beside it, such as type: string".to_owned()));
    };
    let (type_key, data_type) = entries.remove(type_index);
    let item = Node { at: key.at, content: Content::Map(vec![(Key { at: key.at, text: "name".to_owned() }, name), (type_key, data_type)]) };
    entries.push((Key { at: key.at, text: "join_keys".to_owned() }, Node { at: key.at, content: Content::List(vec![item]) }));
    Ok(())
}

/// `not_null`, and `{not_null: }`, to `{not_null: {}}`.
fn write_out_rule(rule: &mut Node) {
    let at = rule.at;
    let empty = || Node { at, content: Content::Map(Vec::new()) };
    match &mut rule.content {
        Content::Scalar { text, .. } if text == "not_null" => {
            rule.content = Content::Map(vec![(Key { at, text: "not_null".to_owned() }, empty())]);
        }
        Content::Map(entries) => {
            for (_, node) in entries.iter_mut().filter(|(key, _)| key.text == "not_null") {
                if matches!(&node.content, Content::Scalar { text, plain: true } if scalar::is_null(text)) {
                    *node = empty();
                }
            }
        }
        Content::Scalar { .. } | Content::List(_) => {}
    }
}

struct Reading {
    kind: DefinitionKind,
    spots: Spots,
}

impl Reading {
    /// The JSON of a node; `near` is where its key or itself stands. Nesting is bounded by the reader.
    fn json(&mut self, node: Node, near: At, path: String) -> Json {
        let (at, text) = match &node.content {
            Content::Scalar { text, .. } if text.is_empty() => (near, None),
            Content::Scalar { text, .. } => (node.at, Some(text.clone())),
            Content::List(_) | Content::Map(_) => (near, None),
        };
        self.spots.spots.push(Spot { path: path.clone(), text, at });
        match node.content {
            Content::Scalar { text, plain: true } if scalar::is_null(&text) => Json::Null,
            Content::Scalar { text, plain: true } if self.is_literal(&path) => scalar::resolve(&text),
            Content::Scalar { text, .. } => Json::String(text),
            Content::List(items) => {
                let read = |(i, item): (usize, Node)| {
                    let at = item.at;
                    self.json(item, at, format!("{path}[{i}]"))
                };
                items.into_iter().enumerate().map(read).collect()
            }
            Content::Map(entries) => {
                let dot = if path.is_empty() { "" } else { "." };
                let mut map = Map::new();
                for (key, node) in entries {
                    let value = self.json(node, key.at, format!("{path}{dot}{}", key.text));
                    map.insert(key.text, value);
                }
                Json::Object(map)
            }
        }
    }

    /// Whether a field holds a JSON value rather than a text.
    fn is_literal(&self, path: &str) -> bool {
        match self.kind {
            DefinitionKind::Check => matches!(path, "rule.range.min" | "rule.range.max") || path.starts_with("rule.one_of.values["),
            DefinitionKind::FeatureService => path == "logging.sample_rate",
            DefinitionKind::Entity | DefinitionKind::Source | DefinitionKind::FeatureView => false,
        }
    }
}
