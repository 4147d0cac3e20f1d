//! Merging tables: for now, by sides.
//!
//! A `table` entry and the `snapshot` entries of its uuid are one unit, so that no table ever points to snapshots that are not there, or lacks some. Where
//! only one side changed anything of a table, that side is taken as a whole. Where both did, it is a conflict, also where each only appended: replaying
//! one side's appends upon the other comes later. A strategy then takes the whole table of one side.
//!
//! A side that did nothing to a table but compact it changed no row. So where the other side did something else, that side is taken as a whole and the
//! compaction is dropped: the rows are all there, in the files that they had before. Where both only compacted, the destination keeps its own.

use anabranch_versioning::{self as versioning, ChooseSide, Key, KeyKind, Operation, Resolution, Resolver, Sides, Triple};
use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::entry::{SnapshotEntry, TableEntry, snapshot_prefix};

/// Decides merges of tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableResolver;

#[async_trait]
impl Resolver for TableResolver {
    fn kinds(&self) -> &[KeyKind] {
        &[KeyKind::Table, KeyKind::Snapshot]
    }

    /// The entry of a table goes together with the snapshots of whatever table any side has under that name.
    fn scope(&self, change: &Triple) -> versioning::Result<Vec<Key>> {
        let mut scope = vec![change.key.clone()];
        let uuids: Vec<Uuid> = match change.key.kind() {
            // What is no entry has no snapshots; whoever reads the table is told.
            KeyKind::Table => {
                let sides = [&change.base, &change.ours, &change.theirs].into_iter().flatten();
                sides.filter_map(|bytes| TableEntry::decode(bytes).ok()).map(|entry| entry.uuid).collect()
            }
            _ => change.key.part(0).and_then(|uuid| Uuid::from_slice(uuid).ok()).into_iter().collect(),
        };
        for uuid in uuids {
            scope.extend(snapshot_prefix(uuid).ok());
        }
        if change.key.kind() == KeyKind::Snapshot && scope.len() > 1 {
            // The prefix of the table's snapshots has it already.
            scope.remove(0);
        }
        scope.sort();
        scope.dedup();
        Ok(scope)
    }

    async fn resolve(&self, _operation: Operation, changes: &[Triple], _sides: &Sides<'_>) -> versioning::Result<Resolution> {
        let appended = |side: fn(&Triple) -> bool| changes.iter().any(|change| change.key.kind() == KeyKind::Snapshot && side(change));
        Ok(match ChooseSide::choose(changes) {
            Resolution::Conflict(_) if only_compacted(changes, |change| &change.theirs) => Resolution::Ours,
            Resolution::Conflict(_) if only_compacted(changes, |change| &change.ours) => Resolution::Theirs,
            Resolution::Conflict(_) if appended(Triple::changed_by_ours) && appended(Triple::changed_by_theirs) => {
                Resolution::Conflict("both sides wrote rows to the table; merging such tables comes in a later version: choose a side".to_owned())
            }
            Resolution::Conflict(_) => Resolution::Conflict("both sides changed the table: choose a side".to_owned()),
            other => other,
        })
    }
}

/// Whether a side's changes to a table are compactions and nothing else: snapshots that only rewrite came or went, and which one is current.
fn only_compacted(changes: &[Triple], side: fn(&Triple) -> &Option<Bytes>) -> bool {
    let table = |bytes: &Option<Bytes>| bytes.as_ref().and_then(|bytes| TableEntry::decode(bytes).ok());
    let rewrites = |bytes: &Bytes| SnapshotEntry::decode(bytes).is_ok_and(|snapshot| snapshot.only_rewrites());
    changes.iter().filter(|change| *side(change) != change.base).all(|change| match change.key.kind() {
        KeyKind::Table => table(&change.base).zip(table(side(change))).is_some_and(|(old, new)| old.uuid == new.uuid && old.metadata == new.metadata),
        _ => [&change.base, side(change)].into_iter().flatten().all(rewrites),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{snapshot_key, table_key};

    fn entry(uuid: u8) -> bytes::Bytes {
        let uuid = Uuid::from_bytes([uuid; 16]);
        TableEntry { uuid, metadata: versioning::Digest([0; 32]), current_snapshot: None, last_sequence_number: 0 }.encode()
    }

    #[test]
    fn a_table_and_the_snapshots_of_every_side_are_one_unit() {
        let key = table_key("features", "clicks").unwrap();
        let change = Triple { key: key.clone(), base: Some(entry(1)), ours: Some(entry(1)), theirs: Some(entry(2)) };
        let prefix = |uuid| snapshot_prefix(Uuid::from_bytes([uuid; 16])).unwrap();
        assert_eq!(TableResolver.scope(&change).unwrap(), [key, prefix(1), prefix(2)]);
        let snapshot = Triple { key: snapshot_key(Uuid::from_bytes([2; 16]), 7).unwrap(), base: None, ours: None, theirs: Some("x".into()) };
        assert_eq!(TableResolver.scope(&snapshot).unwrap(), [prefix(2)]);
    }
}
