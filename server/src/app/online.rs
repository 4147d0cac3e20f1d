//! Lookups: the latest values of features for entities, as the definitions at the head of a served branch have them.
//!
//! Resolving a selection costs work, looking up must not: what was resolved ([`Lookup`]) is kept for as long as what is served stays
//! the same, and a lookup by it resolves no name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::RandomState;
use anabranch_core::definition::Definitions;
use anabranch_core::packed::Sections;
use anabranch_core::selection::{SelectedView, Selection};
use anabranch_core::types::UTC;
use anabranch_core::{DataType, Value};
use anabranch_ingest::{Served, ServedView};
use anabranch_online_store::lookup::MAX_LOOKUP_ROWS;
use anabranch_online_store::{Answer, Lookup, LookupKeys, NO_EVENT_TIME, Status, Target};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt8Array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{Field, Schema};
use serde_json::Value as Json;

use super::Scope;
use crate::error::{Error, Result};
use crate::metrics::StatusLabels;

const KEPT: usize = 1_024;

/// Lookups that were resolved against what is served, by the ref that was asked.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<HashMap<String, Resolved, RandomState>>);

#[derive(Debug, Default)]
struct Resolved {
    views: Arc<BTreeMap<String, ServedView>>,
    lookups: HashMap<String, Arc<Lookup>, RandomState>,
}

/// The keys of a lookup, as the caller's face gives them.
#[derive(Debug, Clone)]
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

impl Lookups {
    fn get(&self, reference: &str, served: &Served, key: &str) -> Option<Arc<Lookup>> {
        let refs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resolved = refs.get(reference).filter(|resolved| Arc::ptr_eq(&resolved.views, &served.views))?;
        resolved.lookups.get(key).cloned()
    }

    fn keep(&self, reference: &str, served: &Served, key: String, lookup: &Arc<Lookup>) {
        let mut refs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if refs.len() >= KEPT && !refs.contains_key(reference) {
            refs.clear();
        }
        let resolved = refs.entry(reference.to_owned()).or_default();
        if !Arc::ptr_eq(&resolved.views, &served.views) || resolved.lookups.len() >= KEPT {
            *resolved = Resolved { views: Arc::clone(&served.views), lookups: HashMap::default() };
        }
        resolved.lookups.insert(key, Arc::clone(lookup));
    }
}

impl Scope {
    /// Looks features up on a served branch.
    pub(crate) async fn lookup(&self, request: LookupRequest) -> Result<Looked> {
        let mut served = self.served().await?;
        if !request.at_least.is_empty() {
            self.wait_visible(&request.at_least, request.timeout_ms).await?;
            served = self.served().await?;
        }
        let lookup = self.prepare(&served, &request.selection, request.full_names)?;
        let drawn = self.draw(&served, &request.selection, &request.keys);
        let keys = keys_of(&lookup, request.keys)?;
        if !request.at_least.is_empty() {
            // The token may be of another server, whose writes are not seen here at once.
            lookup.forget_cached(served.store.as_ref(), &keys);
        }
        let looked = self.answer(&served, lookup, &keys).await?;
        self.log_served(drawn, &served, &looked);
        Ok(looked)
    }

    /// Looks features up that were resolved on a served branch.
    pub(crate) async fn look_up(&self, served: &Served, selection: &Selection, lookup: Arc<Lookup>, keys: Keys) -> Result<Looked> {
        let drawn = self.draw(served, selection, &keys);
        let keys = keys_of(&lookup, keys)?;
        let looked = self.answer(served, lookup, &keys).await?;
        self.log_served(drawn, served, &looked);
        Ok(looked)
    }

    async fn answer(&self, served: &Served, mut lookup: Arc<Lookup>, keys: &LookupKeys) -> Result<Looked> {
        let mut answer = lookup.run(served.store.as_ref(), keys, self.app.clock().now()).await;
        if let Err(anabranch_online_store::Error::Replaced) = answer {
            // A generation was switched meanwhile; the one after it is filled.
            let served = self.served().await?;
            lookup = Arc::new(lookup.moved(|view| served.views.get(view).map(|view| view.generation))?);
            answer = lookup.run(served.store.as_ref(), keys, self.app.clock().now()).await;
        }
        let looked = Looked { lookup, answer: answer? };
        self.count(&looked);
        Ok(looked)
    }

    /// What is served of the scope's branch; refuses refs that are not served online.
    pub(crate) async fn served(&self) -> Result<Served> {
        if self.is_on_main() {
            return Ok(self.repo.ingest.served()?);
        }
        match self.resolve().await?.branch {
            Some(branch) => Ok(self.repo.ingest.served_on(&branch.name).await?),
            None => {
                let reason = format!("{:?} is not served: only branches are, so look up on one or fetch a dataset", self.reference);
                Err(Error::Precondition(reason))
            }
        }
    }

    /// The definitions that lookups on `main` are resolved against.
    pub(crate) fn served_definitions(&self) -> Result<Arc<Definitions>> {
        Ok(self.repo.ingest.served()?.definitions)
    }

    /// Puts online whatever is committed on served branches and is not online yet.
    pub(crate) async fn publish_committed(&self) -> Result<()> {
        Ok(self.repo.ingest.publish().await?)
    }

