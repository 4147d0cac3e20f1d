//! Datasets: what names the content of a joined table, and what a repository keeps of one.
//!
//! A dataset is not stored: it is a commit, a spine and a request, and comes out the same each time. [`ContentDigest`] tells that it did, over values and
//! not over file bytes; [`DatasetManifest`] keeps all of it under a name. Storing and listing manifests is the repository's.

mod cells;
mod digest;
mod error;
mod manifest;

pub use cells::canonical_type;
pub use digest::{ContentDigest, ContentHasher, content_digest};
pub use error::DatasetError;
pub use manifest::{CommitName, DatasetColumn, DatasetManifest, DatasetSelection, FORMAT as MANIFEST_FORMAT};
