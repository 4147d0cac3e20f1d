//! Batches of a dataset: orders, stripes and cursors, packed rows, their cache, and streams of them.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not know as tests")]

mod cache;
mod order;
mod packed;
mod stream;
mod support;
