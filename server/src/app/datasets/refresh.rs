//! Refreshing a dataset at a later commit: only the rows that can have changed are joined again.
//!
//! The earlier rows and the spine are put aside as they are read, and so is the outcome: in memory as far as the engine has room, else on disk.

use std::sync::Arc;

use anabranch_core::definition::Definitions;
use anabranch_core::selection::Selection;
use anabranch_offline_store::batches::GroupReader;
use anabranch_offline_store::dataset::refresh::{Changed, SelectedAt, Sources, assemble, changed_rows};
use anabranch_offline_store::dataset::{DatasetBase, DatasetManifest, SpineSource, SplitSpec, canonical_schema, columns_of};
use anabranch_offline_store::join::{Joined, Spine, Spool, Spooled};
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};

use super::{Dataset, DatasetRequest, Making, Scope, SpineRows, blocking};
use crate::error::Result;

/// What is to be refreshed, and the name that it gets.
#[derive(Debug)]
pub(crate) struct RefreshRequest {
    pub(crate) name: String,
    /// Where it is found.
    pub(crate) from_ref: String,
    pub(crate) save_as: String,
    pub(crate) author: String,
}

impl Scope {
    /// Saves a dataset as it is at the commit that the scope's ref names now.
    pub(crate) async fn refresh_dataset(&self, wanted: RefreshRequest) -> Result<Dataset> {
        DatasetManifest::path(&wanted.save_as)?;
        self.branch().await?;
        let from_ref = if wanted.from_ref.is_empty() { &self.reference } else { &wanted.from_ref };
        let (found_at, manifest) = self.found_dataset(&wanted.name, from_ref).await?;
        let earlier = self.earlier(found_at, &manifest).await?;
        let request = DatasetRequest {
            selection: Selection::from(manifest.selection.clone()),
            options: manifest.options,
            time_column: manifest.time_column.clone(),
            engine: None,
            save_as: Some(wanted.save_as),
            splits: manifest.splits.as_ref().map(SplitSpec::from),
            author: wanted.author,
        };
        let (commit, definitions) = self.definitions().await?;
        let mut making = self.spine_again(&manifest, commit, definitions, &earlier).await?;
        let sources = self.sources(&manifest, &making, &request, &earlier).await?;
        let (joined, base) = match sources {
            Err(reason) => {
                let recomputed = making.spine.rows() as u64;
                drop(earlier);
                (self.joined(&making, &request).await?, self::base(&manifest, recomputed, Some(reason)))
            }
            Ok(sources) => {
                let recomputed = sources.joined();
                (self.joined_partly(&making, &request, earlier, sources).await?, self::base(&manifest, recomputed, None))
            }
        };
        making.base = Some(base);
        self.made(making, request, joined).await
    }

    /// All rows of a saved dataset, put aside.
    async fn earlier(&self, found_at: CommitId, manifest: &DatasetManifest) -> Result<Spooled> {
        let reader = GroupReader::new(Arc::clone(&self.repo.versions), found_at, manifest)?;
        let schema = canonical_schema(&manifest.columns);
        let mut spool = self.aside(Arc::clone(&schema));
        let mut groups = reader.stream(0..reader.groups(), (0..manifest.columns.len()).collect()).boxed();
        while let Some(group) = groups.try_next().await? {
            let group = RecordBatch::try_new(Arc::clone(&schema), group.columns().to_vec()).map_err(anabranch_offline_store::Error::from)?;
            spool = spool.take(group).await?;
        }
        Ok(spool.finish()?)
    }

    /// Takes rows whose number was limited before.
    fn aside(&self, schema: SchemaRef) -> Spool {
        self.app.engine().spool(schema, u64::MAX)
    }

