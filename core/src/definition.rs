//! Feature definitions: what an engineer registers, and the one canonical encoding of it.
//!
//! A definition is plain data. YAML files, Python objects and Rust builders all become these types, and equal definitions have equal bytes: JSON with
//! keys sorted, no white space, fields at their default left out, behind a format version and the kind:
//!
//! ```text
//! {"format":1,"kind":"entity","spec":{"join_keys":[{"name":"origin","type":"string"}],"name":"airport"}}
//! ```
//!
//! Here lie the rules that a definition keeps by itself; what it may refer to and how it may change is the registry's.

mod check;
mod entity;
mod layout;
mod service;
mod set;
mod source;
mod view;

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub use check::{Check, Rule};
pub use entity::{Entity, JoinKey};
pub use layout::{Column, Role, ViewLayout};
pub use service::{FeatureService, Logging, Projection};
pub use set::{DefinitionDigest, Definitions};
pub use source::{FileFormat, Source, SourceKind};
pub use view::{FeatureView, Field, Partition};

use crate::Error;

/// The format version of the canonical bytes.
pub const FORMAT: u64 = 1;

/// The kinds of definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefinitionKind {
    /// What features speak of.
    Entity,
    /// Where rows come from.
    Source,
    /// A table of features.
    FeatureView,
    /// A rule that rows keep.
    Check,
    /// What a model asks for.
    FeatureService,
}

impl DefinitionKind {
    /// Every kind; a definition refers only to kinds before its own.
    pub const ALL: [Self; 5] = [Self::Entity, Self::Source, Self::FeatureView, Self::Check, Self::FeatureService];

    /// The name in files, keys and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entity => "entity",
            Self::Source => "source",
            Self::FeatureView => "feature_view",
            Self::Check => "check",
            Self::FeatureService => "feature_service",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for DefinitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One definition of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Definition {
    /// What features speak of.
    Entity(Entity),
    /// Where rows come from.
    Source(Source),
    /// A table of features.
    FeatureView(FeatureView),
    /// A rule that rows keep.
    Check(Check),
    /// What a model asks for.
    FeatureService(FeatureService),
}

impl Definition {
    /// Its kind.
    pub const fn kind(&self) -> DefinitionKind {
        match self {
            Self::Entity(_) => DefinitionKind::Entity,
            Self::Source(_) => DefinitionKind::Source,
            Self::FeatureView(_) => DefinitionKind::FeatureView,
            Self::Check(_) => DefinitionKind::Check,
            Self::FeatureService(_) => DefinitionKind::FeatureService,
        }
    }

    /// Its name, unique within its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Entity(entity) => &entity.name,
            Self::Source(source) => &source.name,
            Self::FeatureView(view) => &view.name,
            Self::Check(check) => &check.name,
            Self::FeatureService(service) => &service.name,
        }
    }

    /// The fields as JSON, defaults left out.
    pub fn spec(&self) -> Json {
        let spec = match self {
            Self::Entity(entity) => serde_json::to_value(entity),
            Self::Source(source) => serde_json::to_value(source),
            Self::FeatureView(view) => serde_json::to_value(view),
            Self::Check(check) => serde_json::to_value(check),
            Self::FeatureService(service) => serde_json::to_value(service),
        };
        // Infallible: every field is a string, number, bool, list or a map with string keys.
        spec.unwrap_or(Json::Null)
    }

    /// Reads the fields of a definition of a kind, checks what it can be held to by itself and brings it into canonical form.
    ///
    /// # Errors
    /// [`Error::Definition`] with the path of the field at fault.
    pub fn from_spec(kind: DefinitionKind, spec: Json) -> Result<Self, Error> {
        let name = spec.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
        let definition = match kind {
            DefinitionKind::Entity => Self::Entity(parse(kind, &name, spec)?),
            DefinitionKind::Source => Self::Source(parse(kind, &name, spec)?),
            DefinitionKind::FeatureView => Self::FeatureView(parse(kind, &name, spec)?),
            DefinitionKind::Check => Self::Check(parse(kind, &name, spec)?),
            DefinitionKind::FeatureService => Self::FeatureService(parse(kind, &name, spec)?),
        };
        definition.normalized()
    }

    /// The same definition in canonical form, checked.
    ///
    /// # Errors
    /// [`Error::Definition`] or [`Error::Name`] where it breaks a rule that it must keep by itself.
    pub fn normalized(self) -> Result<Self, Error> {
        match self {
            Self::Entity(entity) => entity.normalized().map(Self::Entity),
            Self::Source(source) => source.normalized().map(Self::Source),
            Self::FeatureView(view) => view.normalized().map(Self::FeatureView),
            Self::Check(check) => check.normalized().map(Self::Check),
            Self::FeatureService(service) => service.normalized().map(Self::FeatureService),
        }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // serde_json's map is a BTreeMap here (feature `preserve_order` off), so keys come out sorted.
        let envelope = serde_json::json!({"format": FORMAT, "kind": self.kind().name(), "spec": self.spec()});
        envelope.to_string().into_bytes()
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] where they are no definition or of a format that this version does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { what: "definition", reason };
        let mut envelope: Json = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let format = envelope.get("format").and_then(Json::as_u64);
        if format != Some(FORMAT) {
            return Err(malformed(format!("format {format:?} is not known to this version, which reads {FORMAT}")));
        }
        let kind = envelope.get("kind").and_then(Json::as_str).and_then(DefinitionKind::from_name);
        let kind = kind.ok_or_else(|| malformed("it has no known kind".to_owned()))?;
        Self::from_spec(kind, envelope["spec"].take())
    }
}

fn parse<T: DeserializeOwned>(kind: DefinitionKind, name: &str, spec: Json) -> Result<T, Error> {
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        Error::Definition { kind: kind.name(), name: name.to_owned(), path, reason: error.into_inner().to_string() }
    })
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn refuse<T>(kind: DefinitionKind, name: &str, path: impl Into<String>, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Definition { kind: kind.name(), name: name.to_owned(), path: path.into(), reason: reason.into() })
}

#[cfg(test)]
mod tests;
