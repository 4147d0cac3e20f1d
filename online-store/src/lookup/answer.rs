//! What a lookup gives back.

use anabranch_core::Timestamp;

/// Why a value is what it is; the module above says when. The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// The value is there.
    Present = 1,
    /// The row is there, and its value is null.
    NullValue = 2,
    /// There is no row.
    NotFound = 3,
    /// The row is too old to be served.
    OutsideTtl = 4,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Present, Self::NullValue, Self::NotFound, Self::OutsideTtl];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::NullValue => "NULL_VALUE",
            Self::NotFound => "NOT_FOUND",
            Self::OutsideTtl => "OUTSIDE_TTL",
        }
    }

    /// The status of a byte of [`Answer::statuses`].
    pub fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == byte)
    }
}

/// Stands among event times where there is no row; NumPy's `NaT`.
pub const NO_EVENT_TIME: i64 = i64::MIN;

/// The answer to a lookup: a row for each of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Rows of the request, and of every column.
    pub rows: usize,
    /// When it was judged. A value's age is this less its event time.
    pub as_of: Timestamp,
    /// A [`Status`] for each value, feature after feature.
    pub statuses: Vec<u8>,
    /// The event time of each row of a view in UTC microseconds, view after view; [`NO_EVENT_TIME`] where there is none.
    pub event_times: Vec<i64>,
    /// The values as [packed columns](anabranch_core::packed).
    pub values: Vec<u8>,
}

impl Answer {
    pub(super) fn new(views: usize, features: usize, rows: usize, as_of: Timestamp) -> Self {
        Self {
            rows,
            as_of,
            statuses: vec![Status::Present as u8; features * rows],
            event_times: vec![NO_EVENT_TIME; views * rows],
            values: Vec::new(),
        }
    }

    pub(super) fn set_status(&mut self, feature: usize, row: usize, status: Status) {
        self.statuses[feature * self.rows + row] = status as u8;
    }

    pub(super) fn set_event_time(&mut self, view: usize, row: usize, time: Timestamp) {
        self.event_times[view * self.rows + row] = time.micros();
    }

    /// The statuses of a feature, row by row; empty where there is no such feature.
    pub fn statuses_of(&self, feature: usize) -> &[u8] {
        self.statuses.get(feature * self.rows..(feature + 1) * self.rows).unwrap_or_default()
    }

    /// The event times of a view, row by row; empty where there is no such view.
    pub fn event_times_of(&self, view: usize) -> &[i64] {
        self.event_times.get(view * self.rows..(view + 1) * self.rows).unwrap_or_default()
    }
}
