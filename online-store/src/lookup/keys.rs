//! The keys of a lookup: from the caller's columns to the entities of each group of views.

use anabranch_core::columns::{KeyColumns, conform};
use anabranch_core::key::KeyWriter;
use anabranch_core::selection::SelectedView;
use anabranch_core::{DataType, EntityKey, Scalar, Value};
use arrow::array::{Array, ArrayRef};

use super::{Group, Lookup, MAX_LOOKUP_ROWS};
use crate::{Error, Result};

/// A column that a caller gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// What the caller calls it.
    pub name: String,
    /// Its type; the wider one where views want both integers.
    pub scalar: Scalar,
}

/// The entities of a request, for the lookup that made them.
#[derive(Debug, Clone)]
pub struct LookupKeys {
    pub(super) rows: usize,
    pub(super) groups: Vec<KeyGroup>,
}

#[derive(Debug, Clone)]
pub(super) struct KeyGroup {
    /// The keys of the rows that have one, in their order.
    pub(super) keys: Vec<EntityKey>,
    /// For each row of the request whether it has a key.
    pub(super) has_key: Vec<bool>,
}

impl LookupKeys {
    /// Rows of the request.
    pub const fn rows(&self) -> usize {
        self.rows
    }
}

/// The places of a view's key columns among the lookup's, to which those that are not there yet are added.
pub(super) fn columns_of(view: &SelectedView, columns: &mut Vec<KeyColumn>) -> Result<Vec<usize>> {
    let mut places = Vec::with_capacity(view.key_columns.len());
    for (name, key) in view.key_columns.iter().zip(view.layout.keys()) {
        let scalar = key.scalar();
        let Some(place) = columns.iter().position(|column| column.name == *name) else {
            places.push(columns.len());
            columns.push(KeyColumn { name: name.clone(), scalar });
            continue;
        };
        let known = &mut columns[place].scalar;
        if is_integer(*known) && is_integer(scalar) {
            *known = if *known == scalar { scalar } else { Scalar::I64 };
        } else if *known != scalar {
            let reason = format!(
                "one view wants it as {} and {:?} as {}: map the key of one of them to another column",
                known.name(),
                view.name,
                scalar.name()
            );
            return Err(Error::KeyColumn { column: name.clone(), reason });
        }
        places.push(place);
    }
    Ok(places)
}

impl Lookup {
    /// The keys of a request from columns, in the order of [`Lookup::key_columns`]. A null, and an integer that no key can be, matches nothing.
    ///
    /// # Errors
    /// [`Error::KeyColumn`] where a column is missing, of another length or of an unlike type; [`Error::TooLarge`] for too many rows.
    pub fn keys(&self, columns: &[ArrayRef]) -> Result<LookupKeys> {
        let rows = columns.first().map_or(0, |column| column.len());
        let mut conformed = Vec::with_capacity(columns.len());
        for (i, wanted) in self.columns.iter().enumerate() {
            let refuse = |reason: String| Error::KeyColumn { column: wanted.name.clone(), reason };
            let column = columns.get(i).ok_or_else(|| refuse("it is missing".to_owned()))?;
            if column.len() != rows {
                return Err(refuse(format!("it has {} rows where the column before has {rows}", column.len())));
            }
            let column = conform(column, DataType::Scalar(wanted.scalar)).map_err(|error| refuse(error.to_string()))?;
            conformed.push((wanted.scalar, column.column));
        }
        self.collect(rows, |group| {
            let columns = KeyColumns::new(group.columns.iter().map(|place| conformed[*place].clone()).collect())?;
            Ok(move |row, writer: &mut KeyWriter| Ok(columns.write(row, writer)))
        })
    }

    /// The keys of a request from columns of values, in the order of [`Lookup::key_columns`].
    ///
    /// # Errors
    /// As [`Lookup::keys`]; the row at fault is named.
    pub fn keys_of_values(&self, columns: &[Vec<Value>]) -> Result<LookupKeys> {
        let rows = columns.first().map_or(0, Vec::len);
        for (i, wanted) in self.columns.iter().enumerate() {
            let refuse = |reason: String| Error::KeyColumn { column: wanted.name.clone(), reason };
            let column = columns.get(i).ok_or_else(|| refuse("it is missing".to_owned()))?;
            if column.len() != rows {
                return Err(refuse(format!("it has {} rows where the column before has {rows}", column.len())));
            }
        }
        self.collect(rows, |group| {
            Ok(move |row: usize, writer: &mut KeyWriter| {
                writer.clear();
                for place in &group.columns {
                    let (wanted, value) = (&self.columns[*place], &columns[*place][row]);
                    if value.is_null() {
                        return Ok(false);
                    }
                    if !write(value, wanted.scalar, writer) {
                        let reason = format!("row {row}: expected {}, found {}", wanted.scalar.name(), value.to_json());
                        return Err(Error::KeyColumn { column: wanted.name.clone(), reason });
                    }
                }
                Ok(true)
            })
        })
    }

    fn collect<'a, W>(&'a self, rows: usize, mut writer_of: impl FnMut(&'a Group) -> Result<W>) -> Result<LookupKeys>
    where
        W: FnMut(usize, &mut KeyWriter) -> Result<bool>,
    {
        if rows > MAX_LOOKUP_ROWS {
            return Err(Error::TooLarge { what: "a lookup's number of rows".to_owned(), bytes: rows as u64, limit: MAX_LOOKUP_ROWS as u64 });
        }
        let mut writer = KeyWriter::default();
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let mut write = writer_of(group)?;
            let mut keys = KeyGroup { keys: Vec::with_capacity(rows), has_key: Vec::with_capacity(rows) };
            for row in 0..rows {
                let has_key = write(row, &mut writer)?;
                keys.has_key.push(has_key);
                if has_key {
                    keys.keys.push(writer.to_key());
                }
            }
            groups.push(keys);
        }
        Ok(LookupKeys { rows, groups })
    }
}

const fn is_integer(scalar: Scalar) -> bool {
    matches!(scalar, Scalar::I32 | Scalar::I64)
}

/// Writes a part of a key; false where the value is of another type.
fn write(value: &Value, scalar: Scalar, writer: &mut KeyWriter) -> bool {
    match (value, scalar) {
        (Value::I32(i), Scalar::I32 | Scalar::I64) => writer.integer(i64::from(*i)),
        (Value::I64(i), Scalar::I32 | Scalar::I64) => writer.integer(*i),
        (Value::String(s), Scalar::String) => writer.string(s),
        (Value::Bytes(b), Scalar::Bytes) => writer.bytes(b),
        (Value::Bool(b), Scalar::Bool) => writer.bool(*b),
        (Value::Timestamp(t), Scalar::Timestamp) => writer.timestamp(*t),
        _ => return false,
    }
    true
}
