//! What every part of Anabranch agrees on: ids, values, schemas, time and the total order, definitions and error kinds. No I/O but [`testkit`]'s.
//!
//! In reading order: [`error`] (the kinds that every face speaks), [`time`] and [`ids`] (injected), [`types`], [`value`] and [`columns`] (what a
//! feature can be, alone and in Arrow), [`packed`] (what a lookup found, in one buffer), [`key`] (the canonical entity key), [`order`] (the total order
//! of rows), [`name`] (what things may be called), [`definition`] (entities, views, services, sources, checks) and [`selection`] (which features a
//! caller wants).

pub mod columns;
pub mod definition;
pub mod error;
pub mod ids;
pub mod key;
pub mod name;
pub mod order;
pub mod packed;
pub mod selection;
pub mod testkit;
pub mod time;
pub mod types;
pub mod value;

pub use error::{Error, ErrorKind, Kinded};
pub use ids::{BranchId, Generation, Ids, Position, RandomIds, SourceId};
pub use key::EntityKey;
pub use order::RowOrder;
pub use time::{Clock, ManualClock, Span, SystemClock, Timestamp};
pub use types::{DataType, Scalar};
pub use value::Value;
