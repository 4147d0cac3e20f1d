//! The table of a service: made with the first rows, widened before rows that need it, appended to.
//!
//! Making and widening are commits of their own. Columns are only ever added, so lookups under older definitions that come late find theirs.

use anabranch_core::definition::{Column, Role};
use anabranch_offline_store::{Append, TableName, TableRows, TableShape, TableState};
use anabranch_versioning::{CommitRequest, Error as VersioningError};

use super::rows::Group;
use crate::pipeline::Context;
use crate::publication::SERVED_BRANCH;
use crate::{Error, Result};

const AUTHOR: &str = "serving log";

/// Puts rows into the table of their service.
pub(super) async fn append(context: &Context, group: &Group) -> Result<()> {
    let table = TableName::served(&*group.service);
    ensure(context, &table, &group.columns).await?;
    let append = Append {
        author: AUTHOR.to_owned(),
        message: format!("{} rows served by {}", group.rows(), group.service),
        tables: vec![TableRows { table, batches: group.batches.clone(), intervals: Vec::new() }],
        ..Append::default()
    };
    context.offline.append(SERVED_BRANCH, append).await.map_err(offline)?;
    // No view has a row more: what is served has only to answer for the commit.
    context.publisher.main().fall_behind();
    Ok(())
}

async fn ensure(context: &Context, table: &TableName, columns: &[Column]) -> Result<()> {
    loop {
        let head = context.repository.branch(SERVED_BRANCH).await.map_err(versioning)?.head;
        let (verb, changes) = match context.offline.find_table(&head, table).await.map_err(offline)? {
            None => ("create", context.offline.create_table(table, &TableShape::new(columns.to_vec())).await),
            Some(state) => ("widen", context.offline.evolve_table(&head, table, &TableShape::new(widened(&state, columns))).await),
        };
        let changes = changes.map_err(offline)?;
        if changes.is_empty() {
            return Ok(());
        }
        match context.repository.commit(SERVED_BRANCH, CommitRequest::new(AUTHOR, format!("{verb} table {table}"), changes)).await {
            Ok(_) => return Ok(()),
            // Another server did it in the meantime.
            Err(VersioningError::Expect { .. } | VersioningError::Stale { .. }) => {}
            Err(error) => return Err(versioning(error)),
        }
    }
}

/// The table's columns in their order, each as wide as both want it, and behind them those that it has not.
fn widened(table: &TableState, wanted: &[Column]) -> Vec<Column> {
    let mut columns = table.columns();
    for column in wanted {
        match columns.iter_mut().find(|known| known.name == column.name) {
            Some(known) if column.data_type.widens_to(known.data_type) => {}
            Some(known) => known.data_type = column.data_type,
            None => columns.push(Column { role: Role::Feature, ..column.clone() }),
        }
    }
    columns
}

fn offline(error: anabranch_offline_store::Error) -> Error {
    Error::below("logging what was served", error)
}

fn versioning(error: VersioningError) -> Error {
    Error::below("logging what was served", error)
}
