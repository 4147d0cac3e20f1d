//! Between what the domain layer gives and the messages of the contract.

pub(crate) mod objects;
pub(crate) mod serving;
pub(crate) mod tables;
pub(crate) mod versions;

use anabranch_core::definition::Definition;
use anabranch_core::selection::Selection;
use anabranch_ingest::quarantine::QuarantinedRow;
use anabranch_ingest::{Loaded, Pushed};
use anabranch_proto::v1;
use anabranch_validation::Failure;

use crate::app::BranchStatus;
use crate::error::{Error, Result};

/// The repository and ref of a call; both empty where it names none.
pub(crate) fn target(target: Option<&v1::Target>) -> (&str, &str) {
    target.map_or(("", ""), |target| (target.repository.as_str(), target.r#ref.as_str()))
}

pub(crate) fn definition(definition: &Definition) -> v1::DefinitionEntry {
    v1::DefinitionEntry {
        kind: definition.kind().name().to_owned(),
        name: definition.name().to_owned(),
        canonical: definition.to_bytes().into(),
        yaml: anabranch_registry::to_yaml(definition),
    }
}

/// The selection of a call.
pub(crate) fn selection(selection: Option<v1::Selection>) -> Result<Selection> {
    match selection.and_then(|selection| selection.of) {
        Some(v1::selection::Of::Service(name)) => Ok(Selection::Service(name)),
        Some(v1::selection::Of::Features(list)) => Ok(Selection::Features(list.features)),
        None => Err(Error::argument("selection", "name a service or features")),
    }
}

pub(crate) fn pushed(pushed: Pushed) -> v1::PushReply {
    v1::PushReply { token: pushed.token.to_string(), rows: u64::from(pushed.rows), duplicate: pushed.duplicate }
}

pub(crate) fn bulk(loaded: Loaded) -> v1::BulkReply {
    v1::BulkReply {
        commit: loaded.commit.to_string(),
        rows: loaded.rows,
        quarantined: loaded.quarantined,
        duplicates: loaded.duplicates,
        source: loaded.source.get(),
        token: loaded.token.to_string(),
    }
}

pub(crate) fn status(status: BranchStatus) -> v1::StatusReply {
    let commit = status.head.to_string();
    match status.pipeline {
        Some(pipeline) => v1::StatusReply {
            commit,
            source: pipeline.source.get(),
            appended: pipeline.appended,
            published: pipeline.published,
            committed: pipeline.committed,
            definitions: pipeline.definitions,
            last_error: pipeline.last_error.unwrap_or_default(),
        },
        None => v1::StatusReply { commit, ..v1::StatusReply::default() },
    }
}

pub(crate) fn quarantined(row: QuarantinedRow) -> v1::QuarantinedRow {
    let failure = |failure: Failure| v1::Failure { check: failure.check, column: failure.column, reason: failure.reason };
    v1::QuarantinedRow {
        view: row.view,
        source: row.source.get(),
        position: row.position.get(),
        arrival_us: row.arrival.micros(),
        format: row.format,
        payload: row.payload,
        failures: row.failures.into_iter().map(failure).collect(),
    }
}
