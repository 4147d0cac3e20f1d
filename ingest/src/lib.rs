//! Sources, row checks, the dual write, offsets and quarantine.
//!
//! In reading order: [`wal`] (where pushed rows become durable), [`decode`] (from bytes to rows), [`quarantine`] (rows that the checks refuse),
//! [`offset`] (how far a source has been consumed, kept in the commit).

pub mod decode;
mod error;
pub mod offset;
//pub mod quarantine;
pub mod wal;

pub use error::{Cause, Error, Result};
