//! Feature views: a table of features of one or more entities, over time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DefinitionKind, is_default, refuse};
use crate::types::DataType;
use crate::{Error, Span, name};

/// One feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// The column's name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
}

impl Field {
    /// A feature of a type.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Self { name: name.into(), data_type, description: String::new() }
    }
}

/// How a view's table is partitioned by event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// Not at all.
    #[default]
    None,
    /// By calendar month, UTC.
    Month,
    /// By day, UTC.
    Day,
}

/// A table of features of one or more entities, over time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureView {
    /// Unique among feature views.
    pub name: String,
    /// The entities that a row speaks of; their join keys together name it. Kept sorted.
    pub entities: Vec<String>,
    /// The features, in the order in which they are served.
    pub fields: Vec<Field>,
    /// The column that says when a row was true.
    pub event_timestamp: String,
    /// The column that says when its maker knew it; without one, that is the event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_timestamp: Option<String>,
    /// How far a join may look back; without one, without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookback: Option<Span>,
    /// How long after its event time a value may be served online; without one, without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_ttl: Option<Span>,
    /// How long history is kept; without one, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    /// How far an event time may lie after the row's arrival before the row goes to quarantine.
    #[serde(default = "default_max_future", skip_serializing_if = "is_default_max_future")]
    pub max_future: Span,
    /// Where the rows come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How the table is partitioned by event time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub partition: Partition,
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

const MAX_FUTURE: Span = Span::seconds(600);

fn default_max_future() -> Span {
    MAX_FUTURE
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_max_future(span: &Span) -> bool {
    *span == MAX_FUTURE
}

impl FeatureView {
    /// A view with an event timestamp column, as yet without entities and fields.
    pub fn new(name: impl Into<String>, event_timestamp: impl Into<String>) -> Self {
        Self { name: name.into(), event_timestamp: event_timestamp.into(), max_future: MAX_FUTURE, ..Self::default() }
    }

    /// Adds an entity.
    #[must_use]
    pub fn entity(mut self, name: impl Into<String>) -> Self {
        self.entities.push(name.into());
        self
    }

    /// Adds a feature.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>, data_type: DataType) -> Self {
        self.fields.push(Field::new(name, data_type));
        self
    }

    /// Sets the column that says when a row's maker knew it.
    #[must_use]
    pub fn known_timestamp(mut self, column: impl Into<String>) -> Self {
        self.known_timestamp = Some(column.into());
        self
    }

    /// Sets how far a join may look back.
    #[must_use]
    pub fn lookback(mut self, span: Span) -> Self {
        self.lookback = Some(span);
        self
    }

    /// Sets how long a value may be served online.
    #[must_use]
    pub fn online_ttl(mut self, span: Span) -> Self {
        self.online_ttl = Some(span);
        self
    }

    /// Sets where the rows come from.
    #[must_use]
    pub fn source(mut self, name: impl Into<String>) -> Self {
        self.source = Some(name.into());
        self
    }

    pub(super) fn normalized(mut self) -> Result<Self, Error> {
        name::check("feature view", &self.name)?;
        self.check_columns()?;
        self.check_spans()?;
        self.entities.sort();
        Ok(self)
    }

    fn check_columns(&self) -> Result<(), Error> {
        let kind = DefinitionKind::FeatureView;
        if self.entities.is_empty() {
            return refuse(kind, &self.name, "entities", "it needs at least one entity");
        }
        for (i, entity) in self.entities.iter().enumerate() {
            if self.entities[..i].contains(entity) {
                return refuse(kind, &self.name, format!("entities[{i}]"), format!("entity {entity:?} is there twice"));
            }
        }
        if self.fields.is_empty() {
            return refuse(kind, &self.name, "fields", "it needs at least one feature");
        }
        name::check_column(&self.event_timestamp)?;
        let mut seen = vec![self.event_timestamp.as_str()];
        if let Some(known) = &self.known_timestamp {
            name::check_column(known)?;
            if seen.contains(&known.as_str()) {
                return refuse(kind, &self.name, "known_timestamp", "it is the event timestamp already; leave it out");
            }
            seen.push(known);
        }
        for (i, field) in self.fields.iter().enumerate() {
            name::check_column(&field.name)?;
            if seen.contains(&field.name.as_str()) {
                return refuse(kind, &self.name, format!("fields[{i}].name"), format!("column {:?} is there twice", field.name));
            }
            seen.push(&field.name);
        }
        Ok(())
    }

    fn check_spans(&self) -> Result<(), Error> {
        let kind = DefinitionKind::FeatureView;
        for (path, span) in [("lookback", self.lookback), ("online_ttl", self.online_ttl), ("retention", self.retention)] {
            if span == Some(Span(0)) {
                return refuse(kind, &self.name, path, "it must be longer than nothing");
            }
        }
        if let (Some(ttl), Some(retention)) = (self.online_ttl, self.retention)
            && ttl > retention
        {
            return refuse(kind, &self.name, "online_ttl", format!("{ttl} is longer than the retention of {retention}"));
        }
        Ok(())
    }
}
