//! `get-online`: looks up the latest values. Keys are text here; the definitions say what types they have.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anabranch_client::{Client, DataType, FeatureStatus, OnlineFeatures, OnlineQuery, Scalar, data_type_of};
use anabranch_core::Value;
use anabranch_core::columns::{column_of, value_at};
use anabranch_core::definition::Definitions;
use anabranch_core::selection::Selection;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use clap::Args;
use serde_json::{Map, Value as Json, json};

use crate::error::Error;
use crate::output::{Output, cell};

/// Looks up the latest values of features.
#[derive(Debug, Args)]
pub(crate) struct GetOnline {
    #[command(flatten)]
    features: FeatureArgs,
    /// A part of an entity's key, such as origin=JFK; a column that is given again begins the next entity
    #[arg(long = "key", value_name = "COLUMN=VALUE", required_unless_present = "keys")]
    key: Vec<String>,
    /// Keys of many entities: a file with one JSON object a line, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    keys: Option<PathBuf>,
    /// Name every column view__feature
    #[arg(long)]
    full_names: bool,
    /// The token of a push that must be visible first
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    at_least: String,
}

/// Which features.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct FeatureArgs {
    /// A feature service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// view:feature, or view for all of its features; with commas between, or given again
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    features: Vec<String>,
}

impl FeatureArgs {
    pub(crate) fn selection(&self) -> Selection {
        match &self.service {
            Some(service) => Selection::Service(service.clone()),
            None => Selection::Features(self.features.clone()),
        }
    }
}

type Row = BTreeMap<String, Json>;

pub(crate) async fn get_online(client: &Client, lookup: GetOnline, output: &mut Output) -> Result<(), Error> {
    let definitions: Definitions = client.definitions(None, None).await?.definitions.into_iter().map(|found| found.definition).collect();
    let selection = lookup.features.selection();
    let types = key_types(&selection, &definitions, lookup.full_names)?;
    let rows = match &lookup.keys {
        Some(file) => rows_of_file(file)?,
        None => rows_of_arguments(&lookup.key, &types)?,
    };
    let keys = batch(&rows, &types)?;
    let query = OnlineQuery { full_names: lookup.full_names, at_least: lookup.at_least.clone(), ..OnlineQuery::new(selection) };
    let found = client.get_online_features(&query, &keys).await?;
    show(&rows, &types, &found, output)
}

/// The key columns that a selection needs, by the caller's names.
fn key_types(selection: &Selection, definitions: &Definitions, full_names: bool) -> Result<BTreeMap<String, Scalar>, Error> {
    let selected = selection.resolve(definitions, &[], full_names)?;
    let keys = selected.iter().flat_map(|view| view.key_columns.iter().cloned().zip(view.layout.keys().iter().map(|key| key.scalar())));
    Ok(keys.collect())
}

/// One row for each entity: a column that the row has already begins the next one.
fn rows_of_arguments(arguments: &[String], types: &BTreeMap<String, Scalar>) -> Result<Vec<Row>, Error> {
    let (mut rows, mut row) = (Vec::new(), Row::new());
    for argument in arguments {
        let (name, text) = argument.split_once('=').ok_or_else(|| Error::Usage(format!("--key {argument}: write it as COLUMN=VALUE")))?;
        let json = match types.get(name) {
            None => return Err(Error::Usage(format!("--key {argument}: these features have the keys {}", names(types)))),
            Some(Scalar::I32 | Scalar::I64 | Scalar::Bool) => serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.to_owned())),
            Some(_) => Json::String(text.to_owned()),
        };
        if row.contains_key(name) {
            rows.push(std::mem::take(&mut row));
        }
        row.insert(name.to_owned(), json);
    }
    rows.push(row);
    Ok(rows)
}

