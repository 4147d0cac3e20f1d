//! Point-in-time datasets: joined at one commit, digested over their values, and saved with their rows under a name where asked.
//!
//! A name is for ever: saving another dataset under it is a conflict, saving the same again changes nothing. What is saved is one commit: the parts of the
//! rows (unless another dataset of that content has them already) and the manifest that names them.

mod diff;
mod refresh;
mod save;
mod spines;

use std::sync::Arc;

use anabranch_core::definition::Definitions;
use anabranch_core::selection::Selection;
use anabranch_offline_store::dataset::{
    CommitName, ContentDigest, DatasetBase, DatasetManifest, DatasetRows, SpineSource, SplitSpec, columns_of, digest_of_rows,
};
use anabranch_offline_store::engine::{EngineKind, JoinRequest};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Joined, JoinedRows, Knowledge, Spine};
use anabranch_versioning::CommitId;
use arrow::datatypes::SchemaRef;

use super::Scope;
use crate::error::{Error, Result};

pub(crate) use refresh::RefreshRequest;
pub(crate) use spines::SpineRows;

pub(super) const FOLDER: &str = "datasets/";

/// What a dataset is asked for by.
#[derive(Debug, Clone)]
pub(crate) struct DatasetRequest {
    pub(crate) selection: Selection,
    pub(crate) options: JoinOptions,
    pub(crate) time_column: String,
    /// Where the join runs; where the configuration says, if none.
    pub(crate) engine: Option<EngineKind>,
    /// Save it under this name.
    pub(crate) save_as: Option<String>,
    /// Into these splits, where it is saved.
    pub(crate) splits: Option<SplitSpec>,
    pub(crate) author: String,
}

/// A dataset: its rows in memory or on disk.
#[derive(Debug)]
pub(crate) struct Dataset {
    pub(crate) commit: CommitId,
    pub(crate) joined: Joined,
    pub(crate) rows: u64,
    pub(crate) digest: ContentDigest,
    /// All that it takes to make it again; it has no name where it was not saved.
    pub(crate) manifest: DatasetManifest,
}

/// A commit with its definitions, and the spine that is joined there.
struct Making {
    commit: CommitId,
    definitions: Arc<Definitions>,
    spine: Spine,
    source: SpineSource,
    base: Option<DatasetBase>,
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

    /// Splits as the wire has them; empty for none.
    pub(crate) fn splits(text: &str, columns: Vec<String>, seed: u64) -> Result<Option<SplitSpec>> {
        if text.is_empty() {
            let asked = !columns.is_empty() || seed != 0;
            return if asked {
                Err(Error::argument("splits", "there are none to be made of these columns: say train=0.8,test=0.2"))
            } else {
                Ok(None)
            };
        }
        Ok(Some(SplitSpec::parse(text, columns, seed)?))
    }
}

impl Scope {
    /// Joins a spine with features as of the commit that the scope's ref names now.
    pub(crate) async fn dataset(&self, request: DatasetRequest, spine: SpineRows) -> Result<Dataset> {
        if let Some(name) = &request.save_as {
            // Refused before the work, not after it.
            DatasetManifest::path(name)?;
            self.branch().await?;
        } else if request.splits.is_some() {
            return Err(Error::argument("splits", "they belong to a dataset that is saved: give it a name"));
        }
        let (commit, definitions) = self.definitions().await?;
        let (rows, source) = self.spine(&commit, &definitions, spine, &request.time_column).await?;
        let time_column = request.time_column.clone();
        let spine = blocking(move || Ok(Spine::spooled(rows, &time_column)?)).await?;
        let making = Making { commit, definitions, spine, source, base: None };
        let joined = self.joined(&making, &request).await?;
        self.made(making, request, joined).await
    }

    async fn joined(&self, making: &Making, request: &DatasetRequest) -> Result<Joined> {
        let (spine, chosen, options, at) = (making.spine.clone(), request.selection.clone(), request.options, Arc::clone(&making.definitions));
        let plan = Arc::new(blocking(move || Ok(JoinPlan::new(spine, &chosen, &at, options)?)).await?);
        let (selection, definitions) = (request.selection.clone(), Arc::clone(&making.definitions));
        let asked = JoinRequest { commit: making.commit, plan, selection, definitions, options };
        let kind = request.engine.unwrap_or(self.app.config().engine.kind);
        Ok(self.app.engine().join(kind, &self.repo.offline, asked).await?)
    }

