//! Tokens: what an acknowledgement carries, so that a later read can wait until it sees what was written.

use std::fmt;
use std::str::FromStr;

use anabranch_core::SourceId;

use crate::{Error, Result};

/// Names everything of a source before a position. Written `source:position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The source.
    pub source: SourceId,
    /// The position behind the last row.
    pub next: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.next)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = || Error::invalid("token", format!("{text:?} is none: give one as an acknowledgement carried it, such as 3:1200"));
        let (source, next) = text.split_once(':').ok_or_else(fail)?;
        let source = source.parse().ok().and_then(|id| SourceId::new(id).ok()).ok_or_else(fail)?;
        Ok(Self { source, next: next.parse().map_err(|_| fail())? })
    }
}

/// Where rows must be visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// To lookups.
    Online,
    /// In a commit at the head of their branch.
    Committed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_as_it_is_written_and_nothing_else_does() {
        let token = Token { source: SourceId::new(3).unwrap(), next: 1200 };
        assert_eq!(token.to_string(), "3:1200");
        assert_eq!("3:1200".parse::<Token>().unwrap(), token);
        for bad in ["", "3", "3:", ":1", "-1:2", "4294967295:0", "a:b"] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }
}
