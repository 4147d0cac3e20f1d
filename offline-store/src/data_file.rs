//! Data files: rows to sorted Parquet with Iceberg's statistics, and back into columns by field id.
//!
//! Rows are brought into the table's columns, parted by partition, sorted within each by the table's sort order, then by arrival, source and position, and
//! cut into files of about the size asked for. One file is encoded at a time, off the async runtime, so that a backfill over many partitions holds one open
//! writer. A file's columns carry Arrow's schema and the field ids; it is put in one go under a name that nothing else has.

mod bounds;
mod buffers;
mod decompress;
mod fetch;
mod footer;
mod guard;
mod pack;
mod pages;
mod read;
mod settings;
mod write;

pub(crate) use footer::Footers;
pub(crate) use guard::guarded;
pub(crate) use read::{FileRead, Group, ReadColumn};
pub(crate) use write::{WriteOptions, WrittenFile, partition_values, write_files};
