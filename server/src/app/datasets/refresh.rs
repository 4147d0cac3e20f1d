//! Refreshing a dataset at a later commit: only the rows that can have changed are joined again.

use std::sync::Arc;

use anabranch_core::selection::Selection;
use anabranch_offline_store::dataset::refresh::{Changed, RowSource, SelectedAt, assemble, changed_rows, earlier_rows};
use anabranch_offline_store::dataset::{DatasetBase, DatasetManifest, DatasetRows, SplitSpec, canonical_rows};
use anabranch_offline_store::join::{Joined, Spine};
use anabranch_versioning::CommitId;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use futures::TryStreamExt;

use super::{Dataset, DatasetRequest, Making, Scope, SpineRows, blocking, columns_of};
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
        let rows = DatasetRows::new(Arc::clone(&self.repo.versions), found_at, &manifest)?;
        let earlier: Vec<RecordBatch> = rows.stream(None).try_collect().await?;
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
                (self.joined(&making, &request).await?, self::base(&manifest, recomputed, Some(reason)))
            }
            Ok(sources) => {
                let recomputed = sources.iter().filter(|source| **source == RowSource::Joined).count() as u64;
                (self.joined_partly(&making, &request, earlier, sources).await?, self::base(&manifest, recomputed, None))
            }
        };
        making.base = Some(base);
        self.made(making, request, joined).await
    }

    /// The spine at the new commit, in canonical form: made anew where it is a function of the commit, else that of the earlier rows.
    async fn spine_again(
        &self,
        manifest: &DatasetManifest,
        commit: CommitId,
        definitions: Arc<anabranch_core::definition::Definitions>,
        earlier: &[RecordBatch],
    ) -> Result<Making> {
        let (columns, batches) = match SpineRows::derived(&manifest.spine) {
            Some(derived) => {
                let (schema, batches, _) = self.spine(&commit, &definitions, derived, &manifest.time_column).await?;
                (columns_of(&schema)?, batches)
            }
            None => {
                let places: Vec<usize> = (0..manifest.spine_columns).collect();
                let batches =
                    earlier.iter().map(|batch| batch.project(&places)).collect::<Result<_, _>>().map_err(anabranch_offline_store::Error::from)?;
                (manifest.columns.iter().take(manifest.spine_columns).cloned().collect(), batches)
            }
        };
        let time_column = manifest.time_column.clone();
        let spine = blocking(move || {
            let (schema, batches) = canonical_rows(&columns, batches)?;
            Ok(Spine::new(schema, batches, &time_column)?)
        });
        Ok(Making { commit, definitions, spine: spine.await?, source: manifest.spine.clone(), base: None })
    }

    /// Where each row comes from, or why all must be joined.
    async fn sources(
        &self,
        manifest: &DatasetManifest,
        making: &Making,
        request: &DatasetRequest,
        earlier: &[RecordBatch],
    ) -> Result<Result<Vec<RowSource>, String>> {
        let from: CommitId = manifest.commit.as_str().parse()?;
        let names = making.spine.column_names();
        let resolve =
            |definitions: &anabranch_core::definition::Definitions| request.selection.resolve(definitions, &names, request.options.full_names);
        let now = resolve(&making.definitions)?;
        // A selection that could not be resolved before is another one, whatever the reason.
        let Ok(then) = resolve(&*self.repo.definitions(&from).await?) else { return Ok(Err("other views are joined than before".to_owned())) };
        let columns = columns_of(making.spine.schema())?;
        if columns.as_slice() != &manifest.columns[..manifest.spine_columns.min(manifest.columns.len())] {
            return Ok(Err("the spine has other columns than before".to_owned()));
        }
        let (from, to) = (SelectedAt { commit: &from, views: &then }, SelectedAt { commit: &making.commit, views: &now });
        let marks = match changed_rows(&self.repo.offline, from, to, &making.spine, request.options).await? {
            Changed::All(reason) => return Ok(Err(reason)),
            Changed::Rows(marks) => marks,
        };
        let (spine, earlier, derived) = (making.spine.clone(), earlier.to_vec(), manifest.spine.is_derived());
        blocking(move || {
            let numbers: Vec<Option<u32>> = match derived {
                true => earlier_rows(&columns, &earlier, spine.batches())?,
                false => (0..spine.rows() as u32).map(Some).collect(),
            };
            let source = |(changed, number): (&bool, Option<u32>)| number.filter(|_| !changed).map_or(RowSource::Joined, RowSource::Earlier);
            Ok(Ok(marks.iter().zip(numbers).map(source).collect()))
        })
        .await
    }

    /// Joins the rows that must be, and puts the earlier ones beside them.
    async fn joined_partly(&self, making: &Making, request: &DatasetRequest, earlier: Vec<RecordBatch>, sources: Vec<RowSource>) -> Result<Joined> {
        let (spine, wanted) = (making.spine.clone(), sources.clone());
        let changed = blocking(move || {
            let (mut batches, mut first) = (Vec::new(), 0);
            for batch in spine.batches() {
                let mask: BooleanArray = wanted[first..first + batch.num_rows()].iter().map(|source| Some(*source == RowSource::Joined)).collect();
                batches.push(filter_record_batch(batch, &mask).map_err(anabranch_offline_store::Error::from)?);
                first += batch.num_rows();
            }
            batches.retain(|batch| batch.num_rows() > 0);
            Ok(Spine::new(Arc::clone(spine.schema()), batches, spine.time_column())?)
        });
        let (commit, definitions, source) = (making.commit, Arc::clone(&making.definitions), making.source.clone());
        let part = Making { commit, definitions, spine: changed.await?, source, base: None };
        let mut joined = self.joined(&part, request).await?;
        blocking(move || {
            joined.rows = assemble(&joined.schema, &earlier, &joined.rows.collect()?, &sources)?.into();
            Ok(joined)
        })
        .await
    }
}

fn base(manifest: &DatasetManifest, recomputed: u64, reason: Option<String>) -> DatasetBase {
    DatasetBase { name: manifest.name.clone(), content_digest: manifest.content_digest, recomputed, reason }
}
