//! What the checks say of a batch of rows.

use std::collections::BTreeMap;

use arrow::buffer::BooleanBuffer;
use serde::{Deserialize, Serialize};

/// The rule that a cell is of its column's type; found where rows are decoded, before they come here.
pub const TYPE: &str = "_type";
/// The rule that every part of the entity key is there.
pub const KEY: &str = "_key";
/// The rule that the event time is there.
pub const EVENT_TIME: &str = "_event_time";
/// The rule that the known time is there, in views that have one.
pub const KNOWN_TIME: &str = "_known_time";
/// The rule that the event time lies at most the view's `max_future` after the row's arrival.
pub const MAX_FUTURE: &str = "_max_future";

/// Why one check refuses a row. Persisted with the row in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The check, or one of the rules that every row keeps, which begin with an underscore.
    pub check: String,
    /// The column that it looked at.
    pub column: String,
    /// What is wrong, for people.
    pub reason: String,
}

/// The verdicts on the rows of one batch. A row of which nothing is said passed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdicts {
    failures: BTreeMap<usize, Vec<Failure>>,
}

impl Verdicts {
    /// Whether every row passed.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// The rows that failed, in order, each with every failure: first the rules that every row keeps, then the checks by name.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &[Failure])> {
        self.failures.iter().map(|(row, failures)| (*row, failures.as_slice()))
    }

    /// The failures of one row; none where it passed.
    pub fn of_row(&self, row: usize) -> &[Failure] {
        self.failures.get(&row).map_or(&[], Vec::as_slice)
    }

    /// How many rows failed.
    pub fn failed_rows(&self) -> usize {
        self.failures.len()
    }

    /// True for each of `rows` rows that passed.
    pub fn passed(&self, rows: usize) -> BooleanBuffer {
        if self.is_clean() {
            return BooleanBuffer::new_set(rows);
        }
        BooleanBuffer::collect_bool(rows, |row| !self.failures.contains_key(&row))
    }

    /// Adds a failure to a row, behind those that it has.
    pub fn add(&mut self, row: usize, failure: Failure) {
        self.failures.entry(row).or_default().push(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_stored_as_recorded() {
        let failure = Failure { check: "temp_range".into(), column: "temp".into(), reason: "99 is above 60".into() };
        let golden = r#"{"check":"temp_range","column":"temp","reason":"99 is above 60"}"#;
        assert_eq!(serde_json::to_string(&failure).unwrap(), golden);
        assert_eq!(serde_json::from_str::<Failure>(golden).unwrap(), failure);
    }

    #[test]
    fn rows_without_failures_passed() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.is_clean() && verdicts.passed(70).count_set_bits() == 70);
        let failure = Failure { check: TYPE.into(), column: "x".into(), reason: "r".into() };
        verdicts.add(2, failure.clone());
        verdicts.add(0, failure.clone());
        verdicts.add(2, failure);
        assert_eq!(verdicts.passed(4).iter().collect::<Vec<_>>(), [false, true, false, true]);
        assert_eq!(verdicts.failures().map(|(row, failures)| (row, failures.len())).collect::<Vec<_>>(), [(0, 1), (2, 2)]);
        assert_eq!((verdicts.of_row(2).len(), verdicts.of_row(1).len(), verdicts.failed_rows()), (2, 0, 2));
    }
}
