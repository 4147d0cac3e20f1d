//! Feature definitions as code: YAML, rules of evolution, plan and apply.
//!
//! Definitions lie in the versioned map, one entry each ([`keys`]), so that every apply is a commit and history, diff and branches come for free. What a
//! definition is and which bytes it has is `core`'s; here lies what a *set* of them keeps and how it may change.
//!
//! In reading order: [`parse_yaml`] and [`to_yaml`] (files, and where in them a fault lies), [`load`] (what a commit holds), [`plan`] (what an apply would
//! change and break; pure), [`apply`] (one atomic commit), [`FeatureResolver`] (merges by field), [`Error`].

mod apply;
mod error;
mod keys;
mod load;
mod merge;
mod owner;
mod plan;
mod rules;
mod yaml;

#[cfg(test)]
mod arbitrary;

pub use apply::{Applied, ApplyRequest, Prepared, apply, apply_changes};
pub use error::{Error, Fault, Place, Result};
pub use keys::{all_definitions, definition_key, definitions_of_kind, identity_of_key};
pub use load::{load, load_from};
pub use merge::FeatureResolver;
pub use owner::DefinitionOwner;
pub use plan::{Action, DefinitionChange, FieldAction, FieldChange, Plan, PlanOptions, Severity, plan};
pub use yaml::{Parsed, Places, YamlFile, parse_yaml, to_yaml};
