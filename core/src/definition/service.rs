//! Feature services: what a model asks for by one name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DefinitionKind, is_default, refuse};
use crate::{Error, name};

/// Features of one view, as a service takes them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// The feature view.
    pub view: String,
    /// The name that it goes by within the service; the view's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The features taken, in this order; all of the view's where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// From the view's join keys to the caller's columns, where they differ.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_map: BTreeMap<String, String>,
}

impl Projection {
    /// All features of a view.
    pub fn all(view: impl Into<String>) -> Self {
        Self { view: view.into(), ..Self::default() }
    }

    /// The name that the projection goes by.
    pub fn name(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.view)
    }

    /// The caller's column for a join key of the view.
    pub fn caller_column<'a>(&'a self, join_key: &'a str) -> &'a str {
        self.key_map.get(join_key).map_or(join_key, String::as_str)
    }
}

/// Which lookups of a service are logged, into a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// The part of lookups that is logged, more than 0 and at most 1; 0 is the same as no logging.
    pub sample_rate: f64,
}

/// What a model asks for by one name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureService {
    /// Unique among services.
    pub name: String,
    /// What it takes of which view, in the order of the output.
    pub features: Vec<Projection>,
    /// Which lookups are logged; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
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

impl FeatureService {
    /// A service, as yet of nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds features of a view.
    #[must_use]
    pub fn with(mut self, projection: Projection) -> Self {
        self.features.push(projection);
        self
    }

    /// Logs a part of the lookups, from 0 to 1.
    #[must_use]
    pub const fn logged(mut self, sample_rate: f64) -> Self {
        self.logging = Some(Logging { sample_rate });
        self
    }

    pub(super) fn normalized(mut self) -> Result<Self, Error> {
        let kind = DefinitionKind::FeatureService;
        name::check("feature service", &self.name)?;
        if self.features.is_empty() {
            return refuse(kind, &self.name, "features", "it takes no features");
        }
        if let Some(Logging { sample_rate }) = self.logging.filter(|logging| !(0.0..=1.0).contains(&logging.sample_rate)) {
            return refuse(kind, &self.name, "logging.sample_rate", format!("{sample_rate} is not between 0 and 1"));
        }
        self.logging = self.logging.filter(|logging| logging.sample_rate > 0.0);
        for projection in &mut self.features {
            if projection.alias.as_ref() == Some(&projection.view) {
                projection.alias = None;
            }
            projection.key_map.retain(|key, column| key != column);
        }
        for (i, projection) in self.features.iter().enumerate() {
            if let Some(alias) = &projection.alias {
                name::check("alias", alias)?;
            }
            if self.features[..i].iter().any(|other| other.name() == projection.name()) {
                let reason = format!("{:?} is taken twice; give one of them an alias", projection.name());
                return refuse(kind, &self.name, format!("features[{i}]"), reason);
            }
            let wanted = projection.features.as_deref().unwrap_or_default();
            if projection.features.is_some() && wanted.is_empty() {
                return refuse(kind, &self.name, format!("features[{i}].features"), "it is empty; leave it out to take all");
            }
            if let Some(twice) = wanted.iter().enumerate().find(|(j, feature)| wanted[..*j].contains(feature)) {
                return refuse(kind, &self.name, format!("features[{i}].features[{}]", twice.0), format!("{:?} is there twice", twice.1));
            }
        }
        Ok(self)
    }
}
