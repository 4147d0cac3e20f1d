//! What merges, reverts and resets do to streams and to what is served.
//!
//! **Offsets.** The key of an offset names the branch that consumes the source. In a merge
//!
//! - the destination's own offsets stay: what it consumed is decided by its own commits alone;
//! - the offsets of other branches come along, the further one of two: the merge commit may become the head of such a branch (by a fast-forward), which
//!   must find there how far it is, or it would take its rows in again. Nobody else reads them, so they are not the destination's;
//! - two branches that both consumed one source since the base conflict, because their rows are the same rows.
//!
//! Reverts and cherry-picks touch no offset: rows that are taken back are taken back on purpose, and are not consumed again.
//!
//! **What is served.** Rows cannot be taken from a served view: its generation online has them, and a generation that takes its place comes in a later
//! version. So [`KeepsRows`] judges every move of the served branch's head inside the committer, and refuses one after which a snapshot of a served table
//! would be missing, or a table would come back with less than was published of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::{BranchId, Generation, Kinded};
use anabranch_offline_store::Namespace;
use anabranch_offline_store::entry::{SnapshotEntry, TableEntry};
use anabranch_online_store::OnlineStore;
use anabranch_versioning::{
    self as versioning, ApplyError, CommitId, HeadChange, HeadGuard, Key, KeyKind, Operation, Repository, Resolution, Resolver, Scan, Sides, Triple,
    scan_all,
};
use async_trait::async_trait;

use crate::offset::{Offset, OffsetKey};
use crate::publication::GENERATIONS;
use crate::{Error, Result};

/// Decides merges of stream positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct OffsetResolver;

#[async_trait]
impl Resolver for OffsetResolver {
    fn kinds(&self) -> &[KeyKind] {
        &[KeyKind::Offset]
    }

    async fn resolve(&self, operation: Operation, changes: &[Triple], sides: &Sides<'_>) -> versioning::Result<Resolution> {
        let [change] = changes else { return Ok(Resolution::Ours) };
        let Ok(key) = OffsetKey::from_key(&change.key) else { return Ok(Resolution::Conflict("it is the key of no offset".to_owned())) };
        if operation != Operation::Merge || key.branch == sides.into {
            return Ok(Resolution::Ours);
        }
        let Ok(own) = (OffsetKey { branch: sides.into, ..key.clone() }).to_key() else { return Ok(Resolution::Theirs) };
        if sides.ours.get(&own).await? != sides.base.get(&own).await? {
            return Ok(Resolution::Conflict(format!("both branches consumed source {} of pipeline {:?}", key.source, key.pipeline)));
        }
        let next = |bytes: &Option<bytes::Bytes>| bytes.as_ref().and_then(|bytes| Offset::from_bytes(bytes).ok()).map(|offset| offset.next);
        let further = !change.changed_by_ours() || next(&change.theirs) > next(&change.ours);
        Ok(if further { Resolution::Theirs } else { Resolution::Ours })
    }
}

/// Refuses what would take rows from a served table.
#[derive(Debug)]
pub(crate) struct KeepsRows {
    pub(crate) branch: BranchId,
    pub(crate) repository: Arc<Repository>,
    pub(crate) online: Arc<dyn OnlineStore>,
}

#[async_trait]
impl HeadGuard for KeepsRows {
    async fn check(&self, change: &HeadChange<'_>) -> Result<(), ApplyError> {
        let shrunk = shrunk(change).await?;
        for (name, entry) in tables(change, true).await? {
            let uuid = entry.uuid.as_bytes();
            if shrunk.contains(&uuid[..]) || self.comes_back_with_less(change, &entry).await? {
                let reason =
                    "this would take away rows that are online; what is served can only gain rows in this version: correct them by later rows \
                              or tombstones, or do this on another branch"
                        .to_owned();
                let refusal: Box<dyn Kinded> = Box::new(Error::Unservable { view: name, reason });
                return Err(ApplyError::Refused(refusal));
            }
        }
        Ok(())
    }
}

impl KeepsRows {
    /// Whether a table that was not there now is, without a snapshot that was published before it went.
    async fn comes_back_with_less(&self, change: &HeadChange<'_>, entry: &TableEntry) -> Result<bool, ApplyError> {
        let uuid = entry.uuid.as_bytes();
        if tables(change, false).await?.iter().any(|(_, before)| before.uuid == entry.uuid) {
            return Ok(false);
        }
        let key = [&self.branch.0.to_be_bytes()[..], uuid].concat();
        let Some(bytes) = self.repository.metadata().value(GENERATIONS, &key).await? else { return Ok(false) };
        let Ok(number) = bytes.as_ref().try_into().map(u64::from_be_bytes) else { return Ok(false) };
        let published = self.online.published_to(Generation(number)).await.map_err(|error| ApplyError::Refused(Box::new(error)))?;
        let Some(published) = published else { return Ok(false) };
        let prefix = Key::prefix(KeyKind::Snapshot, &[&uuid[..]])?;
        for snapshot in scan_all(&self.repository.at(&CommitId::from_slice(&published)?).await?, Scan::prefix(prefix)).await? {
            if brought_rows(&snapshot.value) && change.after(&snapshot.key).await?.as_ref() != Some(&snapshot.value) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The uuids of the tables of which a snapshot goes or changes.
async fn shrunk(change: &HeadChange<'_>) -> versioning::Result<BTreeSet<Vec<u8>>> {
    let (mut scan, mut shrunk) = (Scan::prefix(Key::prefix(KeyKind::Snapshot, &[])?), BTreeSet::new());
    loop {
        let page = change.diff(&scan).await?;
        let gone = page.items.iter().filter(|difference| difference.left.as_deref().is_some_and(brought_rows));
        shrunk.extend(gone.filter_map(|difference| difference.key.part(0).map(<[u8]>::to_vec)));
        match page.next {
            Some(next) => scan.after = Some(next),
            None => return Ok(shrunk),
        }
    }
}

/// Whether rows go with a snapshot: not with a compaction, whose rows earlier snapshots brought.
fn brought_rows(snapshot: &[u8]) -> bool {
    !SnapshotEntry::decode(snapshot).is_ok_and(|snapshot| snapshot.only_rewrites())
}

/// The tables of feature views of which the move changes something, as they are after it or before it.
async fn tables(change: &HeadChange<'_>, after: bool) -> versioning::Result<Vec<(String, TableEntry)>> {
    let (mut scan, mut tables) = (Scan::prefix(Key::prefix(KeyKind::Table, &[Namespace::Features.name().as_bytes()])?), Vec::new());
    loop {
        let page = change.diff(&scan).await?;
        for difference in page.items {
            let value = if after { difference.right } else { difference.left };
            let name = String::from_utf8_lossy(difference.key.part(1).unwrap_or_default()).into_owned();
            tables.extend(value.and_then(|value| TableEntry::decode(&value).ok()).map(|entry| (name, entry)));
        }
        match page.next {
            Some(next) => scan.after = Some(next),
            None => return Ok(tables),
        }
    }
}
