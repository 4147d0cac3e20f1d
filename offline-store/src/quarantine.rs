//! Quarantine: where rows go that checks refused, with their original bytes.

use anabranch_core::definition::{Column, Role, ViewLayout};
use anabranch_core::{DataType, Scalar};

use crate::TableShape;

/// The column of the row's original bytes.
pub const PAYLOAD: &str = "payload";
/// The column that says how the payload is to be read.
pub const FORMAT: &str = "format";
/// The column of every failed check, a JSON array.
pub const FAILURES: &str = "failures";
/// The column of the view that the row was meant for.
pub const VIEW: &str = "view";
/// The column of the row's event time, where it had one.
pub const EVENT_TIME: &str = "event_time";

/// What every quarantine table looks like: payload, format, failures, view, event time and the reserved columns.
pub fn quarantine_shape() -> TableShape {
    let column = |name: &str, scalar| Column { name: name.to_owned(), data_type: DataType::Scalar(scalar), role: Role::Feature };
    let mut columns = vec![
        column(PAYLOAD, Scalar::Bytes),
        column(FORMAT, Scalar::String),
        column(FAILURES, Scalar::String),
        column(VIEW, Scalar::String),
        column(EVENT_TIME, Scalar::Timestamp),
    ];
    columns.extend(ViewLayout::reserved_columns());
    TableShape::new(columns)
}
