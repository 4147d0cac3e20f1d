//! Where the walk begins: heads, tags and reflogs, and which of them reach a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::walk::Walk;
use super::{Damage, Finding, FsckReport, NAMED_BY_FINDING};
use crate::{CommitId, MetadataDump};

/// A name of a commit.
#[derive(Debug, Clone)]
pub(super) struct Start {
    /// `branch main`, `tag v1`, `reflog of main`.
    pub(super) name: String,
    pub(super) commit: CommitId,
}

/// All names of commits; a head that its reflog does not end at is a finding.
pub(super) fn starts(dump: &MetadataDump, report: &mut FsckReport) -> Vec<Start> {
    let mut starts = Vec::new();
    let mut last: HashMap<_, _> = HashMap::new();
    for (branch, entry) in &dump.reflog {
        last.insert(*branch, entry.new);
    }
    for branch in &dump.branches {
        starts.push(Start { name: format!("branch {}", branch.name), commit: branch.head });
        if last.get(&branch.id).is_some_and(|last| *last != branch.head) {
            report.findings.push(Finding::new(Damage::Ref, format!("branch {}", branch.name), "its reflog does not end at its head"));
        }
    }
    starts.extend(dump.tags.iter().map(|tag| Start { name: format!("tag {}", tag.name), commit: tag.commit }));
    report.counts.refs = starts.len() as u64;
    let names: BTreeMap<_, _> = dump.branches.iter().map(|branch| (branch.id, branch.name.as_str())).collect();
    let mut seen = BTreeSet::new();
    for (branch, entry) in &dump.reflog {
        for commit in entry.old.into_iter().chain([entry.new]) {
            if seen.insert((*branch, commit)) {
                let name = names.get(branch).map_or_else(|| format!("reflog of deleted branch {}", branch.0), |name| format!("reflog of {name}"));
                starts.push(Start { name, commit });
            }
        }
    }
    starts
}

/// Tells which refs name a commit that cannot be read.
pub(super) fn judge(starts: &[Start], walk: &mut Walk) {
    let missing: Vec<_> = starts.iter().filter(|start| walk.is_damaged_commit(&start.commit)).cloned().collect();
    for start in missing {
        let mut finding = Finding::new(Damage::Ref, &start.name, format!("it names commit {}, which cannot be read", start.commit));
        finding.refs = vec![start.name];
        walk.report.findings.push(finding);
    }
}

/// Fills in which refs reach each finding's commits, by going from the commits to their children.
pub(super) fn name_refs(findings: &mut [Finding], starts: &[Start], parents: &HashMap<CommitId, Vec<CommitId>>) {
    if findings.is_empty() {
        return;
    }
    let mut children: HashMap<CommitId, Vec<CommitId>> = HashMap::new();
    for (child, above) in parents {
        above.iter().for_each(|parent| children.entry(*parent).or_default().push(*child));
    }
    let mut names: HashMap<CommitId, Vec<&str>> = HashMap::new();
    starts.iter().for_each(|start| names.entry(start.commit).or_default().push(&start.name));
    for finding in findings {
        let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
        let mut next = finding.commits.clone();
        while let (Some(commit), true) = (next.pop(), found.len() <= NAMED_BY_FINDING) {
            if seen.insert(commit) {
                found.extend(names.get(&commit).into_iter().flatten().map(|name| (*name).to_owned()));
                next.extend(children.get(&commit).into_iter().flatten());
            }
        }
        // Branches and tags say more than reflogs, which repeat them.
        let (logs, refs): (Vec<_>, Vec<_>) = found.into_iter().partition(|name| name.starts_with("reflog"));
        let known = std::mem::take(&mut finding.refs);
        finding.refs = known.into_iter().chain(refs).chain(logs).take(NAMED_BY_FINDING).collect();
        finding.refs.dedup();
    }
}
