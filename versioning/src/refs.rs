//! Refs: how people and programs name a commit.
//!
//! ```text
//! ref   = base { step }
//! base  = "branch:" name | "tag:" name | "commit:" hex | name          bare: a branch, else a tag, else a commit
//! step  = "~" [n]                the n-th ancestor by first parents, n = 1 if left out
//!       | "^" [n]                the n-th parent, n = 1 if left out; ^0 is the commit itself
//!       | "@{" time "}"          where the branch stood then, by its reflog; first step, branches only
//! hex   = 4 to 64 hex digits that begin the hash of one commit
//! ```
//!
//! Names may contain `/`. What a name may not be is said by [`check_ref_name`].

use std::fmt;
use std::str::FromStr;

use anabranch_core::Timestamp;

use crate::{Error, Result};

/// The fewest hex digits of a commit's hash that name it.
pub const MIN_HASH_DIGITS: usize = 4;

const MAX_NAME_BYTES: usize = 255;
const MAX_STEPS: usize = 64;

/// A ref as written, not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefSpec {
    /// What is named.
    pub base: RefBase,
    /// Where to go from there.
    pub steps: Vec<RefStep>,
}

/// What a ref begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RefBase {
    /// `branch:name`.
    Branch(String),
    /// `tag:name`.
    Tag(String),
    /// `commit:hex`, lower case.
    Commit(String),
    /// A name alone: a branch, else a tag, else a commit.
    Bare(String),
}

/// One step from a commit to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefStep {
    /// `~n`.
    Ancestor(u64),
    /// `^n`.
    Parent(u64),
    /// `@{time}`.
    At(Timestamp),
}

impl RefSpec {
    /// The branch of this name.
    pub fn branch(name: impl Into<String>) -> Self {
        Self { base: RefBase::Branch(name.into()), steps: Vec::new() }
    }

    /// The tag of this name.
    pub fn tag(name: impl Into<String>) -> Self {
        Self { base: RefBase::Tag(name.into()), steps: Vec::new() }
    }

    /// This commit.
    pub fn commit(id: crate::CommitId) -> Self {
        Self { base: RefBase::Commit(id.to_string()), steps: Vec::new() }
    }
}

impl FromStr for RefSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |reason: String| Error::RefSyntax { text: text.to_owned(), reason };
        let end = text.find(['~', '^']).into_iter().chain(text.find("@{")).min().unwrap_or(text.len());
        let (base, mut rest) = text.split_at(end);
        let base = match base.split_once(':') {
            Some(("branch", name)) => RefBase::Branch(checked(name)?),
            Some(("tag", name)) => RefBase::Tag(checked(name)?),
            Some(("commit", hex)) => {
                let hex = hex.to_ascii_lowercase();
                if !is_hash_prefix(&hex) {
                    return Err(fail(format!("a commit is {MIN_HASH_DIGITS} to 64 hex digits")));
                }
                RefBase::Commit(hex)
            }
            Some((kind, _)) => return Err(fail(format!("{kind:?} is not branch, tag or commit"))),
            None => RefBase::Bare(checked(base)?),
        };
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest).map_err(fail)?;
            if matches!(step, RefStep::At(_)) && !(steps.is_empty() && matches!(base, RefBase::Branch(_) | RefBase::Bare(_))) {
                return Err(fail("@{time} may only follow a branch".to_owned()));
            }
            steps.push(step);
            rest = after;
            if steps.len() > MAX_STEPS {
                return Err(fail(format!("more than {MAX_STEPS} steps")));
            }
        }
        Ok(Self { base, steps })
    }
}

/// Reads back as the same ref.
impl fmt::Display for RefSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            RefBase::Branch(name) => write!(f, "branch:{name}")?,
            RefBase::Tag(name) => write!(f, "tag:{name}")?,
            RefBase::Commit(hex) => write!(f, "commit:{hex}")?,
            RefBase::Bare(name) => f.write_str(name)?,
        }
        self.steps.iter().try_for_each(|step| match step {
            RefStep::Ancestor(count) => write!(f, "~{count}"),
            RefStep::Parent(number) => write!(f, "^{number}"),
            RefStep::At(time) => write!(f, "@{{{time}}}"),
        })
    }
}

