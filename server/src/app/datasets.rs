//! Point-in-time datasets: joined at one commit, digested over their values, and kept under a name where asked.

use std::sync::Arc;

use anabranch_core::selection::Selection;
use anabranch_offline_store::dataset::{CommitName, ContentDigest, ContentHasher, DatasetColumn, DatasetManifest, content_digest};
use anabranch_offline_store::engine::{EngineKind, JoinRequest};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Joined, Knowledge, Spine};
use anabranch_versioning::{CommitId, ObjectChange, ObjectCommit, ObjectCondition};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::Scope;
use crate::error::{Error, Result};

pub(super) const FOLDER: &str = "datasets/";
const CONTENT_TYPE: &str = "application/json";

/// What a dataset is asked for by.
#[derive(Debug)]
pub(crate) struct DatasetRequest {
    pub(crate) selection: Selection,
    pub(crate) options: JoinOptions,
    pub(crate) time_column: String,
    /// Where the join runs; where the configuration says, if none.
    pub(crate) engine: Option<EngineKind>,
    /// Keep the manifest under this name.
    pub(crate) save_as: Option<String>,
    pub(crate) author: String,
}

/// A dataset in memory.
#[derive(Debug)]
pub(crate) struct Dataset {
    pub(crate) commit: CommitId,
    pub(crate) joined: Joined,
    pub(crate) rows: u64,
    pub(crate) digest: ContentDigest,
    /// All that it takes to make it again; it has no name where it was not kept.
    pub(crate) manifest: DatasetManifest,
}

impl DatasetRequest {
    /// Whose knowledge counts, as the wire spells it; empty for the spine's.
    pub(crate) fn knowledge(text: &str) -> Result<Knowledge> {
        if text.is_empty() { Ok(Knowledge::Spine) } else { Ok(text.parse::<Knowledge>()?) }
    }

    /// Where the join runs, as the wire spells it; empty for where the configuration says.
    pub(crate) fn engine(text: &str) -> Result<Option<EngineKind>> {
        if text.is_empty() { Ok(None) } else { Ok(Some(text.parse::<EngineKind>()?)) }
    }

    /// The spine's time column; the default where the caller names none.
    pub(crate) fn time_column(text: &str) -> String {
        if text.is_empty() { Spine::DEFAULT_TIME_COLUMN.to_owned() } else { text.to_owned() }
    }
}

impl Scope {
    /// Joins a spine with features as of the commit that the scope's ref names now.
    pub(crate) async fn dataset(&self, request: DatasetRequest, schema: SchemaRef, spine: Vec<RecordBatch>) -> Result<Dataset> {
        if let Some(name) = &request.save_as {
            // Refused before the work, not after it.
            DatasetManifest::path(name)?;
            self.branch().await?;
        }
        let (commit, definitions) = self.definitions().await?;
        let DatasetRequest { selection, options, time_column, .. } = &request;
        let (time_column, chosen, options, at) = (time_column.clone(), selection.clone(), *options, Arc::clone(&definitions));
        let plan = blocking(move || Ok(JoinPlan::new(Spine::new(schema, spine, &time_column)?, &chosen, &at, options)?)).await?;
        let plan = Arc::new(plan);
        let (selection, definitions_at) = (request.selection.clone(), Arc::clone(&definitions));
        let asked = JoinRequest { commit, plan: Arc::clone(&plan), selection, definitions: definitions_at, options: request.options };
        let kind = request.engine.unwrap_or(self.app.config().engine.kind);
        let joined = self.app.engine().join(kind, &self.repo.offline, asked).await?;
        let (digest, joined) = blocking(move || Ok((content_digest(&joined.schema, &joined.batches)?, joined))).await?;
        let rows = joined.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let spine = Arc::clone(&plan);
        let spine_digest = blocking(move || Ok(content_digest(spine.spine().schema(), spine.spine().batches())?)).await?;
        let column = |(name, data_type): (&str, _)| DatasetColumn { name: name.to_owned(), data_type };
        let manifest = DatasetManifest {
            name: request.save_as.clone().unwrap_or_default(),
            commit: CommitName::new(commit.to_string())?,
            definitions: definitions.digest(),
            spine_digest,
            time_column: request.time_column.clone(),
            selection: request.selection.clone().into(),
            options: request.options,
            columns: ContentHasher::new(&joined.schema)?.columns().map(column).collect(),
            rows,
            content_digest: digest,
            created: self.app.clock().now(),
        };
        if request.save_as.is_some() {
            self.save(&request.author, &manifest).await?;
        }
        Ok(Dataset { commit, joined, rows, digest, manifest })
    }

    /// Keeps a manifest under its name, in a commit of its own.
    async fn save(&self, author: &str, manifest: &DatasetManifest) -> Result<()> {
        let (path, branch) = (DatasetManifest::path(&manifest.name)?, self.branch().await?);
        let mut writer = self.repo.versions.object_writer(&path, CONTENT_TYPE)?;
        writer.write(&manifest.to_bytes()).await?;
        let put = ObjectChange::Put { path, entry: writer.finish().await?, condition: ObjectCondition::Any };
        let commit = ObjectCommit::new(Self::author(author), format!("keep dataset {}", manifest.name), vec![put]);
        self.repo.versions.commit_objects(&branch.name, commit).await?;
        Ok(())
    }

    /// The manifests kept at the scope's ref, by name.
    pub(crate) async fn datasets(&self) -> Result<Vec<DatasetManifest>> {
        let map = self.repo.versions.at(&self.resolve().await?.commit).await?;
        let objects = self.repo.objects(&map, FOLDER).await?;
        objects.iter().map(|(_, bytes)| Ok(DatasetManifest::from_bytes(bytes)?)).collect()
    }

    /// The manifest of a name.
    pub(crate) async fn described_dataset(&self, name: &str) -> Result<DatasetManifest> {
        let map = self.repo.versions.at(&self.resolve().await?.commit).await?;
        match self.repo.object(&map, &DatasetManifest::path(name)?).await? {
            Some(bytes) => Ok(DatasetManifest::from_bytes(&bytes)?),
            None => Err(Error::Missing(format!("no dataset {name:?} at {:?}: `anabranch dataset list` shows those there are", self.reference))),
        }
    }
}

/// Runs what takes long on a thread that may be held up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "work on a blocking thread panicked");
        Error::Panicked
    })?
}

impl Dataset {
    /// What the dataset is and how to tell that it is the same: the last message of an answer.
    pub(crate) fn footer(&self) -> serde_json::Value {
        let manifest = serde_json::from_slice::<serde_json::Value>(&self.manifest.to_bytes()).unwrap_or_default();
        serde_json::json!({
            "commit": self.commit.to_string(),
            "rows": self.rows,
            "content_digest": self.digest.to_string(),
            "manifest": manifest,
        })
    }
}
