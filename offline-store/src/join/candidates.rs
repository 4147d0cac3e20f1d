//! From a batch of a view's rows to the ones that might match.
//!
//! A row that no row of the spine can see is left out here: its entity is not asked for, it was known or true only after the last time that is asked
//! for, or it is older than the lookback from the first.

use anabranch_core::columns::conform;
use anabranch_core::definition::Role;
use anabranch_core::name::reserved;
use anabranch_core::types::{DataType, Scalar};
use anabranch_core::{Position, RowOrder, SourceId, Timestamp};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::entities::NONE;
use super::plan::ViewPlan;
use super::{JoinError, Knowledge};

/// A row of a view that a row of the spine might match.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its place in the total order.
    pub(super) order: RowOrder,
    /// From which time on a row of the spine sees it, so long as it looks back far enough.
    pub(super) visible: i64,
    /// Its entity's number.
    pub(super) entity: u32,
    /// The block that holds its features.
    pub(super) block: u32,
    /// Its place there.
    pub(super) row: u32,
    /// Whether it deletes.
    pub(super) tombstone: bool,
}

/// The candidates of a batch, in its order, and the features that they refer to; `block` is theirs.
pub(super) fn candidates(plan: &ViewPlan, batch: &RecordBatch, block: u32) -> Result<(Vec<Candidate>, Vec<ArrayRef>), JoinError> {
    let reader = BatchReader { plan, batch };
    let key = reader.role(Role::Key)?;
    let key: Vec<_> = plan.scan.layout.keys().iter().map(|key| key.scalar()).zip(key).collect();
    let entities = plan.timeline.index.find(&key, batch.num_rows())?;
    let orders = reader.orders()?;
    let mut found = Vec::new();
    for (row, entity) in entities.into_iter().enumerate().filter(|(_, entity)| *entity != NONE) {
        let order = orders.order(row).ok_or_else(|| reader.wrong(format!("row {row} of a batch has an unlawful source or position")))?;
        if let Some(visible) = visible(plan, entity, &order) {
            found.push(Candidate { order, visible, entity, block, row: row as u32, tombstone: orders.is_tombstone(row) });
        }
    }
    let features = reader.role(Role::Feature)?;
    // A sparse block is packed, so that what is kept is what was found.
    if found.len() > batch.num_rows() / 2 {
        return Ok((found, features));
    }
    let rows = UInt32Array::from_iter_values(found.iter().map(|candidate| candidate.row));
    for (row, candidate) in found.iter_mut().enumerate() {
        candidate.row = row as u32;
    }
    let features = features.iter().map(|column| take(column, &rows, None)).collect::<Result<_, _>>()?;
    Ok((found, features))
}

/// From which time on a row is seen, where any row of the spine that asks for its entity can see it.
fn visible(plan: &ViewPlan, entity: u32, order: &RowOrder) -> Option<i64> {
    let event = order.event_time.micros();
    // Strictly before t is at or before the microsecond before t.
    let from = if plan.options.strict { event.checked_add(1)? } else { event };
    let visible = match plan.options.knowledge {
        Knowledge::Spine => from.max(order.known_time.micros()),
        Knowledge::Any => from,
        Knowledge::At(time) if order.known_time <= time => from,
        Knowledge::At(_) => return None,
    };
    let (first, last) = plan.timeline.bounds[entity as usize];
    (visible <= last && within_lookback(plan, order, first)).then_some(visible)
}

/// Whether a row's event time is within the lookback from `time`.
pub(super) fn within_lookback(plan: &ViewPlan, order: &RowOrder, time: i64) -> bool {
    plan.scan.layout.view().lookback.is_none_or(|lookback| order.event_time >= Timestamp(time).minus(lookback))
}

struct BatchReader<'a> {
    plan: &'a ViewPlan,
    batch: &'a RecordBatch,
}

impl BatchReader<'_> {
    fn wrong(&self, reason: String) -> JoinError {
        JoinError::Rows { view: self.plan.scan.name.clone(), reason }
    }

    fn role(&self, role: Role) -> Result<Vec<ArrayRef>, JoinError> {
        let columns = self.plan.scan.columns.iter().filter(|column| column.role == role);
        columns.map(|column| self.column(&column.name, column.data_type)).collect()
    }

    fn column(&self, name: &str, data_type: DataType) -> Result<ArrayRef, JoinError> {
        let column = self.batch.column_by_name(name).ok_or_else(|| self.wrong(format!("a batch has no column {name:?}")))?;
        let conformed = conform(column, data_type).map_err(|error| self.wrong(format!("column {name:?}: {error}")))?;
        match conformed.misfits {
            Some(_) => Err(self.wrong(format!("a value of column {name:?} does not fit {data_type}"))),
            None => Ok(conformed.column),
        }
    }

    fn whole(&self, name: &str, scalar: Scalar) -> Result<ArrayRef, JoinError> {
        let column = self.column(name, DataType::Scalar(scalar))?;
        if column.null_count() > 0 {
            return Err(self.wrong(format!("column {name:?} is null in a row")));
        }
        Ok(column)
    }

    fn orders(&self) -> Result<Orders, JoinError> {
        let view = self.plan.scan.layout.view();
        let event = times(&self.whole(&view.event_timestamp, Scalar::Timestamp)?);
        let known = match &view.known_timestamp {
            Some(known) => self.known(known, &event)?,
            None => event.clone(),
        };
        Ok(Orders {
            known,
            event,
            arrival: times(&self.whole(reserved::ARRIVAL, Scalar::Timestamp)?),
            source: self.whole(reserved::SOURCE, Scalar::I32)?.as_primitive::<Int32Type>().values().clone(),
            position: self.whole(reserved::POSITION, Scalar::I64)?.as_primitive::<Int64Type>().values().clone(),
            tombstone: self.column(reserved::TOMBSTONE, DataType::Scalar(Scalar::Bool))?.as_boolean().clone(),
        })
    }

    fn known(&self, name: &str, event: &ScalarBuffer<i64>) -> Result<ScalarBuffer<i64>, JoinError> {
        let column = self.column(name, DataType::Scalar(Scalar::Timestamp))?;
        let column = column.as_primitive::<TimestampMicrosecondType>();
        if column.null_count() == 0 {
            return Ok(column.values().clone());
        }
        Ok(column.iter().zip(event).map(|(known, event)| known.unwrap_or(*event)).collect())
    }
}

fn times(column: &ArrayRef) -> ScalarBuffer<i64> {
    column.as_primitive::<TimestampMicrosecondType>().values().clone()
}

/// The columns that place a row in the total order.
struct Orders {
    event: ScalarBuffer<i64>,
    known: ScalarBuffer<i64>,
    arrival: ScalarBuffer<i64>,
    source: ScalarBuffer<i32>,
    position: ScalarBuffer<i64>,
    tombstone: BooleanArray,
}

impl Orders {
    fn order(&self, row: usize) -> Option<RowOrder> {
        Some(RowOrder {
            event_time: Timestamp(self.event[row]),
            known_time: Timestamp(self.known[row]),
            arrival: Timestamp(self.arrival[row]),
            source: u32::try_from(self.source[row]).ok().and_then(|source| SourceId::new(source).ok())?,
            position: u64::try_from(self.position[row]).ok().and_then(|position| Position::new(position).ok())?,
        })
    }

    fn is_tombstone(&self, row: usize) -> bool {
        self.tombstone.is_valid(row) && self.tombstone.value(row)
    }
}
