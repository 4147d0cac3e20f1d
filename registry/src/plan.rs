//! What an apply would change, field by field, and what it would break. Pure: nothing is read or written.
//!
//! | severity | meaning | examples |
//! | -- | -- | -- |
//! | safe | whoever reads today reads the same tomorrow | a feature more, i32 to i64, a longer lookback, words |
//! | noted | nothing breaks, but answers or verdicts change | any check, a shorter lookback, TTL or retention, another order of features |
//! | breaking | readers or stored rows no longer fit | a feature dropped or narrowed, a join key changed, another time column, a view or service deleted |
//!
//! What would leave a reference that leads nowhere is not breaking but wrong, and refused whatever the caller allows: a view cannot go before the services
//! that take it, unless they go, or stop taking it, in the same apply.

mod diff;
mod display;
mod flatten;
mod judge;

use std::collections::BTreeSet;

use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

use crate::error::Fault;
use crate::{Error, Result, rules};

/// What else a plan does than create and update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Deletes every definition that is not proposed.
    pub prune: bool,
    /// Deletes these.
    pub delete: Vec<(DefinitionKind, String)>,
}

/// How much a change matters to those who use what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Whoever reads today reads the same tomorrow.
    Safe,
    /// Nothing breaks, but answers or verdicts change.
    Noted,
    /// Readers or stored rows no longer fit; refused unless allowed.
    Breaking,
}

/// What happens to a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Create,
    /// It is there and changes.
    Update,
    /// It goes.
    Delete,
    /// It is there as proposed.
    Unchanged,
}

/// What happens to a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldAction {
    /// It is new.
    Added,
    /// It goes.
    Dropped,
    /// It has another value.
    Changed,
    /// Its type holds every value of the old one.
    Widened,
    /// Its old type holds more than the new one.
    Narrowed,
    /// Its type is unlike the old one.
    Retyped,
    /// The same parts stand in another order.
    Reordered,
}

/// A change of one field of a definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field: dotted, parts of lists by their name, as in `fields.temp` or `features.from.key_map.origin`.
    pub path: String,
    /// What happens to it.
    pub change: FieldAction,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<Json>,
    /// What it becomes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<Json>,
    /// How much it matters.
    pub severity: Severity,
    /// Why, where it is not simply safe: what it breaks and for whom.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
}

/// A change of one definition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DefinitionChange {
    /// What happens to it.
    pub action: Action,
    /// Its kind.
    pub kind: DefinitionKind,
    /// Its name.
    pub name: String,
    /// The most that any part of the change matters.
    pub severity: Severity,
    /// Why the change as a whole matters, where it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Its fields; empty where it goes or stays.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// What is there.
    #[serde(skip)]
    pub before: Option<Definition>,
    /// What will be there.
    #[serde(skip)]
    pub after: Option<Definition>,
}

/// What an apply would do, by kind and name. As JSON: `{"changes": […], "summary": {…}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Every definition that was proposed or is deleted.
    pub changes: Vec<DefinitionChange>,
    /// All definitions as they would be.
    pub after: Definitions,
}

/// Compares what is proposed with what is there.
///
/// # Errors
/// [`Error::Invalid`] with every fault where a definition is wrong in itself, proposed twice, both proposed and deleted, or a reference would lead
/// nowhere; [`Error::NotFound`] where a definition to be deleted is not there.
pub fn plan(current: &Definitions, proposed: Vec<Definition>, options: &PlanOptions) -> Result<Plan> {
    let proposed = normalized(proposed)?;
    let deleted = deletions(current, &proposed, options)?;
    let mut after = current.clone();
    for (kind, name) in &deleted {
        after.remove(*kind, name);
    }
    for definition in proposed.iter() {
        after.insert(definition.clone());
    }
    check(&after, &proposed)?;
    let mut changes = Vec::with_capacity(proposed.len() + deleted.len());
    let touched = proposed.iter().map(|definition| (definition.kind(), definition.name().to_owned())).chain(deleted);
    for (kind, name) in touched.collect::<BTreeSet<_>>() {
        changes.push(diff::definition(current, &after, kind, &name));
    }
    Ok(Plan { changes, after })
}

