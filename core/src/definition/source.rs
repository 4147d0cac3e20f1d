//! Sources: where the rows of a view come from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DefinitionKind, is_default, refuse};
use crate::{Error, name};

/// The format of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    JsonLines,
}

/// How rows come in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceKind {
    /// Pushed by a client, over gRPC, HTTP or Flight.
    #[default]
    Push,
    /// Read from a file on demand.
    File {
        /// Path or pattern, as the ingest command takes it.
        path: String,
        /// The format, where the name's ending does not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<FileFormat>,
    },
}

/// Where rows come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Unique among sources.
    pub name: String,
    /// How rows come in.
    #[serde(default)]
    pub via: SourceKind,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, String>,
}

impl Source {
    /// A source that clients push to.
    pub fn push(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A source of files.
    pub fn file(name: impl Into<String>, path: impl Into<String>) -> Self {
        Self { name: name.into(), via: SourceKind::File { path: path.into(), format: None }, ..Self::default() }
    }

    pub(super) fn normalized(self) -> Result<Self, Error> {
        name::check("source", &self.name)?;
        if matches!(&self.via, SourceKind::File { path, .. } if path.is_empty()) {
            return refuse(DefinitionKind::Source, &self.name, "via.file.path", "it is empty");
        }
        Ok(self)
    }
}
