//! `dataset`: point-in-time datasets, and those that were saved.

mod show;

use std::path::{Path, PathBuf};

use anabranch_client::{Client, DatasetQuery, HistoricalQuery, ServerSpine, SplitQuery, Table};
use clap::{Args, Subcommand};
use serde_json::json;

use super::online::FeatureArgs;
use crate::error::Error;
use crate::files;
use crate::output::Output;

/// Builds point-in-time datasets, saves them, and shows, compares, refreshes and exports those that were saved.
#[derive(Debug, Args)]
pub(crate) struct Dataset {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join features to a spine, each row as of its own time
    Get(Get),
    /// Join features to a spine and save the dataset, rows and all, under a name for ever
    Create(Create),
    /// List the datasets that were saved
    List,
    /// Show what a saved dataset is: what it was made of, its splits and what its columns are like
    Describe {
        /// The name that it was saved under
        name: String,
    },
    /// Show what differs between two saved datasets, and how far each column's values moved
    Diff(Diff),
    /// Save a dataset as it is at a later commit, joining only the rows that can have changed
    Refresh(Refresh),
    /// Write the rows of a saved dataset to a file, or of each split to a file in a folder
    Export(Export),
}

#[derive(Debug, Args)]
struct Get {
    #[command(flatten)]
    spine: SpineArgs,
    #[command(flatten)]
    features: FeatureArgs,
    #[command(flatten)]
    join: JoinArgs,
    /// Where to write the dataset: .parquet, .csv or .jsonl [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save the dataset, too, under a name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    save_as: String,
}

#[derive(Debug, Args)]
struct Create {
    /// The name that it gets
    name: String,
    #[command(flatten)]
    spine: SpineArgs,
    #[command(flatten)]
    features: FeatureArgs,
    #[command(flatten)]
    join: JoinArgs,
    /// Splits: train=0.8,test=0.2 by a hash of the join keys, or "train<2026-01-01,test" by time
    #[arg(long, value_name = "SPLITS", default_value = "", hide_default_value = true)]
    splits: String,
    /// Columns of the spine that are hashed in place of the join keys
    #[arg(long, value_name = "COLUMN", value_delimiter = ',', requires = "splits")]
    split_by: Vec<String>,
    /// Another number gives other splits
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true, requires = "splits")]
    split_seed: u64,
}

/// Where the rows come from that features are joined to.
#[derive(Debug, Args)]
struct SpineArgs {
    #[command(flatten)]
    source: SpineSource,
    /// The spine's time column
    #[arg(long, value_name = "COLUMN", default_value = "event_timestamp")]
    time_column: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SpineSource {
    /// The rows to join to, with key columns and a time: Parquet, CSV or JSON lines
    #[arg(long, value_name = "FILE")]
    spine: Option<PathBuf>,
    /// Join to every event of a view
    #[arg(long, value_name = "VIEW")]
    spine_view: Option<String>,
}

/// How features are joined.
#[derive(Debug, Args)]
struct JoinArgs {
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
}

#[derive(Debug, Args)]
struct Diff {
    /// The one dataset
    left: String,
    /// The other
    right: String,
    /// Where the one is found, if not at --ref
    #[arg(long, value_name = "REF", default_value = "", hide_default_value = true)]
    left_ref: String,
    /// Where the other is found, if not at --ref
    #[arg(long, value_name = "REF", default_value = "", hide_default_value = true)]
    right_ref: String,
}

#[derive(Debug, Args)]
struct Refresh {
    /// The dataset to begin with
    name: String,
    /// The name of the new one
    #[arg(long = "as", value_name = "NAME")]
    save_as: String,
    /// Where the first one is found, if not at --ref
    #[arg(long, value_name = "REF", default_value = "", hide_default_value = true)]
    from_ref: String,
}

#[derive(Debug, Args)]
struct Export {
    /// The dataset
    name: String,
    /// A file: .parquet, .csv or .jsonl; or a folder, which gets a Parquet file for each split
    #[arg(long, short, value_name = "FILE|FOLDER")]
    output: PathBuf,
    /// Only this split
    #[arg(long, value_name = "SPLIT", default_value = "", hide_default_value = true)]
    split: String,
    /// Only these columns, with commas between or given again
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    columns: Vec<String>,
}

pub(crate) async fn dataset(client: &Client, dataset: Dataset, output: &mut Output) -> Result<(), Error> {
    match dataset.verb {
        Verb::Get(get) => build(client, get, output).await,
        Verb::Create(create) => self::create(client, create, output).await,
        Verb::List => {
            let saved = client.list_datasets().await?;
            output.value(&saved, |output| show::list(&saved, output))
        }
        Verb::Describe { name } => {
            let saved = client.describe_dataset(&name).await?;
            output.value(&saved, |output| show::manifest(&saved, output))
        }
        Verb::Diff(Diff { left, right, left_ref, right_ref }) => {
            let diff = client.diff_datasets(&left, &left_ref, &right, &right_ref).await?;
            output.value(&diff, |output| show::diff(&diff, output))
        }
        Verb::Refresh(Refresh { name, save_as, from_ref }) => {
            let saved = client.refresh_dataset(&name, &save_as, &from_ref).await?;
            output.value(&saved, |output| output.line(&show::refreshed(&saved)))
        }
        Verb::Export(export) => self::export(client, export, output).await,
    }
}

/// A spine as it was asked for.
enum SpineInput<'a> {
    File(&'a Path),
    Server(ServerSpine),
}

impl SpineSource {
    fn input(&self) -> SpineInput<'_> {
        match (&self.spine, &self.spine_view) {
            (Some(file), _) => SpineInput::File(file),
            (None, view) => SpineInput::Server(ServerSpine::Events(view.clone().unwrap_or_default())),
        }
    }
}

