//! `fsck`, `backup`, `restore`, `export`, `import` and `history`: looking after a data folder itself, without a server of ours. What only reads may run beside one.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::Span;
use anabranch_server::maintenance::{self, ExportSource, FsckRequest, RestoreOptions};
use anabranch_server::versioning::{CommitId, Counts, FsckReport, RefOutcome};
use clap::Args;
use serde_json::json;

use crate::args::{Command, Global};
use crate::error::Error;
use crate::output::{Output, short};

/// Verifies a repository end to end: refs, commits, nodes, packs, and every file that they name. Changes nothing, and may run beside a server.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 all is whole, 1 something is damaged.")]
pub(crate) struct Fsck {
    /// Read and decode every file, rather than look that it is there, as long as it must be, and ends as it must
    #[arg(long)]
    deep: bool,
}

/// Writes a backup of the metadata database, of one moment; may run beside a server. Packs and data files are not in it.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write
    #[arg(value_name = "FILE")]
    out: PathBuf,
}

/// Restores a metadata database that is missing from a backup, against the packs and files there are.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// A file that backup wrote
    #[arg(value_name = "FILE")]
    backup: PathBuf,
    /// Restore what is whole where something is not: branches go back to their newest commit that is, tags are left out
    #[arg(long)]
    allow_missing: bool,
}

/// Writes branches and tags, with all that they reach, as one file; may run beside a server. Without --branch, all of them.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file to write
    #[arg(value_name = "FILE")]
    out: PathBuf,
    /// A branch or tag to export; may be given again
    #[arg(long = "branch", visible_alias = "tag", value_name = "NAME")]
    refs: Vec<String>,
    /// A commit that the receiver has, by its full hash; may be given again
    #[arg(long, value_name = "COMMIT")]
    have: Vec<CommitId>,
    /// An earlier export that the receiver has imported: only what came since is written
    #[arg(long, value_name = "FILE")]
    since_export: Option<PathBuf>,
}

/// Brings an export in. Into an empty folder it becomes a clone; into another it must share history. No server may use the folder.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A file that export wrote
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    /// Put before the name of every branch and tag
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Move branches that have gone another way, too
    #[arg(long)]
    force: bool,
}

/// Shows or sets how long a branch keeps the content of its commits; a server releases older ones hourly, but for what tags, datasets and merges need.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The branch
    #[arg(value_name = "BRANCH")]
    branch: String,
    /// How long, such as 90d, or forever
    #[arg(long, value_name = "SPAN")]
    keep: Option<String>,
}

/// Runs a command that works on a folder; gives any other back.
pub(crate) async fn execute(global: &Global, command: Command, output: &mut Output) -> Result<Option<Command>, Error> {
    match command {
        Command::Fsck(args) => fsck(global, &args, output).await?,
        Command::Backup(args) => backup(global, &args, output).await?,
        Command::Restore(args) => restore(global, &args, output).await?,
        Command::Export(args) => export(global, args, output).await?,
        Command::Import(args) => import(global, args, output).await?,
        Command::History(args) => history(global, &args, output).await?,
        other => return Ok(Some(other)),
    }
    Ok(None)
}