/// Whether a text can begin the hash of a commit.
pub(crate) fn is_hash_prefix(text: &str) -> bool {
    (MIN_HASH_DIGITS..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks the name of a branch or tag: 1 to 255 bytes; `/` parts it into pieces that are not empty, `.` or `..`; it does not begin with `-`; it has no
/// space or control character and none of `~ ^ : ? * [ ] { } \ "`.
///
/// # Errors
/// [`Error::RefName`] with the rule broken.
pub fn check_ref_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 255 bytes"
    } else if name.starts_with('-') {
        "it begins with '-'"
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace() || r#"~^:?*[]{}\""#.contains(c)) {
        r#"spaces, control characters and ~ ^ : ? * [ ] { } \ " are not allowed"#
    } else if name.split('/').any(|piece| matches!(piece, "" | "." | "..")) {
        "a piece between '/' is empty, '.' or '..'"
    } else {
        return Ok(());
    };
    Err(Error::RefName { name: name.to_owned(), reason })
}

fn checked(name: &str) -> Result<String> {
    check_ref_name(name)?;
    Ok(name.to_owned())
}

fn step(text: &str) -> Result<(RefStep, &str), String> {
    if let Some(rest) = text.strip_prefix("@{") {
        let (time, rest) = rest.split_once('}').ok_or("@{ is not closed")?;
        return Ok((RefStep::At(time.parse().map_err(|error: anabranch_core::Error| error.to_string())?), rest));
    }
    let ancestor = text.starts_with('~');
    let rest = text.strip_prefix(['~', '^']).ok_or_else(|| format!("{text:?} is not ~n, ^n or @{{time}}"))?;
    let (digits, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    let number = if digits.is_empty() { 1 } else { digits.parse().map_err(|_| format!("{digits} is too large"))? };
    Ok((if ancestor { RefStep::Ancestor(number) } else { RefStep::Parent(number) }, rest))
}

#[cfg(test)]
mod tests {
    use anabranch_core::Kinded;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refs_read_as_people_write_them() {
        let parse = |text: &str| text.parse::<RefSpec>().unwrap();
        assert_eq!(parse("main").base, RefBase::Bare("main".to_owned()));
        assert_eq!(parse("branch:team/x"), RefSpec::branch("team/x"));
        assert_eq!(parse("tag:v1~2").steps, [RefStep::Ancestor(2)]);
        assert_eq!(parse("commit:ABCD").base, RefBase::Commit("abcd".to_owned()));
        assert_eq!(parse("x^^2~").steps, [RefStep::Parent(1), RefStep::Parent(2), RefStep::Ancestor(1)]);
        let at = parse("main@{2026-11-20T12:00:00Z}~1");
        assert_eq!(at.steps, [RefStep::At("2026-11-20T12:00:00Z".parse().unwrap()), RefStep::Ancestor(1)]);
        assert_eq!(parse("user@home").base, RefBase::Bare("user@home".to_owned()));
    }

    #[test]
    fn bad_refs_are_refused_as_the_callers_mistake() {
        let long = "x".repeat(256);
        let bad =
            ["", "~1", "a b", "a//b", "/a", "a/", "..", "a/../b", "-x", "branch:", "head:x", "commit:abc", "commit:xyzw", "x~y", "x@{", "x@{soon}"];
        for text in bad.into_iter().chain(["x~1@{2026-01-01}", "tag:x@{2026-01-01}", "x~99999999999999999999", "a\nb", &long]) {
            let error = text.parse::<RefSpec>().unwrap_err();
            assert_eq!(error.kind(), anabranch_core::ErrorKind::InvalidArgument, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_ref_or_refused_and_a_ref_reads_back(text in "[a-f0-9:/~^@{}.]{0,20}") {
            if let Ok(spec) = text.parse::<RefSpec>() {
                prop_assert_eq!(spec.to_string().parse::<RefSpec>().unwrap(), spec);
            }
        }
    }
}
