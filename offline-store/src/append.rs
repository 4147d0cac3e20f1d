//! Appending rows, to any number of tables and with any other changes, as one commit.
//!
//! ```text
//! write data files ─▶ lock the tables ─▶ read the head ─▶ write manifests and lists ─▶ commit ─▶ done
//!  (no lock held)      (this process)          ▲                                        │ Stale: another server
//!                                              └────────────────────────────────────────┘ moved a table
//! ```
//!
//! Files are durable before the commit that names them. A crash before it leaves files that no commit names, and garbage collection finds them; a crash
//! after it leaves a whole commit. Inside the committer's queue only this is done: look whether the table's current snapshot is still the one that the
//! list was written for, and put the snapshot's entry and the table's. A new set of columns that came meanwhile does not disturb: files know fields by id.
//! Data files and their manifest are written once; only the list, and what it merges, are written again for another parent.
//!
//! Writers of one process take turns by a lock for each branch and table; tables are locked in the order of their names, so two appends never wait for each
//! other in a circle.

use std::collections::BTreeMap;
use std::fmt;

use anabranch_versioning::{
    Apply, ApplyError, Change, CommitId, CommitRequest, Committed, Digest, Expect, Key, MapReader, MetadataWrite, Read, RefSpec,
};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use iceberg::spec::ManifestFile;
use uuid::Uuid;

use crate::data_file::{WrittenFile, write_files};
use crate::entry::{AddedFile, Interval, SnapshotEntry, TableEntry, snapshot_key};
use crate::manifests::ManifestWork;
use crate::metadata::TableState;
use crate::table::{OfflineStore, TableName};
use crate::{Error, Result};

/// Rows for one table.
#[derive(Debug, Clone)]
pub struct TableRows {
    /// The table.
    pub table: TableName,
    /// The rows, columns found by name; a column that is not there is null.
    pub batches: Vec<RecordBatch>,
    /// The positions that are in the table from now on, refused rows among them included; where empty, they are taken from the rows.
    pub intervals: Vec<Interval>,
}

/// What is to be committed.
#[derive(Debug, Default)]
pub struct Append {
    /// Who does it.
    pub author: String,
    /// Why.
    pub message: String,
    /// Words for programs.
    pub metadata: BTreeMap<String, String>,
    /// The rows; tables without rows get no snapshot.
    pub tables: Vec<TableRows>,
    /// Further changes, puts and deletes only: offsets, objects.
    pub extra: Vec<Change>,
    /// The commit that `reads` were made at.
    pub base: Option<CommitId>,
    /// What must not have changed since `base`.
    pub reads: Vec<Read>,
    /// Made in the head's own transaction.
    pub metadata_writes: Vec<MetadataWrite>,
}

/// An append that is durable.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The commit.
    pub committed: Committed,
    /// The tables that got a snapshot, in the order given.
    pub tables: Vec<AppendedTable>,
}

/// What one table got.
#[derive(Debug, Clone)]
pub struct AppendedTable {
    /// The table.
    pub table: TableName,
    /// Its new snapshot.
    pub snapshot_id: i64,
    /// The files that it added.
    pub files: Vec<AddedFile>,
}