/// The folder that is meant, and the repository in it.
fn place(global: &Global) -> Result<(PathBuf, &str), Error> {
    if global.url.is_some() {
        return Err(Error::Usage("this works on a data folder, not over the network: give --data".to_owned()));
    }
    let variable = || std::env::var_os("ANABRANCH_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = global.data.clone().or_else(variable).ok_or_else(|| Error::Usage("which data folder? give --data".to_owned()))?;
    Ok((folder, if global.repository.is_empty() { "default" } else { &global.repository }))
}

async fn fsck(global: &Global, args: &Fsck, output: &mut Output) -> Result<(), Error> {
    let (data, repository) = place(global)?;
    let bar = output.progress(0);
    let shown = bar.clone();
    let progress = move |counts: &Counts| {
        shown.set_message(format!("{} packs, {} commits, {} nodes, {} files", counts.packs, counts.commits, counts.nodes, counts.files));
        shown.set_position(counts.pack_bytes);
    };
    let request = FsckRequest { deep: args.deep, progress: Some(Arc::new(progress)) };
    let report = maintenance::fsck(&data, repository, request).await;
    bar.finish_and_clear();
    let report = report?;
    if global.json {
        output.value(&maintenance::report_json(&report), |_| Ok(()))?;
    } else {
        show(&report, output)?;
    }
    match report.findings.len() {
        0 => Ok(()),
        count => Err(Error::Damaged { count, folder: data.display().to_string() }),
    }
}

fn show(report: &FsckReport, output: &mut Output) -> Result<(), Error> {
    for finding in &report.findings {
        output.line(&finding.to_string())?;
    }
    let counts = &report.counts;
    let looked = format!(
        "{} refs, {} commits ({} expired), {} nodes, {} packs, {} files",
        counts.refs, counts.commits, counts.expired, counts.nodes, counts.packs, counts.files
    );
    let surplus = &report.surplus;
    let count = surplus.packs.len() + surplus.blobs.len() + surplus.files.len();
    let verdict = if report.is_whole() { "whole" } else { "damaged" };
    output.facts(&[
        ("verdict", verdict.to_owned()),
        ("looked at", looked),
        ("named by nothing", format!("{count} files, {} bytes: no damage", surplus.bytes)),
    ])
}

async fn backup(global: &Global, args: &Backup, output: &mut Output) -> Result<(), Error> {
    let (data, repository) = place(global)?;
    let done = maintenance::backup(&data, repository, &args.out).await?;
    if global.json {
        let taken = done.taken.to_string();
        return output.value(&json!({"taken": taken, "bytes": done.bytes, "branches": done.branches, "tags": done.tags}), |_| Ok(()));
    }
    output.line(&format!("{} branches and {} tags in {} bytes, as of {}", done.branches, done.tags, done.bytes, done.taken))
}

async fn restore(global: &Global, args: &Restore, output: &mut Output) -> Result<(), Error> {
    let (data, repository) = place(global)?;
    let done = maintenance::restore(&data, repository, &args.backup, RestoreOptions { allow_missing: args.allow_missing }).await?;
    if global.json {
        let branch = |branch: &maintenance::RestoredBranch| {
            let text = |commit: &Option<CommitId>| commit.map(|commit| commit.to_string());
            json!({"name": branch.name, "head": branch.head.to_string(), "moved_from": text(&branch.moved_from), "newer": text(&branch.newer)})
        };
        let branches: Vec<_> = done.branches.iter().map(branch).collect();
        return output.value(&json!({"branches": branches, "tags": done.tags, "packs": done.packs, "findings": done.findings}), |_| Ok(()));
    }
    for branch in &done.branches {
        let mut line = format!("branch {} at {}", branch.name, short(&branch.head.to_string()));
        if let Some(from) = branch.moved_from {
            line.push_str(&format!(", in the backup at {}", short(&from.to_string())));
        }
        if let Some(newer) = branch.newer {
            line.push_str(&format!("; commit {} came after it", short(&newer.to_string())));
        }
        output.line(&line)?;
    }
    output.line(&format!("{} tags, {} packs", done.tags, done.packs))?;
    done.findings.iter().try_for_each(|finding| output.line(finding))
}

async fn export(global: &Global, args: Export, output: &mut Output) -> Result<(), Error> {
    let (data, repository) = place(global)?;
    let source = ExportSource { refs: args.refs, have: args.have, since: args.since_export };
    let done = maintenance::export(&data, repository, source, &args.out).await?;
    if global.json {
        let counts = json!({"refs": done.refs, "commits": done.commits, "nodes": done.nodes, "files": done.files, "bytes": done.bytes});
        return output.value(&counts, |_| Ok(()));
    }
    output.line(&format!("{} refs: {} commits, {} nodes and {} files in {} bytes", done.refs, done.commits, done.nodes, done.files, done.bytes))
}

async fn import(global: &Global, args: Import, output: &mut Output) -> Result<(), Error> {
    let (data, repository) = place(global)?;
    let author = global.author.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "anonymous".to_owned());
    let done = maintenance::import(&data, repository, &args.archive, args.prefix, args.force, author).await?;
    let outcome = |outcome: RefOutcome| match outcome {
        RefOutcome::Created => "created",
        RefOutcome::Moved => "moved",
        RefOutcome::Forced => "forced",
        RefOutcome::UpToDate => "up_to_date",
    };
    if global.json {
        let refs: Vec<_> = done.refs.iter().map(|(name, done)| json!({"name": name, "outcome": outcome(*done)})).collect();
        return output.value(&json!({"refs": refs, "files": done.files, "packs": done.packs, "cloned": done.cloned}), |_| Ok(()));
    }
    for (name, done) in &done.refs {
        output.line(&format!("{} {name}", outcome(*done).replace('_', " ")))?;
    }
    output.line(&format!("{} files and {} packs were new", done.files, done.packs))
}

async fn history(global: &Global, args: &History, output: &mut Output) -> Result<(), Error> {
    let (data, repository) = place(global)?;
    let keep = match args.keep.as_deref() {
        None => None,
        Some("forever") => Some(None),
        Some(span) => Some(Some(span.parse::<Span>()?)),
    };
    let holds = maintenance::history(&data, repository, &args.branch, keep).await?.map_or_else(|| "forever".to_owned(), |span| span.to_string());
    output.value(&json!({"branch": args.branch, "keep": holds}), |output| output.line(&format!("branch {} keeps {holds}", args.branch)))
}
