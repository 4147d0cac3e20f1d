//! `log`, `show`, `diff` and `merge-base`.

use anabranch_client::{Client, Commit, Diff as Found, DiffQuery, LogQuery, ShowQuery, Span, Timestamp};
use anabranch_core::{Clock, ErrorKind, Kinded, SystemClock};
use clap::Args;
use serde_json::json;

use super::definitions;
use crate::error::Error;
use crate::output::{Output, short, subject};

/// Shows the history of a ref, newest first.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Only commits that changed this: a kind such as feature, or more of a key, such as table/features/weather; may be given again
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// Only commits of this time or later: 2026-11-20T12:00:00Z, 2026-11-20, or so long ago: 7d, 12h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only commits up to this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Only commits of this author
    #[arg(long, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// Follow first parents only: what was merged shows as the merge alone
    #[arg(long)]
    first_parent: bool,
    /// How many commits
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
}

/// Shows a commit with what it changed, or a definition as YAML.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A ref such as main~1, or a definition such as feature_view/weather [default: --ref]
    #[arg(value_name = "REF|KIND/NAME", default_value = "", hide_default_value = true)]
    what: String,
    /// The parent to compare a commit with, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    parent: u32,
    /// How many keys
    #[arg(long, short = 'n', default_value_t = 1000)]
    limit: u32,
}

/// Shows what differs between two refs. With three dots, A...B, what came on B since both went apart.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The ref on the left, or both as A..B or A...B
    left: String,
    /// The ref on the right [default: main]
    right: Option<String>,
    /// Only keys of this kind, such as feature, or below this key, such as table/features
    #[arg(long, visible_alias = "kind", value_name = "PATH", default_value = "", hide_default_value = true)]
    path: String,
    /// Only how many keys of each kind differ
    #[arg(long)]
    summary: bool,
    /// How many keys
    #[arg(long, short = 'n', default_value_t = 1000)]
    limit: u32,
}

/// Shows the youngest commit that two refs have in common.
#[derive(Debug, Args)]
pub(crate) struct MergeBase {
    /// One ref
    left: String,
    /// The other [default: main]
    #[arg(default_value = "main", hide_default_value = true)]
    right: String,
}

pub(crate) async fn log(client: &Client, log: Log, output: &mut Output) -> Result<(), Error> {
    let query = LogQuery {
        limit: log.limit,
        paths: log.path,
        since: log.since,
        until: log.until,
        author: log.author.unwrap_or_default(),
        first_parent: log.first_parent,
    };
    let commits = client.log_with(&query).await?;
    let row = |commit: &Commit| vec![short(&commit.id), commit.time.to_string(), commit.author.clone(), subject(&commit.message)];
    let rows: Vec<_> = commits.iter().map(row).collect();
    output.value(&commits, |output| output.table(&["commit", "time", "author", "message"], &rows))
}

pub(crate) async fn show(client: &Client, show: Show, output: &mut Output) -> Result<(), Error> {
    let definition = definitions::named(&show.what);
    if let Ok((kind, name)) = &definition {
        return definitions::show(client, *kind, name, output).await;
    }
    let client = if show.what.is_empty() { client.clone() } else { client.at(&show.what) };
    let query = ShowQuery { parent: show.parent_asked(), limit: show.limit, values: output.is_json() };
    let shown = match client.show(&query).await {
        // What looks like a definition was perhaps meant to be one.
        Err(error) if error.kind() == ErrorKind::NotFound && show.what.contains('/') => {
            let hint = definition.err().map(|hint| hint.to_string()).unwrap_or_default();
            return Err(Error::Usage(format!("{error}; and {hint}")));
        }
        shown => shown?,
    };
    output.value(&shown, |output| {
        let commit = &shown.commit;
        let mut facts = vec![("commit", commit.id.clone())];
        facts.extend(commit.parents.iter().map(|parent| ("parent", parent.clone())));
        facts.extend([("author", commit.author.clone()), ("time", commit.time.to_string())]);
        facts.extend(commit.metadata.iter().map(|(name, value)| ("metadata", format!("{name}={value}"))));
        output.facts(&facts)?;
        if !commit.message.is_empty() {
            output.line(&format!("\n{}\n\n", commit.message.trim_end()))?;
        }
        differences(&shown.changes, output)
    })
}

