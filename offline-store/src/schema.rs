//! A table's columns as Iceberg fields: what a view's table looks like, which ids its fields have, and how it evolves.
//!
//! Names are for people, ids are for files: a field keeps its id as long as it keeps its name and its type stays the same or widens. A dropped column
//! leaves the current schema and its data stay; a column that comes again under the same name, or with a type that the old one does not widen to, is a new
//! field. Ids come from one high-water mark per table, so that branches that evolve apart never give one id twice.
//!
//! Join keys and event time are required, and so is the known time of a table that was made with one. A column that joins a table later is optional.
//! Vectors are `list<float>` to Iceberg; their length is kept in the table property `anabranch.vector.<field id>`.
//!
//! Planning is pure: [`plan`] says how many fresh ids are needed, [`Plan::fields`] lays them out.

use std::sync::Arc;

use anabranch_core::definition::{Column, Partition, Role, ViewLayout};
use anabranch_core::{DataType, Scalar};
use iceberg::spec::{
    ListType, NestedField, NestedFieldRef, NullOrder, PartitionField, PrimitiveType, Schema, SortDirection, SortField, SortOrder, TableMetadata,
    Transform, Type,
};

use crate::{Error, Result};

const VECTOR_PROPERTY: &str = "anabranch.vector.";

/// The property that names the field of known times, which files are sorted by after event time.
pub(crate) const KNOWN_TIME_PROPERTY: &str = "anabranch.known-time";

/// The one sort order of a table: its join keys, then event time.
pub(crate) const SORT_ORDER_ID: i32 = 1;

/// What a table should look like: its columns in order and how it is partitioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    columns: Vec<Column>,
    partition: Partition,
}

impl TableShape {
    /// A table of these columns, not partitioned.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns, partition: Partition::None }
    }

    /// The columns in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn names(&self, role: Role) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(move |column| column.role == role).map(|column| column.name.as_str())
    }
}

impl From<&ViewLayout> for TableShape {
    fn from(layout: &ViewLayout) -> Self {
        Self { columns: layout.table_columns(), partition: layout.view().partition }
    }
}

/// A field of a table's current schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableField {
    /// Its id, the same in every file and on every branch.
    pub id: i32,
    /// The id of a list's elements.
    pub element_id: Option<i32>,
    /// Its name at this commit.
    pub name: String,
    /// Its type at this commit.
    pub data_type: DataType,
    /// Whether every row has it.
    pub required: bool,
}

impl TableField {
    fn iceberg(&self) -> NestedFieldRef {
        let field_type = match (self.data_type, self.element_id) {
            (DataType::Scalar(scalar), _) => Type::Primitive(primitive(scalar)),
            (DataType::List(scalar), id) => list(id, scalar),
            (DataType::Vector(_), id) => list(id, Scalar::F32),
        };
        Arc::new(NestedField::new(self.id, &self.name, field_type, self.required))
    }
}

fn list(element_id: Option<i32>, scalar: Scalar) -> Type {
    Type::List(ListType::new(Arc::new(NestedField::list_element(element_id.unwrap_or_default(), Type::Primitive(primitive(scalar)), true))))
}

const fn primitive(scalar: Scalar) -> PrimitiveType {
    match scalar {
        Scalar::Bool => PrimitiveType::Boolean,
        Scalar::I32 => PrimitiveType::Int,
        Scalar::I64 => PrimitiveType::Long,
        Scalar::F32 => PrimitiveType::Float,
        Scalar::F64 => PrimitiveType::Double,
        Scalar::String => PrimitiveType::String,
        Scalar::Bytes => PrimitiveType::Binary,
        Scalar::Timestamp => PrimitiveType::Timestamptz,
    }
}

fn scalar(iceberg: &Type) -> Option<Scalar> {
    let all = [Scalar::Bool, Scalar::I32, Scalar::I64, Scalar::F32, Scalar::F64, Scalar::String, Scalar::Bytes, Scalar::Timestamp];
    all.into_iter().find(|scalar| Some(&primitive(*scalar)) == iceberg.as_primitive_type())
}

/// The fields of a table's current schema.
///
/// # Errors
/// [`Error::Schema`] where an outside writer gave it a column of a type that we do not have.
pub(crate) fn fields(table: &str, metadata: &TableMetadata) -> Result<Vec<TableField>> {
    let read = |field: &NestedFieldRef| {
        let vector = metadata.properties().get(&format!("{VECTOR_PROPERTY}{}", field.id)).and_then(|n| n.parse().ok());
        let (data_type, element_id) = match field.field_type.as_ref() {
            Type::List(list) => {
                let item = scalar(&list.element_field.field_type);
                (vector.map(DataType::Vector).or(item.map(DataType::List)), Some(list.element_field.id))
            }
            other => (scalar(other).map(DataType::Scalar), None),
        };
        let unknown = || Error::schema(table, format!("column {:?} has the type {}, which features cannot have", field.name, field.field_type));
        Ok(TableField { id: field.id, element_id, name: field.name.clone(), data_type: data_type.ok_or_else(unknown)?, required: field.required })
    };
    metadata.current_schema().as_struct().fields().iter().map(read).collect()
}

