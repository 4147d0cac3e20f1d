//! What a named dataset is: enough to fetch it again and to tell that it is the same.
//!
//! The bytes are canonical JSON: keys sorted, no white space, behind a format version and a kind. They lie in the repository under
//! [`DatasetManifest::path`] as an `object`.
//!
//! ```text
//! {"format":1,"kind":"dataset","spec":{"columns":[{"name":"price","type":"f64"}],"commit":"…","content_digest":"…","created":…, …}}
//! ```

use std::fmt;

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::selection::Selection;
use anabranch_core::types::DataType;
use anabranch_core::{Timestamp, name};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use super::digest::parse_hex;
use super::{ContentDigest, DatasetError};
use crate::join::JoinOptions;

/// The format version of the canonical bytes.
pub const FORMAT: u64 = 1;

const KIND: &str = "dataset";

/// A column of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub data_type: DataType,
}

/// What was asked for, in JSON `{"service": name}` or `{"features": ["view:feature", …]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetSelection {
    /// The features of a service.
    Service(String),
    /// Features by view.
    Features(Vec<String>),
}

impl From<Selection> for DatasetSelection {
    fn from(selection: Selection) -> Self {
        match selection {
            Selection::Service(name) => Self::Service(name),
            Selection::Features(features) => Self::Features(features),
        }
    }
}

impl From<DatasetSelection> for Selection {
    fn from(selection: DatasetSelection) -> Self {
        match selection {
            DatasetSelection::Service(name) => Self::Service(name),
            DatasetSelection::Features(features) => Self::Features(features),
        }
    }
}

/// A commit as a manifest names it: 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CommitName(String);

impl CommitName {
    /// The name of a commit.
    ///
    /// # Errors
    /// [`DatasetError::Digest`] where it is not 64 lower-case hex digits.
    pub fn new(hex: impl Into<String>) -> Result<Self, DatasetError> {
        let hex = hex.into();
        match parse_hex(&hex) {
            Some(_) => Ok(Self(hex)),
            None => Err(DatasetError::Digest { text: hex }),
        }
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CommitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitName({self})")
    }
}

impl Serialize for CommitName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CommitName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What a named dataset is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// Its name.
    pub name: String,
    /// The commit that its features come from.
    pub commit: CommitName,
    /// The definitions at that commit.
    #[serde(with = "definitions")]
    pub definitions: DefinitionDigest,
    /// The content of its spine.
    pub spine_digest: ContentDigest,
    /// The spine's column of times.
    pub time_column: String,
    /// The features asked for.
    pub selection: DatasetSelection,
    /// How they were joined.
    pub options: JoinOptions,
    /// The columns, the spine's first.
    pub columns: Vec<DatasetColumn>,
    /// How many rows it has.
    pub rows: u64,
    /// Its content.
    pub content_digest: ContentDigest,
    /// When it was made.
    pub created: Timestamp,
}

impl DatasetManifest {
    /// Where the manifest of a name lies among the repository's objects.
    ///
    /// # Errors
    /// [`DatasetError::Name`] where no dataset may be called so.
    pub fn path(name: &str) -> Result<String, DatasetError> {
        name::check("dataset", name)?;
        Ok(format!("datasets/{name}"))
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Infallible: every field is a string, a number, a bool, a list or an object of these. serde_json's map keeps its keys sorted.
        let spec = serde_json::to_value(self).unwrap_or(Json::Null);
        serde_json::json!({"format": FORMAT, "kind": KIND, "spec": spec}).to_string().into_bytes()
    }

    /// Reads what [`DatasetManifest::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`DatasetError::Manifest`] where the bytes are no manifest, or of a format that this version does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DatasetError> {
        let malformed = |reason: String| DatasetError::Manifest { reason };
        let mut envelope: Json = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let format = envelope.get("format").and_then(Json::as_u64);
        if format != Some(FORMAT) {
            let found = format.map_or_else(|| "without a number".to_owned(), |format| format.to_string());
            return Err(malformed(format!("format {found} is not known to this version, which reads {FORMAT}")));
        }
        if envelope.get("kind").and_then(Json::as_str) != Some(KIND) {
            return Err(malformed(format!("its kind is not {KIND:?}")));
        }
        let manifest: Self = serde_json::from_value(envelope["spec"].take()).map_err(|error| malformed(error.to_string()))?;
        Self::path(&manifest.name)?;
        Ok(manifest)
    }
}

/// A digest of definitions as hex digits.
mod definitions {
    use super::{DefinitionDigest, Deserialize, Deserializer, Serializer, parse_hex};

    pub(super) fn serialize<S: Serializer>(digest: &DefinitionDigest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DefinitionDigest, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hex(&text).map(DefinitionDigest).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a digest of 64 hex digits")))
    }
}
