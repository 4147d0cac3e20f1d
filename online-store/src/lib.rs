//! Latest values: the packed row, the stores that keep the greatest row of each entity, and the lookup that serves them.
//!
//! In reading order: [`layout`] (which fields a row holds), [`row`] (its bytes), [`publish`] (from a table's batch to packed rows), [`store`] (the
//! contract of every store), [`memory`] (the reference), [`config`], [`embedded`] (the default store), [`redis`] and [`cql`], [`lookup`] (serving: keys in, columns and
//! statuses out), [`testkit`] (the laws that every store keeps).
//!
//! What a store holds of one view on one branch lies under a generation. The law: for each entity a generation holds the row that is last in the
//! total order among the rows written to it, whatever the order, number and interleaving of the writes.

pub mod cache;
mod call;
pub mod coalesce;
pub mod config;
pub mod cql;
pub mod embedded;
pub mod error;
mod hot;
pub mod layout;
pub mod lookup;
pub mod memory;
pub mod moving;
pub mod publish;
pub mod redis;
pub mod row;
pub mod store;
pub mod testkit;

pub use cache::CachedOnlineStore;
pub use coalesce::CoalescingOnlineStore;
pub use config::{CqlConfig, CqlConsistency, EmbeddedConfig, Password, RedisConfig, RedisUrl};
pub use cql::CqlOnlineStore;
pub use embedded::EmbeddedOnlineStore;
pub use error::{Error, Result};
pub use layout::{Layout, Layouts};
pub use lookup::{Answer, Feature, KeyColumn, Lookup, LookupKeys, NO_EVENT_TIME, Status, Target};
pub use memory::MemoryOnlineStore;
pub use moving::MovingStore;
pub use publish::rows_of;
pub use redis::RedisOnlineStore;
pub use row::{MAX_ROW_BYTES, PackedRow, RowEncoder, RowReader};
pub use store::{Cursor, Incarnation, MAX_COMMIT_BYTES, MAX_KEY_BYTES, OnlineStore, OnlineStoreExt, Page, ReadGroup, Write};
