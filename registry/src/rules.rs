//! What definitions keep beyond what `core` holds each of them to.
//!
//! - A pattern compiles; a range holds at least one value and no NaN as a bound.
//! - The views of a service that take a key from one column of the caller agree on its type (integers of every width are one).
//! - The canonical bytes fit an entry of the map.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anabranch_core::definition::{Check, Definition, DefinitionKind, Definitions, FeatureService, Rule};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, Scalar, Value};
use anabranch_versioning::MAX_VALUE_BYTES;
use regex::RegexBuilder;
use serde_json::Value as Json;

use crate::error::Fault;

/// Less than what `validation` allows for the same pattern anchored at both ends, so that what is accepted here compiles there.
const PATTERN_BYTES: usize = 8 << 20;

/// What is wrong with a definition in a set whose references all lead somewhere.
pub(crate) fn check(definitions: &Definitions, definition: &Definition) -> Option<Fault> {
    let len = definition.to_bytes().len();
    if len > MAX_VALUE_BYTES {
        let reason = format!("its {len} bytes are over {MAX_VALUE_BYTES}: split it");
        return Some(Fault::new(definition.kind(), definition.name(), "", reason));
    }
    match definition {
        Definition::Check(check) => check_check(definitions, check),
        Definition::FeatureService(service) => check_service(definitions, service),
        Definition::Entity(_) | Definition::Source(_) | Definition::FeatureView(_) => None,
    }
}

fn check_check(definitions: &Definitions, check: &Check) -> Option<Fault> {
    let fault = |path: &str, reason: String| Some(Fault::new(DefinitionKind::Check, &check.name, path, reason));
    match &check.rule {
        Rule::Pattern { regex } => match RegexBuilder::new(regex).size_limit(PATTERN_BYTES).build() {
            Ok(_) => None,
            Err(error) => fault("rule.pattern.regex", format!("it is no regular expression: {}", short(&error))),
        },
        Rule::Range { min, max } => {
            let layout = definitions.layout(&check.view).ok()?;
            let data_type = layout.columns().iter().find(|column| column.name == check.column)?.data_type;
            let read = |json: &Option<Json>| json.as_ref().and_then(|json| Value::from_json(data_type, json).ok());
            let (min, max) = (read(min), read(max));
            for (path, bound) in [("rule.range.min", &min), ("rule.range.max", &max)] {
                if bound.as_ref().is_some_and(is_nan) {
                    return fault(path, "NaN is no bound: no value lies beside it".to_owned());
                }
            }
            match (min, max) {
                (Some(min), Some(max)) if order(&min, &max) == Some(Ordering::Greater) => {
                    fault("rule.range", format!("min {} is greater than max {}, so that no row would pass", min.to_json(), max.to_json()))
                }
                _ => None,
            }
        }
        Rule::NotNull {} | Rule::OneOf { .. } => None,
    }
}

fn check_service(definitions: &Definitions, service: &FeatureService) -> Option<Fault> {
    let kind = DefinitionKind::FeatureService;
    let selected = match Selection::Service(service.name.clone()).resolve(definitions, &[], false) {
        Ok(selected) => selected,
        Err(error) => return Some(Fault::from_core(kind, &service.name, error)),
    };
    let mut columns: BTreeMap<&str, (Scalar, &str)> = BTreeMap::new();
    for (i, view) in selected.iter().enumerate() {
        for (key, column) in view.layout.keys().iter().zip(&view.key_columns) {
            let space = match key.data_type {
                DataType::Scalar(Scalar::I32 | Scalar::I64) => Scalar::I64,
                _ => key.scalar(),
            };
            let (other, by) = *columns.entry(column).or_insert((space, &view.name));
            if other != space {
                let (a, b) = (other.name(), space.name());
                let reason =
                    format!("column {column:?} of the caller would be {a} for {by:?} and {b} for {:?}; map one of them by key_map", view.name);
                return Some(Fault::new(kind, &service.name, format!("features[{i}]"), reason));
            }
        }
    }
    None
}

/// How two values of one type order; `None` where they have no order.
pub(crate) fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::I32(a), Value::I32(b)) => Some(a.cmp(b)),
        (Value::I64(a), Value::I64(b)) => Some(a.cmp(b)),
        (Value::F32(a), Value::F32(b)) => a.partial_cmp(b),
        (Value::F64(a), Value::F64(b)) => a.partial_cmp(b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn is_nan(value: &Value) -> bool {
    match value {
        Value::F32(x) => x.is_nan(),
        Value::F64(x) => x.is_nan(),
        _ => false,
    }
}

/// The one line of a regex error that says what is wrong.
fn short(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}
