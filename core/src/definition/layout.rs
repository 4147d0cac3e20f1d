//! A view with its entities' join keys filled in: the columns of its rows, in their one order.
//!
//! Join keys by name, then the event timestamp, the known timestamp where there is one, the features as defined; in tables the reserved columns
//! `_arrival`, `_source`, `_position` and `_tombstone` follow.

use std::sync::Arc;

use arrow::datatypes::{Field as ArrowField, Schema as ArrowSchema, SchemaRef};

use super::{FeatureView, JoinKey};
use crate::name::reserved;
use crate::types::{DataType, Scalar};

/// What a column of a view is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Part of the entity key.
    Key,
    /// When the row was true.
    EventTime,
    /// When its maker knew it.
    KnownTime,
    /// A feature.
    Feature,
    /// One of ours.
    Reserved,
}

/// A column of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// What it is for.
    pub role: Role,
}

impl Column {
    fn new(name: &str, data_type: DataType, role: Role) -> Self {
        Self { name: name.to_owned(), data_type, role }
    }

    /// Whether a row may be without it: features and reserved columns may.
    pub const fn nullable(&self) -> bool {
        matches!(self.role, Role::Feature | Role::Reserved)
    }
}

/// A view and the columns of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewLayout {
    view: FeatureView,
    keys: Vec<JoinKey>,
    columns: Vec<Column>,
}

impl ViewLayout {
    pub(super) fn new(view: FeatureView, mut keys: Vec<JoinKey>) -> Self {
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        let timestamp = DataType::Scalar(Scalar::Timestamp);
        let mut columns: Vec<_> = keys.iter().map(|key| Column::new(&key.name, key.data_type, Role::Key)).collect();
        columns.push(Column::new(&view.event_timestamp, timestamp, Role::EventTime));
        columns.extend(view.known_timestamp.iter().map(|name| Column::new(name, timestamp, Role::KnownTime)));
        columns.extend(view.fields.iter().map(|field| Column::new(&field.name, field.data_type, Role::Feature)));
        Self { view, keys, columns }
    }

    /// The definition.
    pub const fn view(&self) -> &FeatureView {
        &self.view
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        &self.view.name
    }

    /// The join keys, by name.
    pub fn keys(&self) -> &[JoinKey] {
        &self.keys
    }

    /// The columns that a producer gives: keys, event time, known time, features.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns of the view's table: those of a producer, then the reserved ones.
    pub fn table_columns(&self) -> Vec<Column> {
        let mut columns = self.columns.clone();
        columns.extend(Self::reserved_columns());
        columns
    }

    /// The four columns that every table carries.
    pub fn reserved_columns() -> [Column; 4] {
        let column = |name, scalar| Column::new(name, DataType::Scalar(scalar), Role::Reserved);
        [
            column(reserved::ARRIVAL, Scalar::Timestamp),
            column(reserved::SOURCE, Scalar::I32),
            column(reserved::POSITION, Scalar::I64),
            column(reserved::TOMBSTONE, Scalar::Bool),
        ]
    }

    /// Where the features begin among [`ViewLayout::columns`].
    pub fn first_feature(&self) -> usize {
        self.columns.len() - self.view.fields.len()
    }

    /// The place of a feature among the view's fields.
    pub fn feature(&self, name: &str) -> Option<usize> {
        self.view.fields.iter().position(|field| field.name == name)
    }

    /// The Arrow schema of a producer's batch.
    pub fn arrow_schema(&self) -> SchemaRef {
        arrow_schema(&self.columns)
    }

    /// The Arrow schema of the view's table.
    pub fn table_arrow_schema(&self) -> SchemaRef {
        arrow_schema(&self.table_columns())
    }
}

fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| ArrowField::new(&column.name, column.data_type.to_arrow(), column.nullable());
    Arc::new(ArrowSchema::new(columns.iter().map(field).collect::<Vec<_>>()))
}