    /// Resolves a selection: its views, columns and keys, once for as long as what is served stays.
    pub(crate) fn prepare(&self, served: &Served, selection: &Selection, full_names: bool) -> Result<Arc<Lookup>> {
        let key = match selection {
            Selection::Service(name) => format!("{full_names} service {name}"),
            Selection::Features(features) => format!("{full_names} features {}", features.join("\n")),
        };
        if let Some(lookup) = self.repo.lookups.get(&self.reference, served, &key) {
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
        self.repo.lookups.keep(&self.reference, served, key, &lookup);
        Ok(lookup)
    }

    fn count(&self, looked: &Looked) {
        let mut left = looked.answer.statuses.len();
        for status in Status::ALL {
            // Nearly always every value is there, which one pass tells.
            let count = if left == 0 { 0 } else { looked.answer.statuses.iter().filter(|byte| **byte == status as u8).count() };
            left -= count;
            if count > 0 {
                self.app.metrics().values_looked_up.get_or_create(&StatusLabels { status: status.name() }).inc_by(count as u64);
            }
        }
    }
}

impl Looked {
    /// The parts of the answer's values, feature by feature.
    pub(crate) fn sections(&self) -> Result<Sections> {
        let types: Vec<_> = self.lookup.features().iter().map(|feature| feature.data_type).collect();
        Ok(Sections::new(&types, self.answer.rows, &self.answer.values)?)
    }

    /// The answer in Arrow: a column for each feature, then `feature__status` for each, a number of the wire's, and `view__event_time` for each view.
    pub(crate) fn into_batch(self) -> Result<RecordBatch> {
        let sections = self.sections()?;
        let Self { lookup, answer } = self;
        let valid = |feature: usize| {
            let statuses = answer.statuses_of(feature);
            let null = statuses.iter().any(|status| *status != Status::Present as u8);
            null.then(|| BooleanBuffer::collect_bool(statuses.len(), |row| statuses[row] == Status::Present as u8))
        };
        let mut arrays = sections.arrays(&Buffer::from_vec(answer.values.clone()), valid)?;
        let mut fields: Vec<_> = lookup.features().iter().map(|feature| Field::new(&feature.name, feature.data_type.to_arrow(), true)).collect();
        for (place, feature) in lookup.features().iter().enumerate() {
            arrays.push(Arc::new(UInt8Array::from(answer.statuses_of(place).to_vec())));
            fields.push(Field::new(format!("{}__status", feature.name), arrow::datatypes::DataType::UInt8, false));
        }
        for (place, view) in lookup.views().enumerate() {
            let times = answer.event_times_of(place);
            let known = BooleanBuffer::collect_bool(times.len(), |row| times[row] != NO_EVENT_TIME);
            let column = TimestampMicrosecondArray::new(times.to_vec().into(), Some(NullBuffer::new(known))).with_timezone(UTC);
            fields.push(Field::new(format!("{view}__event_time"), column.data_type().clone(), true));
            arrays.push(Arc::new(column));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(answer.rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options);
        batch.map_err(|error| Error::argument("lookup", error.to_string()))
    }
}

fn keys_of(lookup: &Lookup, keys: Keys) -> Result<LookupKeys> {
    Ok(match keys {
        Keys::Columns(columns) => lookup.keys(&key_columns(lookup, columns)?)?,
        Keys::Json(columns) => lookup.keys_of_values(&json_columns(lookup, columns)?)?,
    })
}

/// The caller's key columns in the order of the lookup's.
pub(super) fn key_columns(lookup: &Lookup, columns: Vec<(String, ArrayRef)>) -> Result<Vec<ArrayRef>> {
    check_names(lookup, &columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
    // They are there: the missing ones were refused.
    let find = |name: &String| columns.iter().position(|(given, _)| given == name);
    let places: Vec<_> = lookup.key_columns().iter().filter_map(|key| find(&key.name)).collect();
    if places.iter().copied().eq(0..columns.len()) {
        return Ok(columns.into_iter().map(|(_, column)| column).collect());
    }
    Ok(places.into_iter().map(|place| Arc::clone(&columns[place].1)).collect())
}

/// The same of JSON, as values of the keys' types.
pub(super) fn json_columns(lookup: &Lookup, columns: BTreeMap<String, Vec<Json>>) -> Result<Vec<Vec<Value>>> {
    check_names(lookup, &columns.keys().map(String::as_str).collect::<Vec<_>>())?;
    if let Some(rows) = columns.values().map(Vec::len).max().filter(|rows| *rows > MAX_LOOKUP_ROWS) {
        let (what, limit) = ("a lookup's number of rows".to_owned(), MAX_LOOKUP_ROWS as u64);
        return Err(anabranch_online_store::Error::TooLarge { what, bytes: rows as u64, limit }.into());
    }
    let mut typed = Vec::with_capacity(columns.len());
    for key in lookup.key_columns() {
        let read = |(row, json): (usize, &Json)| {
            let refuse = |error: anabranch_core::Error| Error::argument(format!("key column {:?}, row {row}", key.name), error.to_string());
            Value::from_json(DataType::Scalar(key.scalar), json).map_err(refuse)
        };
        typed.push(columns[&key.name].iter().enumerate().map(read).collect::<Result<Vec<_>>>()?);
    }
    Ok(typed)
}

/// Refuses key columns that are missing and that nobody asked for.
fn check_names(lookup: &Lookup, given: &[&str]) -> Result<()> {
    let wanted = || lookup.key_columns().iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(missing) = lookup.key_columns().iter().find(|column| !given.contains(&column.name.as_str())) {
        let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
        let reason = format!("key column {:?} is missing; the features need {}, given are {given}", missing.name, wanted());
        return Err(Error::argument("keys", reason));
    }
    if let Some(odd) = given.iter().find(|name| !lookup.key_columns().iter().any(|column| column.name == **name)) {
        return Err(Error::argument("keys", format!("{odd:?} is no key of these features, which need {}", wanted())));
    }
    Ok(())
}
