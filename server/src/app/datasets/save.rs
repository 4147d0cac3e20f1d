//! Saving: the rows, what they are like, and the manifest, in one commit.
//!
//! | when | left behind | visible |
//! | -- | -- | -- |
//! | while the parts and the manifest are written | files that nothing names: garbage | nothing |
//! | the name was taken meanwhile | those, and it is looked at again: the same dataset, or a conflict | what took the name |
//! | the commit | nothing | the dataset, whole |

use anabranch_core::{ErrorKind, Kinded};
use anabranch_offline_store::dataset::{DatasetManifest, SplitRule, Splits, WrittenRows, statistics, write_rows};
use anabranch_offline_store::join::JoinedRows;
use anabranch_versioning::{CommitId, Digest, ObjectChange, ObjectCommit, ObjectCondition};
use serde_json::json;

use super::{DatasetRequest, FOLDER, Scope, blocking};
use crate::error::{Error, Result};

const CONTENT_TYPE: &str = "application/json";

/// How often a name is looked at again that was taken in the moment of saving.
const ATTEMPTS: usize = 3;

/// What has the name that a dataset shall get.
enum Taken {
    /// Nothing.
    No,
    /// The same dataset.
    Same(Box<DatasetManifest>),
    /// The same dataset, saved by a version that stored no rows.
    WithoutRows(Digest),
}

impl Scope {
    /// Saves a dataset under the name in its manifest; the manifest that has the name from then on.
    pub(super) async fn save(
        &self,
        request: &DatasetRequest,
        mut manifest: DatasetManifest,
        rule: Option<SplitRule>,
        joined: &JoinedRows,
    ) -> Result<DatasetManifest> {
        let branch = self.branch().await?;
        manifest.splits = self.counted(request, &manifest, rule, joined).await?;
        let mut rows: Option<WrittenRows> = None;
        for _ in 0..ATTEMPTS {
            let head = self.repo.versions.branch(&branch.name).await?.head;
            let condition = match self.taken(&head, &manifest).await? {
                Taken::Same(kept) => return Ok(*kept),
                Taken::No => ObjectCondition::Absent,
                Taken::WithoutRows(checksum) => ObjectCondition::Checksum(checksum),
            };
            let rows = match &mut rows {
                Some(rows) => rows,
                rows => {
                    let (columns, all) = (manifest.columns.clone(), joined.clone());
                    let (room, held) = self.app.engine().key_room(joined.len());
                    manifest.statistics = blocking(move || Ok(statistics(&columns, &all, Some(&room))?)).await?;
                    drop(held);
                    rows.insert(self.stored(&head, &manifest, joined).await?)
                }
            };
            manifest.parts.clone_from(&rows.parts);
            let path = DatasetManifest::path(&manifest.name)?;
            let mut writer = self.repo.versions.object_writer(&path, CONTENT_TYPE)?;
            writer.write(&manifest.to_bytes()).await?;
            let mut changes = rows.changes.clone();
            changes.push(ObjectChange::Put { path, entry: writer.finish().await?, condition });
            let commit = ObjectCommit::new(Self::author(&request.author), format!("keep dataset {}", manifest.name), changes);
            match self.repo.versions.commit_objects(&branch.name, commit).await {
                Ok(_) => return Ok(manifest),
                Err(anabranch_versioning::Error::ObjectCondition { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Part {
            kind: ErrorKind::Conflict,
            message: format!("dataset {:?} was saved and deleted by others all the while: retry", manifest.name),
            details: json!({"dataset": manifest.name}),
        })
    }

    async fn counted(
        &self,
        request: &DatasetRequest,
        manifest: &DatasetManifest,
        rule: Option<SplitRule>,
        joined: &JoinedRows,
    ) -> Result<Option<Splits>> {
        let Some((spec, rule)) = request.splits.clone().zip(rule) else { return Ok(None) };
        let (columns, rows) = (manifest.columns.clone(), joined.clone());
        blocking(move || Ok(Some(Splits::count(&spec, rule, &columns, &rows)?))).await
    }

    /// Whether the name is free at a head.
    async fn taken(&self, head: &CommitId, manifest: &DatasetManifest) -> Result<Taken> {
        let map = self.repo.versions.at(head).await?;
        let Some(bytes) = self.repo.object(&map, &DatasetManifest::path(&manifest.name)?).await? else { return Ok(Taken::No) };
        let kept = DatasetManifest::from_bytes(&bytes)?;
        let differences = kept.differences(manifest);
        if !differences.is_empty() {
            let name = &manifest.name;
            return Err(Error::Part {
                kind: ErrorKind::Conflict,
                message: format!(
                    "there is a dataset {name:?} already, with another {} (commit {}, content digest {}): a saved dataset never changes, so save this \
                     one (commit {}, content digest {}) under another name",
                    differences.join(", "),
                    kept.commit,
                    kept.content_digest,
                    manifest.commit,
                    manifest.content_digest,
                ),
                details: json!({"dataset": name, "differences": differences, "content_digest": kept.content_digest}),
            });
        }
        Ok(if kept.parts.is_empty() { Taken::WithoutRows(Digest::of(&bytes)) } else { Taken::Same(Box::new(kept)) })
    }

    /// The parts of the rows: those of another dataset of this content, or new ones.
    async fn stored(&self, head: &CommitId, manifest: &DatasetManifest, joined: &JoinedRows) -> Result<WrittenRows> {
        let map = self.repo.versions.at(head).await?;
        for (_, bytes) in self.repo.objects(&map, FOLDER).await? {
            let other = DatasetManifest::from_bytes(&bytes)?;
            if other.content_digest == manifest.content_digest && !other.parts.is_empty() && self.has_parts(head, &other).await? {
                return Ok(WrittenRows { parts: other.parts, changes: Vec::new() });
            }
        }
        Ok(write_rows(&self.repo.versions, manifest.content_digest, &manifest.columns, joined).await?)
    }

    /// Whether all parts that a manifest names are there as it names them.
    async fn has_parts(&self, head: &CommitId, manifest: &DatasetManifest) -> Result<bool> {
        for part in &manifest.parts {
            match self.repo.versions.stat_object(head, &part.path).await {
                Ok(info) if info.entry.checksum().to_string() == part.checksum => {}
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