/// Which fields a table keeps and which are new.
#[derive(Debug)]
pub(crate) struct Plan {
    columns: Vec<(Column, Option<TableField>)>,
    exists: bool,
}

/// Plans a new table, or what an existing one becomes.
///
/// # Errors
/// [`Error::Schema`] where join keys or event time change in a way that the rows already there cannot follow.
pub(crate) fn plan(table: &str, existing: Option<&TableMetadata>, shape: &TableShape) -> Result<Plan> {
    let old = existing.map(|metadata| fields(table, metadata)).transpose()?.unwrap_or_default();
    let keep = |column: &Column| {
        old.iter()
            .find(|field| field.name == column.name && (field.data_type == column.data_type || field.data_type.widens_to(column.data_type)))
            .cloned()
    };
    let plan = Plan { columns: shape.columns.iter().map(|column| (column.clone(), keep(column))).collect(), exists: existing.is_some() };
    if let Some(metadata) = existing {
        let sorted: Vec<_> = metadata.default_sort_order().fields.iter().map(|field| field.source_id).collect();
        let ordering = |column: &Column| matches!(column.role, Role::Key | Role::EventTime);
        let now: Vec<_> =
            plan.columns.iter().filter(|(column, _)| ordering(column)).map(|(_, field)| field.as_ref().map_or(-1, |field| field.id)).collect();
        if sorted != now {
            let reason = "its join keys or event timestamp would change, which its rows cannot follow: delete the view and create it anew";
            return Err(Error::schema(table, reason));
        }
    }
    Ok(plan)
}

impl Plan {
    /// How many ids the new fields need.
    pub(crate) fn fresh_ids(&self) -> u64 {
        self.columns.iter().filter(|(_, field)| field.is_none()).map(|(column, _)| 1 + u64::from(is_list(column.data_type))).sum()
    }

    /// The fields, new ones with ids from `first` on.
    pub(crate) fn fields(&self, first: i32) -> Vec<TableField> {
        let mut next = first;
        let mut take = || {
            next += 1;
            next - 1
        };
        let field = |(column, kept): &(Column, Option<TableField>)| match kept {
            Some(kept) => {
                let required = kept.required && !column.nullable();
                TableField { name: column.name.clone(), data_type: column.data_type, required, ..kept.clone() }
            }
            None => TableField {
                id: take(),
                element_id: is_list(column.data_type).then(&mut take),
                name: column.name.clone(),
                data_type: column.data_type,
                required: !self.exists && !column.nullable(),
            },
        };
        self.columns.iter().map(field).collect()
    }
}

const fn is_list(data_type: DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::Vector(_))
}

/// The Iceberg schema of these fields.
pub(crate) fn schema(fields: &[TableField], schema_id: i32) -> Result<Schema> {
    Ok(Schema::builder().with_schema_id(schema_id).with_fields(fields.iter().map(TableField::iceberg)).build()?)
}

/// The table properties that go with these fields.
pub(crate) fn properties(fields: &[TableField], shape: &TableShape) -> Vec<(String, String)> {
    let known = shape.names(Role::KnownTime).next().and_then(|name| fields.iter().find(|field| field.name == name));
    let vectors = fields.iter().filter_map(|field| match field.data_type {
        DataType::Vector(n) => Some((format!("{VECTOR_PROPERTY}{}", field.id), n.to_string())),
        _ => None,
    });
    known.map(|field| (KNOWN_TIME_PROPERTY.to_owned(), field.id.to_string())).into_iter().chain(vectors).collect()
}

/// Sorted by join keys in the order of their names, then by event time.
pub(crate) fn sort_order(fields: &[TableField], shape: &TableShape) -> SortOrder {
    let names = shape.names(Role::Key).chain(shape.names(Role::EventTime));
    let field =
        |source_id| SortField { source_id, transform: Transform::Identity, direction: SortDirection::Ascending, null_order: NullOrder::First };
    let sorted = names.filter_map(|name| fields.iter().find(|field| field.name == name)).map(|found| field(found.id)).collect();
    SortOrder { order_id: i64::from(SORT_ORDER_ID), fields: sorted }
}

/// The partition field of a table, without its id; none where the table is not partitioned.
pub(crate) fn partition_field(fields: &[TableField], shape: &TableShape) -> Option<PartitionField> {
    let transform = match shape.partition {
        Partition::None => return None,
        Partition::Month => Transform::Month,
        Partition::Day => Transform::Day,
    };
    let name = shape.names(Role::EventTime).next()?;
    let source_id = fields.iter().find(|field| field.name == name)?.id;
    // Two underscores, which no column may have, so that it never meets a feature's name.
    Some(PartitionField { source_id, field_id: 0, name: format!("{name}__{transform}"), transform })
}
