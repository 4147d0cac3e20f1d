//! Tables over a real repository: reading back at every ref, evolving, appending at once, what a commit costs, and outside readers and writers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod appending;
mod datasets;
mod evolution;
mod faults;
mod outside;
mod pyiceberg;
mod reading;
mod support;