    /// Describes what was joined, and saves it where asked.
    async fn made(&self, making: Making, request: DatasetRequest, joined: Joined) -> Result<Dataset> {
        // What is counted and written of the rows ends with the request.
        let ((all, _counting), (of_spine, _hashing)) = (joined.rows.watched(), making.spine.all().watched());
        let (rows, schema) = (all.clone(), Arc::clone(&joined.schema));
        let digest = blocking(move || Ok(digest_of_rows(&schema, &rows)?)).await?;
        let schema = Arc::clone(making.spine.schema());
        let spine_digest = blocking(move || Ok(digest_of_rows(&schema, &of_spine)?)).await?;
        let rows = joined.rows.len() as u64;
        let mut manifest = DatasetManifest {
            name: request.save_as.clone().unwrap_or_default(),
            commit: CommitName::new(making.commit.to_string())?,
            definitions: making.definitions.digest(),
            spine_digest,
            time_column: request.time_column.clone(),
            selection: request.selection.clone().into(),
            options: request.options,
            columns: columns_of(&joined.schema)?,
            rows,
            content_digest: digest,
            created: self.app.clock().now(),
            spine: making.source,
            spine_columns: making.spine.schema().fields().len(),
            parts: Vec::new(),
            splits: None,
            statistics: Vec::new(),
            base: making.base,
        };
        if request.save_as.is_some() {
            let rule = request.splits.as_ref().map(|spec| self::splits(spec, &request, &making.definitions, &making.spine)).transpose()?;
            manifest = self.save(&request, manifest, rule, &all).await?;
        }
        Ok(Dataset { commit: making.commit, joined, rows, digest, manifest })
    }

    /// The manifests kept at the scope's ref, by name.
    pub(crate) async fn datasets(&self) -> Result<Vec<DatasetManifest>> {
        self.manifests(&self.resolve().await?.commit).await
    }

    async fn manifests(&self, commit: &CommitId) -> Result<Vec<DatasetManifest>> {
        let objects = self.repo.objects(&self.repo.versions.at(commit).await?, FOLDER).await?;
        objects.iter().map(|(_, bytes)| Ok(DatasetManifest::from_bytes(bytes)?)).collect()
    }

    /// The manifest of a name.
    pub(crate) async fn described_dataset(&self, name: &str) -> Result<DatasetManifest> {
        Ok(self.found_dataset(name, &self.reference).await?.1)
    }

    /// The manifest of a name at a ref, and the commit where it was found.
    async fn found_dataset(&self, name: &str, reference: &str) -> Result<(CommitId, DatasetManifest)> {
        let commit = self.resolve_ref(reference).await?.commit;
        let map = self.repo.versions.at(&commit).await?;
        match self.repo.object(&map, &DatasetManifest::path(name)?).await? {
            Some(bytes) => Ok((commit, DatasetManifest::from_bytes(&bytes)?)),
            None => Err(Error::Missing(format!("no dataset {name:?} at {reference:?}: `anabranch dataset list` shows those there are"))),
        }
    }

    /// The rows of a saved dataset, or of one of its splits.
    pub(crate) async fn dataset_rows(&self, name: &str, split: &str) -> Result<(DatasetManifest, DatasetRows)> {
        let (commit, manifest) = self.found_dataset(name, &self.reference).await?;
        let rows = DatasetRows::new(Arc::clone(&self.repo.versions), commit, &manifest)?;
        let rows = if split.is_empty() { rows } else { rows.of_split(&manifest, split)? };
        Ok((manifest, rows))
    }
}

/// The rule of the splits that were asked for; without columns of their own they are by the join keys, in the order of the spine.
fn splits(
    spec: &SplitSpec,
    request: &DatasetRequest,
    definitions: &Definitions,
    spine: &Spine,
) -> Result<anabranch_offline_store::dataset::SplitRule> {
    let names = spine.column_names();
    let views = request.selection.resolve(definitions, &names, request.options.full_names)?;
    let is_key = |name: &&String| views.iter().any(|view| view.key_columns.contains(*name));
    let keys: Vec<String> = names.iter().filter(is_key).cloned().collect();
    Ok(spec.rule(&names, &keys, &request.time_column)?)
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
            "report": self.joined.report,
        })
    }

    /// The rows, with their schema.
    pub(crate) fn into_rows(self) -> (SchemaRef, JoinedRows) {
        (self.joined.schema, self.joined.rows)
    }
}
