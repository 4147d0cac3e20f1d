//! Answers as rows of a service's table.
//!
//! | column | what |
//! | -- | -- |
//! | `_served_at` | when the lookup was judged (its `as_of`); rows are sorted by it |
//! | `_request` | names the lookup: 32 hexadecimal digits |
//! | `_row` | the row's place in the lookup, from 0 |
//! | `_sample_rate` | the part of lookups that was drawn from then |
//! | `_commit` | the commit that what was served answered for |
//! | the caller's key columns | as given; null where a key was null or no key can be it |
//! | the features | by the names that a join gives them to a spine with these key columns, whatever the lookup called them; null unless `PRESENT` |
//! | `<feature>__status` | `PRESENT`, `NULL_VALUE`, `NOT_FOUND` or `OUTSIDE_TTL` |
//! | `<view>__event_time` | of the row that was served |
//!
//! Where one of the last two would be called as another column is, an underscore follows.

use std::sync::Arc;

use anabranch_core::columns::conform;
use anabranch_core::definition::{Column, Role};
use anabranch_core::packed::Sections;
use anabranch_core::selection::Selection;
use anabranch_core::types::UTC;
use anabranch_core::{DataType, Scalar};
use anabranch_offline_store::scan::schema_of;
use anabranch_online_store::{Answer, Lookup, NO_EVENT_TIME, Status};
use arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{BooleanBuffer, Buffer};

use super::ServedLookup;
use crate::{Error, Result};

/// The column of when a row was served.
pub const SERVED_AT: &str = "_served_at";
/// The column that names the lookup.
pub const REQUEST: &str = "_request";
/// The column of the row's place in the lookup.
pub const ROW: &str = "_row";
/// The column of the part of lookups that was drawn.
pub const SAMPLE_RATE: &str = "_sample_rate";
/// The column of the commit that what was served answered for.
pub const COMMIT: &str = "_commit";

/// Lookups of one service under the same definitions, as rows.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) service: Arc<str>,
    pub(super) columns: Vec<Column>,
    pub(super) batches: Vec<RecordBatch>,
}

impl Group {
    /// The rows of lookups, which are of one service and the same definitions.
    ///
    /// # Errors
    /// [`Error::Malformed`] where an answer does not hold what its lookup says, which is a defect.
    pub(super) fn new(lookups: Vec<ServedLookup>) -> Result<Self> {
        let first = lookups.first().ok_or_else(|| malformed("there is none"))?;
        let service = Arc::clone(&first.sample.service);
        let columns = columns(first)?;
        let schema = schema_of(&columns);
        let batch = |served: ServedLookup| RecordBatch::try_new(Arc::clone(&schema), arrays(served)?).map_err(|error| malformed(&error.to_string()));
        let batches = lookups.into_iter().map(batch).collect::<Result<_>>()?;
        Ok(Self { service, columns, batches })
    }

    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

fn columns(served: &ServedLookup) -> Result<Vec<Column>> {
    let lookup = &served.lookup;
    let column = |name: &str, data_type, role| Column { name: name.to_owned(), data_type, role };
    let scalar = |name: &str, scalar| column(name, DataType::Scalar(scalar), Role::Feature);
    let mut columns = vec![
        column(SERVED_AT, DataType::Scalar(Scalar::Timestamp), Role::EventTime),
        scalar(REQUEST, Scalar::String),
        scalar(ROW, Scalar::I32),
        scalar(SAMPLE_RATE, Scalar::F64),
        scalar(COMMIT, Scalar::String),
    ];
    columns.extend(lookup.key_columns().iter().map(|key| scalar(&key.name, key.scalar)));
    let keys: Vec<_> = lookup.key_columns().iter().map(|key| key.name.clone()).collect();
    let selected = Selection::Service(served.sample.service.to_string()).resolve(&served.definitions, &keys, false)?;
    let names: Vec<_> = selected.iter().flat_map(|view| &view.output).collect();
    if names.len() != lookup.features().len() {
        return Err(malformed("it has other features than its service"));
    }
    columns.extend(names.iter().zip(lookup.features()).map(|(name, feature)| column(name, feature.data_type, Role::Feature)));
    for name in &names {
        let name = unused(&columns, format!("{name}__status"));
        columns.push(scalar(&name, Scalar::String));
    }
    for view in &selected {
        let name = unused(&columns, format!("{}__event_time", view.name));
        columns.push(scalar(&name, Scalar::Timestamp));
    }
    Ok(columns)
}

fn unused(columns: &[Column], mut name: String) -> String {
    while columns.iter().any(|column| column.name == name) {
        name.push('_');
    }
    name
}

/// The arrays of [`columns`].
fn arrays(served: ServedLookup) -> Result<Vec<ArrayRef>> {
    let ServedLookup { sample, commit, lookup, keys, answer, .. } = served;
    let rows = answer.rows;
    let repeated = |text: String| StringArray::from_iter_values(std::iter::repeat_n(text, rows));
    // A lookup has few rows.
    let places = Int32Array::from_iter_values(0..rows as i32);
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_value(answer.as_of.micros(), rows).with_timezone(UTC)),
        Arc::new(repeated(format!("{:032x}", sample.request))),
        Arc::new(places),
        Arc::new(Float64Array::from_value(sample.rate, rows)),
        Arc::new(repeated(commit.to_string())),
    ];
    let keys = keys().filter(|keys| keys.len() == lookup.key_columns().len()).ok_or_else(|| malformed("it has other keys than were asked for"))?;
    for (key, column) in lookup.key_columns().iter().zip(&keys) {
        arrays.push(conform(column, DataType::Scalar(key.scalar))?.column);
    }
    arrays.extend(values(&lookup, &answer)?);
    for feature in 0..lookup.features().len() {
        let names = answer.statuses_of(feature).iter().map(|byte| Status::of_byte(*byte).map(Status::name));
        arrays.push(Arc::new(names.collect::<StringArray>()));
    }
    for view in 0..lookup.views().len() {
        let times = answer.event_times_of(view).iter().map(|time| (*time != NO_EVENT_TIME).then_some(*time));
        arrays.push(Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone(UTC)));
    }
    Ok(arrays)
}

/// The values, feature by feature; null unless they are present.
fn values(lookup: &Lookup, answer: &Answer) -> Result<Vec<ArrayRef>> {
    let types: Vec<_> = lookup.features().iter().map(|feature| feature.data_type).collect();
    let sections = Sections::new(&types, answer.rows, &answer.values)?;
    let present = |feature: usize| {
        let statuses = answer.statuses_of(feature);
        Some(BooleanBuffer::collect_bool(statuses.len(), |row| statuses[row] == Status::Present as u8))
    };
    Ok(sections.arrays(&Buffer::from_slice_ref(&answer.values), present)?)
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { what: "lookup to be logged", reason: reason.to_owned() }
}
