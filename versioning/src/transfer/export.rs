//! Writing an archive.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use anabranch_core::Timestamp;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::archive::{ArchiveInfo, Writer};
use crate::fsck::{Collected, Walk};
use crate::pack::{PackBuilder, unpack};
use crate::store::pack_path;
use crate::{CommitId, EntryKind, EntryOwner, Error, FileRef, FsckOptions, MetadataDump, MetadataStore, Result};

/// A pack of an archive is ended when its canonical bytes come to this.
const PACK_BYTES: usize = 16 << 20;

/// What is exported.
#[derive(Clone)]
pub struct ExportRequest {
    /// Branches and tags by name; `None` for all.
    pub refs: Option<Vec<String>>,
    /// Commits that the receiver has already, with all that they reach.
    pub have: Vec<CommitId>,
    /// Who knows what entries name.
    pub owners: Vec<Arc<dyn EntryOwner>>,
    /// Now.
    pub taken: Timestamp,
}

impl fmt::Debug for ExportRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportRequest").field("refs", &self.refs).field("have", &self.have).finish_non_exhaustive()
    }
}

/// What an archive came to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Branches and tags.
    pub refs: u64,
    /// Commits.
    pub commits: u64,
    /// Nodes.
    pub nodes: u64,
    /// Files that entries name.
    pub files: u64,
    /// The archive's size.
    pub bytes: u64,
}

/// Writes refs and all that they reach.
///
/// # Errors
/// Not found for a ref or a commit of `have` that is not there; [`Error::Corrupt`] where something that the refs reach is damaged.
pub async fn export(
    metadata: &Arc<dyn MetadataStore>,
    objects: &Arc<dyn ObjectStore>,
    request: ExportRequest,
    out: &mut (dyn Write + Send),
) -> Result<Exported> {
    let dump = select(metadata.dump().await?, request.refs.as_deref())?;
    let hashes: Vec<_> = request.have.iter().map(|commit| commit.0).collect();
    if let Some(missing) = metadata.locate(&hashes).await?.iter().position(Option::is_none) {
        return Err(Error::NoCommit(request.have[missing]));
    }
    let options = FsckOptions { owners: request.owners, ..FsckOptions::default() };
    let mut walk = Walk::new(metadata.clone(), objects.clone(), options);
    walk.skip_released().await?;
    walk.stop_at(request.have.iter().copied()).await?;
    walk.collected = Some(Collected::default());
    // What only a reflog remembers stays behind, and so do those entries of the reflog (see `select`).
    walk.history(dump.branches.iter().map(|branch| branch.head).chain(dump.tags.iter().map(|tag| tag.commit))).await?;
    if let Some(finding) = walk.report.findings.first() {
        return Err(Error::corrupt(&finding.object, format!("{}; `anabranch fsck` says more", finding.reason)));
    }
    let collected = walk.collected.take().unwrap_or_default();
    let reached: BTreeSet<_> = collected.commits.iter().copied().collect();
    let dump = trim(dump, |commit| reached.contains(commit) || request.have.contains(commit));
    let refs = (dump.branches.len() + dump.tags.len()) as u64;
    let info = ArchiveInfo { taken: request.taken, all: request.refs.is_none(), have: request.have, dump };
    let mut writer = Writer::new(out, &info)?;
    write_packs(metadata, objects, &collected, &mut writer).await?;
    for file in &collected.files {
        write_file(objects, file, &mut writer).await?;
    }
    let (commits, nodes, files) = (collected.commits.len() as u64, collected.nodes.len() as u64, collected.files.len() as u64);
    Ok(Exported { refs, commits, nodes, files, bytes: writer.end()? })
}

/// The chosen refs, with the reflogs of the chosen branches.
fn select(mut dump: MetadataDump, refs: Option<&[String]>) -> Result<MetadataDump> {
    let Some(refs) = refs else { return Ok(dump) };
    for name in refs {
        let known = dump.branches.iter().any(|branch| branch.name == *name) || dump.tags.iter().any(|tag| tag.name == *name);
        if !known {
            return Err(Error::NoRef(name.clone()));
        }
    }
    dump.branches.retain(|branch| refs.contains(&branch.name));
    dump.tags.retain(|tag| refs.contains(&tag.name));
    Ok(dump)
}

/// Leaves out of the reflogs what the archive does not hold; what is left of a branch ends at its head.
fn trim(mut dump: MetadataDump, holds: impl Fn(&CommitId) -> bool) -> MetadataDump {
    let live: BTreeSet<_> = dump.branches.iter().map(|branch| branch.id).collect();
    dump.reflog.retain(|(branch, entry)| live.contains(branch) && holds(&entry.new) && entry.old.as_ref().is_none_or(&holds));
    dump
}

async fn write_packs(
    metadata: &Arc<dyn MetadataStore>,
    objects: &Arc<dyn ObjectStore>,
    collected: &Collected,
    writer: &mut Writer<'_>,
) -> Result<()> {
    let commits = collected.commits.iter().map(|commit| (EntryKind::Commit, commit.0));
    let nodes = collected.nodes.iter().map(|node| (EntryKind::Node, node.0));
    let (mut pack, mut bytes) = (PackBuilder::new(), 0);
    let mut any = false;
    for (kind, hash) in commits.chain(nodes) {
        let name = crate::Digest(hash).to_string();
        let gone = || Error::corrupt(&name, "no pack holds it any more");
        let location = metadata.locate(&[hash]).await?.pop().flatten().ok_or_else(gone)?;
        let path = pack_path(&location.pack);
        let range = location.offset..location.offset + u64::from(location.len);
        let stored = objects.get_range(&path, range).await.map_err(|error| Error::backend(format!("reading {path}"), error))?;
        let canonical = unpack(&stored, &hash, &name)?;
        pack.add_encoded(kind, hash, &stored);
        bytes += canonical.len();
        any = true;
        if bytes >= PACK_BYTES {
            writer.pack(&std::mem::replace(&mut pack, PackBuilder::new()).finish().0)?;
            (bytes, any) = (0, false);
        }
    }
    if any { writer.pack(&pack.finish().0) } else { Ok(()) }
}

async fn write_file(objects: &Arc<dyn ObjectStore>, file: &FileRef, writer: &mut Writer<'_>) -> Result<()> {
    let failed = |error| Error::backend(format!("reading {}", file.path), error);
    let path = Path::parse(&file.path).map_err(|error| Error::corrupt(&file.path, error.to_string()))?;
    let result = objects.get(&path).await.map_err(failed)?;
    let size = result.meta.size;
    writer.begin_file(&file.path, size)?;
    let (mut hasher, mut seen) = (blake3::Hasher::new(), 0);
    let mut parts = result.into_stream();
    while let Some(part) = parts.try_next().await.map_err(failed)? {
        hasher.update(&part);
        seen += part.len() as u64;
        writer.content(&part)?;
    }
    let hash = hasher.finalize();
    if seen != size || file.digest.is_some_and(|digest| digest.as_bytes() != hash.as_bytes()) {
        return Err(Error::corrupt(&file.path, "its bytes are not what its name says"));
    }
    writer.end_file(&hash)
}
