//! Data frames in Feast's shape, column by column, as rows of feature views.
//!
//! Every cell is read as the type of its column before anything is written, so that a caller's mistake is told at once instead of lying in quarantine.
//! The column of event times may be called `event_timestamp` whatever the view calls it, and that of known times `created`, as Feast's clients do.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::definition::{Column, Role, ViewLayout};
use anabranch_core::{DataType, Scalar, Value};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

const EVENT_TIME: &str = "event_timestamp";
const CREATED: [&str; 2] = ["created", "created_timestamp"];

/// Columns of one length.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    columns: BTreeMap<&'a str, Vec<&'a Json>>,
    rows: usize,
}

impl<'a> Frame<'a> {
    /// Takes each column as a list, or as an object of its rows (as pandas' `to_dict` gives it).
    pub(super) fn new(df: &'a BTreeMap<String, Json>) -> Result<Self> {
        let mut columns = BTreeMap::new();
        let mut rows = None;
        for (name, cells) in df {
            let cells: Vec<_> = match cells {
                Json::Array(cells) => cells.iter().collect(),
                Json::Object(cells) => cells.values().collect(),
                _ => return Err(Error::argument("df", format!("column {name:?} is no list of values"))),
            };
            if *rows.get_or_insert(cells.len()) != cells.len() {
                let rows = rows.unwrap_or_default();
                return Err(Error::argument("df", format!("column {name:?} has {} values where others have {rows}", cells.len())));
            }
            columns.insert(name.as_str(), cells);
        }
        Ok(Self { columns, rows: rows.unwrap_or_default() })
    }

    /// Refuses columns that none of the views has.
    pub(super) fn check_columns(&self, layouts: &[Arc<ViewLayout>]) -> Result<()> {
        let taken = |name: &str| {
            name == EVENT_TIME || CREATED.contains(&name) || layouts.iter().any(|layout| layout.columns().iter().any(|column| column.name == name))
        };
        match self.columns.keys().find(|name| !taken(name)) {
            Some(odd) => {
                let views = layouts.iter().map(|layout| format!("{:?}", layout.name())).collect::<Vec<_>>().join(", ");
                Err(Error::argument("df", format!("column {odd:?} is none of feature view {views}")))
            }
            None => Ok(()),
        }
    }

    /// The rows of a view as JSON; `None` where there are no rows.
    pub(super) fn rows_of(&self, layout: &ViewLayout) -> Result<Option<Vec<u8>>> {
        let mut columns = Vec::new();
        for column in layout.columns() {
            match self.find(column) {
                Some(cells) => columns.push((column, cells)),
                None => {
                    let reason = format!("column {:?} of feature view {:?} is missing", column.name, layout.name());
                    return Err(Error::argument("df", reason));
                }
            }
        }
        let mut rows = vec![Map::new(); self.rows];
        for (column, cells) in columns {
            for (place, (row, cell)) in rows.iter_mut().zip(cells).enumerate() {
                let refuse = |reason: String| Error::argument("df", format!("column {:?}, row {place}: {reason}", column.name));
                let value = Value::from_json(column.data_type, &own(column.data_type, cell)).map_err(|error| refuse(error.to_string()))?;
                if value.is_null() && !column.nullable() {
                    return Err(refuse(format!("it is null, and a {} must not be", column.data_type)));
                }
                row.insert(column.name.clone(), value.to_json());
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        serde_json::to_vec(&rows).map(Some).map_err(|error| Error::argument("df", error.to_string()))
    }

    /// The cells of a view's column.
    fn find(&self, column: &Column) -> Option<&Vec<&'a Json>> {
        let named = |name: &str| self.columns.get(name);
        let all_there = |cells: &&Vec<&Json>| cells.iter().all(|cell| !cell.is_null());
        named(&column.name).or_else(|| match column.role {
            Role::EventTime => named(EVENT_TIME),
            // What nobody says when it was known was known when it was true.
            Role::KnownTime => CREATED.iter().find_map(|name| named(name).filter(all_there)).or_else(|| named(EVENT_TIME)),
            _ => None,
        })
    }
}

/// A cell in JSON of our own: Feast's times may be whole seconds, and data frames make floats of integers with gaps.
pub(super) fn own(data_type: DataType, cell: &Json) -> Json {
    match (data_type, cell) {
        (DataType::Scalar(Scalar::Timestamp), Json::Number(number)) => {
            number.as_i64().and_then(|s| s.checked_mul(1_000_000)).map_or_else(|| cell.clone(), Json::from)
        }
        (DataType::Scalar(Scalar::I32 | Scalar::I64), Json::Number(number)) if number.is_f64() => {
            whole(number.as_f64()).map_or_else(|| cell.clone(), Json::from)
        }
        (DataType::List(scalar), Json::Array(items)) => items.iter().map(|item| own(DataType::Scalar(scalar), item)).collect(),
        _ => cell.clone(),
    }
}

/// A float that is a whole number.
fn whole(number: Option<f64>) -> Option<i64> {
    number.filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64)
}
