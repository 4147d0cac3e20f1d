//! The feature views of one commit as tables of a query: read-only, by name; and as `served.<service>` what was logged of lookups.
//!
//! A scan reads the columns that the query needs, and leaves out the files and row groups that its bounds on the event time rule out. What it reads it
//! gives whole: the query judges every row itself, so a bound that is not understood here costs time and changes nothing.

use std::any::Any;
use std::sync::Arc;

use anabranch_core::Timestamp;
use anabranch_core::definition::{Column, Role};
use anabranch_versioning::CommitId;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{TryFutureExt, TryStreamExt};

use crate::scan::schema_of;
use crate::{Namespace, OfflineStore, ScanRequest, TableName};

/// What a query may write before the names of its tables.
pub(super) const NAME: &str = "anabranch";
pub(super) const SCHEMA: &str = Namespace::Features.name();
/// What queries may read.
const SCHEMAS: [Namespace; 2] = [Namespace::Features, Namespace::Served];

/// The tables of a commit.
#[derive(Debug, Clone)]
pub(super) struct CommitCatalog(Arc<Commit>);

#[derive(Debug)]
struct Commit {
    id: CommitId,
    store: Arc<OfflineStore>,
    tables: Vec<TableName>,
}

/// Those of one namespace.
#[derive(Debug)]
struct CommitSchema(Arc<Commit>, Namespace);

impl CommitCatalog {
    pub(super) async fn new(id: CommitId, store: &Arc<OfflineStore>) -> crate::Result<Self> {
        let mut tables = Vec::new();
        for namespace in SCHEMAS {
            tables.extend(store.tables(&id, namespace).await?);
        }
        tables.sort();
        Ok(Self(Arc::new(Commit { id, store: Arc::clone(store), tables })))
    }
}

impl CatalogProvider for CommitCatalog {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema_names(&self) -> Vec<String> {
        SCHEMAS.iter().map(|namespace| namespace.name().to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let namespace = SCHEMAS.into_iter().find(|namespace| namespace.name() == name)?;
        Some(Arc::new(CommitSchema(Arc::clone(&self.0), namespace)))
    }
}

#[async_trait]
impl SchemaProvider for CommitSchema {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn table_names(&self) -> Vec<String> {
        self.0.tables.iter().filter(|table| table.namespace == self.1).map(|table| table.name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let name = TableName { namespace: self.1, name: name.to_owned() };
        let state = self.0.store.find_table(&self.0.id, &name).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        // A name that is no table may be a table function's.
        Ok(state.map(|state| Arc::new(CommitTable { commit: Arc::clone(&self.0), columns: state.columns(), name }) as _))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.tables.iter().any(|table| table.namespace == self.1 && table.name == name)
    }
}

/// A table of a commit.
#[derive(Debug)]
struct CommitTable {
    commit: Arc<Commit>,
    name: TableName,
    columns: Vec<Column>,
}

impl CommitTable {
    fn event_column(&self) -> Option<&str> {
        self.columns.iter().find(|column| column.role == Role::EventTime).map(|column| column.name.as_str())
    }
}

#[async_trait]
impl TableProvider for CommitTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        schema_of(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let judge = |filter: &&Expr| match self.event_column().is_some_and(|event| !Bounds::of(filter, event).is_open()) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(judge).collect())
    }

    async fn scan(&self, _: &dyn Session, projection: Option<&Vec<usize>>, filters: &[Expr], limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<_> = match projection {
            Some(places) => places.iter().map(|place| self.columns[*place].clone()).collect(),
            None => self.columns.clone(),
        };
        let mut bounds = Bounds::default();
        if let Some(event) = self.event_column() {
            filters.iter().for_each(|filter| bounds.narrow(Bounds::of(filter, event)));
        }
        let table = self.name.clone();
        let request = ScanRequest { table, columns, min_event_time: bounds.min.map(Timestamp), max_event_time: bounds.max.map(Timestamp) };
        let part = TableRows { commit: Arc::clone(&self.commit), schema: schema_of(&request.columns), request };
        let schema = Arc::clone(&part.schema);
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, [], false, limit)?))
    }
}

/// The rows of a table that a query reads.
#[derive(Debug)]
struct TableRows {
    commit: Arc<Commit>,
    schema: SchemaRef,
    request: ScanRequest,
}

impl PartitionStream for TableRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (commit, request) = (Arc::clone(&self.commit), self.request.clone());
        let rows = async move { commit.store.scan(&commit.id, &request).await };
        let rows = rows.try_flatten_stream().map_err(|error| DataFusionError::External(Box::new(error)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// The event times outside of which a filter is false, in microseconds; both edges are within.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    min: Option<i64>,
    max: Option<i64>,
}

impl Bounds {
    fn of(filter: &Expr, event: &str) -> Self {
        let is_event = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == event);
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                let mut bounds = Self::of(left, event);
                bounds.narrow(Self::of(right, event));
                bounds
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_event(left) => Self::compared(*op, right),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_event(right) => op.swap().map_or(Self::default(), |op| Self::compared(op, left)),
            Expr::Between(between) if !between.negated && is_event(&between.expr) => Self { min: micros(&between.low), max: micros(&between.high) },
            _ => Self::default(),
        }
    }

    fn compared(op: Operator, to: &Expr) -> Self {
        match op {
            Operator::Eq => Self { min: micros(to), max: micros(to) },
            Operator::Gt | Operator::GtEq => Self { min: micros(to), max: None },
            Operator::Lt | Operator::LtEq => Self { min: None, max: micros(to) },
            _ => Self::default(),
        }
    }

    fn narrow(&mut self, other: Self) {
        self.min = self.min.max(other.min);
        self.max = [self.max, other.max].into_iter().flatten().min();
    }

    const fn is_open(&self) -> bool {
        self.min.is_none() && self.max.is_none()
    }
}

/// The instant that a literal is, rounded down to the microsecond: no event time lies between the two.
fn micros(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::TimestampSecond(Some(time), _), _) => time.checked_mul(1_000_000),
        Expr::Literal(ScalarValue::TimestampMillisecond(Some(time), _), _) => time.checked_mul(1_000),
        Expr::Literal(ScalarValue::TimestampMicrosecond(Some(time), _), _) => Some(*time),
        Expr::Literal(ScalarValue::TimestampNanosecond(Some(time), _), _) => Some(time.div_euclid(1_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn at(time: i64) -> Expr {
        Expr::Literal(ScalarValue::TimestampMicrosecond(Some(time), Some("UTC".into())), None)
    }

    #[test]
    fn only_comparisons_of_the_event_time_bound_a_scan() {
        let of = |filter: Expr| Bounds::of(&filter, "at");
        let bounds = |min, max| Bounds { min, max };
        assert_eq!(of(col("at").gt_eq(at(5)).and(at(9).gt(col("at")))), bounds(Some(5), Some(9)));
        assert_eq!(of(col("at").eq(at(5))), bounds(Some(5), Some(5)));
        assert_eq!(of(col("at").between(at(1), at(3)).and(col("at").lt(at(2)))), bounds(Some(1), Some(2)));
        let nanos = Expr::Literal(ScalarValue::TimestampNanosecond(Some(-1), None), None);
        assert_eq!(of(col("at").gt(nanos)), bounds(Some(-1), None));
        for open in
            [col("at").not_eq(at(5)), col("at").eq(at(5)).or(col("x").eq(lit(1))), col("known").gt(at(5)), col("at").not_between(at(1), at(3))]
        {
            assert!(of(open.clone()).is_open(), "{open}");
        }
    }
}
