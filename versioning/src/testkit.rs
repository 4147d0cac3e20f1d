//! What tests of this crate and of its users inject and run: a file layer that loses power, a metadata store that fails on command, a Postgres server, and
//! the laws that every [`crate::MetadataStore`] keeps.

mod faults;
mod laws;
mod lossy;
mod postgres;

pub use faults::{FaultyMetadata, MetadataFault};
pub use laws::{metadata_laws, shared_metadata_laws};
pub use lossy::LossyFiles;
pub use postgres::TestPostgres;
