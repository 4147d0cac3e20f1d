//! Versions as JSON.

use anabranch_versioning::{BranchInfo, CommitInfo, ReflogEntry, TagInfo};
use serde_json::{Map, Value as Json, json};

use crate::app::{DiffLine, DiffReport, Merged};
use crate::error::Conflict;

/// An answer with the token of the next page, where there is one.
pub(super) fn paged(mut answer: Json, next: String) -> Json {
    if !next.is_empty() {
        answer["next_page_token"] = Json::String(next);
    }
    answer
}

pub(super) fn branch(info: BranchInfo) -> Json {
    let (id, commit, created) = (info.id.0, info.head.to_string(), info.created.to_string());
    json!({"name": info.name, "id": id, "commit": commit, "protected": info.protected, "created": created})
}

pub(super) fn tag(info: TagInfo) -> Json {
    json!({"name": info.name, "commit": info.commit.to_string(), "created": info.created.to_string()})
}

pub(super) fn head_move(entry: ReflogEntry) -> Json {
    json!({
        "sequence": entry.seq,
        "from": entry.old.map(|old| old.to_string()),
        "to": entry.new.to_string(),
        "time": entry.time.to_string(),
        "author": entry.author,
        "action": entry.action,
    })
}

pub(super) fn commit(info: &CommitInfo) -> Json {
    let commit = &info.commit;
    json!({
        "id": info.id.to_string(),
        "root": commit.root.to_string(),
        "parents": commit.parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "author": commit.author,
        "message": commit.message,
        "time": commit.time.to_string(),
        "metadata": commit.metadata,
    })
}

pub(super) fn diff(report: DiffReport) -> Json {
    let differences: Vec<_> = report.lines.iter().map(difference).collect();
    let summary: Map<_, _> = report
        .counts
        .iter()
        .map(|count| (count.kind.name().to_owned(), json!({"added": count.added, "removed": count.removed, "changed": count.changed})))
        .collect();
    let answer = json!({
        "left": report.left.map(|left| left.to_string()),
        "right": report.right.to_string(),
        "differences": differences,
        "summary": summary,
        "truncated": report.truncated,
    });
    paged(answer, report.next)
}

fn difference(line: &DiffLine) -> Json {
    let fields: Vec<_> = line.fields.iter().map(|field| json!({"path": field.path, "left": field.left, "right": field.right})).collect();
    let mut json = json!({"kind": line.kind, "key": line.key, "change": line.change, "summary": line.summary, "fields": fields});
    for (name, side) in [("left", &line.left), ("right", &line.right)] {
        if let Some(value) = side {
            json[name] = value.to_json();
        }
    }
    json
}

pub(super) fn merge(merged: Merged) -> Json {
    let mut answer = json!({
        "commit": merged.commit.to_string(),
        "outcome": merged.outcome,
        "from": merged.from.to_string(),
        "base": merged.base.map(|base| base.to_string()),
    });
    if let Some(preview) = merged.preview {
        answer["source"] = Json::String(preview.source.to_string());
        answer["changes"] = diff(preview.changes);
        answer["conflicts"] = preview.conflicts.listed.iter().map(Conflict::to_json).collect();
        answer["conflict_count"] = preview.conflicts.total.into();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Stored;

    #[test]
    fn a_value_is_given_where_it_was_asked_for() {
        let stored = Stored { raw: bytes::Bytes::from_static(b"\xff"), json: None };
        let line = DiffLine {
            kind: "object",
            key: "a".into(),
            change: "added",
            summary: "1 bytes".into(),
            fields: Vec::new(),
            left: None,
            right: Some(stored),
        };
        let found = difference(&line);
        assert_eq!((found.get("left"), &found["right"]), (None, &json!({"base64": "/w=="})));
    }
}
