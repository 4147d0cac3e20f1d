//! Lookups: the latest values of features for entities, as the definitions at the head of the served branch have them.
//!
//! Resolving a selection costs work, looking up must not: what was resolved is kept for as long as the definitions that are served stay the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::columns::column_of;
use anabranch_core::definition::Definitions;
use anabranch_core::selection::{SelectedView, Selection};
use anabranch_core::{DataType, Timestamp, Value};
use anabranch_online_store::{Answer, Lookup, Status, Target};
use arrow::array::ArrayRef;
use serde_json::Value as Json;

use super::{DEFAULT_BRANCH, Scope};
use crate::error::{Error, Result};
use crate::metrics::StatusLabels;

const KEPT: usize = 1_024;

/// Lookups that were resolved against the definitions that are served.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<Resolved>);

#[derive(Debug, Default)]
struct Resolved {
    definitions: Arc<Definitions>,
    lookups: HashMap<String, Arc<Lookup>>,
}

/// The keys of a lookup, as the caller's face gives them.
#[derive(Debug)]
pub(crate) enum Keys {
    /// Typed columns by name.
    Columns(Vec<(String, ArrayRef)>),
    /// JSON values by name, read by the types of the join keys.
    Json(BTreeMap<String, Vec<Json>>),
}

/// What is looked up.
#[derive(Debug)]
pub(crate) struct LookupRequest {
    pub(crate) selection: Selection,
    pub(crate) full_names: bool,
    pub(crate) keys: Keys,
    /// A token that must be visible first; empty for none.
    pub(crate) at_least: String,
    pub(crate) timeout_ms: u32,
}

/// What was found, and the lookup whose views and features it is of.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) answer: Answer,
}

/// One feature of an answer.
#[derive(Debug)]
pub(crate) struct Feature<'a> {
    pub(crate) name: &'a str,
    pub(crate) data_type: DataType,
    pub(crate) column: &'a ArrayRef,
    pub(crate) statuses: Vec<Status>,
    /// The event time of each row's value, for the first feature of each view.
    pub(crate) event_times: Option<Vec<Option<Timestamp>>>,
}

impl Lookups {
    fn get(&self, definitions: &Arc<Definitions>, key: &str) -> Option<Arc<Lookup>> {
        let resolved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&resolved.definitions, definitions) { resolved.lookups.get(key).cloned() } else { None }
    }

    fn keep(&self, definitions: &Arc<Definitions>, key: String, lookup: &Arc<Lookup>) {
        let mut resolved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&resolved.definitions, definitions) || resolved.lookups.len() >= KEPT {
            *resolved = Resolved { definitions: Arc::clone(definitions), lookups: HashMap::new() };
        }
        resolved.lookups.insert(key, Arc::clone(lookup));
    }
}

impl Scope {
    /// Looks features up on the served branch.
    pub(crate) async fn lookup(&self, request: LookupRequest) -> Result<Looked> {
        self.require_served().await?;
        self.wait_visible(&request.at_least, request.timeout_ms).await?;
        let lookup = self.resolved_lookup(&request.selection, request.full_names)?;
        let keys = lookup.keys(&key_columns(&lookup, request.keys)?)?;
        let answer = lookup.run(self.repo.online.as_ref(), &keys, self.app.clock().now()).await?;
        let looked = Looked { lookup, answer };
        self.count(&looked);
        Ok(looked)
    }

    /// Refuses refs that are not served online.
    pub(crate) async fn require_served(&self) -> Result<()> {
        if matches!(self.reference.as_str(), DEFAULT_BRANCH | "branch:main") {
            return Ok(());
        }
        self.resolve().await?;
        Err(Error::Precondition(format!("{:?} is not served: only branch {DEFAULT_BRANCH:?} is, so ask there or fetch a dataset", self.reference)))
    }