fn query(features: &FeatureArgs, spine: &SpineArgs, join: JoinArgs) -> HistoricalQuery {
    let file = spine.source.spine.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    HistoricalQuery {
        full_names: join.full_names,
        time_column: spine.time_column.clone(),
        knowledge: join.knowledge,
        strict: join.strict,
        at_least: join.at_least,
        spine_file: file.unwrap_or_default(),
        ..HistoricalQuery::new(features.selection())
    }
}

async fn build(client: &Client, get: Get, output: &mut Output) -> Result<(), Error> {
    // An ending that tells no format is better told before the work than after it.
    get.output.as_deref().map(files::format_of).transpose()?;
    let query = HistoricalQuery { save_as: get.save_as, ..query(&get.features, &get.spine, get.join) };
    let dataset = match get.spine.source.input() {
        SpineInput::File(file) => client.get_historical_features(&query, files::read(file)?).await?,
        SpineInput::Server(spine) => client.get_historical_features_at(&query, &spine).await?,
    };
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

async fn create(client: &Client, create: Create, output: &mut Output) -> Result<(), Error> {
    let splits = SplitQuery { splits: create.splits, columns: create.split_by, seed: create.split_seed };
    let query = HistoricalQuery { save_as: create.name.clone(), splits, without_rows: true, ..query(&create.features, &create.spine, create.join) };
    let saved = match create.spine.source.input() {
        SpineInput::File(file) => {
            let dataset = client.get_historical_features(&query, files::read(file)?).await?;
            anabranch_client::SavedDataset { name: create.name, manifest: dataset.manifest }
        }
        SpineInput::Server(spine) => client.create_dataset(&query, &spine).await?,
    };
    output.value(&saved, |output| output.line(&show::saved(&saved)))
}

async fn export(client: &Client, export: Export, output: &mut Output) -> Result<(), Error> {
    let files: Vec<(String, PathBuf)> = match files::format_of(&export.output) {
        Ok(_) => vec![(export.split, export.output)],
        Err(_) if export.output.extension().is_some() => return files::format_of(&export.output).map(drop),
        Err(_) => {
            std::fs::create_dir_all(&export.output).map_err(|error| Error::file(&export.output, error))?;
            let splits = match export.split.as_str() {
                "" => show::splits(&client.describe_dataset(&export.name).await?),
                split => vec![split.to_owned()],
            };
            let file = |split: String| (split.clone(), export.output.join(format!("{split}.parquet")));
            match splits.is_empty() {
                true => vec![(String::new(), export.output.join(format!("{}.parquet", export.name)))],
                false => splits.into_iter().map(file).collect(),
            }
        }
    };
    let mut written = Vec::new();
    for (split, path) in files {
        let query = DatasetQuery { name: export.name.clone(), split, columns: export.columns.clone() };
        let table: Table = client.read_dataset(&query).await?;
        files::write(&path, &table)?;
        written.push(json!({"output": path.display().to_string(), "split": query.split, "rows": table.rows()}));
    }
    output.value(&written, |output| {
        let line = |file: &serde_json::Value| format!("{}: {} rows", file["output"].as_str().unwrap_or_default(), file["rows"]);
        output.line(&written.iter().map(line).collect::<Vec<_>>().join("\n"))
    })
}
