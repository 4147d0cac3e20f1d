//! History in Iceberg tables over the versioned map, point-in-time joins and datasets.
//!
//! In reading order: [`storage`] (where files lie and how iceberg reaches them), [`entry`] (what the map holds of a table), [`schema`] (a view's columns
//! as Iceberg fields), [`metadata`] (a table at a commit), [`table`] (the store, and making, evolving and dropping tables), [`append`], [`scan`],
//! [`compaction`], [`file_rows`] (a view's files, for a join), [`quarantine`], [`TableResolver`] (merges), [`catalog`] (Iceberg's own face of it),
//! [`join`] (features as of a time), [`dataset`] (a join of a commit, with its digest), [`batches`] (its rows for a trainer) and [`engine`] (SQL, and joins
//! as plans, here or on a cluster).

pub mod storage;

pub mod entry;

pub mod schema;

pub mod metadata;

mod data_file;
mod manifests;
mod owner;

pub mod table;

pub mod append;

pub mod scan;

pub mod compaction;

pub mod file_rows;

pub mod quarantine;

pub mod catalog;

mod merge;

pub mod join;

pub mod dataset;

pub mod batches;

pub mod engine;

pub mod error;

pub use append::{Append, Appended, AppendedTable, TableRows};
pub use catalog::{RefCatalog, SOURCE_MARK};
pub use compaction::{CompactOptions, Compaction, CompactionOutcome, CompactionScope};
pub use entry::{AddedFile, Fill, Interval, SnapshotEntry, TableEntry};
pub use error::{Error, Result};
pub use file_rows::{FileRows, ViewFile, ViewFiles};
pub use merge::TableResolver;
pub use metadata::TableState;
pub use owner::{SnapshotOwner, TableOwner, table_owners};
pub use quarantine::quarantine_shape;
pub use scan::{AddedFiles, BatchStream, ScanRequest, TableFile, schema_of};
pub use schema::{TableField, TableShape};
pub use storage::Locations;
pub use table::{Namespace, OfflineStore, OfflineStoreOptions, TableName};
