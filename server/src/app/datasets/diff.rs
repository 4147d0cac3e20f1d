//! What differs between two saved datasets: what was asked, the definitions that they rest on, the rows of the views, and the values of each column.

use std::collections::BTreeSet;

use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use anabranch_core::selection::Selection;
use anabranch_core::{ErrorKind, Kinded};
use anabranch_offline_store::TableName;
use anabranch_offline_store::dataset::statistics::distance;
use anabranch_offline_store::dataset::{ColumnStatistics, DatasetColumn, DatasetManifest};
use anabranch_versioning::CommitId;
use serde_json::{Value as Json, json};

use super::Scope;
use crate::app::values::{FieldDifference, fields};
use crate::error::Result;

/// What of a manifest is told field by field; the rest has a part of its own.
const FIELDS: [&str; 6] = ["spine", "spine_digest", "time_column", "selection", "options", "splits"];

impl Scope {
    /// What differs between two datasets, each at a ref of its own where one is given.
    pub(crate) async fn diff_datasets(&self, left: &str, left_ref: &str, right: &str, right_ref: &str) -> Result<Json> {
        let reference = |given: &str| if given.is_empty() { self.reference.clone() } else { given.to_owned() };
        let (_, left) = self.found_dataset(left, &reference(left_ref)).await?;
        let (_, right) = self.found_dataset(right, &reference(right_ref)).await?;
        let commits: (CommitId, CommitId) = (left.commit.as_str().parse()?, right.commit.as_str().parse()?);
        let definitions = (self.repo.definitions(&commits.0).await?, self.repo.definitions(&commits.1).await?);
        let views: BTreeSet<String> = views(&left, &definitions.0).into_iter().chain(views(&right, &definitions.1)).collect();
        let side = |manifest: &DatasetManifest| {
            json!({
                "name": manifest.name,
                "commit": manifest.commit.to_string(),
                "rows": manifest.rows,
                "content_digest": manifest.content_digest.to_string(),
                "created": manifest.created.to_string(),
            })
        };
        Ok(json!({
            "left": side(&left),
            "right": side(&right),
            "same_content": left.content_digest == right.content_digest,
            "request": asked(&left, &right),
            "definitions": self::definitions(&[&left, &right], &views, &definitions.0, &definitions.1),
            "data": self.data(&views, &commits.0, &commits.1).await?,
            "columns": columns(&left, &right),
        }))
    }

