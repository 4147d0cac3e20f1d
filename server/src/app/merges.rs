//! Bringing changes from one branch to another, and back: merge, revert, cherry-pick, reset. Each brings the branch's pipeline to rest first, which is
//! `ingest`'s to do.

use anabranch_versioning::{
    CommitId, Committed, Merge, MergeRequest, Preview, PreviewOutcome, RefSpec, ReplayRequest, Reset, ResetRequest, Strategy,
};

use super::Scope;
use super::history::{DiffReport, Maps, counts, lines};
use super::versions::{limited, spec};
use crate::error::{Conflicts, Error, Result};

const DEFAULT_PREVIEW: usize = 1_000;

/// How to merge.
#[derive(Debug, Default)]
pub(crate) struct MergeOptions {
    pub(crate) source: String,
    pub(crate) author: String,
    pub(crate) message: String,
    pub(crate) strategy: String,
    pub(crate) squash: bool,
}

/// What a merge did, or would do.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The head now, or where it stays.
    pub(crate) commit: CommitId,
    pub(crate) outcome: &'static str,
    pub(crate) from: CommitId,
    pub(crate) base: Option<CommitId>,
    /// Of a dry run.
    pub(crate) preview: Option<Previewed>,
}

/// What a dry run found.
#[derive(Debug)]
pub(crate) struct Previewed {
    pub(crate) source: CommitId,
    pub(crate) changes: DiffReport,
    pub(crate) conflicts: Conflicts,
}

/// How to revert or cherry-pick.
#[derive(Debug, Default)]
pub(crate) struct ReplayOptions {
    pub(crate) commit: String,
    pub(crate) parent: u32,
    pub(crate) author: String,
    pub(crate) message: String,
    pub(crate) strategy: String,
}

/// Which way a commit is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    /// Its changes are taken back.
    Revert,
    /// Its changes are made again.
    CherryPick,
}

/// How to reset.
#[derive(Debug, Default)]
pub(crate) struct ResetOptions {
    pub(crate) to: String,
    pub(crate) expected: String,
    pub(crate) rewind_offsets: bool,
    pub(crate) author: String,
}

impl Scope {
    /// Merges a ref into the scope's branch.
    pub(crate) async fn merge(&self, options: MergeOptions) -> Result<Merged> {
        let branch = self.branch().await?;
        let request = merge_request(options)?;
        Ok(match self.repo.ingest.merge(&branch.name, request).await? {
            Merge::UpToDate { head } => Merged { commit: head, outcome: "up_to_date", from: head, base: None, preview: None },
            Merge::FastForward { from, to } => Merged { commit: to, outcome: "fast_forward", from, base: None, preview: None },
            Merge::Merged { from, to, base } => Merged { commit: to, outcome: "merged", from, base: Some(base), preview: None },
        })
    }

    /// What a merge into the scope's branch would do, without doing it.
    pub(crate) async fn preview_merge(&self, options: MergeOptions, limit: u32, values: bool) -> Result<Merged> {
        let branch = self.branch().await?;
        let request = merge_request(options)?;
        let limit = limited(limit, DEFAULT_PREVIEW);
        let preview = self.repo.versions.preview_merge(&branch.name, &request, limit).await?;
        let Preview { merge, base, head, source, differences, conflicts, conflict_count } = preview;
        let outcome = match merge {
            _ if conflict_count > 0 => "conflict",
            PreviewOutcome::UpToDate => "up_to_date",
            PreviewOutcome::FastForward => "fast_forward",
            PreviewOutcome::ThreeWay => "merged",
        };
        let versions = &self.repo.versions;
        let maps = Maps { left: Some(versions.at(&head).await?), right: versions.at(&source).await? };
        let changes = DiffReport {
            left: Some(head),
            right: source,
            lines: lines(&differences.items, values, &maps).await?,
            counts: counts(&differences.items),
            truncated: differences.next.is_some(),
            next: String::new(),
        };
        let message = format!("{:?} and {:?} changed the same keys", branch.name, request.source.to_string());
        let conflicts = Conflicts::new(message, &conflicts, conflict_count);
        Ok(Merged { commit: head, outcome, from: head, base, preview: Some(Previewed { source, changes, conflicts }) })
    }

    /// Takes a commit's changes back on the scope's branch, or makes them there.
    pub(crate) async fn replay(&self, replay: Replay, options: ReplayOptions) -> Result<Committed> {
        let branch = self.branch().await?;
        let request = ReplayRequest {
            commit: named("commit", &options.commit, "name the commit")?,
            parent: (options.parent > 0).then_some(options.parent),
            author: Self::author(&options.author),
            message: some(options.message),
            strategy: strategy(&options.strategy)?,
            metadata_writes: Vec::new(),
            guard: None,
        };
        Ok(match replay {
            Replay::Revert => self.repo.ingest.revert(&branch.name, request).await?,
            Replay::CherryPick => self.repo.ingest.cherry_pick(&branch.name, request).await?,
        })
    }

    /// Moves the scope's branch to any commit.
    pub(crate) async fn reset(&self, options: ResetOptions) -> Result<Reset> {
        let branch = self.branch().await?;
        let expected = match options.expected.as_str() {
            "" => None,
            reference => Some(self.resolve_ref(reference).await?.commit),
        };
        let request = ResetRequest {
            to: named("to", &options.to, "name the commit that the branch shall be at")?,
            author: Self::author(&options.author),
            expected,
            rewind_offsets: options.rewind_offsets,
            metadata_writes: Vec::new(),
            guard: None,
        };
        Ok(self.repo.ingest.reset(&branch.name, request).await?)
    }
}

fn merge_request(options: MergeOptions) -> Result<MergeRequest> {
    let source = named("source", &options.source, "name the branch, tag or commit to be merged")?;
    let (message, strategy) = (some(options.message), strategy(&options.strategy)?);
    Ok(MergeRequest { message, strategy, squash: options.squash, ..MergeRequest::new(source, Scope::author(&options.author)) })
}

fn named(field: &str, reference: &str, advice: &str) -> Result<RefSpec> {
    if reference.is_empty() { Err(Error::argument(field, format!("it is empty: {advice}"))) } else { spec(reference) }
}

fn some(message: String) -> Option<String> {
    (!message.is_empty()).then_some(message)
}

fn strategy(name: &str) -> Result<Strategy> {
    match name {
        "" | "default" => Ok(Strategy::Default),
        "ours" => Ok(Strategy::Ours),
        "theirs" => Ok(Strategy::Theirs),
        other => Err(Error::argument("strategy", format!("{other:?} is none; there are default, ours and theirs"))),
    }
}