    /// The spine at the new commit, in canonical form: made anew where it is a function of the commit, else that of the earlier rows.
    async fn spine_again(&self, manifest: &DatasetManifest, commit: CommitId, definitions: Arc<Definitions>, earlier: &Spooled) -> Result<Making> {
        let rows = match SpineRows::derived(&manifest.spine) {
            Some(derived) => self.spine(&commit, &definitions, derived, &manifest.time_column).await?.0,
            None => {
                let places: Vec<usize> = (0..manifest.spine_columns.min(manifest.columns.len())).collect();
                let mut spool = self.aside(canonical_schema(&manifest.columns[..places.len()]));
                let mut batches = earlier.stream(Some(&places));
                while let Some(batch) = batches.try_next().await? {
                    spool = spool.take(batch).await?;
                }
                spool.finish()?
            }
        };
        let time_column = manifest.time_column.clone();
        let spine = blocking(move || Ok(Spine::spooled(rows, &time_column)?)).await?;
        Ok(Making { commit, definitions, spine, source: manifest.spine.clone(), base: None })
    }

    /// Where each row comes from, or why all must be joined.
    async fn sources(
        &self,
        manifest: &DatasetManifest,
        making: &Making,
        request: &DatasetRequest,
        earlier: &Spooled,
    ) -> Result<Result<Sources, String>> {
        let from: CommitId = manifest.commit.as_str().parse()?;
        let names = making.spine.column_names();
        let resolve = |definitions: &Definitions| request.selection.resolve(definitions, &names, request.options.full_names);
        let now = resolve(&making.definitions)?;
        // A selection that could not be resolved before is another one, whatever the reason.
        let Ok(then) = resolve(&*self.repo.definitions(&from).await?) else { return Ok(Err("other views are joined than before".to_owned())) };
        let columns = columns_of(making.spine.schema())?;
        if columns.as_slice() != &manifest.columns[..manifest.spine_columns.min(manifest.columns.len())] {
            return Ok(Err("the spine has other columns than before".to_owned()));
        }
        let (from, to) = (SelectedAt { commit: &from, views: &then }, SelectedAt { commit: &making.commit, views: &now });
        let (at_once, held) = self.app.engine().rows_at_once(making.spine.rows());
        let marks = match changed_rows(&self.repo.offline, from, to, &making.spine, request.options, at_once).await? {
            Changed::All(reason) => return Ok(Err(reason)),
            Changed::Rows(marks) => marks,
        };
        drop(held);
        let (spine, earlier, source) = (making.spine.clone(), earlier.clone(), manifest.spine.clone());
        blocking(move || {
            Ok(Ok(match source {
                SpineSource::Sql(_) => Sources::of_derived(&columns, &earlier, &spine, &marks, true)?,
                SpineSource::Events(_) => Sources::of_derived(&columns, &earlier, &spine, &marks, false)?,
                SpineSource::Table | SpineSource::File(_) => Sources::of_same(&marks),
            }))
        })
        .await
    }

    /// Joins the rows that must be, and puts the earlier ones beside them.
    async fn joined_partly(&self, making: &Making, request: &DatasetRequest, earlier: Spooled, sources: Sources) -> Result<Joined> {
        let (spine, spool) = (making.spine.clone(), self.aside(Arc::clone(making.spine.schema())));
        let (sources, changed) = blocking(move || {
            let changed = Spine::spooled(sources.to_join(&spine, spool)?, spine.time_column())?;
            Ok((sources, changed))
        })
        .await?;
        let (commit, definitions, source) = (making.commit, Arc::clone(&making.definitions), making.source.clone());
        let part = Making { commit, definitions, spine: changed, source, base: None };
        let mut joined = self.joined(&part, request).await?;
        let spool = self.aside(Arc::clone(&joined.schema));
        blocking(move || {
            joined.rows = assemble(&earlier, &joined.rows, &sources, spool)?.into();
            Ok(joined)
        })
        .await
    }
}

fn base(manifest: &DatasetManifest, recomputed: u64, reason: Option<String>) -> DatasetBase {
    DatasetBase { name: manifest.name.clone(), content_digest: manifest.content_digest, recomputed, reason }
}
