//! Bringing changes from one branch to another, and back: merge, revert, cherry-pick, reset.
//!
//! Where both sides changed the same, nothing is done and [`Error::Conflicts`] lists every key with its values; a dry run lists them without failing.

use std::fmt;
use std::str::FromStr;

use anabranch_proto::v1;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::client::{Retry, unary};
use crate::history::{Diff, StoredValue, diff, stored};
use crate::{Client, Error};

/// Who wins where both sides changed the same and it cannot be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Nobody: it is a conflict.
    #[default]
    Default,
    /// The branch that moves.
    Ours,
    /// What is brought to it.
    Theirs,
}

/// How to merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MergeOptions {
    /// Why; empty for the server's own words.
    pub message: String,
    /// Who wins where both sides changed the same.
    pub strategy: Strategy,
    /// One commit with what the source has, whose only parent is the destination's head.
    pub squash: bool,
    /// Change nothing, and say what would come.
    pub dry_run: bool,
    /// How many keys a dry run lists at most; 0 for 1,000.
    pub limit: u32,
    /// Give values in a dry run's list, too.
    pub values: bool,
}

/// What a merge has done, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// The head of the destination now.
    pub commit: String,
    /// `fast_forward`, `merged` or `up_to_date`; of a dry run also `conflict`.
    pub outcome: String,
    /// Where the head was.
    pub from: String,
    /// The commit that both sides were compared with; empty where they were not.
    pub base: String,
    /// What would come, of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Diff>,
    /// What keeps it from being done, of a dry run: the first of it.
    pub conflicts: Vec<Conflict>,
    /// How many keys keep it from being done.
    pub conflict_count: u64,
}

/// A key that both sides changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// table, snapshot, feature, offset, evidence or object.
    pub kind: String,
    /// The key for people, such as `feature_view/weather`.
    pub key: String,
    /// Its value before either side changed it; `None` where there was none.
    pub base: Option<StoredValue>,
    /// Its value on the branch that was to move.
    pub ours: Option<StoredValue>,
    /// Its value in what was to come.
    pub theirs: Option<StoredValue>,
    /// Why it cannot be merged.
    pub reason: String,
}

/// What kept a verb from being done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicts {
    /// For people.
    pub message: String,
    /// The first of the keys, at most 1,000.
    pub conflicts: Vec<Conflict>,
    /// How many keys there are.
    pub total: u64,
    details: Json,
}

/// How to revert or cherry-pick a commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayOptions {
    /// The parent to compare it with, counted from 1; needed for a commit with several, else 0.
    pub parent: u32,
    /// Why; empty for words that name the commit.
    pub message: String,
    /// Who wins where the branch has changed the same.
    pub strategy: Strategy,
}

/// What a revert or cherry-pick has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The new commit.
    pub commit: String,
    /// Where the head was.
    pub from: String,
}

/// How to reset a branch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResetOptions {
    /// The head that it is moved from, as the caller saw it; where it is another by now, nothing is changed. Empty for wherever it is.
    pub expected: String,
    /// Take the positions of the streams back, too, so that rows behind them are read again.
    pub rewind_offsets: bool,
}

/// What a reset has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// Where the head was.
    pub from: String,
    /// Where it is.
    pub to: String,
}

impl Strategy {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Ours => "ours",
            Self::Theirs => "theirs",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Self::Default, Self::Ours, Self::Theirs];
        let found = all.into_iter().find(|strategy| strategy.name() == text);
        found.ok_or_else(|| Error::Argument(format!("{text:?} is no strategy; there are default, ours and theirs")))
    }
}