impl Plan {
    /// Whether an apply would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Unchanged)
    }

    /// Whether an apply needs leave to break something.
    pub fn is_breaking(&self) -> bool {
        self.changes.iter().any(|change| change.severity == Severity::Breaking)
    }

    /// What breaks and why, one line for each.
    pub fn breaking(&self) -> Vec<String> {
        self.changes.iter().flat_map(DefinitionChange::breaking).collect()
    }

    /// How many definitions an action happens to.
    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = serializer.serialize_struct("Plan", 2)?;
        plan.serialize_field("changes", &self.changes)?;
        let [create, update, delete, unchanged] =
            [Action::Create, Action::Update, Action::Delete, Action::Unchanged].map(|action| self.count(action));
        let breaking = self.changes.iter().filter(|change| change.severity == Severity::Breaking).count();
        let summary = serde_json::json!({"create": create, "update": update, "delete": delete, "unchanged": unchanged, "breaking": breaking});
        plan.serialize_field("summary", &summary)?;
        plan.end()
    }
}

/// The proposed definitions in canonical form, each once.
fn normalized(proposed: Vec<Definition>) -> Result<Definitions> {
    let (mut definitions, mut faults) = (Definitions::new(), Vec::new());
    for definition in proposed {
        let (kind, name) = (definition.kind(), definition.name().to_owned());
        match definition.normalized() {
            Ok(definition) => {
                if definitions.insert(definition).is_some() {
                    faults.push(Fault::new(kind, name, "name", "it is proposed twice"));
                }
            }
            Err(error) => faults.push(Fault::from_core(kind, &name, error)),
        }
    }
    if faults.is_empty() { Ok(definitions) } else { Err(Error::Invalid { faults }) }
}

fn deletions(current: &Definitions, proposed: &Definitions, options: &PlanOptions) -> Result<Vec<(DefinitionKind, String)>> {
    for (kind, name) in &options.delete {
        if current.get(*kind, name).is_none() {
            return Err(Error::NotFound { kind: *kind, name: name.clone(), hint: current.nearest(*kind, name) });
        }
        if proposed.get(*kind, name).is_some() {
            return Err(Error::Invalid { faults: vec![Fault::new(*kind, name, "", "it is both proposed and to be deleted")] });
        }
    }
    let mut deleted = options.delete.clone();
    if options.prune {
        let rest = current.iter().filter(|definition| proposed.get(definition.kind(), definition.name()).is_none());
        deleted.extend(rest.map(|definition| (definition.kind(), definition.name().to_owned())));
    }
    Ok(deleted)
}

/// Holds the whole set to its rules. A definition that is only hurt by what others propose says so.
fn check(after: &Definitions, proposed: &Definitions) -> Result<()> {
    let mut faults = Vec::new();
    for error in after.check().err().unwrap_or_default() {
        let anabranch_core::Error::Definition { kind, name, path, reason } = error else {
            faults.push(Fault { place: None, kind: None, name: String::new(), path: String::new(), reason: error.to_string() });
            continue;
        };
        let kind = DefinitionKind::from_name(kind);
        let is_proposed = kind.is_some_and(|kind| proposed.get(kind, &name).is_some());
        let reason = if is_proposed { reason } else { format!("{reason} after this change; change or delete it in the same apply") };
        faults.push(Fault { place: None, kind, name, path, reason });
    }
    if faults.is_empty() {
        faults.extend(after.iter().filter_map(|definition| rules::check(after, definition)));
    }
    if faults.is_empty() { Ok(()) } else { Err(Error::Invalid { faults }) }
}

#[cfg(test)]
mod tests;
