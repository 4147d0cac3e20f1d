//! The point-in-time join against its definition, against DuckDB, and on bad input.

mod duckdb;
mod laws;
mod oracle;
mod refusals;
mod world;
