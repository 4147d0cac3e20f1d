//! `log`, `diff` and `merge`.

use anabranch_client::Client;
use clap::Args;

use crate::error::Error;
use crate::output::{Output, short};

/// Shows the history of a ref, youngest first.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// How many commits
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
}

/// Shows what differs between two refs.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The ref on the left
    left: String,
    /// The ref on the right [default: main]
    #[arg(default_value = "main", hide_default_value = true)]
    right: String,
    /// How many keys
    #[arg(long, short = 'n', default_value_t = 1000)]
    limit: u32,
}

/// Merges a ref into a branch.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The ref to merge
    source: String,
    /// The branch that moves [default: main]
    #[arg(long, value_name = "BRANCH", default_value = "", hide_default_value = true)]
    into: String,
    /// Why, for the log
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
}

pub(crate) async fn log(client: &Client, log: Log, output: &mut Output) -> Result<(), Error> {
    let commits = client.log(log.limit).await?;
    let row = |commit: &anabranch_client::Commit| {
        let subject = commit.message.lines().next().unwrap_or_default().to_owned();
        vec![short(&commit.id), commit.time.to_string(), commit.author.clone(), subject]
    };
    let rows: Vec<_> = commits.iter().map(row).collect();
    output.value(&commits, |output| output.table(&["commit", "time", "author", "message"], &rows))
}

pub(crate) async fn diff(client: &Client, diff: Diff, output: &mut Output) -> Result<(), Error> {
    let found = client.diff(&diff.left, &diff.right, diff.limit).await?;
    output.value(&found, |output| {
        if found.differences.is_empty() {
            output.note("no difference");
            return Ok(());
        }
        let rows: Vec<_> = found.differences.iter().map(|d| vec![d.change.clone(), d.kind.clone(), d.key.clone(), d.summary.clone()]).collect();
        output.table(&["change", "kind", "key", "summary"], &rows)?;
        if found.truncated {
            output.note("and more; --limit shows them");
        }
        Ok(())
    })
}

pub(crate) async fn merge(client: &Client, merge: Merge, output: &mut Output) -> Result<(), Error> {
    let merged = client.merge(&merge.source, &merge.into, &merge.message).await?;
    let into = if merge.into.is_empty() { "main" } else { &merge.into };
    output.value(&merged, |output| match merged.outcome.as_str() {
        "up_to_date" => output.line(&format!("{into} has it all already, at {}", short(&merged.commit))),
        _ => output.line(&format!("{into} is at {} now", short(&merged.commit))),
    })
}
