//! Looking up the latest values.
//!
//! The server sends an answer as packed columns, and says what the columns are only to who does not know: a client keeps the schema of each query that
//! it made and names it with the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::packed::Sections;
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, Span, Timestamp};
use anabranch_proto::v1;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use serde::Serialize;

use crate::client::{Retry, unary};
use crate::columns::key_column;
use crate::{Client, Error};

/// Schemas that a client keeps.
const KEPT: usize = 256;

/// Stands among event times where there is no row.
const NO_EVENT_TIME: i64 = i64::MIN;

/// Which features to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineQuery {
    /// The features.
    pub features: Selection,
    /// Name every output column `view__feature`.
    pub full_names: bool,
    /// A token that must be visible first; empty for none.
    pub at_least: String,
    /// How long to wait for it, in milliseconds; 0 for the server's default.
    pub timeout_ms: u32,
}

impl OnlineQuery {
    /// Features as they are now.
    pub fn new(features: Selection) -> Self {
        Self { features, full_names: false, at_least: String::new(), timeout_ms: 0 }
    }
}

/// Why a looked-up value is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum FeatureStatus {
    /// There is a value.
    Present = 1,
    /// There is a row, and the value in it is null.
    NullValue = 2,
    /// There is no row.
    NotFound = 3,
    /// There is a row, too old to be served.
    OutsideTtl = 4,
}

impl FeatureStatus {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::NullValue => "NULL_VALUE",
            Self::NotFound => "NOT_FOUND",
            Self::OutsideTtl => "OUTSIDE_TTL",
        }
    }

    /// Bytes of an answer are looked at when it comes.
    const fn of_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Present,
            2 => Self::NullValue,
            4 => Self::OutsideTtl,
            _ => Self::NotFound,
        }
    }
}

/// The answer to a lookup: a row for each key, in the order of the keys.
#[derive(Debug, Clone)]
pub struct OnlineFeatures {
    /// A column for each feature, in the order asked for.
    pub batch: RecordBatch,
    /// When the server judged the values.
    pub as_of: Timestamp,
    statuses: Bytes,
    event_times: Vec<i64>,
    known: Arc<Known>,
}

/// What the columns of an answer are.
#[derive(Debug)]
struct Known {
    id: u64,
    views: Vec<String>,
    /// For each feature the place of its view.
    view_of: Vec<usize>,
    types: Vec<DataType>,
    schema: SchemaRef,
}

/// The schemas of the queries that a client made.
#[derive(Debug, Default)]
pub(crate) struct Schemas(Mutex<HashMap<Query, Arc<Known>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Query {
    repository: String,
    reference: String,
    full_names: bool,
    service: Option<String>,
    features: Vec<String>,
}

impl Schemas {
    fn get(&self, query: &Query) -> Option<Arc<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(query).cloned()
    }

    fn keep(&self, query: Query, known: &Arc<Known>) {
        let mut schemas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if schemas.len() >= KEPT {
            schemas.clear();
        }
        schemas.insert(query, Arc::clone(known));
    }
}

