//! Merging definitions, three-way by field.
//!
//! Both sides' specs are compared with the base's, field by field; what only one side changed is taken:
//!
//! | field | merged |
//! | -- | -- |
//! | an object (`tags`, `key_map`, `logging`, the bounds of a range) | by its keys |
//! | `fields` of a view, `join_keys` of an entity, `features` of a service, and within it | by name, in our order unless only theirs changed it; its additions come first |
//! | `values` of a check | by value |
//! | all else (`entities`, times, spans, types, words) | as a whole |
//!
//! A definition that one side deleted and the other changed, and a field that both changed otherwise, conflict, naming the field. What comes out must be a
//! definition in itself, and afterwards all definitions must fit together: a view whose entity the other side deleted is found there
//! ([`Resolver::check`]), and no strategy decides it.

use anabranch_core::definition::{Definition, DefinitionKind};
use anabranch_versioning::{self as versioning, Key, KeyKind, MapReader, Operation, Resolution, Resolver, Sides, Triple};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value as Json};

use crate::keys::definition_key;
use crate::{Error, Fault, load_from, rules};

/// Decides merges of definitions.
#[derive(Debug, Clone, Copy, Default)]
pub struct FeatureResolver;

#[async_trait]
impl Resolver for FeatureResolver {
    fn kinds(&self) -> &[KeyKind] {
        &[KeyKind::Feature]
    }

    async fn resolve(&self, _operation: Operation, changes: &[Triple], _sides: &Sides<'_>) -> versioning::Result<Resolution> {
        Ok(match changes {
            [change] if change.changed_by_ours() => merge(change),
            _ => Resolution::Theirs,
        })
    }

    async fn check(&self, candidate: &dyn MapReader, _touched: &[Key]) -> versioning::Result<Vec<(Key, String)>> {
        let definitions = match load_from(candidate).await {
            Ok(definitions) => definitions,
            Err(Error::Versioning(error)) => return Err(error),
            // Damaged before and after: not this merge's doing, and whoever reads the definitions is told.
            Err(_) => return Ok(Vec::new()),
        };
        let mut faults: Vec<Fault> = Vec::new();
        for error in definitions.check().err().unwrap_or_default() {
            if let anabranch_core::Error::Definition { kind, name, path, reason } = error
                && let Some(kind) = DefinitionKind::from_name(kind)
            {
                faults.push(Fault::new(kind, name, path, reason));
            }
        }
        if faults.is_empty() {
            faults.extend(definitions.iter().filter_map(|definition| rules::check(&definitions, definition)));
        }
        let keyed = faults.into_iter().filter_map(|fault| Some((definition_key(fault.kind?, &fault.name).ok()?, described(&fault))));
        Ok(keyed.collect())
    }
}

fn described(fault: &Fault) -> String {
    if fault.path.is_empty() { fault.reason.clone() } else { format!("{}: {}", fault.path, fault.reason) }
}

/// Merges a definition that both sides changed.
fn merge(change: &Triple) -> Resolution {
    let (Some(ours), Some(theirs)) = (&change.ours, &change.theirs) else {
        let (here, there) = if change.ours.is_none() { ("deleted", "changed") } else { ("changed", "deleted") };
        return Resolution::Conflict(format!("{here} here and {there} there"));
    };
    let read = |bytes: &Bytes| Definition::from_bytes(bytes);
    let (ours, theirs, base) = match (read(ours), read(theirs), change.base.as_ref().map(read).transpose()) {
        (Ok(ours), Ok(theirs), Ok(base)) if ours.kind() == theirs.kind() => (ours, theirs, base),
        _ => return Resolution::Conflict("a side is not readable as a definition".to_owned()),
    };
    let mut conflicts = Vec::new();
    let base = base.map(|base| base.spec());
    let merged = value("", base.as_ref(), Some(&ours.spec()), Some(&theirs.spec()), &mut conflicts);
    if !conflicts.is_empty() {
        return Resolution::Conflict(conflicts.join("; "));
    }
    match Definition::from_spec(ours.kind(), merged.unwrap_or(Json::Null)) {
        Ok(definition) => Resolution::Value(Some(definition.to_bytes().into())),
        Err(error) => {
            let fault = Fault::from_core(ours.kind(), ours.name(), error);
            Resolution::Conflict(format!("what both sides make of it together is no definition: {}", described(&fault)))
        }
    }
}

