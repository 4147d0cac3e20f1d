//! Which features a caller wants, resolved against the definitions: the one rule for the names of output columns.
//!
//! A feature is called `feature`, or `view__feature` (`alias__feature` for a view under an alias) where two would be the same, where the caller has a
//! column of that name already, or where the caller asks for full names.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Error;
use crate::definition::{DefinitionKind, Definitions, Projection, ViewLayout};

/// Which features a caller wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Those of a registered service.
    Service(String),
    /// `view:feature`, or `view` for all of its features; features of one view are gathered at its first mention.
    Features(Vec<String>),
}

/// Features of one view, found.
#[derive(Debug, Clone)]
pub struct SelectedView {
    /// The name that it goes by: the view's or its alias.
    pub name: String,
    /// The view.
    pub layout: Arc<ViewLayout>,
    /// Places of the features among the view's fields.
    pub features: Vec<usize>,
    /// The caller's columns for the view's join keys, in the order of the join keys.
    pub key_columns: Vec<String>,
    /// The output columns, one for each feature.
    pub output: Vec<String>,
}

impl Selection {
    /// Finds what is selected. `taken` are the columns that the output has already (a spine's), empty for a lookup.
    ///
    /// # Errors
    /// [`Error::Definition`] where a service, view or feature does not exist or two output columns would have one name all the same.
    pub fn resolve(&self, definitions: &Definitions, taken: &[String], full_names: bool) -> Result<Vec<SelectedView>, Error> {
        let projections = match self {
            Self::Service(name) => service(definitions, name)?,
            Self::Features(features) => projections(features)?,
        };
        let mut selected = projections.iter().map(|projection| select(definitions, projection)).collect::<Result<Vec<_>, _>>()?;
        name_outputs(&mut selected, taken, full_names)?;
        Ok(selected)
    }
}

fn service(definitions: &Definitions, name: &str) -> Result<Vec<Projection>, Error> {
    let kind = DefinitionKind::FeatureService;
    definitions.service(name).map(|service| service.features.clone()).ok_or_else(|| Error::Definition {
        kind: kind.name(),
        name: name.to_owned(),
        path: String::new(),
        reason: format!("there is no such feature service{}", definitions.nearest(kind, name)),
    })
}

fn projections(features: &[String]) -> Result<Vec<Projection>, Error> {
    let mut projections: Vec<Projection> = Vec::new();
    if features.is_empty() {
        return Err(Error::Parse { what: "feature list", text: String::new(), hint: "name at least one view:feature".to_owned() });
    }
    for text in features {
        let (view, feature) = match text.split_once(':') {
            Some((view, feature)) => (view, Some(feature.to_owned())),
            None => (text.as_str(), None),
        };
        match (projections.iter_mut().find(|projection| projection.view == view), feature) {
            (Some(projection), Some(feature)) => {
                if let Some(list) = projection.features.as_mut().filter(|list| !list.contains(&feature)) {
                    list.push(feature);
                }
            }
            (Some(projection), None) => projection.features = None,
            (None, feature) => projections.push(Projection { features: feature.map(|feature| vec![feature]), ..Projection::all(view) }),
        }
    }
    Ok(projections)
}

fn select(definitions: &Definitions, projection: &Projection) -> Result<SelectedView, Error> {
    let layout = definitions.layout(&projection.view)?;
    let find = |feature: &String| {
        layout.feature(feature).ok_or_else(|| Error::Definition {
            kind: DefinitionKind::FeatureView.name(),
            name: projection.view.clone(),
            path: String::new(),
            reason: format!("it has no feature {feature:?}; it has {}", names(&layout)),
        })
    };
    let features = match &projection.features {
        Some(features) => features.iter().map(find).collect::<Result<_, _>>()?,
        None => (0..layout.view().fields.len()).collect(),
    };
    let key_columns = layout.keys().iter().map(|key| projection.caller_column(&key.name).to_owned()).collect();
    Ok(SelectedView { name: projection.name().to_owned(), layout, features, key_columns, output: Vec::new() })
}

fn names(layout: &ViewLayout) -> String {
    layout.view().fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn name_outputs(selected: &mut [SelectedView], taken: &[String], full_names: bool) -> Result<(), Error> {
    let mut count: BTreeMap<String, usize> = taken.iter().map(|name| (name.clone(), 1)).collect();
    for view in selected.iter() {
        for feature in &view.features {
            *count.entry(view.layout.view().fields[*feature].name.clone()).or_default() += 1;
        }
    }
    let mut used: Vec<String> = taken.to_vec();
    for view in selected {
        for feature in &view.features {
            let short = &view.layout.view().fields[*feature].name;
            let name = if full_names || count[short] > 1 { format!("{}__{short}", view.name) } else { short.clone() };
            if used.contains(&name) {
                let reason = format!("two output columns would be called {name:?}; rename the column of the spine");
                return Err(Error::Definition { kind: DefinitionKind::FeatureView.name(), name: view.name.clone(), path: String::new(), reason });
            }
            used.push(name.clone());
            view.output.push(name);
        }
    }
    Ok(())
}
