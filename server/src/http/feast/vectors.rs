//! Feature vectors in Feast's shape: each column of the answer is a list of values, statuses and event times.

use std::collections::BTreeMap;

use anabranch_core::DataType;
use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use anabranch_online_store::{KeyColumn, NO_EVENT_TIME, Status};
use serde_json::Value as Json;

use super::Refused;
use super::frame::own;
use crate::app::Looked;
use crate::cells::{Statuses, Style, write_array, write_json, write_time, write_values};
use crate::error::{Error, Result};

/// The event time that Feast gives to what has none.
const NO_TIME: &[u8] = b"\"1970-01-01T00:00:00Z\"";

/// The columns that a caller gave, by their join keys.
pub(super) type Entities = BTreeMap<String, Vec<Json>>;

/// Finds the join keys of the columns, of which some are `needed`: Feast takes the name of an entity, too.
pub(super) fn entities(given: Entities, needed: &[KeyColumn], definitions: &Definitions) -> Result<Entities, Refused> {
    let mut entities = Entities::new();
    let rows = given.values().next().map_or(0, Vec::len);
    for (name, values) in given {
        if values.len() != rows {
            return Err(Error::argument("entities", format!("{name:?} has {} values where others have {rows}", values.len())).into());
        }
        // What is needed is a join key: definitions may be many.
        let key = if needed.iter().any(|key| key.name == name) || is_key(definitions, &name) {
            name
        } else if let Some(Definition::Entity(entity)) = definitions.get(DefinitionKind::Entity, &name)
            && let [key] = &entity.join_keys[..]
        {
            key.name.clone()
        } else {
            return Err(Refused::missing("EntityNotFoundException", format!("there is no join key or entity of one join key {name:?}")));
        };
        entities.insert(key, values);
    }
    Ok(entities)
}

/// Whether a name is a join key, or what a service calls one.
fn is_key(definitions: &Definitions, name: &str) -> bool {
    let joins = |definition: &Definition| matches!(definition, Definition::Entity(entity) if entity.join_keys.iter().any(|key| key.name == name));
    definitions.iter().any(joins)
        || definitions.services().any(|service| service.features.iter().any(|projection| projection.key_map.values().any(|column| column == name)))
}

/// The key columns that are needed, as JSON of our own; what is missing is missed by the lookup.
pub(super) fn keys(entities: &Entities, needed: &[KeyColumn]) -> Entities {
    let own = |key: &KeyColumn, values: &Vec<Json>| values.iter().map(|value| own(DataType::Scalar(key.scalar), value)).collect();
    let column = |key: &KeyColumn| entities.get(&key.name).map(|values| (key.name.clone(), own(key, values)));
    needed.iter().filter_map(column).collect()
}

/// The answer, written into one buffer.
pub(super) fn answer(looked: &Looked, entities: &Entities) -> Result<Vec<u8>> {
    let Looked { lookup, answer } = looked;
    let sections = looked.sections()?;
    let mut out = Vec::with_capacity(64 + (lookup.features().len() + entities.len()) * (64 + answer.rows * 64));
    let names = entities.keys().chain(lookup.features().iter().map(|feature| &feature.name));
    out.extend(b"{\"metadata\":{\"feature_names\":");
    write_array(&mut out, names, write_json);
    out.extend(b"},\"results\":[");
    for values in entities.values() {
        out.extend(b"{\"values\":");
        write_json(&mut out, values);
        out.extend(b",\"statuses\":");
        write_array(&mut out, values, |out, value| out.extend(if value.is_null() { &b"\"NULL_VALUE\""[..] } else { b"\"PRESENT\"" }));
        out.extend(b",\"event_timestamps\":");
        write_array(&mut out, values, |out, _| out.extend(NO_TIME));
        out.extend(b"},");
    }
    // The times of a view are written once and copied for each of its features.
    let mut times: (Option<usize>, Vec<u8>) = (None, Vec::new());
    let mut names = Statuses::new(status_name);
    for (place, (feature, section)) in lookup.features().iter().zip(sections.columns()).enumerate() {
        let statuses = answer.statuses_of(place);
        out.extend(b"{\"values\":");
        write_values(&mut out, Style::Feast, section, &answer.values, statuses);
        out.extend(b",\"statuses\":");
        names.write(&mut out, statuses);
        out.extend(b",\"event_timestamps\":");
        if times.0.replace(feature.view) != Some(feature.view) {
            times.1.clear();
            write_array(&mut times.1, answer.event_times_of(feature.view), |out, time| match *time {
                NO_EVENT_TIME => out.extend(NO_TIME),
                time => write_time(out, time),
            });
        }
        out.extend(&times.1);
        out.extend(b"},");
    }
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.extend(b"]}");
    Ok(out)
}

const fn status_name(status: Option<Status>) -> &'static [u8] {
    match status {
        Some(Status::Present) => b"\"PRESENT\"",
        Some(Status::NullValue) => b"\"NULL_VALUE\"",
        Some(Status::OutsideTtl) => b"\"OUTSIDE_MAX_AGE\"",
        Some(Status::NotFound) | None => b"\"NOT_FOUND\"",
    }
}