impl Show {
    /// The first parent where there is one is what is meant by default.
    fn parent_asked(&self) -> u32 {
        if self.parent == 1 { 0 } else { self.parent }
    }
}

pub(crate) async fn diff(client: &Client, diff: Diff, output: &mut Output) -> Result<(), Error> {
    let (left, right, three_dot) = sides(&diff.left, diff.right.as_deref());
    let query = DiffQuery { limit: diff.limit, three_dot, path: diff.path, values: output.is_json(), summary_only: diff.summary };
    let found = client.diff_with(left, right, &query).await?;
    output.value(&found, |output| {
        if diff.summary {
            let rows: Vec<_> = found
                .summary
                .iter()
                .map(|kind| vec![kind.kind.clone(), kind.added.to_string(), kind.removed.to_string(), kind.changed.to_string()])
                .collect();
            return output.table(&["kind", "added", "removed", "changed"], &rows);
        }
        differences(&found, output)
    })
}

pub(crate) async fn merge_base(client: &Client, refs: MergeBase, output: &mut Output) -> Result<(), Error> {
    let Some(base) = client.merge_base(&refs.left, &refs.right).await? else {
        return Err(Error::Missing(format!("{:?} and {:?} have no commit in common", refs.left, refs.right)));
    };
    output.value(&json!(base), |output| output.line(&base.id))
}

/// Differences as a table, and how many of each kind.
pub(super) fn differences(found: &Found, output: &mut Output) -> Result<(), Error> {
    if found.differences.is_empty() {
        output.note("no difference");
        return Ok(());
    }
    let rows: Vec<_> = found.differences.iter().map(|d| vec![d.change.clone(), d.kind.clone(), d.key.clone(), d.summary.clone()]).collect();
    output.table(&["change", "kind", "key", "summary"], &rows)?;
    let counted = |(count, what): (u64, &str)| (count > 0).then(|| format!("{count} {what}"));
    for kind in &found.summary {
        let counts: Vec<_> = [(kind.added, "added"), (kind.removed, "removed"), (kind.changed, "changed")].into_iter().filter_map(counted).collect();
        output.note(&format!("{}: {}", kind.kind, counts.join(", ")));
    }
    if found.truncated {
        output.note("and more; --limit shows them");
    }
    Ok(())
}

/// Left, right, and whether by three dots. A range is split only where it stands alone: names may hold dots, too.
fn sides<'a>(left: &'a str, right: Option<&'a str>) -> (&'a str, &'a str, bool) {
    match right {
        Some(right) => (left, right, false),
        None => match (left.split_once("..."), left.split_once("..")) {
            (Some((left, right)), _) => (left, right, true),
            (None, Some((left, right))) => (left, right, false),
            (None, None) => (left, "", false),
        },
    }
}

/// A time, or a span of time before now.
fn time(text: &str) -> Result<Timestamp, String> {
    let ago = || text.parse::<Span>().map(|span| SystemClock.now().minus(span));
    text.parse::<Timestamp>().or_else(|error| ago().map_err(|_| format!("{error}, or as a span before now: 7d, 12h")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_people_write_them() {
        assert_eq!(sides("a", None), ("a", "", false));
        assert_eq!(sides("a", Some("b")), ("a", "b", false));
        assert_eq!(sides("a..b/c", None), ("a", "b/c", false));
        assert_eq!(sides("a...b", None), ("a", "b", true));
        assert_eq!(sides("...b", None), ("", "b", true));
        assert_eq!(sides("x..y", Some("b")), ("x..y", "b", false));
    }

    #[test]
    fn times_may_be_spans_before_now() {
        assert_eq!(time("2026-11-20").unwrap(), "2026-11-20T00:00:00Z".parse().unwrap());
        let (before, hour_ago) = (SystemClock.now(), time("1h").unwrap());
        assert!(hour_ago >= before.minus(Span::seconds(3600)) && hour_ago < SystemClock.now());
        assert!(time("soon").unwrap_err().contains("7d"));
    }
}
