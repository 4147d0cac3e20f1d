//! One query over the tables of a commit.

use std::sync::Arc;

use anabranch_versioning::CommitId;
use arrow::datatypes::SchemaRef;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};

use super::Engine;
use super::catalog::{self, CommitCatalog};
use super::error::of_query;
use crate::{BatchStream, Error, OfflineStore, Result};

impl Engine {
    /// Runs a query over the feature views at a commit, and gives its rows as they come; dropping them stops it. Rows are in no order but the one that
    /// the query asks for.
    ///
    /// # Errors
    /// [`Error::Query`] where it does not parse, names what is not there or is no query; in the rows, where a value fits no type, and as
    /// [`OfflineStore::scan`]. [`Error::Limit`] where it needs more memory than there is and cannot spill.
    pub async fn query(&self, commit: CommitId, store: &Arc<OfflineStore>, sql: &str) -> Result<(SchemaRef, BatchStream)> {
        let session = self.session(CommitCatalog::new(commit, store).await?);
        let only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = session.sql_with_options(sql, only).await.map_err(of_query)?;
        if matches!(frame.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_)) {
            return Err(Error::Query { reason: "EXPLAIN and DESCRIBE are not supported: write one SELECT".to_owned() });
        }
        let batches = frame.execute_stream().await.map_err(of_query)?;
        Ok((batches.schema(), batches.map_err(of_query).boxed()))
    }

    fn session(&self, catalog: CommitCatalog) -> SessionContext {
        let mut config =
            SessionConfig::new().with_default_catalog_and_schema(catalog::NAME, catalog::SCHEMA).with_create_default_catalog_and_schema(false);
        config.options_mut().sql_parser.enable_ident_normalization = false;
        // Text comes out as tables hold it.
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let session = SessionContext::new_with_config_rt(config, Arc::clone(&self.runtime));
        session.register_catalog(catalog::NAME, Arc::new(catalog));
        session
    }
}