impl Client {
    /// Looks features up for entities, whose key columns are those of `keys`.
    ///
    /// # Errors
    /// `invalid_argument` for an unknown feature, a missing key column or one of unlike type; `failed_precondition` for a ref that is no branch;
    /// `exhausted` for more than 10,000 keys at once; `unavailable` while the store is being filled, or where `at_least` did not become visible in time.
    pub async fn get_online_features(&self, query: &OnlineQuery, keys: &RecordBatch) -> Result<OnlineFeatures, Error> {
        let schema = keys.schema();
        let columns = schema.fields().iter().zip(keys.columns()).map(|(field, column)| key_column(field.name(), column));
        let target = self.target();
        let (service, features) = match &query.features {
            Selection::Service(name) => (Some(name.clone()), Vec::new()),
            Selection::Features(features) => (None, features.clone()),
        };
        let (repository, reference) = (target.repository.clone(), target.r#ref.clone());
        let of = Query { repository, reference, full_names: query.full_names, service, features };
        let known = self.schemas().get(&of);
        let request = v1::OnlineRequest {
            target: Some(target),
            selection: Some(selection(&query.features)),
            full_names: query.full_names,
            keys: columns.collect::<Result<_, _>>()?,
            at_least: query.at_least.clone(),
            timeout_ms: query.timeout_ms,
            known_schema: known.as_ref().map_or(0, |known| known.id),
        };
        let mut reply = unary!(self, online.get_online_features(request), Retry::Safe).await?;
        let known = match (reply.schema.take(), known) {
            (Some(schema), _) => {
                let told = Arc::new(Known::new(reply.schema_id, schema)?);
                self.schemas().keep(of, &told);
                told
            }
            (None, Some(known)) if known.id == reply.schema_id => known,
            (None, _) => return Err(broken("it does not say what its columns are")),
        };
        OnlineFeatures::new(reply, known, keys.num_rows())
    }
}

pub(crate) fn selection(features: &Selection) -> v1::Selection {
    let of = match features {
        Selection::Service(name) => v1::selection::Of::Service(name.clone()),
        Selection::Features(features) => v1::selection::Of::Features(v1::FeatureList { features: features.clone() }),
    };
    v1::Selection { of: Some(of) }
}

impl Known {
    fn new(id: u64, schema: v1::OnlineSchema) -> Result<Self, Error> {
        let (mut fields, mut types, mut view_of) = (Vec::new(), Vec::new(), Vec::new());
        for feature in schema.features {
            let unknown = || broken(&format!("feature {:?} is of type {:?}, which this version does not know", feature.name, feature.r#type));
            let data_type: DataType = feature.r#type.parse().map_err(|_| unknown())?;
            let view = usize::try_from(feature.view).ok().filter(|view| *view < schema.views.len());
            view_of.push(view.ok_or_else(|| broken(&format!("feature {:?} is of no view", feature.name)))?);
            fields.push(Field::new(feature.name, data_type.to_arrow(), true));
            types.push(data_type);
        }
        Ok(Self { id, views: schema.views, view_of, types, schema: Arc::new(Schema::new(fields)) })
    }
}

impl OnlineFeatures {
    fn new(reply: v1::OnlineReply, known: Arc<Known>, rows: usize) -> Result<Self, Error> {
        let fits = reply.rows as usize == rows
            && reply.statuses.len() == known.types.len() * rows
            && reply.event_times_us.len() == known.views.len() * rows
            && reply.statuses.iter().all(|status| (1..=4).contains(status));
        if !fits {
            return Err(broken(&format!("it is not of {rows} rows and {} features", known.types.len())));
        }
        let statuses = reply.statuses;
        let valid = |feature: usize| {
            let statuses = &statuses[feature * rows..(feature + 1) * rows];
            let null = statuses.iter().any(|status| *status != FeatureStatus::Present as u8);
            null.then(|| BooleanBuffer::collect_bool(rows, |row| statuses[row] == FeatureStatus::Present as u8))
        };
        let values = Buffer::from(reply.values);
        let columns = Sections::new(&known.types, rows, &values).and_then(|sections| sections.arrays(&values, valid));
        let columns = columns.map_err(|error| broken(&error.to_string()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&known.schema), columns, &options).map_err(|error| broken(&error.to_string()))?;
        Ok(Self { batch, as_of: Timestamp(reply.as_of_us), statuses, event_times: reply.event_times_us, known })
    }

    /// What the views go by, in the order of [`OnlineFeatures::event_time_micros`].
    pub fn views(&self) -> &[String] {
        &self.known.views
    }

    /// The place of a feature's view.
    ///
    /// # Panics
    /// Where there is no such feature.
    pub fn view_of(&self, feature: usize) -> usize {
        self.known.view_of[feature]
    }

    /// The status of each row's value of a feature.
    ///
    /// # Panics
    /// Where there is no such feature.
    pub fn statuses(&self, feature: usize) -> impl ExactSizeIterator<Item = FeatureStatus> {
        self.status_bytes()[feature * self.batch.num_rows()..][..self.batch.num_rows()].iter().map(|byte| FeatureStatus::of_byte(*byte))
    }

    /// The event time of each row of a feature's view, whether it is served or too old; `None` where there is no row.
    ///
    /// # Panics
    /// Where there is no such feature.
    pub fn event_times(&self, feature: usize) -> impl ExactSizeIterator<Item = Option<Timestamp>> {
        let times = &self.event_times[self.view_of(feature) * self.batch.num_rows()..][..self.batch.num_rows()];
        times.iter().map(|us| (*us != NO_EVENT_TIME).then_some(Timestamp(*us)))
    }

    /// How old each row's value was when it was judged.
    ///
    /// # Panics
    /// Where there is no such feature.
    pub fn ages(&self, feature: usize) -> impl ExactSizeIterator<Item = Option<Span>> {
        self.event_times(feature).map(|time| time.map(|time| Span(self.as_of.micros().saturating_sub(time.micros()))))
    }

    /// The number of each value's status, feature after feature.
    pub fn status_bytes(&self) -> &[u8] {
        &self.statuses
    }

    /// The event times of the rows of each view in UTC microseconds, view after view; the least number where there is no row.
    pub fn event_time_micros(&self) -> &[i64] {
        &self.event_times
    }
}

fn broken(reason: &str) -> Error {
    Error::Protocol(format!("the answer to a lookup cannot be read: {reason}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    fn known() -> Arc<Known> {
        let feature = |name: &str, of: &str| v1::OnlineFeature { name: name.into(), r#type: of.into(), view: 0 };
        let schema = v1::OnlineSchema { views: vec!["v".into()], features: vec![feature("x", "f64"), feature("s", "string")] };
        Arc::new(Known::new(7, schema).unwrap())
    }

    fn reply() -> v1::OnlineReply {
        let values = [&0.5_f64.to_le_bytes()[..], &[0, 0, 0, 0, 1, 0, 0, 0], b"a\0\0\0\0\0\0\0"].concat();
        v1::OnlineReply {
            schema_id: 7,
            schema: None,
            rows: 1,
            as_of_us: 9,
            statuses: vec![1, 1].into(),
            event_times_us: vec![2],
            values: values.into(),
        }
    }

    #[test]
    fn an_answer_tells_statuses_times_and_ages() {
        let found = OnlineFeatures::new(reply(), known(), 1).unwrap();
        assert_eq!(found.statuses(1).collect::<Vec<_>>(), [FeatureStatus::Present]);
        assert_eq!((found.event_times(1).next(), found.ages(0).next()), (Some(Some(Timestamp(2))), Some(Some(Span(7)))));
        assert_eq!(found.batch.column(0).null_count(), 0);
        let missing = v1::OnlineReply { statuses: vec![3, 3].into(), event_times_us: vec![NO_EVENT_TIME], ..reply() };
        let missing = OnlineFeatures::new(missing, known(), 1).unwrap();
        assert_eq!((missing.event_times(0).next(), missing.batch.column(1).null_count()), (Some(None), 1));
    }

    #[test]
    fn answers_that_contradict_themselves_are_refused_without_a_panic() {
        for broken in [
            v1::OnlineReply { rows: 2, ..reply() },
            v1::OnlineReply { statuses: vec![1].into(), ..reply() },
            v1::OnlineReply { statuses: vec![1, 9].into(), ..reply() },
            v1::OnlineReply { event_times_us: vec![], ..reply() },
            v1::OnlineReply { values: vec![0; 12].into(), ..reply() },
            v1::OnlineReply { values: vec![0; 100].into(), ..reply() },
        ] {
            assert!(matches!(OnlineFeatures::new(broken.clone(), known(), 1), Err(Error::Protocol(_))), "{broken:?}");
        }
        let odd =
            |of: &str, view| v1::OnlineSchema { views: vec![], features: vec![v1::OnlineFeature { name: "x".into(), r#type: of.into(), view }] };
        assert!(Known::new(1, odd("f65", 0)).is_err() && Known::new(1, odd("f64", 0)).is_err());
    }
}