impl Conflicts {
    /// The same for programs, as the HTTP face writes it: `{"conflicts": […], "total": n}`.
    pub fn details(&self) -> &Json {
        &self.details
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Client {
    /// Merges a ref into a branch; empty for the client's ref. `message` may be empty.
    ///
    /// # Errors
    /// As [`Client::merge_with`].
    pub async fn merge(&self, source: &str, into: &str, message: &str) -> Result<Merged, Error> {
        self.merge_with(source, into, &MergeOptions { message: message.to_owned(), ..MergeOptions::default() }).await
    }

    /// Merges a ref into a branch, as the options say; empty for the client's ref.
    ///
    /// # Errors
    /// [`Error::Conflicts`] where both sides changed the same, and then nothing is changed; a dry run lists them instead. `not_found` for an unknown
    /// ref.
    pub async fn merge_with(&self, source: &str, into: &str, options: &MergeOptions) -> Result<Merged, Error> {
        let request = v1::MergeRequest {
            repository: self.repository_name(),
            source: source.to_owned(),
            into: self.or_own_ref(into),
            author: self.author(),
            message: options.message.clone(),
            strategy: options.strategy.name().to_owned(),
            squash: options.squash,
            dry_run: options.dry_run,
            report_conflicts: true,
            limit: options.limit,
            values: options.values,
        };
        let retry = if options.dry_run { Retry::Safe } else { Retry::Never };
        let reply = unary!(self, versioning.merge(request), retry).await?;
        let found = reply.conflicts.map(conflicts).transpose()?;
        if !options.dry_run
            && let Some(conflicts) = found
        {
            return Err(Error::Conflicts(Box::new(conflicts)));
        }
        let (conflicts, conflict_count) = found.map(|found| (found.conflicts, found.total)).unwrap_or_default();
        Ok(Merged {
            commit: reply.commit,
            outcome: reply.outcome,
            from: reply.from,
            base: reply.base,
            changes: reply.changes.map(diff).transpose()?,
            conflicts,
            conflict_count,
        })
    }

    /// Takes back, on a branch, what a commit changed, in a new commit; the branch empty for the client's ref.
    ///
    /// # Errors
    /// [`Error::Conflicts`] where later commits changed the same, and then nothing is changed; `failed_precondition` where there is nothing to take back;
    /// `not_found` for an unknown ref; `invalid_argument` for a commit with several parents and none named.
    pub async fn revert(&self, commit: &str, branch: &str, options: &ReplayOptions) -> Result<Replayed, Error> {
        let request = self.replay(commit, branch, options);
        replayed(unary!(self, versioning.revert(request), Retry::Never).await?)
    }

    /// Makes, on a branch, what a commit changed elsewhere, in a new commit; the branch empty for the client's ref.
    ///
    /// # Errors
    /// As [`Client::revert`].
    pub async fn cherry_pick(&self, commit: &str, branch: &str, options: &ReplayOptions) -> Result<Replayed, Error> {
        let request = self.replay(commit, branch, options);
        replayed(unary!(self, versioning.cherry_pick(request), Retry::Never).await?)
    }

    /// Moves a branch to the commit at a ref; the branch empty for the client's ref.
    ///
    /// # Errors
    /// `failed_precondition` for a protected branch, `conflict` where the head is not the expected one, `not_found` for an unknown ref.
    pub async fn reset(&self, to: &str, branch: &str, options: &ResetOptions) -> Result<Reset, Error> {
        let request = v1::ResetRequest {
            repository: self.repository_name(),
            branch: self.or_own_ref(branch),
            to: to.to_owned(),
            expected: options.expected.clone(),
            rewind_offsets: options.rewind_offsets,
            author: self.author(),
        };
        let reply = unary!(self, versioning.reset(request), Retry::Never).await?;
        Ok(Reset { from: reply.from, to: reply.to })
    }

    fn replay(&self, commit: &str, branch: &str, options: &ReplayOptions) -> v1::ReplayRequest {
        v1::ReplayRequest {
            repository: self.repository_name(),
            branch: self.or_own_ref(branch),
            commit: commit.to_owned(),
            parent: options.parent,
            author: self.author(),
            message: options.message.clone(),
            strategy: options.strategy.name().to_owned(),
            report_conflicts: true,
        }
    }
}

fn replayed(reply: v1::ReplayReply) -> Result<Replayed, Error> {
    match reply.conflicts {
        Some(found) => Err(Error::Conflicts(Box::new(conflicts(found)?))),
        None => Ok(Replayed { commit: reply.commit, from: reply.from }),
    }
}

fn conflicts(reply: v1::Conflicts) -> Result<Conflicts, Error> {
    let conflicts = reply.conflicts.into_iter().map(conflict).collect::<Result<Vec<_>, _>>()?;
    let details = json!({"conflicts": conflicts, "total": reply.total});
    Ok(Conflicts { message: reply.message, conflicts, total: reply.total, details })
}

fn conflict(reply: v1::Conflict) -> Result<Conflict, Error> {
    let side = |side: Option<v1::StoredValue>| side.map(stored).transpose();
    Ok(Conflict {
        kind: reply.kind,
        key: reply.key,
        base: side(reply.base)?,
        ours: side(reply.ours)?,
        theirs: side(reply.theirs)?,
        reason: reply.reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_read_as_they_are_written() {
        for strategy in [Strategy::Default, Strategy::Ours, Strategy::Theirs] {
            assert_eq!(strategy.to_string().parse::<Strategy>().unwrap(), strategy);
        }
        assert!("mine".parse::<Strategy>().unwrap_err().to_string().contains("ours"));
    }

    #[test]
    fn the_details_of_conflicts_have_every_key_with_its_values() {
        let value = |json: &str| Some(v1::StoredValue { raw: "x".into(), json: json.to_owned() });
        let conflict = v1::Conflict {
            kind: "feature".into(),
            key: "check/range".into(),
            base: value("1"),
            ours: value("2"),
            theirs: None,
            reason: "max".into(),
        };
        let found = conflicts(v1::Conflicts { conflicts: vec![conflict], total: 7, message: "no".into() }).unwrap();
        let key = json!({"kind": "feature", "key": "check/range", "base": 1, "ours": 2, "theirs": null, "reason": "max"});
        assert_eq!(*found.details(), json!({"conflicts": [key], "total": 7}));
        assert_eq!(found.to_string(), "no");
    }
}
