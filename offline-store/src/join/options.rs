//! What a caller may choose about a join.

use std::fmt;
use std::str::FromStr;

use anabranch_core::{Error, Timestamp};
use serde::{Deserialize, Serialize};

/// Whose knowledge bounds what a row of the spine may see.
///
/// As text `spine`, `any` or a time; in JSON `"spine"`, `"any"` or `{"at": microseconds}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knowledge {
    /// What was known at the spine row's own time: `known_time <= t`.
    #[default]
    Spine,
    /// All that is known at the commit, hindsight included.
    Any,
    /// What was known at one time: `known_time <= T`.
    At(Timestamp),
}

impl fmt::Display for Knowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spine => f.write_str("spine"),
            Self::Any => f.write_str("any"),
            Self::At(time) => time.fmt(f),
        }
    }
}

impl FromStr for Knowledge {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "spine" => Ok(Self::Spine),
            "any" => Ok(Self::Any),
            time => time.parse().map(Self::At).map_err(|_| Error::Parse {
                what: "knowledge",
                text: text.to_owned(),
                hint: "it is spine, any or a time such as 2026-11-20T12:00:00Z".to_owned(),
            }),
        }
    }
}

/// What a caller may choose about a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinOptions {
    /// Whose knowledge bounds what a row may see.
    pub knowledge: Knowledge,
    /// Whether a row must be true *before* the spine row's time, not merely at it.
    pub strict: bool,
    /// Whether every feature is called `view__feature`.
    pub full_names: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knowledge_reads_as_it_is_written() {
        for text in ["spine", "any", "2026-11-20T12:00:00Z"] {
            let knowledge: Knowledge = text.parse().unwrap();
            assert_eq!(knowledge.to_string(), text);
            let json = serde_json::to_string(&knowledge).unwrap();
            assert_eq!(serde_json::from_str::<Knowledge>(&json).unwrap(), knowledge);
        }
        assert!("all".parse::<Knowledge>().is_err());
    }
}
