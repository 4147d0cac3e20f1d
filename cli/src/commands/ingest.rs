//! `ingest`: files of rows, each in one commit.

use std::path::PathBuf;

use anabranch_client::{Client, FileFormat, FileOptions};
use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use crate::error::Error;
use crate::output::{Output, short};

/// Takes in files of rows, each whole or not at all. A file that is in already changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// Parquet, CSV or JSON lines
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The feature view
    #[arg(long)]
    view: String,
    /// The format, where a file's ending does not tell
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Why, for the log
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Parquet,
    Csv,
    #[value(alias = "json-lines")]
    JsonLines,
}

pub(crate) async fn ingest(client: &Client, ingest: Ingest, output: &mut Output) -> Result<(), Error> {
    let format = ingest.format.map(|format| match format {
        Format::Parquet => FileFormat::Parquet,
        Format::Csv => FileFormat::Csv,
        Format::JsonLines => FileFormat::JsonLines,
    });
    let sizes = ingest.files.iter().map(|file| std::fs::metadata(file).map(|metadata| metadata.len()).map_err(|error| Error::file(file, error)));
    let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
    let bar = output.progress(sizes.iter().sum());
    let options = FileOptions { format, message: ingest.message.clone() };
    let (mut json, mut rows, mut before) = (Vec::<Json>::new(), Vec::new(), 0);
    for (file, size) in ingest.files.iter().zip(sizes) {
        bar.set_message(file.display().to_string());
        let shown = bar.clone();
        let ingested = client.ingest_path(&ingest.view, file, &options, move |sent| shown.set_position(before + sent)).await.inspect_err(|_| {
            bar.finish_and_clear();
            if !json.is_empty() {
                output.note(&format!("the first {} files are in; {} and what follows are not", json.len(), file.display()));
            }
        })?;
        before += size;
        rows.push(vec![
            file.display().to_string(),
            ingested.rows.to_string(),
            ingested.quarantined.to_string(),
            ingested.duplicates.to_string(),
            short(&ingested.commit),
        ]);
        json.push(json!({"file": file.display().to_string(), "ingested": ingested}));
    }
    bar.finish_and_clear();
    output.value(&json, |output| output.table(&["file", "rows", "quarantined", "duplicates", "commit"], &rows))
}
