//! The point-in-time join against its definition, against DuckDB, and on bad input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod large;
mod laws;
mod oracle;
mod peers;
mod refusals;
mod spooled;
mod wide;
mod world;
