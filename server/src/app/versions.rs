//! Branches, tags, history and differences.

use anabranch_core::definition::Definition;
use anabranch_versioning::{BranchInfo, CommitId, CommitInfo, Difference, KeyKind, LogPage, LogQuery, MAX_PAGE, RefSpec, Resolved, Scan, TagInfo};
use serde_json::Value as Json;

use super::Scope;
use crate::error::{Error, Result};

/// The branch of a caller who names none.
pub(crate) const DEFAULT_BRANCH: &str = "main";

const DEFAULT_LOG: usize = 100;
const DEFAULT_DIFF: usize = 1_000;

/// What differs between two commits.
#[derive(Debug)]
pub(crate) struct DiffReport {
    pub(crate) left: CommitId,
    pub(crate) right: CommitId,
    pub(crate) lines: Vec<DiffLine>,
    pub(crate) truncated: bool,
}

/// One key that differs, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DiffLine {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) change: &'static str,
    pub(crate) summary: String,
}

impl Scope {
    /// The commit that the scope's ref names, and the branch where it is one.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        self.resolve_ref(&self.reference).await
    }

    pub(crate) async fn resolve_ref(&self, reference: &str) -> Result<Resolved> {
        Ok(self.repo.versions.resolve(&spec(reference)?).await?)
    }

    /// The branch that the scope's ref is, to be written to.
    pub(crate) async fn branch(&self) -> Result<BranchInfo> {
        let resolved = self.resolve().await?;
        resolved.branch.ok_or_else(|| Error::Precondition(format!("{:?} is not a branch, and only branches can be written to", self.reference)))
    }

    /// The commit that the scope's ref names.
    pub(crate) async fn commit_info(&self) -> Result<CommitInfo> {
        let resolved = self.resolve().await?;
        Ok(self.repo.versions.commit_info(&resolved.commit).await?)
    }

    /// History from the scope's ref on, newest first.
    pub(crate) async fn log(&self, limit: u32) -> Result<LogPage> {
        let resolved = self.resolve().await?;
        Ok(self.repo.versions.log(&LogQuery::new(resolved.commit, limited(limit, DEFAULT_LOG))).await?)
    }

    /// Branches whose name begins with `prefix`.
    pub(crate) async fn branches(&self, prefix: &str) -> Result<Vec<BranchInfo>> {
        let branches = self.repo.versions.branches().await?;
        Ok(branches.into_iter().filter(|branch| branch.name.starts_with(prefix)).collect())
    }

    /// Tags whose name begins with `prefix`.
    pub(crate) async fn tags(&self, prefix: &str) -> Result<Vec<TagInfo>> {
        let tags = self.repo.versions.tags().await?;
        Ok(tags.into_iter().filter(|tag| tag.name.starts_with(prefix)).collect())
    }

    /// Makes a branch at the scope's ref.
    pub(crate) async fn create_branch(&self, name: &str) -> Result<BranchInfo> {
        Ok(self.repo.versions.create_branch(name, &spec(&self.reference)?, super::ANONYMOUS).await?)
    }

    /// Makes a tag at the scope's ref.
    pub(crate) async fn create_tag(&self, name: &str) -> Result<TagInfo> {
        Ok(self.repo.versions.create_tag(name, &spec(&self.reference)?).await?)
    }

    /// Deletes a tag.
    pub(crate) async fn delete_tag(&self, name: &str) -> Result<()> {
        Ok(self.repo.versions.delete_tag(name).await?)
    }

    /// What differs from the scope's ref to `right`.
    pub(crate) async fn diff(&self, right: &str, limit: u32) -> Result<DiffReport> {
        let right = if right.is_empty() { DEFAULT_BRANCH } else { right };
        let (left, right) = (self.resolve().await?.commit, self.resolve_ref(right).await?.commit);
        let limit = limited(limit, DEFAULT_DIFF);
        let page = self.repo.versions.diff(&left, &right, &Scan::all().limit(limit)).await?;
        Ok(DiffReport { left, right, lines: page.items.iter().map(line).collect(), truncated: page.next.is_some() })
    }
}

fn spec(reference: &str) -> Result<RefSpec> {
    Ok(reference.parse::<RefSpec>()?)
}

fn limited(limit: u32, default: usize) -> usize {
    if limit == 0 { default } else { (limit as usize).min(MAX_PAGE) }
}

fn line(difference: &Difference) -> DiffLine {
    let text = |part: &&[u8]| match std::str::from_utf8(part) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => part.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let change = match (&difference.left, &difference.right) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    DiffLine {
        kind: difference.key.kind().name(),
        key: difference.key.parts().iter().map(text).collect::<Vec<_>>().join("/"),
        change,
        summary: summary(difference),
    }
}

/// What changed, in one line.
fn summary(difference: &Difference) -> String {
    let size = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    match (difference.key.kind(), &difference.left, &difference.right) {
        (KeyKind::Feature, Some(left), Some(right)) => changed_fields(left, right),
        (KeyKind::Feature, None, Some(only)) | (KeyKind::Feature, Some(only), None) => {
            let description = Definition::from_bytes(only).ok().and_then(|definition| definition.spec().get("description").cloned());
            description.as_ref().and_then(Json::as_str).unwrap_or_default().to_owned()
        }
        _ => format!("{} bytes to {} bytes", size(&difference.left), size(&difference.right)),
    }
}

/// The top-level fields of two versions of a definition that differ.
fn changed_fields(left: &[u8], right: &[u8]) -> String {
    let spec = |bytes| Definition::from_bytes(bytes).map(|definition| definition.spec());
    let (Ok(Json::Object(left)), Ok(Json::Object(right))) = (spec(left), spec(right)) else {
        return "not readable".to_owned();
    };
    let mut fields: Vec<_> = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))).collect();
    fields.retain(|field| left.get(*field) != right.get(*field));
    fields.iter().map(|field| field.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use anabranch_core::definition::Source;
    use anabranch_versioning::Key;

    use super::*;

    #[test]
    fn a_changed_definition_is_summed_up_by_its_fields() {
        let source = |owner: &str| Definition::Source(Source { owner: owner.into(), ..Source::push("flights") }).to_bytes().into();
        let difference = Difference {
            key: Key::new(KeyKind::Feature, &[b"source", b"flights"]).unwrap(),
            left: Some(source("ada")),
            right: Some(source("grace")),
        };
        let expected = DiffLine { kind: "feature", key: "source/flights".into(), change: "changed", summary: "owner".into() };
        assert_eq!(line(&difference), expected);
    }
}
