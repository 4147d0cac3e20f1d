//! One commit of an outside engine: its requirements are checked and its updates applied to the table at the head, and what comes out becomes entries.

use std::sync::Arc;

use anabranch_core::name::reserved;
use anabranch_core::{Position, SourceId};
use anabranch_versioning::{Change, CommitId, CommitRequest, Expect, RefSpec};
use iceberg::spec::{DataFile, ManifestContentType, ManifestStatus, Operation, PrimitiveLiteral, Snapshot, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};

use crate::entry::{AddedFile, Fill, Interval, SnapshotEntry, TableEntry, snapshot_key};
use crate::metadata::{self, LAST_PARTITION_ID, TableState, data_path};
use crate::table::{OfflineStore, TableName, field_mark, partition_mark};
use crate::{Error, Result};

/// The mark that source ids come from.
pub const SOURCE_MARK: &str = "source";

impl OfflineStore {
    /// Applies what an outside engine commits to a table at a branch's head; gives the table's metadata after it.
    ///
    /// # Errors
    /// A conflict where a requirement does not hold or the table moved meanwhile; [`Error::Unsupported`] for everything but appended rows, new columns
    /// and properties.
    pub async fn update_table(
        &self,
        branch: &str,
        author: &str,
        name: &TableName,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> Result<TableMetadata> {
        let _turn = self.lock(branch, std::slice::from_ref(name)).await;
        let head = self.repository.resolve(&RefSpec::branch(branch)).await?.commit;
        let state = self.table(&head, name).await?;
        let before = self.table_metadata(&head, name).await?;
        requirements.iter().try_for_each(|requirement| requirement.check(Some(&before)))?;
        let mut builder = before.clone().into_builder(None);
        for update in updates {
            check(&update)?;
            builder = update.apply(builder)?;
        }
        let after = builder.build()?.metadata;
        self.take_ids(&before, &after).await?;
        let mut changes = self.snapshots(&state, &before, &after).await?;
        let blob = self.put_definition(name, metadata::strip(&after)?).await?;
        let entry = TableEntry {
            metadata: blob,
            current_snapshot: after.current_snapshot_id(),
            last_sequence_number: after.last_sequence_number().max(state.entry.last_sequence_number),
            ..state.entry.clone()
        };
        if entry != state.entry {
            changes.push(Change::Put { key: name.key()?, value: entry.encode(), expect: Expect::Value(state.entry.encode()) });
            let request = CommitRequest::new(author, format!("update table {name}"), changes);
            let committed = self.repository.commit(branch, request).await?;
            return self.table_metadata(&committed.commit, name).await;
        }
        self.unchanged(&head, name).await
    }

    async fn unchanged(&self, head: &CommitId, name: &TableName) -> Result<TableMetadata> {
        self.table_metadata(head, name).await
    }

    /// Takes the ids that a client proposed for new columns; they must be the next ones.
    async fn take_ids(&self, before: &TableMetadata, after: &TableMetadata) -> Result<()> {
        let pairs = [
            (field_mark(before.uuid()), before.last_column_id(), after.last_column_id(), 0),
            (partition_mark(before.uuid()), before.last_partition_id(), after.last_partition_id(), LAST_PARTITION_ID),
        ];
        for (mark, old, new, base) in pairs {
            let Some(count) = u64::try_from(new - old).ok().filter(|count| *count > 0) else { continue };
            if self.allocate(&mark, count).await? + base != old + 1 {
                let reason = "its ids were taken by another branch meanwhile: load the table again and retry";
                let conflict = iceberg::Error::new(iceberg::ErrorKind::CatalogCommitConflicts, reason).with_retryable(true);
                return Err(conflict.into());
            }
        }
        Ok(())
    }

    /// The entries of the snapshots that are new.
    async fn snapshots(&self, state: &TableState, before: &TableMetadata, after: &TableMetadata) -> Result<Vec<Change>> {
        if before.snapshots().any(|snapshot| after.snapshot_by_id(snapshot.snapshot_id()).is_none()) {
            return Err(Error::Unsupported(format!("snapshots of table {} are not expired here", state.name)));
        }
        let mut new: Vec<_> = after.snapshots().filter(|snapshot| before.snapshot_by_id(snapshot.snapshot_id()).is_none()).collect();
        new.sort_by_key(|snapshot| snapshot.sequence_number());
        let mut parent = before.current_snapshot_id();
        let mut changes = Vec::with_capacity(new.len());
        for snapshot in new {
            if snapshot.summary().operation != Operation::Append || snapshot.parent_snapshot_id() != parent {
                let reason = format!("only rows appended to the current snapshot of table {} are taken", state.name);
                return Err(Error::Unsupported(reason));
            }
            parent = Some(snapshot.snapshot_id());
            let value = self.snapshot_entry(state, snapshot, after.current_schema_id()).await?.encode();
            changes.push(Change::Put { key: snapshot_key(state.entry.uuid, snapshot.snapshot_id())?, value, expect: Expect::Absent });
        }
        if after.current_snapshot_id() != parent {
            return Err(Error::Unsupported(format!("table {} is not moved to another snapshot here: reset the branch instead", state.name)));
        }
        Ok(changes)
    }

    async fn snapshot_entry(&self, state: &TableState, snapshot: &Arc<Snapshot>, schema_id: i32) -> Result<SnapshotEntry> {
        let outside = |location: &str| Error::Unsupported(format!("{location} lies outside of this repository"));
        let manifest_list = self.locations.path(snapshot.manifest_list()).ok_or_else(|| outside(snapshot.manifest_list()))?;
        let list = self.manifests.list(&self.io, snapshot.manifest_list()).await?;
        let mut files = Vec::new();
        for manifest in list.iter().filter(|manifest| manifest.added_snapshot_id == snapshot.snapshot_id()) {
            if manifest.content != ManifestContentType::Data {
                return Err(Error::Unsupported(format!("delete files are not taken into table {}", state.name)));
            }
            let entries = self.manifests.manifest(&self.io, manifest).await?;
            let added = entries.entries().iter().filter(|entry| entry.status() == ManifestStatus::Added);
            files.extend(added.filter(|entry| entry.snapshot_id() == Some(snapshot.snapshot_id())).map(|entry| entry.data_file().clone()));
        }
        let mut summary: std::collections::BTreeMap<_, _> = snapshot.summary().additional_properties.clone().into_iter().collect();
        summary.insert("operation".to_owned(), snapshot.summary().operation.as_str().to_owned());
        Ok(SnapshotEntry {
            parent: snapshot.parent_snapshot_id(),
            sequence_number: snapshot.sequence_number(),
            time_ms: snapshot.timestamp_ms(),
            schema_id: snapshot.schema_id().unwrap_or(schema_id),
            manifest_list: manifest_list.to_owned(),
            summary,
            files: self.added(state, &files).await?,
        })
    }

    /// The files with what their rows read as where they carry no reserved columns.
    async fn added(&self, state: &TableState, files: &[DataFile]) -> Result<Vec<AddedFile>> {
        let bare = |file: &&DataFile| span(state, file).is_none();
        let mut fill = None;
        if files.iter().any(|file| bare(&file)) {
            let id = self.repository.metadata().allocate(SOURCE_MARK, 1).await?;
            let source = u32::try_from(id).map_err(|_| Error::Invalid { what: "source", reason: "source ids are used up".to_owned() })?;
            fill = Some(Fill { arrival: self.clock.now(), source: SourceId::new(source)?, first_position: Position::default() });
        }
        let mut added = Vec::with_capacity(files.len());
        for file in files {
            let path = self.locations.path(file.file_path());
            let path = path.ok_or_else(|| Error::Unsupported(format!("{} lies outside of this repository", file.file_path())))?;
            let name = path.strip_prefix(&format!("{}/", data_path(state.entry.uuid))).filter(|name| !name.contains('/')).unwrap_or(path).to_owned();
            let rows = file.record_count();
            let mut added_file = AddedFile { name, rows, intervals: span(state, file).into_iter().collect(), fill: None };
            if let (true, Some(next)) = (bare(&file), &mut fill) {
                let last = Position::new(next.first_position.get() + rows.max(1) - 1)?;
                added_file.intervals = vec![Interval { source: next.source, first: next.first_position, last }];
                added_file.fill = Some(*next);
                next.first_position = Position::new(last.get() + 1)?;
            }
            added.push(added_file);
        }
        Ok(added)
    }
}

/// The positions of a file whose rows all carry reserved columns of one source.
fn span(state: &TableState, file: &DataFile) -> Option<Interval> {
    let id = |name: &str| state.field(name).map(|field| field.id);
    let whole = |name: &str| id(name).is_some_and(|id| file.null_value_counts().get(&id) == Some(&0));
    if ![reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION].into_iter().all(whole) {
        return None;
    }
    let bound = |bounds: &std::collections::HashMap<i32, iceberg::spec::Datum>, name: &str| match bounds.get(&id(name)?)?.literal() {
        PrimitiveLiteral::Int(value) => u64::try_from(*value).ok(),
        PrimitiveLiteral::Long(value) => u64::try_from(*value).ok(),
        _ => None,
    };
    let source = bound(file.lower_bounds(), reserved::SOURCE).filter(|low| Some(*low) == bound(file.upper_bounds(), reserved::SOURCE))?;
    let interval = Interval {
        source: SourceId::new(u32::try_from(source).ok()?).ok()?,
        first: Position::new(bound(file.lower_bounds(), reserved::POSITION)?).ok()?,
        last: Position::new(bound(file.upper_bounds(), reserved::POSITION)?).ok()?,
    };
    (interval.first <= interval.last).then_some(interval)
}

fn check(update: &TableUpdate) -> Result<()> {
    let refused = match update {
        TableUpdate::AddSchema { .. }
        | TableUpdate::SetCurrentSchema { .. }
        | TableUpdate::AddSnapshot { .. }
        | TableUpdate::SetProperties { .. }
        | TableUpdate::RemoveProperties { .. } => None,
        TableUpdate::SetSnapshotRef { ref_name, .. } if ref_name == "main" => None,
        TableUpdate::SetSnapshotRef { .. } | TableUpdate::RemoveSnapshotRef { .. } => Some("Iceberg's own branches and tags: use this repository's"),
        TableUpdate::RemoveSnapshots { .. } => Some("expiring snapshots"),
        TableUpdate::SetLocation { .. } => Some("moving a table"),
        _ => Some("this kind of update"),
    };
    refused.map_or(Ok(()), |what| Err(Error::Unsupported(format!("the catalog does not support {what}"))))
}
