//! History in Iceberg tables over the versioned map, point-in-time joins and datasets.
//!
//! In reading order: [`storage`] (where files lie and how iceberg reaches them), [`entry`] (what the map holds of a table), [`schema`] (a view's columns
//! as Iceberg fields), [`metadata`] (a table at a commit), [`table`] (the store, and making, evolving and dropping tables), [`append`], [`scan`],
//! [`quarantine`] and [`catalog`] (Iceberg's own face of it).

pub mod append;
pub mod catalog;
mod data_file;
pub mod entry;
pub mod error;
mod manifests;
pub mod metadata;
pub mod quarantine;
pub mod scan;
pub mod schema;
pub mod storage;
pub mod table;

pub use append::{Append, Appended, TableRows};
pub use catalog::BranchCatalog;
pub use entry::{AddedFile, Fill, Interval, SnapshotEntry, TableEntry};
pub use error::{Error, Result};
pub use metadata::TableState;
pub use quarantine::quarantine_shape;
pub use scan::{AddedFiles, RowStream, ScanRequest};
pub use schema::TableShape;
pub use storage::Locations;
pub use table::{Namespace, OfflineStore, OfflineStoreOptions, TableName};