    /// How many rows of each view the right commit has beyond the left one.
    async fn data(&self, views: &BTreeSet<String>, left: &CommitId, right: &CommitId) -> Result<Vec<Json>> {
        let mut data = Vec::new();
        for view in views.iter().filter(|_| left != right) {
            let added = match self.repo.offline.added_files(Some(left), right, &TableName::features(view.as_str())).await {
                Ok(added) => added,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let rows: u64 = added.files.iter().map(|file| file.rows).sum();
            if rows > 0 || added.removed {
                data.push(json!({"view": view, "rows_added": rows, "files_added": added.files.len(), "rows_taken_away": added.removed}));
            }
        }
        Ok(data)
    }
}

/// The views of a dataset; none where its selection cannot be resolved any more.
fn views(manifest: &DatasetManifest, definitions: &Definitions) -> Vec<String> {
    let spine: Vec<String> = manifest.columns.iter().take(manifest.spine_columns).map(|column| column.name.clone()).collect();
    let selected = Selection::from(manifest.selection.clone()).resolve(definitions, &spine, true).unwrap_or_default();
    selected.iter().map(|view| view.layout.name().to_owned()).collect()
}

fn difference(difference: &FieldDifference) -> Json {
    json!({"path": difference.path, "left": difference.left, "right": difference.right})
}

/// The fields of the request that differ.
fn asked(left: &DatasetManifest, right: &DatasetManifest) -> Vec<Json> {
    let request = |manifest: &DatasetManifest| {
        let mut spec = serde_json::from_slice::<Json>(&manifest.to_bytes()).unwrap_or_default();
        let of = |field: &&str| spec["spec"].get_mut(*field).map(|value| ((*field).to_owned(), value.take()));
        Json::Object(FIELDS.iter().filter_map(of).collect())
    };
    fields(&request(left), &request(right)).iter().map(difference).collect()
}

/// The definitions that the datasets rest on and that differ.
fn definitions(manifests: &[&DatasetManifest], views: &BTreeSet<String>, left: &Definitions, right: &Definitions) -> Vec<Json> {
    let entities: BTreeSet<&String> = [left, right]
        .into_iter()
        .flat_map(|definitions| views.iter().filter_map(|view| definitions.view(view)))
        .flat_map(|view| &view.entities)
        .collect();
    let service =
        |name: &str| manifests.iter().any(|manifest| matches!(Selection::from(manifest.selection.clone()), Selection::Service(of) if of == name));
    let used = |definition: &Definition| match definition.kind() {
        DefinitionKind::FeatureView => views.contains(definition.name()),
        DefinitionKind::Entity => entities.contains(&definition.name().to_owned()),
        DefinitionKind::FeatureService => service(definition.name()),
        _ => false,
    };
    let key = |definition: &Definition| (definition.kind().name().to_owned(), definition.name().to_owned());
    let find =
        |definitions: &Definitions, wanted: &(String, String)| definitions.iter().find(|definition| key(definition) == *wanted).map(Definition::spec);
    let keys: BTreeSet<(String, String)> = left.iter().chain(right.iter()).filter(|definition| used(definition)).map(key).collect();
    let changed = |key: (String, String)| {
        let (change, differences) = match (find(left, &key), find(right, &key)) {
            (Some(left), Some(right)) if left == right => return None,
            (Some(left), Some(right)) => ("changed", fields(&left, &right)),
            (None, _) => ("added", Vec::new()),
            (_, None) => ("removed", Vec::new()),
        };
        Some(json!({"kind": key.0, "name": key.1, "change": change, "fields": differences.iter().map(difference).collect::<Vec<_>>()}))
    };
    keys.into_iter().filter_map(changed).collect()
}

/// Each column of either, and how far its values moved.
fn columns(left: &DatasetManifest, right: &DatasetManifest) -> Vec<Json> {
    let names = left.columns.iter().chain(right.columns.iter().filter(|column| of(left, &column.name).is_none()));
    names.map(|column| column_difference(&column.name, left, right)).collect()
}

/// A column of a dataset, with its statistics where they were kept.
fn of<'a>(manifest: &'a DatasetManifest, name: &str) -> Option<(&'a DatasetColumn, Option<&'a ColumnStatistics>)> {
    let place = manifest.columns.iter().position(|column| column.name == name)?;
    Some((&manifest.columns[place], manifest.statistics.get(place)))
}

fn column_difference(name: &str, left: &DatasetManifest, right: &DatasetManifest) -> Json {
    let (left, right) = (of(left, name), of(right, name));
    let side = |side: &Option<(&DatasetColumn, Option<&ColumnStatistics>)>| {
        let mut told = serde_json::to_value(side.and_then(|(_, statistics)| statistics)).unwrap_or_default();
        if let (Some(fields), Some((column, _))) = (told.as_object_mut(), side) {
            fields.remove("cells");
            fields.insert("type".to_owned(), column.data_type.to_string().into());
        }
        told
    };
    let change = match (&left, &right) {
        (None, _) => "added",
        (_, None) => "removed",
        (Some((left, _)), Some((right, _))) if left.data_type != right.data_type => "retyped",
        (Some((_, left)), Some((_, right))) if left != right => "moved",
        _ => "same",
    };
    let distance = match (&left, &right) {
        (Some((column, Some(left))), Some((other, Some(right)))) if column.data_type == other.data_type => distance(left, right, column.data_type),
        _ => None,
    };
    json!({
        "name": name,
        "change": change,
        "left": side(&left),
        "right": side(&right),
        "psi": distance.map(|distance| distance.psi),
        "ks": distance.and_then(|distance| distance.ks),
    })
}
