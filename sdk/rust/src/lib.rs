//! The Rust client of Anabranch.
//!
//! In reading order: [`client`] (connecting, and what a call is about), [`error`], [`definitions`] (plan and apply), [`versions`] (branches and tags),
//! [`history`] (commits, log, difference), [`merging`] (merge, revert, cherry-pick, reset), [`rows`] (push, delete, flush, status, quarantine),
//! [`files`] and [`bulk`] (large amounts), [`objects`] (files under version control), [`online`] (lookups), [`historical`] (point-in-time datasets and
//! reading a view), [`datasets`] (saved ones), [`batches`] (their rows for a trainer), [`session`] (what a server says of itself) and [`local`] (a private server for a folder). Definitions
//! themselves are `anabranch-core`'s and come again here.
//!
//! ```no_run
//! use anabranch_client::{Changes, Client, Definition, Entity, FeatureView, Rows, Scalar};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:7420").await?;
//! let airport = Entity::new("airport", "origin", Scalar::String);
//! let weather = FeatureView::new("weather", "time").entity("airport").field("temp", "f64".parse()?);
//! client.apply(&Changes::new().define(Definition::Entity(airport)).define(Definition::FeatureView(weather)), false, "first view").await?;
//! client.push("weather", Rows::json(r#"{"origin": "JFK", "time": "2013-01-01T05:00:00Z", "temp": 39.0}"#)).await?;
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod error;

pub mod definitions;
pub mod history;
pub mod merging;
pub mod versions;

pub mod bulk;
pub mod files;
pub mod rows;

pub mod objects;
pub mod tables;

pub mod batches;
pub mod datasets;
pub mod historical;
pub mod online;
pub mod serving;

pub mod local;
pub mod session;

mod columns;
mod flight;
mod upload;

pub use anabranch_core::columns::{column_of, conform, value_at};
pub use anabranch_core::definition::{
    Check, Definition, DefinitionKind, Entity, FeatureService, FeatureView, Field, FileFormat, JoinKey, Logging, Partition, Projection, Rule, Source,
    SourceKind,
};
pub use anabranch_core::selection::Selection;
pub use anabranch_core::{DataType, ErrorKind, Kinded, Scalar, Span, Timestamp, Value};

pub use batches::{Batches, BatchesQuery, Located, SavedQuery};
pub use bulk::{BulkOptions, Ingested};
pub use client::{Client, ClientConfig};
pub use columns::data_type_of;
pub use datasets::{DatasetQuery, SavedDataset};
pub use definitions::{Applied, Changes, DefinitionList, Plan, RegisteredDefinition};
pub use error::Error;
pub use files::FileOptions;
pub use flight::Reader;
pub use historical::{Dataset, HistoricalQuery, ReadQuery, ServerSpine, SplitQuery, Table};
pub use history::{Commit, Diff, DiffQuery, Difference, FieldDifference, KindSummary, LogQuery, ShowQuery, Shown, StoredValue};
pub use local::Launcher;
pub use merging::{Conflict, Conflicts, MergeOptions, Merged, ReplayOptions, Replayed, Reset, ResetOptions, Strategy};
pub use objects::{NewObject, Object, ObjectCondition, ObjectDownload, ObjectPage, ObjectQuery, ObjectSource, ObjectsCommitted};
pub use online::{FeatureStatus, OnlineFeatures, OnlineQuery};
pub use rows::{Acknowledgement, Failure, PipelineStatus, PushOptions, Quarantine, QuarantinedRow, Rows};
pub use serving::{FillProgress, OnlineMove, ServedBranch, ServedView, ViewAudit};
pub use session::ServerInfo;
pub use tables::{CompactedTable, TableFile, TableFiles, TableFill, TableMetadata};
pub use versions::{Branch, HeadMove, Tag};

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
