//! Row checks: rules that each row of a view keeps, or goes to quarantine.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{DefinitionKind, is_default, refuse};
use crate::{Error, name};

/// What a row check demands of its column. Nulls pass all but `not_null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// A value is there.
    NotNull {},
    /// The value lies between bounds, both inclusive; NaN does not. Bounds are in the column's JSON form.
    Range {
        /// Least value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<Json>,
        /// Greatest value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<Json>,
    },
    /// The value is one of a set, in the column's JSON form.
    OneOf {
        /// The values allowed.
        values: Vec<Json>,
    },
    /// The whole text matches a regular expression.
    Pattern {
        /// The expression, in the syntax of Rust's `regex`.
        regex: String,
    },
}

/// A rule that each row of a view keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Unique among checks.
    pub name: String,
    /// The feature view whose rows it judges.
    pub view: String,
    /// The column that it looks at.
    pub column: String,
    /// What it demands.
    pub rule: Rule,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
}

impl Check {
    /// A rule for a column of a view.
    pub fn new(name: impl Into<String>, view: impl Into<String>, column: impl Into<String>, rule: Rule) -> Self {
        Self { name: name.into(), view: view.into(), column: column.into(), rule, description: String::new() }
    }

    pub(super) fn normalized(self) -> Result<Self, Error> {
        let kind = DefinitionKind::Check;
        name::check("check", &self.name)?;
        match &self.rule {
            Rule::Range { min: None, max: None } => refuse(kind, &self.name, "rule.range", "it needs min, max or both"),
            Rule::OneOf { values } if values.is_empty() => refuse(kind, &self.name, "rule.one_of.values", "it is empty, so that no row would pass"),
            Rule::OneOf { values } if values.iter().any(Json::is_null) => {
                refuse(kind, &self.name, "rule.one_of.values", "null is no value; nulls pass unless a not_null check refuses them")
            }
            _ => Ok(self),
        }
    }
}
