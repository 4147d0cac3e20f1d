//! `compact` and `table`.

use std::path::PathBuf;

use anabranch_client::{Client, CompactedTable};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, short};

/// Rewrites the small files of tables as fewer and larger, sorted ones. No row changes, commits of before keep their files, and rows may be written
/// meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Compact {
    /// The views [default: all]
    #[arg(value_name = "VIEW")]
    views: Vec<String>,
    /// The branch [default: that of --ref]
    #[arg(long, value_name = "BRANCH", default_value = "", hide_default_value = true)]
    branch: String,
    /// Rewrite large files, too, so that no two of a partition hold the same entities
    #[arg(long)]
    full: bool,
}

/// Shows where a view's table lies at a ref: as Parquet files, or as Iceberg metadata.
#[derive(Debug, Args)]
pub(crate) struct Table {
    #[command(subcommand)]
    verb: TableVerb,
}

#[derive(Debug, Subcommand)]
enum TableVerb {
    /// List the Parquet files that hold a view's rows, each row once
    Files {
        /// The view
        view: String,
    },
    /// Write Iceberg metadata that PyIceberg, Spark and others load as a table of that moment
    Metadata {
        /// The view
        view: String,
        /// The file to write, such as spend.metadata.json
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

pub(crate) async fn compact(client: &Client, compact: Compact, output: &mut Output) -> Result<(), Error> {
    let tables = client.compact(&compact.branch, &compact.views, compact.full).await?;
    let name =
        |table: &CompactedTable| if table.namespace == "features" { table.name.clone() } else { format!("{}.{}", table.namespace, table.name) };
    let row = |table: &CompactedTable| {
        let outcome = if table.reason.is_empty() { table.outcome.clone() } else { format!("{}: {}", table.outcome, table.reason) };
        let commit = table.commits.last().map(|commit| short(commit)).unwrap_or_default();
        let numbers = [table.files_before, table.files_after, table.bytes_before, table.bytes_after, table.rows].map(|number| number.to_string());
        [vec![name(table), outcome], numbers.to_vec(), vec![commit]].concat()
    };
    let rows: Vec<_> = tables.iter().map(row).collect();
    let headers = ["table", "outcome", "files", "now", "bytes", "now", "rows rewritten", "commit"];
    output.value(&tables, |output| output.table(&headers, &rows))
}

pub(crate) async fn table(client: &Client, table: Table, output: &mut Output) -> Result<(), Error> {
    match table.verb {
        TableVerb::Files { view } => {
            let found = client.table_files(&view).await?;
            let rows: Vec<_> = found.files.iter().map(|file| vec![file.location.clone(), file.rows.to_string(), file.bytes.to_string()]).collect();
            output.value(&found, |output| output.table(&["file", "rows", "bytes"], &rows))
        }
        TableVerb::Metadata { view, output: out } => {
            let found = client.table_metadata(&view).await?;
            std::fs::write(&out, &found.metadata).map_err(|error| Error::file(&out, error))?;
            let json = json!({"commit": found.commit, "file": out.display().to_string(), "bytes": found.metadata.len()});
            output.value(&json, |output| output.line(&format!("{} holds the table of {view} at {}", out.display(), short(&found.commit))))
        }
    }
}
