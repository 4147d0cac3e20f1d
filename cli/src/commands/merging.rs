//! `merge`, `revert`, `cherry-pick` and `reset`.

use anabranch_client::{Client, MergeOptions, Merged, ReplayOptions, Replayed, ResetOptions, Strategy};
use clap::Args;

use super::history::differences;
use crate::error::Error;
use crate::output::{CONFLICT_HEADERS, Output, conflict_rows, short};

/// Merges a ref into a branch. Where both sides changed the same, every key is listed and nothing is changed.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The ref to merge
    source: String,
    /// The branch that moves [default: that of --ref]
    #[arg(long, value_name = "BRANCH", default_value = "", hide_default_value = true)]
    into: String,
    #[command(flatten)]
    how: How,
    /// One commit with what the source has, without naming it as a parent
    #[arg(long)]
    squash: bool,
    /// Change nothing; show what would come, and the conflicts
    #[arg(long)]
    dry_run: bool,
    /// How many keys a dry run shows
    #[arg(long, short = 'n', default_value_t = 1000)]
    limit: u32,
}

/// Takes back what a commit changed, in a new commit on the branch of --ref.
#[derive(Debug, Args)]
pub(crate) struct Revert {
    #[command(flatten)]
    replay: Replay,
}

/// Makes what a commit changed elsewhere, in a new commit on the branch of --ref.
#[derive(Debug, Args)]
pub(crate) struct CherryPick {
    #[command(flatten)]
    replay: Replay,
}

/// Moves the branch of --ref to any commit. What was committed since stays in its reflog.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// Where to
    to: String,
    /// The head that it is moved from, as you saw it; where it is another by now, nothing is changed
    #[arg(long, value_name = "COMMIT", default_value = "", hide_default_value = true)]
    expected: String,
    /// Take the positions of the streams back, too, so that rows behind them are read again
    #[arg(long)]
    rewind_offsets: bool,
}

#[derive(Debug, Args)]
struct Replay {
    /// The ref of the commit
    commit: String,
    /// The parent to compare it with, counted from 1; needed for a merge
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    parent: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Who wins where both sides changed the same: default (nobody), ours (the branch that moves) or theirs
    #[arg(long, value_name = "STRATEGY", default_value = "default", hide_default_value = true)]
    strategy: Strategy,
    /// Why, for the log
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
}

pub(crate) async fn merge(client: &Client, merge: Merge, output: &mut Output) -> Result<(), Error> {
    let Merge { source, into, how: How { strategy, message }, squash, dry_run, limit } = merge;
    let options = MergeOptions { message, strategy, squash, dry_run, limit, values: output.is_json() };
    let merged = client.merge_with(&source, &into, &options).await?;
    let into = if into.is_empty() { "the branch" } else { &into };
    output.value(&merged, |output| if dry_run { preview(&merged, into, output) } else { done(&merged, into, output) })?;
    if merged.conflict_count > 0 { Err(Error::WouldConflict(merged.conflict_count)) } else { Ok(()) }
}

fn done(merged: &Merged, into: &str, output: &mut Output) -> Result<(), Error> {
    match merged.outcome.as_str() {
        "up_to_date" => output.line(&format!("{into} has it all already, at {}", short(&merged.commit))),
        "fast_forward" => output.line(&format!("{into} is at {} now", short(&merged.commit))),
        _ => output.line(&format!("{into} is at {} now, a merge over {}", short(&merged.commit), short(&merged.base))),
    }
}

fn preview(merged: &Merged, into: &str, output: &mut Output) -> Result<(), Error> {
    if merged.conflict_count > 0 {
        output.table(&CONFLICT_HEADERS, &conflict_rows(&merged.conflicts))?;
        if merged.conflict_count > merged.conflicts.len() as u64 {
            output.note(&format!("{} of {}", merged.conflicts.len(), merged.conflict_count));
        }
        return Ok(());
    }
    output.note(&match merged.outcome.as_str() {
        "up_to_date" => format!("{into} has it all already"),
        "fast_forward" => format!("{into} would move forward from {}", short(&merged.from)),
        _ => format!("{into} would get a merge over {}", short(&merged.base)),
    });
    match &merged.changes {
        Some(changes) => differences(changes, output),
        None => Ok(()),
    }
}

pub(crate) async fn revert(client: &Client, revert: Revert, output: &mut Output) -> Result<(), Error> {
    let (commit, options) = revert.replay.split();
    let replayed = client.revert(&commit, "", &options).await?;
    tell(&replayed, "reverted", output)
}

pub(crate) async fn cherry_pick(client: &Client, pick: CherryPick, output: &mut Output) -> Result<(), Error> {
    let (commit, options) = pick.replay.split();
    let replayed = client.cherry_pick(&commit, "", &options).await?;
    tell(&replayed, "picked", output)
}

pub(crate) async fn reset(client: &Client, reset: Reset, output: &mut Output) -> Result<(), Error> {
    let options = ResetOptions { expected: reset.expected, rewind_offsets: reset.rewind_offsets };
    let done = client.reset(&reset.to, "", &options).await?;
    output.value(&done, |output| output.line(&format!("the branch is at {} now; it was at {}", short(&done.to), short(&done.from))))
}

impl Replay {
    fn split(self) -> (String, ReplayOptions) {
        let How { strategy, message } = self.how;
        (self.commit, ReplayOptions { parent: self.parent, message, strategy })
    }
}

fn tell(replayed: &Replayed, done: &str, output: &mut Output) -> Result<(), Error> {
    output.value(replayed, |output| output.line(&format!("{done} in commit {}", short(&replayed.commit))))
}
