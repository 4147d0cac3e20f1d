//! A set of definitions that belong together, and what they may say of each other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use super::{Check, Definition, DefinitionKind, Entity, FeatureService, FeatureView, Rule, Source, ViewLayout, refuse};
use crate::types::{DataType, Scalar};
use crate::{Error, Value};

/// Names the definitions that judge rows: the BLAKE3 hash of their canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionDigest(pub [u8; 32]);

impl fmt::Display for DefinitionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DefinitionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DefinitionDigest({self})")
    }
}

/// All definitions at one commit, by kind and name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Definitions {
    map: BTreeMap<(DefinitionKind, String), Definition>,
}

impl Definitions {
    /// No definitions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a definition or replaces the one of its kind and name.
    pub fn insert(&mut self, definition: Definition) -> Option<Definition> {
        self.map.insert((definition.kind(), definition.name().to_owned()), definition)
    }

    /// Takes a definition out.
    pub fn remove(&mut self, kind: DefinitionKind, name: &str) -> Option<Definition> {
        self.map.remove(&(kind, name.to_owned()))
    }

    /// The definition of a kind and name.
    pub fn get(&self, kind: DefinitionKind, name: &str) -> Option<&Definition> {
        self.map.get(&(kind, name.to_owned()))
    }

    /// All of them, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.map.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// An entity.
    pub fn entity(&self, name: &str) -> Option<&Entity> {
        match self.get(DefinitionKind::Entity, name) {
            Some(Definition::Entity(entity)) => Some(entity),
            _ => None,
        }
    }

    /// A feature view.
    pub fn view(&self, name: &str) -> Option<&FeatureView> {
        match self.get(DefinitionKind::FeatureView, name) {
            Some(Definition::FeatureView(view)) => Some(view),
            _ => None,
        }
    }

    /// A feature service.
    pub fn service(&self, name: &str) -> Option<&FeatureService> {
        match self.get(DefinitionKind::FeatureService, name) {
            Some(Definition::FeatureService(service)) => Some(service),
            _ => None,
        }
    }

    /// A source.
    pub fn source(&self, name: &str) -> Option<&Source> {
        match self.get(DefinitionKind::Source, name) {
            Some(Definition::Source(source)) => Some(source),
            _ => None,
        }
    }

    /// All feature views, by name.
    pub fn views(&self) -> impl Iterator<Item = &FeatureView> {
        self.iter().filter_map(|definition| match definition {
            Definition::FeatureView(view) => Some(view),
            _ => None,
        })
    }

    /// All feature services, by name.
    pub fn services(&self) -> impl Iterator<Item = &FeatureService> {
        self.iter().filter_map(|definition| match definition {
            Definition::FeatureService(service) => Some(service),
            _ => None,
        })
    }

    /// The checks of a view, by name.
    pub fn checks_of<'a>(&'a self, view: &'a str) -> impl Iterator<Item = &'a Check> {
        self.iter().filter_map(move |definition| match definition {
            Definition::Check(check) if check.view == view => Some(check),
            _ => None,
        })
    }

    /// A view with its entities' join keys filled in.
    ///
    /// # Errors
    /// [`Error::Definition`] where there is no such view, or it names an entity that does not exist.
    pub fn layout(&self, view: &str) -> Result<Arc<ViewLayout>, Error> {
        let kind = DefinitionKind::FeatureView;
        let Some(definition) = self.view(view) else {
            return refuse(kind, view, "", format!("there is no such feature view{}", self.nearest(kind, view)));
        };
        let mut keys = Vec::new();
        for (i, name) in definition.entities.iter().enumerate() {
            let Some(entity) = self.entity(name) else {
                let reason = format!("there is no entity {name:?}{}", self.nearest(DefinitionKind::Entity, name));
                return refuse(kind, view, format!("entities[{i}]"), reason);
            };
            for key in &entity.join_keys {
                match keys.iter().find(|other: &&super::JoinKey| other.name == key.name) {
                    None => keys.push(key.clone()),
                    Some(other) if other == key => {}
                    Some(_) => return refuse(kind, view, format!("entities[{i}]"), format!("join key {:?} has two types", key.name)),
                }
            }
        }
        let layout = ViewLayout::new(definition.clone(), keys);
        for (i, column) in layout.columns().iter().enumerate() {
            if layout.columns()[..i].iter().any(|other| other.name == column.name) {
                return refuse(kind, view, "fields", format!("column {:?} is a join key too; leave it out or rename it", column.name));
            }
        }
        Ok(Arc::new(layout))
    }

