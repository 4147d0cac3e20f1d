//! Where the rows of a spine come from: the caller, or the tables at the commit.

use anabranch_core::definition::Definitions;
use anabranch_offline_store::dataset::SpineSource;
use anabranch_offline_store::join::{Spool, Spooled};
use anabranch_versioning::CommitId;
use arrow::datatypes::SchemaRef;

use super::Scope;
use crate::app::App;
use crate::error::Result;

/// A spine as it is asked for.
#[derive(Debug)]
pub(crate) enum SpineRows {
    /// The caller's rows, and the file that they are out of where there is one.
    Given { rows: Spooled, file: Option<String> },
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

impl App {
    /// Takes the rows of a spine as they come.
    pub(crate) fn spine_spool(&self, schema: SchemaRef) -> Spool {
        self.engine().spool(schema, self.config().limits.spine_bytes)
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
    ) -> Result<(Spooled, SpineSource)> {
        let (engine, store, most) = (self.app.engine(), &self.repo.offline, self.app.config().limits.spine_bytes);
        match spine {
            SpineRows::Given { rows, file } => Ok((rows, file.map_or(SpineSource::Table, SpineSource::File))),
            SpineRows::Sql(query) => {
                let rows = engine.query_spine(*commit, store, &query, time_column, most).await?;
                Ok((rows, SpineSource::Sql(query)))
            }
            SpineRows::Events(view) => {
                let layout = definitions.layout(&view)?;
                let rows = engine.events_spine(commit, store, &layout, time_column, most).await?;
                Ok((rows, SpineSource::Events(view)))
            }
        }
    }
}
