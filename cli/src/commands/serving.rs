//! `online` and `audit`.

use std::time::Duration;

use anabranch_client::{Client, ServedBranch, ViewAudit};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, short};

/// How often it is looked whether a fill has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows which branches are served online, serves others, and rebuilds what is online.
#[derive(Debug, Args)]
pub(crate) struct Online {
    #[command(subcommand)]
    verb: OnlineVerb,
}

#[derive(Debug, Subcommand)]
enum OnlineVerb {
    /// Show which branches are served, and fills under way
    Status,
    /// Serve a branch, too; main always is. It answers once it is filled from its history
    Serve {
        /// The branch [default: that of --ref]
        #[arg(default_value = "", hide_default_value = true)]
        branch: String,
        /// Return before it is filled
        #[arg(long)]
        no_wait: bool,
    },
    /// Serve a branch no longer, and free what it has online
    Unserve {
        /// The branch [default: that of --ref]
        #[arg(default_value = "", hide_default_value = true)]
        branch: String,
    },
    /// Fill what is online anew from history; lookups are answered meanwhile
    Rebuild {
        /// The views [default: all]
        #[arg(value_name = "VIEW")]
        views: Vec<String>,
        /// The branch [default: that of --ref]
        #[arg(long, value_name = "BRANCH", default_value = "", hide_default_value = true)]
        branch: String,
        /// Write at most so many rows a second, for each view
        #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
        rows_per_second: Option<u64>,
        /// Return before it is filled
        #[arg(long)]
        no_wait: bool,
    },
    /// Move what is online of every branch to the store that the settings name as online.next, without a pause
    Move {
        /// Copy and compare only
        #[arg(long)]
        compare: bool,
    },
}

/// Compares what is online with history, and says where they differ; the exit status is 1 then.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// The views [default: all]
    #[arg(value_name = "VIEW")]
    views: Vec<String>,
    /// The branch [default: that of --ref]
    #[arg(long, value_name = "BRANCH", default_value = "", hide_default_value = true)]
    branch: String,
    /// Write what is missing or old; rebuild what holds rows that history does not have
    #[arg(long)]
    repair: bool,
}

pub(crate) async fn online(client: &Client, online: Online, output: &mut Output) -> Result<(), Error> {
    match online.verb {
        OnlineVerb::Status => show(&client.served_branches().await?, output),
        OnlineVerb::Serve { branch, no_wait } => {
            let served = client.serve_branch(&branch).await?;
            filled(client, served, no_wait, output).await
        }
        OnlineVerb::Unserve { branch } => {
            client.unserve_branch(&branch).await?;
            output.value(&json!({}), |output| output.line("it is not served any more"))
        }
        OnlineVerb::Rebuild { views, branch, rows_per_second, no_wait } => {
            let served = client.rebuild_online(&branch, &views, rows_per_second).await?;
            filled(client, served, no_wait, output).await
        }
        OnlineVerb::Move { compare } => moved(client, compare, output).await,
    }
}

async fn moved(client: &Client, compare: bool, output: &mut Output) -> Result<(), Error> {
    let moved = client.move_online(compare).await?;
    let next = match moved.moved {
        true => "the next store is served: name it as online.backend in the settings before the server is started again",
        false => "both stores hold the same, and are both written to",
    };
    output.value(&moved, |output| output.line(&format!("{} rows copied; {next}", moved.copied)))
}

async fn filled(client: &Client, mut served: ServedBranch, no_wait: bool, output: &mut Output) -> Result<(), Error> {
    while served.filling && !no_wait {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = client.served_branches().await?.into_iter().find(|other| other.branch == served.branch);
        served = now.ok_or_else(|| Error::Missing(format!("branch {:?} is not served any more", served.branch)))?;
    }
    show(&[served], output)
}

fn show(branches: &[ServedBranch], output: &mut Output) -> Result<(), Error> {
    let mut rows = Vec::new();
    for branch in branches {
        let commit = branch.commit.as_deref().map_or_else(|| "(being filled)".to_owned(), short);
        for view in &branch.views {
            let fill = view.fill.as_ref().map(|fill| format!("{} of {} rows", fill.rows_done, fill.rows)).unwrap_or_default();
            let generation = view.generation.map(|generation| generation.to_string()).unwrap_or_default();
            rows.push(vec![branch.branch.clone(), commit.clone(), view.view.clone(), generation, fill]);
        }
        if branch.views.is_empty() {
            rows.push(vec![branch.branch.clone(), commit, String::new(), String::new(), String::new()]);
        }
    }
    output.value(&branches, |output| output.table(&["branch", "commit", "view", "generation", "being filled"], &rows))
}

pub(crate) async fn audit(client: &Client, audit: Audit, output: &mut Output) -> Result<(), Error> {
    let views = client.audit(&audit.branch, &audit.views, audit.repair).await?;
    let row = |audit: &ViewAudit| {
        let numbers = [audit.entities, audit.pending, audit.missing, audit.behind, audit.unexplained, audit.different, audit.repaired];
        let rebuilding = if audit.rebuilding { "yes" } else { "" };
        [vec![audit.view.clone()], numbers.map(|number| number.to_string()).to_vec(), vec![rebuilding.to_owned()]].concat()
    };
    let rows: Vec<_> = views.iter().map(row).collect();
    let headers = ["view", "entities", "pending", "missing", "behind", "unexplained", "different", "repaired", "rebuilding"];
    output.value(&views, |output| {
        output.table(&headers, &rows)?;
        for audit in &views {
            for example in &audit.examples {
                output.line(&format!("{} {example}", audit.view))?;
            }
        }
        Ok(())
    })?;
    match views.iter().map(ViewAudit::differing).sum() {
        0 => Ok(()),
        _ if audit.repair => Ok(()),
        entities => Err(Error::Skewed(entities)),
    }
}