    /// Checks that every reference leads somewhere and fits what it leads to.
    ///
    /// # Errors
    /// [`Error::Definition`] for each definition at fault, by kind and name.
    pub fn check(&self) -> Result<(), Vec<Error>> {
        let errors: Vec<_> = self.iter().filter_map(|definition| self.check_one(definition).err()).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check_one(&self, definition: &Definition) -> Result<(), Error> {
        match definition {
            Definition::Entity(_) | Definition::Source(_) => Ok(()),
            Definition::FeatureView(view) => self.check_view(view),
            Definition::Check(check) => self.check_check(check),
            Definition::FeatureService(service) => self.check_service(service),
        }
    }

    fn check_view(&self, view: &FeatureView) -> Result<(), Error> {
        self.layout(&view.name)?;
        match &view.source {
            Some(source) if self.source(source).is_none() => {
                let reason = format!("there is no source {source:?}{}", self.nearest(DefinitionKind::Source, source));
                refuse(DefinitionKind::FeatureView, &view.name, "source", reason)
            }
            _ => Ok(()),
        }
    }

    fn check_check(&self, check: &Check) -> Result<(), Error> {
        let kind = DefinitionKind::Check;
        let Ok(layout) = self.layout(&check.view) else {
            let reason = format!("there is no feature view {:?}{}", check.view, self.nearest(DefinitionKind::FeatureView, &check.view));
            return refuse(kind, &check.name, "view", reason);
        };
        let Some(column) = layout.columns().iter().find(|column| column.name == check.column) else {
            return refuse(kind, &check.name, "column", format!("feature view {:?} has no column {:?}", check.view, check.column));
        };
        let fits = |path: &str, json: &Json| match Value::from_json(column.data_type, json) {
            Ok(_) => Ok(()),
            Err(error) => refuse(kind, &check.name, path, format!("column {:?}: {error}", check.column)),
        };
        match &check.rule {
            Rule::NotNull {} => Ok(()),
            Rule::Range { min, max } => {
                if !matches!(column.data_type, DataType::Scalar(scalar) if !matches!(scalar, Scalar::Bool | Scalar::Bytes)) {
                    return refuse(kind, &check.name, "rule.range", format!("column {:?} is {}, which has no range", check.column, column.data_type));
                }
                min.iter().try_for_each(|bound| fits("rule.range.min", bound))?;
                max.iter().try_for_each(|bound| fits("rule.range.max", bound))
            }
            Rule::OneOf { values } => {
                if !matches!(column.data_type, DataType::Scalar(_)) {
                    return refuse(kind, &check.name, "rule.one_of", format!("column {:?} is {}, not a scalar", check.column, column.data_type));
                }
                values.iter().enumerate().try_for_each(|(i, value)| fits(&format!("rule.one_of.values[{i}]"), value))
            }
            Rule::Pattern { .. } if column.data_type != DataType::Scalar(Scalar::String) => {
                refuse(kind, &check.name, "rule.pattern", format!("column {:?} is {}, not string", check.column, column.data_type))
            }
            Rule::Pattern { .. } => Ok(()),
        }
    }

    fn check_service(&self, service: &FeatureService) -> Result<(), Error> {
        let kind = DefinitionKind::FeatureService;
        for (i, projection) in service.features.iter().enumerate() {
            let Ok(layout) = self.layout(&projection.view) else {
                let reason = format!("there is no feature view {:?}{}", projection.view, self.nearest(DefinitionKind::FeatureView, &projection.view));
                return refuse(kind, &service.name, format!("features[{i}].view"), reason);
            };
            for (j, feature) in projection.features.iter().flatten().enumerate() {
                if layout.feature(feature).is_none() {
                    let reason = format!("feature view {:?} has no feature {feature:?}", projection.view);
                    return refuse(kind, &service.name, format!("features[{i}].features[{j}]"), reason);
                }
            }
            for key in projection.key_map.keys() {
                if !layout.keys().iter().any(|join_key| &join_key.name == key) {
                    let reason = format!("feature view {:?} has no join key {key:?}", projection.view);
                    return refuse(kind, &service.name, format!("features[{i}].key_map.{key}"), reason);
                }
            }
        }
        Ok(())
    }

    /// ", did you mean …" where a name of the kind is close.
    pub fn nearest(&self, kind: DefinitionKind, name: &str) -> String {
        let close = self.map.keys().filter(|(k, _)| *k == kind).map(|(_, known)| (distance(known, name), known)).min();
        close.filter(|(d, _)| *d <= 2.max(name.len() / 4)).map_or_else(String::new, |(_, known)| format!(", did you mean {known:?}?"))
    }

    /// The canonical bytes of what judges rows (entities, views and checks), one definition a line.
    pub fn judging_bytes(&self) -> Vec<u8> {
        let judges = |d: &&Definition| matches!(d.kind(), DefinitionKind::Entity | DefinitionKind::FeatureView | DefinitionKind::Check);
        self.iter().filter(judges).flat_map(|definition| definition.to_bytes().into_iter().chain([b'\n'])).collect()
    }

    /// Reads what [`Definitions::judging_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Malformed`] where a line is no definition.
    pub fn from_judging_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut definitions = Self::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            definitions.insert(Definition::from_bytes(line)?);
        }
        Ok(definitions)
    }

    /// The digest of what judges rows.
    pub fn digest(&self) -> DefinitionDigest {
        DefinitionDigest(*blake3::hash(&self.judging_bytes()).as_bytes())
    }
}

impl FromIterator<Definition> for Definitions {
    fn from_iter<I: IntoIterator<Item = Definition>>(definitions: I) -> Self {
        let mut set = Self::new();
        for definition in definitions {
            set.insert(definition);
        }
        set
    }
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
