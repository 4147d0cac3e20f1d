//! `quarantine`: rows that were refused.

use anabranch_client::{Client, QuarantinedRow};
use clap::{Args, Subcommand};

use crate::error::Error;
use crate::output::Output;

/// Lists and shows rows that were refused.
#[derive(Debug, Args)]
pub(crate) struct Quarantine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List refused rows with the checks that they failed
    List {
        /// Only those meant for this view
        #[arg(long, value_name = "VIEW", default_value = "", hide_default_value = true)]
        view: String,
        /// How many
        #[arg(long, short = 'n', default_value_t = 100)]
        limit: u32,
    },
    /// Show a refused row as it came, and every check that it failed
    Show {
        /// Its source, as the list names it
        source: u32,
        /// Its position there
        position: u64,
    },
}

pub(crate) async fn quarantine(client: &Client, quarantine: Quarantine, output: &mut Output) -> Result<(), Error> {
    match quarantine.verb {
        Verb::List { view, limit } => {
            let found = client.quarantine(&view, limit).await?;
            let rows: Vec<_> = found.rows.iter().map(line).collect();
            output.value(&found, |output| {
                output.table(&["view", "source", "position", "arrival", "failed"], &rows)?;
                if found.total > found.rows.len() as u64 {
                    output.note(&format!("{} of {}; --limit shows more", found.rows.len(), found.total));
                }
                Ok(())
            })
        }
        Verb::Show { source, position } => {
            let found = client.quarantine("", u32::MAX).await?;
            let Some(row) = found.rows.iter().find(|row| row.source == source && row.position == position) else {
                return Err(Error::Missing(format!("no refused row has source {source} and position {position}")));
            };
            output.value(row, |output| {
                let failed = row.failures.iter().map(|failure| format!("{} (column {}): {}", failure.check, failure.column, failure.reason));
                failed.into_iter().for_each(|line| output.note(&line));
                output.line(&String::from_utf8_lossy(&row.payload))
            })
        }
    }
}

fn line(row: &QuarantinedRow) -> Vec<String> {
    let failed: Vec<_> = row.failures.iter().map(|failure| format!("{}: {}", failure.check, failure.reason)).collect();
    vec![row.view.clone(), row.source.to_string(), row.position.to_string(), row.arrival.to_string(), failed.join("; ")]
}
