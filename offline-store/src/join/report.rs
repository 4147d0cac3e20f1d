//! What a join read, left out and matched, and where its time went.

use std::time::Duration;

use serde::Serialize;

/// What one join did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JoinReport {
    /// Rows of the spine.
    pub spine_rows: u64,
    /// Parts that the spine was cut into by entity, because all of it would have outgrown the memory limit; 1: none.
    pub parts: u64,
    /// Bytes that were written to disk on the way.
    pub spilled_bytes: u64,
    /// Bytes that the join reserved at most.
    pub reserved_bytes: u64,
    /// Microseconds of all, from the first chunk to the last column.
    pub wall_us: u64,
    /// Each view.
    pub views: Vec<ViewReport>,
}

impl JoinReport {
    /// Adds what another part did.
    pub(super) fn add(&mut self, part: Self) {
        if self.views.is_empty() {
            self.views = part.views;
            return;
        }
        for (view, part) in self.views.iter_mut().zip(part.views) {
            view.add(&part);
        }
    }
}

impl ViewReport {
    /// Adds what another part did; how much there is of the view stays.
    fn add(&mut self, part: &Self) {
        self.files_read = self.files_read.max(part.files_read);
        self.row_groups = self.row_groups.max(part.row_groups);
        self.row_groups_read += part.row_groups_read;
        self.row_groups_grouped += part.row_groups_grouped;
        self.row_groups_gathered += part.row_groups_gathered;
        self.rows_read += part.rows_read;
        self.bytes_read += part.bytes_read;
        self.matched += part.matched;
        self.ties += part.ties;
        self.match_us += part.match_us;
        self.gather_us += part.gather_us;
    }
}

/// What was done with one view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ViewReport {
    /// The name that it goes by.
    pub name: String,
    /// Files of the view at the commit.
    pub files: u64,
    /// Files of which keys were read; the others hold no entity and time that is asked for.
    pub files_read: u64,
    /// Row groups in the files that were looked into.
    pub row_groups: u64,
    /// Row groups of which keys were read.
    pub row_groups_read: u64,
    /// Row groups that were in no order and were grouped by entity first.
    pub row_groups_grouped: u64,
    /// Row groups of which features were read.
    pub row_groups_gathered: u64,
    /// Rows of the view at the commit.
    pub rows: u64,
    /// Rows of which keys were read.
    pub rows_read: u64,
    /// Bytes of the columns that were read, as they are stored.
    pub bytes_read: u64,
    /// Rows of the spine that matched.
    pub matched: u64,
    /// Rows of the spine for which rows of several files tied in time, so that arrival, source and position decided.
    pub ties: u64,
    /// Microseconds of all threads that keys were read and matched.
    pub match_us: u64,
    /// Microseconds of all threads that features were read and gathered.
    pub gather_us: u64,
}

/// Does something and tells how long it took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let watch = Stopwatch::start();
    let value = work();
    (value, watch.elapsed())
}

/// Measures for a report; nothing is decided by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a report tells real durations")]
    pub(super) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A duration as reports tell it.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
