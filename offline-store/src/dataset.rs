//! Datasets: a join of a commit under a name, with its rows.
//!
//! A dataset is a commit, a spine and a request, and comes out the same each time. [`ContentDigest`] tells that it did, over values and not over file bytes.
//! [`DatasetManifest`] keeps all of it under a name; its rows lie beside it as Parquet ([`rows`]), with what each column is like ([`statistics()`]) and which
//! split each row belongs to ([`splits`]). [`crate::engine`] makes spines of a commit, in the order that `events` gives them; [`refresh`] makes a dataset of an
//! earlier one. Committing, listing and refusing a taken name are the repository's.

pub(crate) mod events;
pub mod refresh;
pub mod rows;
pub mod splits;
pub mod statistics;

mod cells;
mod digest;
mod error;
mod groups;
mod manifest;

pub use cells::canonical_type;
pub use digest::{ContentDigest, ContentHasher, columns_of, content_digest, digest_of_rows};
pub use error::DatasetError;
pub use groups::{GROUP_ROWS, canonical_rows, canonical_schema};
pub use manifest::{CommitName, DatasetBase, DatasetColumn, DatasetManifest, DatasetSelection, FORMAT as MANIFEST_FORMAT, SpineSource};
pub use rows::{DatasetPart, DatasetRows, PART_ROWS, ROWS_FOLDER, WrittenRows, write_rows};
pub use splits::{Split, SplitRule, SplitSpec, Splits};
pub use statistics::{Cell, ColumnStatistics, statistics};
