//! `dataset`: point-in-time datasets, and those that were saved.

use std::path::PathBuf;

use anabranch_client::{Client, HistoricalQuery};
use clap::{Args, Subcommand};
use serde_json::json;

use super::online::FeatureArgs;
use crate::error::Error;
use crate::files;
use crate::output::Output;

/// Builds point-in-time datasets, and lists those that were saved.
#[derive(Debug, Args)]
pub(crate) struct Dataset {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join features to a spine, each row as of its own time
    Get(Get),
    /// List the datasets that were saved
    List,
    /// Show what it takes to make a saved dataset again
    Describe {
        /// The name that it was saved under
        name: String,
    },
}

#[derive(Debug, Args)]
struct Get {
    /// The rows to join to, with key columns and a time: Parquet, CSV or JSON lines
    #[arg(long, value_name = "FILE")]
    spine: PathBuf,
    #[command(flatten)]
    features: FeatureArgs,
    /// Where to write the dataset: .parquet, .csv or .jsonl [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The spine's time column
    #[arg(long, value_name = "COLUMN", default_value = "event_timestamp")]
    time_column: String,
    /// What counts as known: spine (at each row's time), any, or a time
    #[arg(long, value_name = "WHEN", default_value = "spine")]
    knowledge: String,
    /// Take only what was true before a row's time, not at it
    #[arg(long)]
    strict: bool,
    /// Name every feature column view__feature
    #[arg(long)]
    full_names: bool,
    /// The token of a push that must be in a commit first
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    at_least: String,
    /// Keep what it takes to make the dataset again, under a name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    save_as: String,
    /// Where to join: datafusion (in the server) or ballista (on its cluster) [default: as the server is configured]
    #[arg(long, value_name = "ENGINE", default_value = "", hide_default_value = true)]
    engine: String,
}

pub(crate) async fn dataset(client: &Client, dataset: Dataset, output: &mut Output) -> Result<(), Error> {
    match dataset.verb {
        Verb::Get(get) => build(client, get, output).await,
        Verb::List => {
            let saved = client.list_datasets().await?;
            let rows: Vec<_> = saved.iter().map(|saved| vec![saved.name.clone()]).collect();
            output.value(&saved, |output| output.table(&["name"], &rows))
        }
        Verb::Describe { name } => {
            let saved = client.describe_dataset(&name).await?;
            let text = serde_json::to_string_pretty(&saved.manifest).unwrap_or_default();
            output.value(&saved, |output| output.line(&text))
        }
    }
}

async fn build(client: &Client, get: Get, output: &mut Output) -> Result<(), Error> {
    // An ending that tells no format is better told before the work than after it.
    get.output.as_deref().map(files::format_of).transpose()?;
    let query = HistoricalQuery {
        full_names: get.full_names,
        time_column: get.time_column,
        knowledge: get.knowledge,
        strict: get.strict,
        at_least: get.at_least,
        save_as: get.save_as,
        engine: get.engine,
        ..HistoricalQuery::new(get.features.selection())
    };
    let dataset = client.get_historical_features(&query, files::read(&get.spine)?).await?;
    let summary = format!("{} rows from commit {}, content digest {}", dataset.table.rows(), dataset.commit, dataset.content_digest);
    let Some(path) = get.output else {
        output.note(&summary);
        if output.is_json() {
            return output.bytes(&files::json_lines(&dataset.table)?);
        }
        let headers: Vec<_> = dataset.table.schema.fields().iter().map(|field| field.name().as_str()).collect();
        return output.table(&headers, &files::cells(&dataset.table)?);
    };
    files::write(&path, &dataset.table)?;
    let reply = json!({
        "output": path.display().to_string(),
        "rows": dataset.table.rows(),
        "commit": dataset.commit,
        "content_digest": dataset.content_digest,
        "manifest": dataset.manifest,
    });
    output.value(&reply, |output| output.line(&format!("{}: {summary}", path.display())))
}
