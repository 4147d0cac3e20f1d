//! Tables over a real repository: reading back at every ref, evolving, appending at once, what a commit costs, and outside readers and writers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod appending;
mod compaction;
mod datasets;
mod engine;
mod evolution;
mod faults;
mod outside;
mod pages;
mod pyiceberg;
mod reading;
mod support;
