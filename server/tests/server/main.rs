//! A real server on a free port over a temporary folder, asked over every face.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not know as tests")]

mod authorisation;
mod bulk;
mod compaction;
mod cql;
mod datasets;
mod feast;
mod fetching;
mod life;
mod objects;
mod redis;
mod refusals;
mod rows;
mod saved_datasets;
mod serving;
mod serving_log;
mod support;
mod verbs;
mod versions;
