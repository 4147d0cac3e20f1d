//! What a lookup gives back.

use anabranch_core::Timestamp;
use arrow::array::{Array, ArrayRef};

/// Why a value is what it is; the module above says when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// The value is there.
    Present = 0,
    /// The row is there, and its value is null.
    NullValue = 1,
    /// There is no row.
    NotFound = 2,
    /// The row is too old to be served.
    OutsideTtl = 3,
}

impl Status {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::NullValue => "NULL_VALUE",
            Self::NotFound => "NOT_FOUND",
            Self::OutsideTtl => "OUTSIDE_TTL",
        }
    }
}

/// What was found of one view for one row of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A row of this event time, which is served.
    Served(Timestamp),
    /// A row of this event time, which is too old.
    Expired(Timestamp),
    /// No row.
    Missing,
}

impl Found {
    /// The event time of the row.
    pub const fn event_time(self) -> Option<Timestamp> {
        match self {
            Self::Served(time) | Self::Expired(time) => Some(time),
            Self::Missing => None,
        }
    }
}

/// The answer to a lookup.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Rows of the request, and of every column.
    pub rows: usize,
    /// One for each view of the lookup, in its order.
    pub views: Vec<ViewAnswer>,
}

/// What was found of one view.
#[derive(Debug, Clone, Default)]
pub struct ViewAnswer {
    /// One for each row of the request.
    pub found: Vec<Found>,
    /// One for each feature of the selected view, in its order; null wherever the status is not `PRESENT`.
    pub columns: Vec<ArrayRef>,
}

impl ViewAnswer {
    /// The status of a feature's value in a row.
    ///
    /// # Panics
    /// Where there is no such feature or row.
    pub fn status(&self, feature: usize, row: usize) -> Status {
        match self.found[row] {
            Found::Missing => Status::NotFound,
            Found::Expired(_) => Status::OutsideTtl,
            Found::Served(_) if self.columns[feature].is_null(row) => Status::NullValue,
            Found::Served(_) => Status::Present,
        }
    }

    /// The statuses of a feature, row by row.
    ///
    /// # Panics
    /// Where there is no such feature.
    pub fn statuses(&self, feature: usize) -> impl Iterator<Item = Status> {
        (0..self.found.len()).map(move |row| self.status(feature, row))
    }
}
