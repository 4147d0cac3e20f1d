//! Ingest with its stores: the dual write, barriers, loads, the law of the two stores, and kill -9 at every step.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests, which clippy does not know as tests; seeds are printed")]

mod barrier;
mod compaction;
mod fills;
mod kill;
mod law;
mod load;
mod moves;
mod power;
mod push;
mod served;
mod serving_log;
mod trouble;
mod world;
