//! Entities: what features speak of, and the columns that name one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DefinitionKind, is_default, refuse};
use crate::types::{DataType, Scalar};
use crate::{Error, name};

/// One column of an entity's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinKey {
    /// The column's name.
    pub name: String,
    /// Its type: i32, i64, string, bytes, bool or timestamp.
    #[serde(rename = "type")]
    pub data_type: DataType,
}

impl JoinKey {
    /// The scalar type of the key.
    pub fn scalar(&self) -> Scalar {
        match self.data_type {
            DataType::Scalar(scalar) => scalar,
            // Unreachable after `Entity::normalized`; a list is no key, and string is the widest of them.
            DataType::List(_) | DataType::Vector(_) => Scalar::String,
        }
    }
}

/// What features speak of: an airport, a user, a pair of both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// Unique among entities.
    pub name: String,
    /// The columns that name one; kept in the order of their names.
    pub join_keys: Vec<JoinKey>,
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

impl Entity {
    /// An entity of one join key.
    pub fn new(name: impl Into<String>, join_key: impl Into<String>, data_type: Scalar) -> Self {
        let join_keys = vec![JoinKey { name: join_key.into(), data_type: DataType::Scalar(data_type) }];
        Self { name: name.into(), join_keys, ..Self::default() }
    }

    /// Adds a join key.
    #[must_use]
    pub fn join_key(mut self, name: impl Into<String>, data_type: Scalar) -> Self {
        self.join_keys.push(JoinKey { name: name.into(), data_type: DataType::Scalar(data_type) });
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    pub(super) fn normalized(mut self) -> Result<Self, Error> {
        let kind = DefinitionKind::Entity;
        name::check("entity", &self.name)?;
        if self.join_keys.is_empty() {
            return refuse(kind, &self.name, "join_keys", "it needs at least one join key");
        }
        for (i, key) in self.join_keys.iter().enumerate() {
            name::check_column(&key.name)?;
            if !matches!(key.data_type, DataType::Scalar(scalar) if scalar.is_key()) {
                let reason = format!("a join key cannot be {}: use i32, i64, string, bytes, bool or timestamp", key.data_type);
                return refuse(kind, &self.name, format!("join_keys[{i}].type"), reason);
            }
            if self.join_keys[..i].iter().any(|other| other.name == key.name) {
                return refuse(kind, &self.name, format!("join_keys[{i}].name"), format!("join key {:?} is there twice", key.name));
            }
        }
        self.join_keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(self)
    }
}