/// One value three-way. Where both changed it otherwise and it has no parts, ours is answered and the conflict noted.
fn value(path: &str, base: Option<&Json>, ours: Option<&Json>, theirs: Option<&Json>, conflicts: &mut Vec<String>) -> Option<Json> {
    if ours == theirs || theirs == base {
        return ours.cloned();
    }
    if ours == base {
        return theirs.cloned();
    }
    match (base, ours, theirs) {
        (None | Some(Json::Object(_)), Some(Json::Object(ours)), Some(Json::Object(theirs))) => {
            let none = Map::new();
            let base = base.and_then(Json::as_object).unwrap_or(&none);
            return Some(Json::Object(object(path, base, ours, theirs, conflicts)));
        }
        // Without a list a projection takes all features: two choices among them are no additions to it.
        (None, Some(Json::Array(_)), Some(Json::Array(_))) if path.starts_with("features.") => {}
        (None | Some(Json::Array(_)), Some(Json::Array(ours)), Some(Json::Array(theirs))) if is_by_name(path) => {
            let base = base.and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
            return Some(Json::Array(list(path, base, ours, theirs, conflicts)));
        }
        _ => {}
    }
    let shown = |side: Option<&Json>| side.map_or_else(|| "nothing".to_owned(), Json::to_string);
    conflicts.push(format!("{path} is {} here and {} there", shown(ours), shown(theirs)));
    ours.cloned()
}

fn object(
    path: &str,
    base: &Map<String, Json>,
    ours: &Map<String, Json>,
    theirs: &Map<String, Json>,
    conflicts: &mut Vec<String>,
) -> Map<String, Json> {
    let mut keys: Vec<_> = ours.keys().chain(theirs.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let merged = keys.into_iter().filter_map(|key| {
        let value = value(&joined(path, key), base.get(key), ours.get(key), theirs.get(key), conflicts)?;
        Some((key.clone(), value))
    });
    merged.collect()
}

/// Lists whose parts have names, by the path without the names.
fn is_by_name(path: &str) -> bool {
    matches!(path, "fields" | "join_keys" | "features" | "rule.one_of.values") || path.starts_with("features.") && path.ends_with(".features")
}

/// A list of named parts. The order is ours, unless only theirs changed it; what theirs added follows what it follows there.
fn list(path: &str, base: &[Json], ours: &[Json], theirs: &[Json], conflicts: &mut Vec<String>) -> Vec<Json> {
    let names = |list: &[Json]| list.iter().map(name_of).collect::<Vec<_>>();
    let (base_names, our_names, their_names) = (names(base), names(ours), names(theirs));
    let common =
        |of: &[String]| of.iter().filter(|name| [&base_names, &our_names, &their_names].iter().all(|all| all.contains(name))).cloned().collect();
    let (in_base, in_ours, in_theirs): (Vec<_>, Vec<_>, Vec<_>) = (common(&base_names), common(&our_names), common(&their_names));
    if in_ours != in_theirs && in_ours != in_base && in_theirs != in_base {
        conflicts.push(format!("{path} is in one order here and in another there"));
    }
    let theirs_leads = in_ours == in_base && in_theirs != in_base;
    let (mut order, added) = if theirs_leads { (their_names.clone(), &our_names) } else { (our_names.clone(), &their_names) };
    for (at, name) in added.iter().enumerate().filter(|(_, name)| !order_has(&base_names, name)) {
        if !order_has(&order, name) {
            let before = added[..at].iter().rev().find_map(|before| order.iter().position(|placed| placed == before));
            // Behind what it follows, and behind what the leading side added there.
            let mut place = before.map_or(0, |before| before + 1);
            while order.get(place).is_some_and(|next| !order_has(&base_names, next) && !order_has(added, next)) {
                place += 1;
            }
            order.insert(place, name.clone());
        }
    }
    let find = |list: &[Json], names: &[String], name: &String| names.iter().position(|known| known == name).map(|at| list[at].clone());
    let merged = order.iter().filter_map(|name| {
        let sides = [find(base, &base_names, name), find(ours, &our_names, name), find(theirs, &their_names, name)];
        value(&joined(path, name), sides[0].as_ref(), sides[1].as_ref(), sides[2].as_ref(), conflicts)
    });
    let merged: Vec<Json> = merged.collect();
    // What the leading side deleted and the other changed has no place in the order.
    for name in their_names.iter().chain(&our_names).filter(|name| !order_has(&order, name)) {
        let sides = [find(base, &base_names, name), find(ours, &our_names, name), find(theirs, &their_names, name)];
        value(&joined(path, name), sides[0].as_ref(), sides[1].as_ref(), sides[2].as_ref(), conflicts);
    }
    merged
}

fn order_has(order: &[String], name: &String) -> bool {
    order.contains(name)
}

fn name_of(part: &Json) -> String {
    let text = |field: &str| part.get(field).and_then(Json::as_str);
    match text("name").or_else(|| text("alias")).or_else(|| text("view")).or_else(|| part.as_str()) {
        Some(name) => name.to_owned(),
        None => part.to_string(),
    }
}

fn joined(path: &str, part: &str) -> String {
    if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") }
}

#[cfg(test)]
mod tests;