    fn resolved_lookup(&self, selection: &Selection, full_names: bool) -> Result<Arc<Lookup>> {
        let served = self.repo.ingest.served()?;
        let key = match selection {
            Selection::Service(name) => format!("{full_names} service {name}"),
            Selection::Features(features) => format!("{full_names} features {}", features.join("\n")),
        };
        if let Some(lookup) = self.repo.lookups.get(&served.definitions, &key) {
            return Ok(lookup);
        }
        let selected = selection.resolve(&served.definitions, &[], full_names)?;
        let target = |view: SelectedView| {
            let missing = || Error::Missing(format!("feature view {:?} has no table", view.layout.name()));
            let served = served.views.get(view.layout.name()).ok_or_else(missing)?;
            Ok(Target { generation: served.generation, layout: Arc::clone(&served.packed), view })
        };
        let targets = selected.into_iter().map(target).collect::<Result<_>>()?;
        let lookup = Arc::new(Lookup::new(targets, Arc::clone(&self.repo.layouts))?);
        self.repo.lookups.keep(&served.definitions, key, &lookup);
        Ok(lookup)
    }

    fn count(&self, looked: &Looked) {
        let mut counts = [0_u64; 4];
        for view in &looked.answer.views {
            for feature in 0..view.columns.len() {
                view.statuses(feature).for_each(|status| counts[status as usize] += 1);
            }
        }
        for status in [Status::Present, Status::NullValue, Status::NotFound, Status::OutsideTtl] {
            let count = counts[status as usize];
            if count > 0 {
                self.app.metrics().values_looked_up.get_or_create(&StatusLabels { status: status.name() }).inc_by(count);
            }
        }
    }
}

impl Looked {
    /// The features in the order asked for.
    pub(crate) fn features(&self) -> impl Iterator<Item = Feature<'_>> {
        self.lookup.views().zip(&self.answer.views).flat_map(|(view, answer)| {
            view.features.iter().zip(&view.output).enumerate().map(move |(place, (feature, name))| Feature {
                name,
                data_type: view.layout.view().fields[*feature].data_type,
                column: &answer.columns[place],
                statuses: answer.statuses(place).collect(),
                event_times: (place == 0).then(|| answer.found.iter().map(|found| found.event_time()).collect()),
            })
        })
    }
}

/// The caller's key columns in the order of the lookup's.
fn key_columns(lookup: &Lookup, keys: Keys) -> Result<Vec<ArrayRef>> {
    let given: Vec<&str> = match &keys {
        Keys::Columns(columns) => columns.iter().map(|(name, _)| name.as_str()).collect(),
        Keys::Json(columns) => columns.keys().map(String::as_str).collect(),
    };
    let wanted: Vec<&str> = lookup.key_columns().iter().map(|column| column.name.as_str()).collect();
    if let Some(missing) = wanted.iter().find(|name| !given.contains(name)) {
        let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
        return Err(Error::argument(
            "keys",
            format!("key column {missing:?} is missing; the features need {}, given are {given}", wanted.join(", ")),
        ));
    }
    if let Some(odd) = given.iter().find(|name| !wanted.contains(name)) {
        return Err(Error::argument("keys", format!("{odd:?} is no key of these features, which need {}", wanted.join(", "))));
    }
    let mut columns = Vec::with_capacity(wanted.len());
    for key in lookup.key_columns() {
        let column = match &keys {
            Keys::Columns(columns) => columns.iter().find(|(name, _)| *name == key.name).map(|(_, column)| Ok(Arc::clone(column))),
            Keys::Json(columns) => columns.get(&key.name).map(|values| json_column(&key.name, DataType::Scalar(key.scalar), values)),
        };
        // It is there: the missing ones were refused.
        columns.extend(column.transpose()?);
    }
    Ok(columns)
}

fn json_column(name: &str, data_type: DataType, values: &[Json]) -> Result<ArrayRef> {
    let read = |(row, json): (usize, &Json)| {
        Value::from_json(data_type, json).map_err(|error| Error::argument(format!("key column {name:?}, row {row}"), error.to_string()))
    };
    let values = values.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
    Ok(column_of(data_type, &values)?)
}
