//! Looking up the latest values.

use anabranch_core::Timestamp;
use anabranch_core::selection::Selection;
use anabranch_proto::v1;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use serde::Serialize;

use crate::client::{Retry, unary};
use crate::columns::{array_of, key_column};
use crate::{Client, Error};

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
pub enum FeatureStatus {
    /// There is a value.
    Present,
    /// There is a row, and the value in it is null.
    NullValue,
    /// There is no row.
    NotFound,
    /// There is a row, too old to be served.
    OutsideTtl,
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

    fn from_wire(status: i32) -> Result<Self, Error> {
        match v1::Status::try_from(status) {
            Ok(v1::Status::Present) => Ok(Self::Present),
            Ok(v1::Status::NullValue) => Ok(Self::NullValue),
            Ok(v1::Status::NotFound) => Ok(Self::NotFound),
            Ok(v1::Status::OutsideTtl) => Ok(Self::OutsideTtl),
            Ok(v1::Status::Invalid) | Err(_) => Err(Error::Protocol(format!("status {status} is not known to this version"))),
        }
    }
}

/// The answer to a lookup: a row for each key, in the order of the keys.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineFeatures {
    /// A column for each feature, in the order asked for.
    pub batch: RecordBatch,
    /// For each column, the status of each row.
    pub statuses: Vec<Vec<FeatureStatus>>,
    /// For the first feature of each view, the event time of each row's value; empty for the others, `None` where there is no value.
    pub event_times: Vec<Vec<Option<Timestamp>>>,
}

impl Client {
    /// Looks features up for entities, whose key columns are those of `keys`.
    ///
    /// # Errors
    /// `invalid_argument` for an unknown feature, a missing key column or one of unlike type; `failed_precondition` for a ref that is no branch;
    /// `unavailable` while the store is being filled, or where `at_least` did not become visible in time.
    pub async fn get_online_features(&self, query: &OnlineQuery, keys: &RecordBatch) -> Result<OnlineFeatures, Error> {
        let schema = keys.schema();
        let columns = schema.fields().iter().zip(keys.columns()).map(|(field, column)| key_column(field.name(), column));
        let request = v1::OnlineRequest {
            target: Some(self.target()),
            selection: Some(selection(&query.features)),
            full_names: query.full_names,
            keys: columns.collect::<Result<_, _>>()?,
            at_least: query.at_least.clone(),
            timeout_ms: query.timeout_ms,
        };
        let reply = unary!(self, online.get_online_features(request), Retry::Safe).await?;
        answer(reply, keys.num_rows())
    }
}

pub(crate) fn selection(features: &Selection) -> v1::Selection {
    let of = match features {
        Selection::Service(name) => v1::selection::Of::Service(name.clone()),
        Selection::Features(features) => v1::selection::Of::Features(v1::FeatureList { features: features.clone() }),
    };
    v1::Selection { of: Some(of) }
}

fn answer(reply: v1::OnlineReply, rows: usize) -> Result<OnlineFeatures, Error> {
    let (mut fields, mut arrays, mut statuses, mut event_times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for column in reply.columns {
        let values = column.values.ok_or_else(|| Error::Protocol("a feature came without values".to_owned()))?;
        let name = values.name.clone();
        let array = array_of(values, rows)?;
        if column.statuses.len() != rows {
            return Err(Error::Protocol(format!("feature {name:?}: {} statuses for {rows} rows", column.statuses.len())));
        }
        let status = column.statuses.into_iter().map(FeatureStatus::from_wire).collect::<Result<Vec<_>, _>>()?;
        let has_time = |(us, status): (i64, &FeatureStatus)| (*status != FeatureStatus::NotFound).then_some(Timestamp(us));
        event_times.push(column.event_times_us.into_iter().zip(&status).map(has_time).collect());
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
        statuses.push(status);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Schema::new(fields).into(), arrays, &options);
    let batch = batch.map_err(|error| Error::Protocol(format!("lookup: {error}")))?;
    Ok(OnlineFeatures { batch, statuses, event_times })
}
