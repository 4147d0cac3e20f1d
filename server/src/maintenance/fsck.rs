//! Verifying a repository of a data folder.

use std::fmt;
use std::path::Path;

use anabranch_versioning::{Counts, FsckOptions, FsckReport, Progress};
use serde_json::{Value as Json, json};

use super::Stores;
use crate::error::Result;
use crate::folder::RepositoryFolder;

/// How a repository is verified.
#[derive(Clone, Default)]
pub struct FsckRequest {
    /// Reads and decodes every file.
    pub deep: bool,
    /// Told now and then how far the work has come.
    pub progress: Option<Progress>,
}

impl fmt::Debug for FsckRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsckRequest").field("deep", &self.deep).finish_non_exhaustive()
    }
}

/// Verifies a repository end to end, also beside the server that uses it.
///
/// # Errors
/// Where there is no such repository, or the stores cannot be read; damage is no error but a finding.
pub async fn fsck(data: &Path, repository: &str, request: FsckRequest) -> Result<FsckReport> {
    let stores = Stores::existing(&RepositoryFolder::of(data, repository)).await?;
    let options = FsckOptions { owners: stores.owners, deep: request.deep, progress: request.progress };
    Ok(anabranch_versioning::fsck(&stores.metadata, &stores.objects, options).await?)
}

/// A report for programs.
pub fn report_json(report: &FsckReport) -> Json {
    let findings = report.findings.iter().map(|finding| {
        json!({
            "damage": finding.damage.name(),
            "object": finding.object,
            "pack": finding.place.map(|place| format!("packs/{}", place.pack)),
            "offset": finding.place.map(|place| place.offset),
            "reason": finding.reason,
            "commits": finding.commits.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "commit_count": finding.commit_count,
            "refs": finding.refs,
        })
    });
    let Counts { refs, commits, expired, nodes, entries, files, packs, pack_bytes } = report.counts;
    let surplus = &report.surplus;
    json!({
        "whole": report.is_whole(),
        "findings": findings.collect::<Vec<_>>(),
        "surplus": {"packs": surplus.packs, "blobs": surplus.blobs, "files": surplus.files, "bytes": surplus.bytes},
        "counts": {
            "refs": refs, "commits": commits, "expired": expired, "nodes": nodes, "entries": entries, "files": files, "packs": packs,
            "pack_bytes": pack_bytes,
        },
    })
}
