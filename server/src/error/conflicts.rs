//! What keeps a merge, revert or cherry-pick from being done: keys that both sides changed, for people and programs.

use std::fmt;

use anabranch_versioning as versioning;
use serde_json::{Value as Json, json};

use crate::app::{Stored, key_text};

/// How many bytes of values are kept; what lies beyond is counted and not listed.
const MAX_VALUE_BYTES: usize = 16 << 20;

/// Keys that both sides changed. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicts {
    pub(crate) message: String,
    /// The first of them.
    pub(crate) listed: Vec<Conflict>,
    pub(crate) total: u64,
}

/// A key that both sides changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) base: Option<Stored>,
    pub(crate) ours: Option<Stored>,
    pub(crate) theirs: Option<Stored>,
    pub(crate) reason: String,
}

impl Conflicts {
    pub(crate) fn new(message: String, conflicts: &[versioning::Conflict], total: u64) -> Self {
        let mut bytes = 0;
        let within = |conflict: &&versioning::Conflict| {
            let sides = [&conflict.base, &conflict.ours, &conflict.theirs];
            bytes += sides.into_iter().flatten().map(bytes::Bytes::len).sum::<usize>();
            bytes <= MAX_VALUE_BYTES
        };
        Self { message, listed: conflicts.iter().take_while(within).map(Conflict::of).collect(), total }
    }

    /// `{"conflicts": […], "total": n}`.
    pub(crate) fn details(&self) -> Json {
        let listed: Vec<_> = self.listed.iter().map(Conflict::to_json).collect();
        json!({"conflicts": listed, "total": self.total})
    }

    /// The same within so many bytes of JSON: without values where they do not fit, and then as many keys as do.
    pub(crate) fn brief_details(&self, limit: usize) -> Json {
        let details = self.details();
        if details.to_string().len() <= limit {
            return details;
        }
        let mut brief = json!({"conflicts": [], "total": self.total});
        let mut left = limit.saturating_sub(brief.to_string().len());
        let mut listed = Vec::new();
        for conflict in &self.listed {
            let conflict = json!({"kind": conflict.kind, "key": conflict.key, "reason": conflict.reason});
            let Some(rest) = left.checked_sub(conflict.to_string().len() + 1) else { break };
            left = rest;
            listed.push(conflict);
        }
        brief["conflicts"] = Json::Array(listed);
        brief
    }
}

impl Conflict {
    fn of(conflict: &versioning::Conflict) -> Self {
        let kind = conflict.key.kind();
        let side = |raw: &Option<bytes::Bytes>| raw.clone().map(|raw| Stored::new(kind, raw));
        Self {
            kind: kind.name(),
            key: key_text(&conflict.key),
            base: side(&conflict.base),
            ours: side(&conflict.ours),
            theirs: side(&conflict.theirs),
            reason: conflict.reason.clone(),
        }
    }

    pub(crate) fn to_json(&self) -> Json {
        let side = |side: &Option<Stored>| side.as_ref().map(Stored::to_json);
        json!({
            "kind": self.kind,
            "key": self.key,
            "base": side(&self.base),
            "ours": side(&self.ours),
            "theirs": side(&self.theirs),
            "reason": self.reason,
        })
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use anabranch_versioning::{Key, KeyKind};

    use super::*;

    fn conflicts(count: usize, value: &str) -> Conflicts {
        let conflict = |i: usize| versioning::Conflict {
            key: Key::new(KeyKind::Object, &[format!("file-{i}").as_bytes()]).unwrap(),
            base: None,
            ours: Some(value.to_owned().into()),
            theirs: Some("{}".into()),
            reason: "both changed it".into(),
        };
        Conflicts::new("no".into(), &(0..count).map(conflict).collect::<Vec<_>>(), count as u64)
    }

    #[test]
    fn each_key_has_its_values_or_their_bytes() {
        let details = conflicts(1, "\u{1}").details();
        let expected =
            json!({"kind": "object", "key": "file-0", "base": null, "ours": {"base64": "AQ=="}, "theirs": {}, "reason": "both changed it"});
        assert_eq!(details, json!({"conflicts": [expected], "total": 1}));
    }

    #[test]
    fn brief_details_keep_their_limit_and_the_total() {
        for count in [1, 30, 1000] {
            let found = conflicts(count, &"x".repeat(100));
            let brief = found.brief_details(2000);
            assert!(brief.to_string().len() <= 2000);
            assert_eq!(brief["total"], count);
            assert_eq!(brief["conflicts"][0]["key"], "file-0");
        }
        assert_eq!(conflicts(3, &"x".repeat(MAX_VALUE_BYTES / 2 - "{}".len())).listed.len(), 2);
    }
}
