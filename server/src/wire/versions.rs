//! Versions as messages of the contract.

use anabranch_proto::v1;
use anabranch_versioning::{BranchInfo, CommitInfo, ReflogEntry, TagInfo};

use crate::app::{DiffLine, DiffReport, FieldDifference, KindCount, Merged, Stored};
use crate::error::{Conflict, Conflicts};

pub(crate) fn branch(branch: BranchInfo) -> v1::Branch {
    let (protected, created_us) = (branch.protected, branch.created.micros());
    v1::Branch { name: branch.name, id: branch.id.0, commit: branch.head.to_string(), protected, created_us }
}

pub(crate) fn tag(tag: TagInfo) -> v1::Tag {
    v1::Tag { name: tag.name, commit: tag.commit.to_string(), created_us: tag.created.micros() }
}

pub(crate) fn head_move(entry: ReflogEntry) -> v1::HeadMove {
    v1::HeadMove {
        sequence: entry.seq,
        from: entry.old.map(|old| old.to_string()).unwrap_or_default(),
        to: entry.new.to_string(),
        time_us: entry.time.micros(),
        author: entry.author,
        action: entry.action,
    }
}

pub(crate) fn commit(info: &CommitInfo) -> v1::Commit {
    let commit = &info.commit;
    v1::Commit {
        id: info.id.to_string(),
        root: commit.root.to_string(),
        parents: commit.parents.iter().map(ToString::to_string).collect(),
        author: commit.author.clone(),
        message: commit.message.clone(),
        time_us: commit.time.micros(),
        metadata: commit.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

pub(crate) fn diff(report: DiffReport) -> v1::DiffReply {
    let summary =
        |count: KindCount| v1::KindSummary { kind: count.kind.name().to_owned(), added: count.added, removed: count.removed, changed: count.changed };
    v1::DiffReply {
        left_commit: report.left.map(|left| left.to_string()).unwrap_or_default(),
        right_commit: report.right.to_string(),
        differences: report.lines.into_iter().map(difference).collect(),
        truncated: report.truncated,
        next_page_token: report.next,
        summary: report.counts.into_iter().map(summary).collect(),
    }
}

fn difference(line: DiffLine) -> v1::Difference {
    let text = |json: Option<serde_json::Value>| json.map(|json| json.to_string()).unwrap_or_default();
    let field = |field: FieldDifference| v1::FieldDifference { path: field.path, left: text(field.left), right: text(field.right) };
    v1::Difference {
        kind: line.kind.to_owned(),
        key: line.key,
        change: line.change.to_owned(),
        summary: line.summary,
        fields: line.fields.into_iter().map(field).collect(),
        left: line.left.map(stored),
        right: line.right.map(stored),
    }
}

fn stored(value: Stored) -> v1::StoredValue {
    v1::StoredValue { json: value.json.map(|json| json.to_string()).unwrap_or_default(), raw: value.raw }
}

pub(crate) fn merge(merged: Merged) -> v1::MergeReply {
    let mut reply = v1::MergeReply {
        commit: merged.commit.to_string(),
        outcome: merged.outcome.to_owned(),
        from: merged.from.to_string(),
        base: merged.base.map(|base| base.to_string()).unwrap_or_default(),
        ..v1::MergeReply::default()
    };
    if let Some(preview) = merged.preview {
        reply.source = preview.source.to_string();
        reply.changes = Some(diff(preview.changes));
        reply.conflicts = (preview.conflicts.total > 0).then(|| conflicts(preview.conflicts));
    }
    reply
}

pub(crate) fn conflicts(found: Conflicts) -> v1::Conflicts {
    v1::Conflicts { conflicts: found.listed.into_iter().map(conflict).collect(), total: found.total, message: found.message }
}

fn conflict(conflict: Conflict) -> v1::Conflict {
    v1::Conflict {
        kind: conflict.kind.to_owned(),
        key: conflict.key,
        base: conflict.base.map(stored),
        ours: conflict.ours.map(stored),
        theirs: conflict.theirs.map(stored),
        reason: conflict.reason,
    }
}
