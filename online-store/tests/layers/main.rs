//! What lies above a store that is reached over a network, in every order of events that a test can think of: the cache, and equal lookups that go once.

#![expect(clippy::unwrap_used, reason = "what helps a test fails it")]

mod cache;
mod coalesce;
mod gated;