impl OfflineStore {
    /// Appends rows and makes the other changes, as one commit on a branch.
    ///
    /// # Errors
    /// [`Error::NoTable`]; [`Error::Rows`] where rows do not fit, naming the column; [`Error::Contended`] where other servers kept winning; and what the
    /// repository refuses, such as an extra change whose expectation fails. Nothing is visible after an error.
    pub async fn append(&self, branch: &str, append: Append) -> Result<Appended> {
        if append.extra.iter().any(|change| matches!(change, Change::Apply(_))) {
            let reason = "an extra change must be a put or a delete, which can be made again on a later head".to_owned();
            return Err(Error::Invalid { what: "append", reason });
        }
        let mut prepared = self.write_rows(branch, &append.tables).await?;
        let names: Vec<_> = prepared.iter().map(|table| table.name.clone()).collect();
        let _turn = self.lock(branch, &names).await;
        for _ in 0..self.options.append_attempts.max(1) {
            let head = self.head(branch).await?;
            let mut changes = Vec::with_capacity(prepared.len() + append.extra.len());
            let mut added = Vec::with_capacity(prepared.len());
            for table in &mut prepared {
                let (change, done) = self.prepare(&head, table).await?;
                changes.push(change);
                added.push(done);
            }
            changes.extend(append.extra.iter().filter_map(again));
            match self.repository.commit(branch, request(&append, changes)).await {
                Ok(committed) => return Ok(Appended { committed, tables: added }),
                Err(anabranch_versioning::Error::Stale { .. }) if !prepared.is_empty() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended { table: names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "), branch: branch.to_owned() })
    }

    pub(crate) async fn head(&self, branch: &str) -> Result<CommitId> {
        Ok(self.repository.resolve(&RefSpec::branch(branch)).await?.commit)
    }

    /// The data files, durable and named by nothing.
    async fn write_rows(&self, branch: &str, tables: &[TableRows]) -> Result<Vec<Prepared>> {
        let head = self.head(branch).await?;
        let mut prepared = Vec::with_capacity(tables.len());
        for rows in tables {
            if tables.iter().filter(|other| other.table == rows.table).count() > 1 {
                return Err(Error::rows(&rows.table, "the table is named twice in one append: give all its rows at once"));
            }
            let state = self.table(&head, &rows.table).await?;
            let name = || self.uuid();
            let files = write_files(&state, rows.batches.clone(), self.write_options(), &self.objects, &self.locations, name).await?;
            if !files.is_empty() {
                let snapshot_id = snapshot_id(self.ids.random());
                prepared.push(Prepared { name: rows.table.clone(), state, intervals: rows.intervals.clone(), files, snapshot_id, manifest: None });
            }
        }
        Ok(prepared)
    }

    /// Writes what names the files on top of the table as it is at `head`.
    async fn prepare(&self, head: &CommitId, table: &mut Prepared) -> Result<(Change, AppendedTable)> {
        let state = self.table(head, &table.name).await?;
        if state.entry.uuid != table.state.entry.uuid {
            return Err(Error::rows(&table.name, "the table was dropped and made anew meanwhile: send the rows again"));
        }
        let parent = self.parent(head, &state).await?;
        let snapshot_id = table.snapshot_id;
        let work = |table| ManifestWork {
            cache: &self.manifests,
            io: &self.io,
            locations: &self.locations,
            table,
            snapshot_id,
            fan_out: self.options.merge_manifests,
        };
        // The manifest of the files speaks of the columns and the partitions that they were written with.
        let manifest = match &table.manifest {
            Some(manifest) => manifest.clone(),
            None => {
                table.manifest.insert(work(&table.state).added(self.uuid(), table.files.iter().map(|file| file.data_file.clone())).await?).clone()
            }
        };
        let mut manifests = vec![manifest];
        if let Some((_, parent)) = &parent {
            let list = self.manifests.list(&self.io, &self.locations.location(&parent.manifest_list)).await?;
            manifests.extend(work(&state).merged(&list, || self.uuid()).await?);
        }
        let parent_id = parent.as_ref().map(|(id, _)| *id);
        let sequence_number = state.entry.last_sequence_number + 1;
        let manifest_list = work(&state).list(self.uuid(), manifests, parent_id, sequence_number).await?;
        let files: Vec<_> = table.files.iter().map(|file| table.added_file(file)).collect();
        let snapshot = SnapshotEntry {
            parent: parent_id,
            sequence_number,
            time_ms: self.now_ms().max(parent.as_ref().map_or(i64::MIN, |(_, parent)| parent.time_ms)),
            schema_id: table.state.metadata().current_schema_id(),
            manifest_list,
            summary: summary(&table.files, parent.as_ref().map(|(_, parent)| &parent.summary)),
            files: files.clone(),
        };
        let change = PutSnapshot {
            table: table.name.key()?,
            uuid: state.entry.uuid,
            metadata: None,
            parent: parent_id,
            sequence_number,
            snapshot_id,
            key: snapshot_key(state.entry.uuid, snapshot_id)?,
            value: snapshot.encode(),
        };
        Ok((Change::Apply(Box::new(change)), AppendedTable { table: table.name.clone(), snapshot_id, files }))
    }

    pub(crate) async fn parent(&self, head: &CommitId, state: &TableState) -> Result<Option<(i64, SnapshotEntry)>> {
        match state.entry.current_snapshot {
            None => Ok(None),
            Some(id) => Ok(Some((id, self.snapshot(head, state.entry.uuid, id).await?))),
        }
    }
}

/// Rows of one table on their way.
struct Prepared {
    name: TableName,
    /// The table as the files were written for it.
    state: TableState,
    intervals: Vec<Interval>,
    files: Vec<WrittenFile>,
    snapshot_id: i64,
    manifest: Option<ManifestFile>,
}

impl Prepared {
    /// A file with the positions that are in by it. Rows of one append are spread over its files, so each file answers for all of its intervals.
    fn added_file(&self, file: &WrittenFile) -> AddedFile {
        let intervals = if self.intervals.is_empty() { file.spans.clone() } else { self.intervals.clone() };
        AddedFile { name: file.name.clone(), rows: file.data_file.record_count(), intervals: Interval::merged(intervals), fill: None }
    }
}

/// Puts a prepared snapshot on the table, if it still is as it was.
pub(crate) struct PutSnapshot {
    pub(crate) table: Key,
    pub(crate) uuid: Uuid,
    /// The columns that the table must still have, where that matters.
    pub(crate) metadata: Option<Digest>,
    pub(crate) parent: Option<i64>,
    pub(crate) sequence_number: i64,
    pub(crate) snapshot_id: i64,
    pub(crate) key: Key,
    pub(crate) value: Bytes,
}

impl fmt::Debug for PutSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutSnapshot({} to {})", self.snapshot_id, self.table)
    }
}

#[async_trait]
impl Apply for PutSnapshot {
    async fn apply(&mut self, head: &dyn MapReader) -> Result<Vec<Change>, ApplyError> {
        let bytes = head.get(&self.table).await?.ok_or(ApplyError::Stale)?;
        let entry = TableEntry::decode(&bytes).map_err(|error| ApplyError::Refused(Box::new(error)))?;
        if self.metadata.is_some_and(|metadata| metadata != entry.metadata) {
            return Err(ApplyError::Stale);
        }
        if entry.uuid != self.uuid || entry.current_snapshot != self.parent || entry.last_sequence_number + 1 != self.sequence_number {
            return Err(ApplyError::Stale);
        }
        let entry = TableEntry { current_snapshot: Some(self.snapshot_id), last_sequence_number: self.sequence_number, ..entry };
        Ok(vec![
            Change::Put { key: self.key.clone(), value: self.value.clone(), expect: Expect::Absent },
            Change::put(self.table.clone(), entry.encode()),
        ])
    }
}

fn request(append: &Append, changes: Vec<Change>) -> CommitRequest {
    CommitRequest {
        author: append.author.clone(),
        message: append.message.clone(),
        metadata: append.metadata.clone(),
        changes,
        base: append.base,
        reads: append.reads.clone(),
        metadata_writes: append.metadata_writes.clone(),
        allow_empty: false,
    }
}

/// The same change once more.
fn again(change: &Change) -> Option<Change> {
    match change {
        Change::Put { key, value, expect } => Some(Change::Put { key: key.clone(), value: value.clone(), expect: expect.clone() }),
        Change::Delete { key, expect } => Some(Change::Delete { key: key.clone(), expect: expect.clone() }),
        Change::Apply(_) => None,
    }
}

/// A positive 63-bit id.
pub(crate) fn snapshot_id(random: u128) -> i64 {
    ((random as u64 >> 1) as i64).max(1)
}

/// Iceberg's summary of an append; totals go on from the parent's where it has them.
fn summary(files: &[WrittenFile], parent: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let rows: u64 = files.iter().map(|file| file.data_file.record_count()).sum();
    let bytes: u64 = files.iter().map(|file| file.data_file.file_size_in_bytes()).sum();
    let mut summary = BTreeMap::from([("operation".to_owned(), "append".to_owned())]);
    for (name, count) in [("data-files", files.len() as u64), ("records", rows), ("files-size", bytes)] {
        summary.insert(format!("added-{name}"), count.to_string());
        let total = format!("total-{name}");
        let before = parent.map_or(Some(0), |parent| parent.get(&total).and_then(|text| text.parse::<u64>().ok()));
        if let Some(before) = before {
            summary.insert(total, (before + count).to_string());
        }
    }
    summary
}
