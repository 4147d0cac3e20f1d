//! The change of one definition.

use std::collections::BTreeMap;

use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use serde_json::{Value as Json, json};

use super::flatten::{flatten, sequence};
use super::judge::{Judge, Verdict};
use super::{Action, DefinitionChange, FieldAction, FieldChange, Severity};

/// What happens to the definition of this kind and name.
pub(super) fn definition(current: &Definitions, after: &Definitions, kind: DefinitionKind, name: &str) -> DefinitionChange {
    let (before, next) = (current.get(kind, name).cloned(), after.get(kind, name).cloned());
    let judge = Judge { current, after, kind, name };
    let (action, verdict, fields) = match (&before, &next) {
        (None, Some(next)) => (Action::Create, judge.creation(), created(after, next)),
        (Some(before), Some(next)) if before == next => (Action::Unchanged, Verdict::safe(), Vec::new()),
        (Some(before), Some(next)) => (Action::Update, Verdict::safe(), updated(&judge, before, next)),
        (_, None) => (Action::Delete, judge.deletion(), Vec::new()),
    };
    let severity = fields.iter().map(|field| field.severity).max().unwrap_or(Severity::Safe).max(verdict.severity);
    DefinitionChange { action, kind, name: name.to_owned(), severity, reason: verdict.reason, fields, before, after: next }
}

fn created(after: &Definitions, definition: &Definition) -> Vec<FieldChange> {
    let added =
        |(path, to)| FieldChange { path, change: FieldAction::Added, from: None, to: Some(to), severity: Severity::Safe, reason: String::new() };
    flatten(after, definition).into_iter().map(added).collect()
}

fn updated(judge: &Judge<'_>, before: &Definition, next: &Definition) -> Vec<FieldChange> {
    let (old, new) = (flatten(judge.current, before), flatten(judge.after, next));
    let old_values: BTreeMap<_, _> = old.iter().map(|(path, value)| (path, value)).collect();
    let new_values: BTreeMap<_, _> = new.iter().map(|(path, value)| (path, value)).collect();
    let mut changes = Vec::new();
    for (path, value) in &new {
        let from = old_values.get(path).copied();
        if from != Some(value) {
            changes.push(change(judge, path, from, Some(value)));
        }
    }
    let dropped = old.iter().filter(|(path, _)| !new_values.contains_key(path));
    changes.extend(dropped.map(|(path, value)| change(judge, path, Some(value), None)));
    changes.extend(reordered(judge, before, next));
    changes
}

fn change(judge: &Judge<'_>, path: &str, from: Option<&Json>, to: Option<&Json>) -> FieldChange {
    let (change, verdict) = judge.field(path, from, to);
    FieldChange { path: path.to_owned(), change, from: from.cloned(), to: to.cloned(), severity: verdict.severity, reason: verdict.reason }
}

/// Whether the parts that both have stand in another order.
fn reordered(judge: &Judge<'_>, before: &Definition, next: &Definition) -> Option<FieldChange> {
    let (old, new) = (sequence(judge.current, before), sequence(judge.after, next));
    let common = |names: &[String], others: &[String]| names.iter().filter(|name| others.contains(name)).cloned().collect::<Vec<_>>();
    let (from, to) = (common(&old, &new), common(&new, &old));
    let path = if judge.kind == DefinitionKind::FeatureView { "fields" } else { "features" };
    (from != to).then(|| FieldChange {
        path: path.to_owned(),
        change: FieldAction::Reordered,
        from: Some(json!(from)),
        to: Some(json!(to)),
        severity: Severity::Noted,
        reason: "columns come out in another order".to_owned(),
    })
}
