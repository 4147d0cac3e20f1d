//! Where the rows of a spine come from: the caller, or the tables at the commit.

use anabranch_core::definition::Definitions;
use anabranch_offline_store::dataset::{SpineSource, view_events};
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::Scope;
use crate::error::Result;

/// A spine as it is asked for.
#[derive(Debug)]
pub(crate) enum SpineRows {
    /// The caller's rows, and the file that they are out of where there is one.
    Given { schema: SchemaRef, batches: Vec<RecordBatch>, file: Option<String> },
    /// Every event of this view.
    Events(String),
}

impl SpineRows {
    /// The spine that a manifest speaks of, where it is a function of the commit.
    pub(super) fn derived(source: &SpineSource) -> Option<Self> {
        match source {
            SpineSource::Events(view) => Some(Self::Events(view.clone())),
            _ => None,
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
            SpineRows::Events(view) => {
                let layout = definitions.layout(&view)?;
                let (schema, batches) = view_events(&self.repo.offline, commit, &layout, time_column).await?;
                Ok((schema, batches, SpineSource::Events(view)))
            }
        }
    }
}
