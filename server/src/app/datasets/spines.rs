//! Where the rows of a spine come from: the caller, or the tables at the commit.

use anabranch_core::definition::Definitions;
use anabranch_offline_store::dataset::{SpineSource, rows_in_order, view_events};
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;

use super::{Scope, blocking, columns_of};
use crate::error::{Error, Result};

/// A spine as it is asked for.
#[derive(Debug)]
pub(crate) enum SpineRows {
    /// The caller's rows, and the file that they are out of where there is one.
    Given { schema: SchemaRef, batches: Vec<RecordBatch>, file: Option<String> },
    /// The rows of a query over the tables.
    Sql(String),
    /// Every event of this view.
    Events(String),
}

impl SpineRows {
    /// The spine that a manifest speaks of, where it is a function of the commit.
    pub(super) fn derived(source: &SpineSource) -> Option<Self> {
        match source {
            SpineSource::Sql(query) => Some(Self::Sql(query.clone())),
            SpineSource::Events(view) => Some(Self::Events(view.clone())),
            SpineSource::Table | SpineSource::File(_) => None,
        }
    }
}

impl Scope {
    /// The rows of a spine at a commit, and what the manifest says of it.
    pub(super) async fn spine(
        &self,
        commit: &CommitId,
        definitions: &Definitions,
        spine: SpineRows,
        time_column: &str,
    ) -> Result<(SchemaRef, Vec<RecordBatch>, SpineSource)> {
        match spine {
            SpineRows::Given { schema, batches, file } => Ok((schema, batches, file.map_or(SpineSource::Table, SpineSource::File))),
            SpineRows::Sql(query) => {
                let (schema, mut rows) = self.app.engine().query(*commit, &self.repo.offline, &query).await?;
                let (mut batches, mut bytes, limit) = (Vec::new(), 0, self.app.config().limits.spine_bytes);
                while let Some(batch) = rows.try_next().await? {
                    bytes += batch.get_array_memory_size() as u64;
                    if bytes > limit {
                        return Err(Error::TooLarge { what: "the spine".to_owned(), limit });
                    }
                    batches.push(batch);
                }
                let (columns, time_column) = (columns_of(&schema)?, time_column.to_owned());
                let (schema, batches) = blocking(move || Ok(rows_in_order(&columns, batches, &time_column)?)).await?;
                Ok((schema, batches, SpineSource::Sql(query)))
            }
            SpineRows::Events(view) => {
                let layout = definitions.layout(&view)?;
                let (schema, batches) = view_events(&self.repo.offline, commit, &layout, time_column).await?;
                Ok((schema, batches, SpineSource::Events(view)))
            }
        }
    }
}
