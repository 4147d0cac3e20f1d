//! A definition as a list of paths and values, so that two of them compare field by field.
//!
//! Parts of lists go by their name, what is left out but has a meaning is written out (`max_future`), and a service's "all features" become the features.

use anabranch_core::definition::{Check, Definition, Definitions, Entity, FeatureService, FeatureView, Rule, Source};
use serde_json::{Map, Value as Json, json};

/// Paths and values, in the order of the definition.
pub(super) type Fields = Vec<(String, Json)>;

/// The fields of a definition among its set.
pub(super) fn flatten(definitions: &Definitions, definition: &Definition) -> Fields {
    let mut fields = match definition {
        Definition::Entity(entity) => entity_fields(entity),
        Definition::Source(source) => source_fields(source),
        Definition::FeatureView(view) => view_fields(view),
        Definition::Check(check) => check_fields(check),
        Definition::FeatureService(service) => service_fields(definitions, service),
    };
    // Words are alike in all kinds.
    let spec = definition.spec();
    for path in ["description", "owner"] {
        fields.extend(spec.get(path).map(|value| (path.to_owned(), value.clone())));
    }
    for (tag, value) in spec.get("tags").and_then(Json::as_object).into_iter().flatten() {
        fields.push((format!("tags.{tag}"), value.clone()));
    }
    fields
}

/// The names of the parts that have an order, in their order.
pub(super) fn sequence(definitions: &Definitions, definition: &Definition) -> Vec<String> {
    match definition {
        Definition::FeatureView(view) => view.fields.iter().map(|field| field.name.clone()).collect(),
        Definition::FeatureService(service) => {
            let taken =
                |i: usize| features(definitions, service, i).into_iter().map(move |feature| format!("{}:{feature}", service.features[i].name()));
            (0..service.features.len()).flat_map(taken).collect()
        }
        Definition::Entity(_) | Definition::Source(_) | Definition::Check(_) => Vec::new(),
    }
}

fn entity_fields(entity: &Entity) -> Fields {
    entity.join_keys.iter().map(|key| (format!("join_keys.{}", key.name), json!(key.data_type))).collect()
}

fn source_fields(source: &Source) -> Fields {
    vec![("via".to_owned(), json!(source.via))]
}

fn view_fields(view: &FeatureView) -> Fields {
    let mut fields = vec![("entities".to_owned(), json!(view.entities)), ("event_timestamp".to_owned(), json!(view.event_timestamp))];
    fields.extend(view.known_timestamp.iter().map(|column| ("known_timestamp".to_owned(), json!(column))));
    for field in &view.fields {
        fields.push((format!("fields.{}", field.name), json!(field.data_type)));
        if !field.description.is_empty() {
            fields.push((format!("fields.{}.description", field.name), json!(field.description)));
        }
    }
    for (path, span) in [("lookback", view.lookback), ("online_ttl", view.online_ttl), ("retention", view.retention)] {
        fields.extend(span.map(|span| (path.to_owned(), json!(span))));
    }
    fields.push(("max_future".to_owned(), json!(view.max_future)));
    fields.extend(view.source.iter().map(|source| ("source".to_owned(), json!(source))));
    fields.push(("partition".to_owned(), json!(view.partition)));
    fields
}

fn check_fields(check: &Check) -> Fields {
    let mut fields = vec![("view".to_owned(), json!(check.view)), ("column".to_owned(), json!(check.column))];
    match &check.rule {
        Rule::NotNull {} => fields.push(("rule.not_null".to_owned(), Json::Object(Map::new()))),
        Rule::Range { min, max } => {
            fields.extend(min.iter().map(|min| ("rule.range.min".to_owned(), min.clone())));
            fields.extend(max.iter().map(|max| ("rule.range.max".to_owned(), max.clone())));
        }
        Rule::OneOf { values } => fields.push(("rule.one_of.values".to_owned(), json!(values))),
        Rule::Pattern { regex } => fields.push(("rule.pattern.regex".to_owned(), json!(regex))),
    }
    fields
}

fn service_fields(definitions: &Definitions, service: &FeatureService) -> Fields {
    let mut fields = Fields::new();
    for (i, projection) in service.features.iter().enumerate() {
        let name = projection.name();
        fields.push((format!("features.{name}.view"), json!(projection.view)));
        if projection.features.is_none() {
            fields.push((format!("features.{name}.all"), json!(true)));
        }
        for feature in features(definitions, service, i) {
            fields.push((format!("features.{name}.features.{feature}"), json!(format!("{}:{feature}", projection.view))));
        }
        for (key, column) in &projection.key_map {
            fields.push((format!("features.{name}.key_map.{key}"), json!(column)));
        }
    }
    fields.extend(service.logging.map(|logging| ("logging.sample_rate".to_owned(), json!(logging.sample_rate))));
    fields
}

/// The features that a service takes by one of its projections.
fn features(definitions: &Definitions, service: &FeatureService, projection: usize) -> Vec<String> {
    let projection = &service.features[projection];
    match &projection.features {
        Some(features) => features.clone(),
        None => definitions.view(&projection.view).into_iter().flat_map(|view| &view.fields).map(|field| field.name.clone()).collect(),
    }
}