fn rows_of_file(path: &PathBuf) -> Result<Vec<Row>, Error> {
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text = text.map_err(|error| Error::file(path, error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(i, line)| serde_json::from_str(line).map_err(|error| Error::file(path, format!("line {}: {error}", i + 1))));
    parsed.collect()
}

fn batch(rows: &[Row], types: &BTreeMap<String, Scalar>) -> Result<RecordBatch, Error> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (name, scalar) in types {
        let data_type = DataType::Scalar(*scalar);
        let mut values = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let json =
                row.get(name).ok_or_else(|| Error::Usage(format!("row {i} has no key {name:?}; these features have the keys {}", names(types))))?;
            values.push(Value::from_json(data_type, json).map_err(|error| Error::Usage(format!("key {name:?}, row {i}: {error}")))?);
        }
        fields.push(Field::new(name, data_type.to_arrow(), true));
        columns.push(column_of(data_type, &values)?);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| Error::Client(error.into()))
}

fn names(types: &BTreeMap<String, Scalar>) -> String {
    types.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn show(rows: &[Row], types: &BTreeMap<String, Scalar>, found: &OnlineFeatures, output: &mut Output) -> Result<(), Error> {
    let schema = found.batch.schema();
    let features: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let statuses: Vec<Vec<_>> = (0..features.len()).map(|feature| found.statuses(feature).collect()).collect();
    let (mut json, mut cells) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        let mut values = Map::new();
        let mut line: Vec<_> = types.keys().map(|key| row.get(key).map(cell).unwrap_or_default()).collect();
        for (j, feature) in features.iter().enumerate() {
            let status: FeatureStatus = statuses[j][i];
            let value = value_json(found, j, i)?;
            line.push(match status {
                FeatureStatus::Present | FeatureStatus::NullValue => cell(&value),
                FeatureStatus::NotFound => "(not found)".to_owned(),
                FeatureStatus::OutsideTtl => "(too old)".to_owned(),
            });
            values.insert((*feature).to_owned(), json!({"value": value, "status": status}));
        }
        json.push(json!({"keys": row, "features": values}));
        cells.push(line);
    }
    let headers: Vec<_> = types.keys().map(String::as_str).chain(features.iter().copied()).collect();
    output.value(&json, |output| output.table(&headers, &cells))
}

fn value_json(found: &OnlineFeatures, column: usize, row: usize) -> Result<Json, Error> {
    let array = found.batch.column(column);
    let data_type = data_type_of(array.data_type()).unwrap_or(DataType::Scalar(Scalar::String));
    Ok(value_at(array, data_type, row)?.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types() -> BTreeMap<String, Scalar> {
        [("flight".to_owned(), Scalar::I64), ("origin".to_owned(), Scalar::String)].into()
    }

    #[test]
    fn keys_have_the_types_of_the_definitions() {
        let rows = rows_of_arguments(&["flight=007".into(), "origin=12".into()], &types());
        assert!(batch(&rows.unwrap(), &types()).unwrap_err().to_string().contains("\"flight\", row 0"));
        let rows = rows_of_arguments(&["flight=7".into(), "origin=12".into()], &types()).unwrap();
        let keys = batch(&rows, &types()).unwrap();
        assert_eq!(value_at(keys.column(0), DataType::Scalar(Scalar::I64), 0).unwrap(), Value::I64(7));
        assert_eq!(value_at(keys.column(1), DataType::Scalar(Scalar::String), 0).unwrap(), Value::String("12".into()));
    }

    #[test]
    fn a_missing_or_unknown_key_is_misuse_that_names_the_keys() {
        for arguments in [vec!["flight=7".to_owned()], vec!["fligt=7".to_owned()], vec!["flight".to_owned()]] {
            let error = rows_of_arguments(&arguments, &types()).and_then(|rows| batch(&rows, &types())).unwrap_err();
            assert_eq!(error.exit_status(), 2);
        }
    }

    #[test]
    fn a_column_given_again_begins_the_next_entity() {
        let arguments = ["flight=7", "origin=JFK", "flight=8", "origin=EWR"].map(str::to_owned);
        assert_eq!(batch(&rows_of_arguments(&arguments, &types()).unwrap(), &types()).unwrap().num_rows(), 2);
    }
}
