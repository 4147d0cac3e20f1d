//! The checks of one view, compiled, and the judging of its rows.
//!
//! Every row keeps four rules before the view's own checks: no part of its key is null, its event time is not null, its known time is not null where
//! the view has one, and its event time lies at most `max_future` after its arrival. All rules are tried: a row that fails says everything that is wrong
//! with it, in an order that does not depend on the batch it came in.

use std::sync::Arc;

use anabranch_core::columns::value_at;
use anabranch_core::definition::{Check, Column, Role, Rule, ViewLayout};
use anabranch_core::{DataType, Span, Timestamp};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::TimestampMicrosecondType;

use crate::predicate::{Predicate, Unfit};
use crate::verdict::{EVENT_TIME, Failure, KEY, KNOWN_TIME, MAX_FUTURE, Verdicts};
use crate::{Error, Result};

/// The row checks of one view, compiled once and used for many batches.
#[derive(Debug, Clone)]
pub struct RowChecks {
    compiled: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    view: String,
    columns: Vec<Column>,
    /// The place of the event time, which follows the keys.
    event_time: usize,
    max_future: Span,
    every_row: Vec<ColumnRule>,
    checks: Vec<ColumnRule>,
}

#[derive(Debug)]
struct ColumnRule {
    check: String,
    column: usize,
    predicate: Predicate,
}

impl RowChecks {
    /// Compiles the checks of a view; with none, only the rules that every row keeps are left.
    ///
    /// # Errors
    /// [`Error::Pattern`] where a pattern is no regular expression, [`Error::Misfit`] where a check is another view's, its column is not there or its
    /// rule does not fit the column's type.
    pub fn compile<'a>(layout: &ViewLayout, checks: impl IntoIterator<Item = &'a Check>) -> Result<Self> {
        let columns = layout.columns().to_vec();
        let mut every_row = Vec::new();
        for (column, Column { data_type, role, .. }) in columns.iter().enumerate() {
            let check = match role {
                Role::Key => KEY,
                Role::EventTime => EVENT_TIME,
                Role::KnownTime => KNOWN_TIME,
                Role::Feature | Role::Reserved => continue,
            };
            every_row.push(column_rule(layout, check, column, *data_type, &Rule::NotNull {})?);
        }
        let mut sorted: Vec<_> = checks.into_iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut checks = Vec::with_capacity(sorted.len());
        for check in sorted {
            let misfit = |reason| Error::Misfit { check: check.name.clone(), view: layout.name().to_owned(), reason };
            if check.view != layout.name() {
                return Err(misfit(format!("it is for feature view {:?}", check.view)));
            }
            let column = columns.iter().position(|column| column.name == check.column);
            let column = column.ok_or_else(|| misfit(format!("there is no column {:?}", check.column)))?;
            checks.push(column_rule(layout, &check.name, column, columns[column].data_type, &check.rule)?);
        }
        let (view, event_time, max_future) = (layout.name().to_owned(), layout.keys().len(), layout.view().max_future);
        Ok(Self { compiled: Arc::new(Compiled { view, columns, event_time, max_future, every_row, checks }) })
    }

    /// Judges the rows of a batch that has the columns of [`ViewLayout::arrow_schema`] (each may hold nulls), each row with its arrival in
    /// microseconds.
    ///
    /// # Errors
    /// [`Error::Batch`] where the columns are not those of the view, or there are not as many arrivals as rows.
    pub fn judge(&self, batch: &RecordBatch, arrivals: &[i64]) -> Result<Verdicts> {
        self.check_form(batch, arrivals)?;
        let mut verdicts = Verdicts::default();
        self.apply(&self.compiled.every_row, batch, &mut verdicts)?;
        self.judge_future(batch, arrivals, &mut verdicts);
        self.apply(&self.compiled.checks, batch, &mut verdicts)?;
        Ok(verdicts)
    }

    fn apply(&self, rules: &[ColumnRule], batch: &RecordBatch, verdicts: &mut Verdicts) -> Result<()> {
        for rule in rules {
            let column = batch.column(rule.column);
            let Some(broken) = rule.predicate.broken(column) else { continue };
            let Column { name, data_type, .. } = &self.compiled.columns[rule.column];
            for row in broken.set_indices() {
                let value = value_at(column, *data_type, row).map_err(|error| self.refuse(error.to_string()))?;
                let reason = rule.predicate.reason(&value);
                verdicts.add(row, Failure { check: rule.check.clone(), column: name.clone(), reason });
            }
        }
        Ok(())
    }

    fn judge_future(&self, batch: &RecordBatch, arrivals: &[i64], verdicts: &mut Verdicts) {
        let Compiled { columns, event_time, max_future, .. } = &*self.compiled;
        let times = batch.column(*event_time).as_primitive::<TimestampMicrosecondType>();
        let values = times.values();
        // An instant past the end of time is as late as the last one: nothing lies after it.
        let late = BooleanBuffer::collect_bool(arrivals.len(), |row| values[row] > arrivals[row].saturating_add(max_future.micros()));
        for row in late.set_indices().filter(|row| times.is_valid(*row)) {
            let (time, arrival) = (Timestamp(values[row]), Timestamp(arrivals[row]));
            let reason = format!("{time} is more than {max_future} after the row's arrival at {arrival}");
            verdicts.add(row, Failure { check: MAX_FUTURE.to_owned(), column: columns[*event_time].name.clone(), reason });
        }
    }

    fn check_form(&self, batch: &RecordBatch, arrivals: &[i64]) -> Result<()> {
        let schema = batch.schema();
        let columns = &self.compiled.columns;
        if schema.fields().len() != columns.len() {
            return Err(self.refuse(format!("it has {} columns, not {}", schema.fields().len(), columns.len())));
        }
        for (field, column) in schema.fields().iter().zip(columns) {
            if field.name() != &column.name || field.data_type() != &column.data_type.to_arrow() {
                let (name, found) = (field.name(), field.data_type());
                return Err(self.refuse(format!("column {:?} of type {} was expected, not {name:?} of {found}", column.name, column.data_type)));
            }
        }
        if arrivals.len() != batch.num_rows() {
            return Err(self.refuse(format!("{} arrivals came for {} rows", arrivals.len(), batch.num_rows())));
        }
        Ok(())
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Batch { view: self.compiled.view.clone(), reason }
    }
}

fn column_rule(layout: &ViewLayout, check: &str, column: usize, data_type: DataType, rule: &Rule) -> Result<ColumnRule> {
    match Predicate::compile(rule, data_type) {
        Ok(predicate) => Ok(ColumnRule { check: check.to_owned(), column, predicate }),
        Err(Unfit::Pattern(source)) => Err(Error::Pattern { check: check.to_owned(), source: Box::new(source) }),
        Err(Unfit::Reason(reason)) => Err(Error::Misfit { check: check.to_owned(), view: layout.name().to_owned(), reason }),
    }
}

#[cfg(test)]
mod tests;
