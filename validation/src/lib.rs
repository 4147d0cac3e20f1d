//! Row checks and their verdicts.
//!
//! A verdict on a row is a pure function of the row, its arrival and the definitions: judged again on replay, it is the same. No I/O, no clock.
//!
//! In reading order: [`RowChecks`] (the checks of one view, compiled, and the rules that every row keeps), [`Verdicts`] and [`Failure`] (what they say),
//! [`Error`] (what does not compile).

mod error;
mod predicate;
mod row_checks;
mod verdict;

pub use error::{Error, Result};
pub use row_checks::RowChecks;
pub use verdict::{EVENT_TIME, Failure, KEY, KNOWN_TIME, MAX_FUTURE, TYPE, Verdicts};
