//! What a named dataset is: enough to fetch it again and to tell that it is the same.
//!
//! The bytes are canonical JSON: keys sorted, no white space, behind a format version and a kind. They lie in the repository under
//! [`DatasetManifest::path`] as an `object`.
//!
//! ```text
//! {"format":2,"kind":"dataset","spec":{"columns":[{"name":"price","type":"f64"}],"commit":"…","content_digest":"…","created":…, …}}
//! ```
//!
//! Format 1 is what the first releases wrote: it has no `base`, `parts`, `spine`, `spine_columns`, `splits` and `statistics`, and no rows were stored with
//! it. It is read as a dataset of a caller's table without any of these.

use std::fmt;

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::selection::Selection;
use anabranch_core::types::DataType;
use anabranch_core::{Timestamp, name};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use super::digest::parse_hex;
use super::{ColumnStatistics, ContentDigest, DatasetError, DatasetPart, Splits};
use crate::join::JoinOptions;

/// The format version of the canonical bytes.
pub const FORMAT: u64 = 2;

/// The earliest format that is read.
const FIRST_FORMAT: u64 = 1;

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

/// Where the spine came from, in JSON `"table"`, `{"file": name}`, `{"sql": query}` or `{"events": view}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpineSource {
    /// The caller's rows.
    #[default]
    Table,
    /// The caller's rows, out of a file of this name.
    File(String),
    /// A query over the tables at the commit.
    Sql(String),
    /// Every event of a view at the commit.
    Events(String),
}

impl SpineSource {
    /// Whether the spine is a function of the commit, and so another at another commit.
    pub const fn is_derived(&self) -> bool {
        matches!(self, Self::Sql(_) | Self::Events(_))
    }
}

/// The dataset that a refresh began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetBase {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content_digest: ContentDigest,
    /// How many rows were joined again; the others are those of the base.
    pub recomputed: u64,
    /// Why all rows were, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Where the spine came from.
    #[serde(default)]
    pub spine: SpineSource,
    /// How many of the columns are the spine's.
    #[serde(default)]
    pub spine_columns: usize,
    /// The files that hold the rows, in order; none where the rows were not stored.
    #[serde(default)]
    pub parts: Vec<DatasetPart>,
    /// Which split each row belongs to, where there are splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splits: Option<Splits>,
    /// What the values of each column are like, in the order of the columns; none where the rows were not stored.
    #[serde(default)]
    pub statistics: Vec<ColumnStatistics>,
    /// The dataset that this one is a refresh of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<DatasetBase>,
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

    /// What of two datasets would have to be the same for both to have one name: all but where and when they were made, in the words of the manifest.
    ///
    /// The commit is not among it: where its rows are the same, the dataset is.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same_splits = match (&self.splits, &other.splits) {
            (Some(own), Some(others)) => own.rule == others.rule && own.names() == others.names(),
            (own, others) => own.is_none() && others.is_none(),
        };
        [
            ("content", self.content_digest != other.content_digest),
            ("spine", self.spine_digest != other.spine_digest || self.time_column != other.time_column),
            ("selection", self.selection != other.selection),
            ("options", self.options != other.options),
            ("splits", !same_splits),
        ]
        .into_iter()
        .filter_map(|(what, differs)| differs.then_some(what))
        .collect()
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Infallible: every field is a string, a finite number, a bool, a list or an object of these. serde_json's map keeps its keys sorted.
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
        if !format.is_some_and(|format| (FIRST_FORMAT..=FORMAT).contains(&format)) {
            let found = format.map_or_else(|| "without a number".to_owned(), |format| format.to_string());
            return Err(malformed(format!("format {found} is not known to this version, which reads {FIRST_FORMAT} to {FORMAT}")));
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
