//! Sources, row checks, the dual write, offsets and quarantine.
//!
//! In reading order: [`wal`] (where pushed rows become durable), [`decode`] (from bytes to rows), [`quarantine`] (rows that the checks refuse),
//! [`offset`] (how far a source has been consumed, kept in the commit), [`Token`] (waiting for what was written), [`IngestConfig`], [`Ingest`] (what a
//! server calls), [`pipeline`] (the dual write: states and failure points), [`bulk`] (files and streams), [`barrier`] (applies and merges),
//! [`publication`] (bringing commits online), [`serving_log`] (what lookups were answered, as tables), [`CrashPoint`] (where a process may die).

pub mod barrier;
pub mod bulk;
mod config;
mod crash;
pub mod decode;
mod engine;
mod error;
mod judge;
mod merge;
pub mod offset;
mod owner;
pub mod pipeline;
pub mod publication;
pub mod quarantine;
pub mod serving_log;
pub mod source;
mod token;
pub mod wal;

pub use bulk::{BulkStream, FileLoad, Loaded, StreamLoad};
pub use config::IngestConfig;
pub use crash::{CrashPoint, CrashPoints, NoCrash};
pub use decode::{FileInput, FileOptions};
pub use engine::{Ingest, IngestParts, Push, Pushed};
pub use error::{Cause, Error, Result};
pub use judge::SIZE;
pub use merge::OffsetResolver;
pub use owner::OffsetOwner;
pub use pipeline::PipelineStatus;
pub use publication::{AuditRequest, FillProgress, Moved, Rebuild, SERVED_BRANCH, Served, ServedBranch, ServedView, ServedViewStatus, ViewAudit};
pub use serving_log::{Sample, ServedLookup, ServingLog, ServingLogConfig, ServingLogCounts};
pub use token::{Token, Visibility};
pub use wal::{PayloadFormat, RecordKind};
