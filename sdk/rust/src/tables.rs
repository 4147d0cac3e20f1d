//! The Iceberg tables behind views, as files: compaction, and where they lie for whoever reads them without us.

use anabranch_core::Timestamp;
use anabranch_proto::v1;
use serde::{Serialize, Serializer};

use crate::client::{Retry, unary};
use crate::{Client, Error};

/// What a compaction did to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompactedTable {
    /// `features`, or `quarantine` for refused rows.
    pub namespace: String,
    /// The view.
    pub name: String,
    /// `compacted`, `nothing`, or `superseded` where something other than appends changed the table meanwhile.
    pub outcome: String,
    /// Why it was superseded.
    pub reason: String,
    /// The commits made, oldest first.
    pub commits: Vec<String>,
    /// How many files the table had.
    pub files_before: u64,
    /// How many it has by the compaction, whatever others added.
    pub files_after: u64,
    /// How many bytes they took.
    pub bytes_before: u64,
    /// How many they take by the compaction.
    pub bytes_after: u64,
    /// How many rows were rewritten.
    pub rows: u64,
}

/// The data files of a table at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableFiles {
    /// The commit.
    pub commit: String,
    /// The files, oldest first; together they hold each row once.
    pub files: Vec<TableFile>,
}

/// A data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableFile {
    /// Where it lies, such as `file:///…/x.parquet`.
    pub location: String,
    /// How many rows it holds.
    pub rows: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// What its rows read as where they carry no reserved columns, as those that an outside engine wrote; a compaction writes them out.
    pub fill: Option<TableFill>,
}

/// What rows without reserved columns read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TableFill {
    /// Their arrival.
    #[serde(serialize_with = "as_text")]
    pub arrival: Timestamp,
    /// Their source.
    pub source: u32,
    /// The position of the file's first row; the others count on from it.
    pub first_position: u64,
}

/// What an Iceberg `metadata.json` of a table at a commit holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMetadata {
    /// The commit.
    pub commit: String,
    /// JSON.
    pub metadata: Vec<u8>,
}

impl Client {
    /// Rewrites files of tables of a branch as fewer and larger ones: the small ones, or with `full` all of them. No views: all tables. The branch empty
    /// for the client's ref. No row changes, and it takes as long as it takes.
    ///
    /// # Errors
    /// `not_found` where there is no such branch or table.
    pub async fn compact(&self, branch: &str, views: &[String], full: bool) -> Result<Vec<CompactedTable>, Error> {
        let (repository, author) = (self.repository_name(), self.author());
        let request = v1::CompactRequest { repository, branch: self.or_own_ref(branch), views: views.to_vec(), full, author };
        let reply = self.tables().compact(request).await.map_err(|status| self.error(&status))?;
        Ok(reply.into_inner().tables.into_iter().map(compacted).collect())
    }

    /// The data files that hold the rows of a view's table at the client's ref.
    ///
    /// # Errors
    /// `not_found` where there is no such view.
    pub async fn table_files(&self, view: &str) -> Result<TableFiles, Error> {
        let request = v1::ListFilesRequest { target: Some(self.target()), view: view.to_owned() };
        let reply = unary!(self, tables.list_files(request), Retry::Safe).await?;
        Ok(TableFiles { commit: reply.commit, files: reply.files.into_iter().map(file).collect() })
    }

    /// The Iceberg metadata of a view's table at the client's ref.
    ///
    /// # Errors
    /// `not_found` where there is no such view.
    pub async fn table_metadata(&self, view: &str) -> Result<TableMetadata, Error> {
        let request = v1::GetMetadataRequest { target: Some(self.target()), view: view.to_owned() };
        let reply = unary!(self, tables.get_metadata(request), Retry::Safe).await?;
        Ok(TableMetadata { commit: reply.commit, metadata: reply.metadata.to_vec() })
    }
}

fn compacted(table: v1::CompactedTable) -> CompactedTable {
    let v1::CompactedTable { namespace, name, outcome, reason, commits, files_before, files_after, bytes_before, bytes_after, rows } = table;
    CompactedTable { namespace, name, outcome, reason, commits, files_before, files_after, bytes_before, bytes_after, rows }
}

fn file(file: v1::TableFile) -> TableFile {
    let fill = |fill: v1::TableFileFill| TableFill { arrival: Timestamp(fill.arrival_us), source: fill.source, first_position: fill.first_position };
    TableFile { location: file.location, rows: file.rows, bytes: file.bytes, fill: file.fill.map(fill) }
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}
