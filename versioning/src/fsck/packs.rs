//! Packs against the database that indexes them, and what lies in the object store beside.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::walk::Walk;
use super::{Damage, Finding, Place, Surplus};
use crate::pack::unpack;
use crate::store::pack_path;
use crate::{EntryKind, Error, IndexEntry, PackId, PackIndex, Result};

const PAGE: usize = 1_000;

/// A file of the object store.
#[derive(Debug)]
pub(super) struct Listed {
    path: String,
    bytes: u64,
}

/// Everything in the object store.
pub(super) async fn list(objects: &Arc<dyn ObjectStore>) -> Result<Vec<Listed>> {
    let failed = |error| Error::backend("listing the object store", error);
    objects.list(None).map_ok(|meta| Listed { path: meta.location.to_string(), bytes: meta.size }).try_collect().await.map_err(failed)
}

/// Reads every pack that the database lists; answers their paths.
pub(super) async fn verify(walk: &mut Walk) -> Result<BTreeSet<String>> {
    let (mut known, mut after) = (BTreeSet::new(), None);
    loop {
        let page = walk.metadata.packs(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(known) };
        after = Some(last.id);
        for pack in page {
            known.insert(pack_path(&pack.id).to_string());
            verify_pack(walk, pack.id).await?;
        }
    }
}

async fn verify_pack(walk: &mut Walk, pack: PackId) -> Result<()> {
    let path = pack_path(&pack);
    let damaged = |reason: String| Finding::new(Damage::Pack, path.as_ref(), reason);
    walk.report.counts.packs += 1;
    let result = match walk.objects.get(&path).await {
        Ok(result) => result.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = match result {
        Ok(bytes) => bytes,
        Err(object_store::Error::NotFound { .. }) => {
            walk.report.findings.push(damaged("it is missing".to_owned()));
            return Ok(());
        }
        Err(error) => return Err(Error::backend(format!("reading {path}"), error)),
    };
    walk.report.counts.pack_bytes += bytes.len() as u64;
    walk.tell();
    let index = match tokio::task::spawn_blocking(move || judge(&bytes, pack)).await.map_err(|error| Error::backend("verifying a pack", error))? {
        Ok(index) => index,
        Err(findings) => {
            let findings = findings.into_iter().map(|(place, reason)| Finding { place, ..damaged(reason) });
            walk.report.findings.extend(findings);
            return Ok(());
        }
    };
    for entries in index.entries.chunks(PAGE) {
        let hashes: Vec<_> = entries.iter().map(|entry| entry.hash).collect();
        for (entry, location) in entries.iter().zip(walk.metadata.locate(&hashes).await?) {
            let place = Some(Place { pack, offset: entry.offset });
            let reason = match location {
                // Another pack may hold it too, or instead, after packs were compacted.
                Some(location) if location.pack != pack => continue,
                Some(location) if (location.offset, location.len) == (entry.offset, entry.len) => continue,
                Some(location) => format!("the database says that it lies at byte {}, {} bytes long", location.offset, location.len),
                None => "the database does not know it".to_owned(),
            };
            walk.report.findings.push(Finding { place, ..Finding::new(Damage::Index, name(entry), reason) });
        }
    }
    Ok(())
}

/// A pack's index; where the pack is damaged, the entries in it that are.
fn judge(bytes: &Bytes, pack: PackId) -> Result<PackIndex, Vec<(Option<Place>, String)>> {
    let index = PackIndex::read(bytes);
    let flaws = |index: &PackIndex| -> Vec<_> {
        let flaw = |entry: &IndexEntry| {
            let end = entry.offset.checked_add(u64::from(entry.len)).filter(|end| *end <= bytes.len() as u64);
            let Some(end) = end else { return Some("it would end beyond the pack".to_owned()) };
            unpack(&bytes.slice(entry.offset as usize..end as usize), &entry.hash, &name(entry)).err().map(|error| error.to_string())
        };
        index.entries.iter().filter_map(|entry| Some((Some(Place { pack, offset: entry.offset }), flaw(entry)?))).collect()
    };
    match index {
        Ok(index) => {
            let mut found = flaws(&index);
            if index.pack != pack {
                found.push((None, "its bytes are not what its name says".to_owned()));
            }
            if found.is_empty() { Ok(index) } else { Err(found) }
        }
        Err(error) => {
            let mut found = vec![(None, format!("{error} ({} bytes)", bytes.len()))];
            if let Ok(index) = PackIndex::read_unverified(bytes) {
                found.extend(flaws(&index));
            }
            Err(found)
        }
    }
}

fn name(entry: &IndexEntry) -> String {
    let hash = crate::Digest(entry.hash);
    match entry.kind {
        EntryKind::Node => format!("node {hash}"),
        EntryKind::Commit => format!("commit {hash}"),
    }
}

/// What was listed and is named by nothing.
pub(super) fn surplus(listed: &[Listed], known: &BTreeSet<String>, named: &BTreeSet<&str>) -> Surplus {
    let mut surplus = Surplus::default();
    for Listed { path, bytes } in listed {
        if known.contains(path) || named.contains(path.as_str()) {
            continue;
        }
        surplus.bytes += bytes;
        let list = match path.split('/').next() {
            Some("packs") => &mut surplus.packs,
            Some("blobs") => &mut surplus.blobs,
            _ => &mut surplus.files,
        };
        list.push(path.clone());
    }
    surplus
}
