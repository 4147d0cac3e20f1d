//! A plan as changes of the versioned map, and an apply as one commit.
//!
//! Why two applies at once cannot leave a reference that leads nowhere: each change of a definition expects the very bytes that the plan saw (or their
//! absence), and the commit reads, at the commit that the plan was made from,
//!
//! - every definition that a created or updated one refers to, directly or through its view, so that none of them can change or go meanwhile;
//! - the whole kinds that may refer to a definition which goes or changes so that a reference could break, so that no new one can come meanwhile.
//!
//! Either apply may win; the other fails with [`Error::Moved`], has changed nothing, and plans again. Commits that touch no definition, as ingest makes
//! them all the time, never stand in the way.

use std::collections::BTreeSet;

use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use anabranch_versioning::{self as versioning, Change, CommitRequest, Committed, Expect, Key, Read, RefSpec, Repository};
use bytes::Bytes;

use crate::keys::{definition_key, definitions_of_kind, identity_of_key};
use crate::plan::{Action, DefinitionChange, Plan, PlanOptions, Severity, plan};
use crate::{Error, Result, load};

/// What a commit must hold to apply a plan.
#[derive(Debug, Default)]
pub struct Prepared {
    /// One for each definition that changes, in the order of the plan.
    pub changes: Vec<Change>,
    /// What must not have changed since the commit that the plan was made from; that commit is the request's `base`.
    pub reads: Vec<Read>,
}

/// What to apply.
#[derive(Debug, Clone, Default)]
pub struct ApplyRequest {
    /// What is to be there.
    pub definitions: Vec<Definition>,
    /// What else is to be done.
    pub options: PlanOptions,
    /// Whether a plan that breaks something is applied all the same.
    pub allow_breaking: bool,
    /// Who applies.
    pub author: String,
    /// Why; where it is empty the commit says what changed.
    pub message: String,
}

/// What an apply did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What was planned, and is now so.
    pub plan: Plan,
    /// The commit; `None` where nothing was to be changed.
    pub committed: Option<Committed>,
}

/// The changes and reads of a plan, to be put into one commit together with whatever else belongs to it.
///
/// # Errors
/// [`Error::Breaking`] where the plan breaks something and that is not allowed.
pub fn apply_changes(plan: &Plan, allow_breaking: bool) -> Result<Prepared> {
    if plan.is_breaking() && !allow_breaking {
        return Err(Error::Breaking { changes: plan.breaking() });
    }
    let mut prepared = Prepared::default();
    let (mut keys, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for change in &plan.changes {
        if change.action == Action::Unchanged {
            continue;
        }
        prepared.changes.push(map_change(change)?);
        if let Some(definition) = &change.after {
            references(&plan.after, definition, &mut keys);
        }
        kinds.extend(dependents(change));
    }
    for (kind, name) in keys {
        // What this commit changes itself it expects by its bytes; what it reads by the kind it need not read alone.
        let changed = plan.changes.iter().any(|change| change.action != Action::Unchanged && change.kind == kind && change.name == name);
        if !changed && !kinds.contains(&kind) {
            prepared.reads.push(Read::Key(definition_key(kind, &name)?));
        }
    }
    for kind in kinds {
        prepared.reads.push(Read::Prefix(definitions_of_kind(kind)?));
    }
    Ok(prepared)
}

/// Plans against the head of a branch and commits the changes at once.
///
/// # Errors
/// As [`plan`] and [`apply_changes`]; [`Error::Moved`] where another apply changed what this one rests on meanwhile; [`Error::Versioning`] where the
/// branch does not exist or the repository fails. After an error nothing has changed.
pub async fn apply(repository: &Repository, branch: &str, request: ApplyRequest) -> Result<Applied> {
    let head = repository.resolve(&RefSpec::branch(branch)).await?.commit;
    let plan = plan(&load(repository, &head).await?, request.definitions, &request.options)?;
    if plan.is_empty() {
        return Ok(Applied { plan, committed: None });
    }
    let Prepared { changes, reads } = apply_changes(&plan, request.allow_breaking)?;
    let message = if request.message.is_empty() { plan.message() } else { request.message };
    let commit = CommitRequest { base: Some(head), reads, ..CommitRequest::new(request.author, message, changes) };
    let committed = repository.commit(branch, commit).await.map_err(|error| Error::from_commit(error, branch))?;
    Ok(Applied { plan, committed: Some(committed) })
}

impl Error {
    /// What a failed commit of [`apply_changes`] means to whoever applies on this branch.
    pub fn from_commit(error: versioning::Error, branch: &str) -> Self {
        let key = match &error {
            versioning::Error::Expect { key } | versioning::Error::ReadConflict { key, .. } => identity_of_key(key).ok(),
            _ => None,
        };
        match key {
            Some((kind, name)) => Self::Moved { what: format!("{kind} {name:?}"), branch: branch.to_owned(), source: Box::new(error) },
            None => Self::Versioning(error),
        }
    }
}

impl Plan {
    /// What changes, as the message of a commit.
    pub fn message(&self) -> String {
        let verb = |action| match action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::Unchanged => "keep",
        };
        let changed = self.changes.iter().filter(|change| change.action != Action::Unchanged);
        changed.map(|change| format!("{} {} {}", verb(change.action), change.kind, change.name)).collect::<Vec<_>>().join(", ")
    }
}

fn map_change(change: &DefinitionChange) -> Result<Change> {
    let key: Key = definition_key(change.kind, &change.name)?;
    let expect = change.before.as_ref().map_or(Expect::Absent, |before| Expect::Value(before.to_bytes().into()));
    Ok(match &change.after {
        Some(after) => Change::Put { key, value: Bytes::from(after.to_bytes()), expect },
        None => Change::Delete { key, expect },
    })
}

/// What a definition refers to, directly or through its views.
fn references(definitions: &Definitions, definition: &Definition, keys: &mut BTreeSet<(DefinitionKind, String)>) {
    let through_view = |view: &str, keys: &mut BTreeSet<_>| {
        keys.insert((DefinitionKind::FeatureView, view.to_owned()));
        let entities = definitions.view(view).into_iter().flat_map(|view| &view.entities);
        keys.extend(entities.map(|entity| (DefinitionKind::Entity, entity.clone())));
    };
    match definition {
        Definition::Entity(_) | Definition::Source(_) => {}
        Definition::FeatureView(view) => {
            keys.extend(view.entities.iter().map(|entity| (DefinitionKind::Entity, entity.clone())));
            keys.extend(view.source.iter().map(|source| (DefinitionKind::Source, source.clone())));
        }
        Definition::Check(check) => through_view(&check.view, keys),
        Definition::FeatureService(service) => service.features.iter().for_each(|projection| through_view(&projection.view, keys)),
    }
}

/// The kinds of which a definition, unseen by the plan, might refer to something that the change takes away. What only adds takes nothing away.
fn dependents(change: &DefinitionChange) -> Vec<DefinitionKind> {
    let takes_away =
        change.action == Action::Delete || change.action == Action::Update && change.severity == Severity::Breaking || changes_keys(change);
    match change.kind {
        _ if !takes_away => Vec::new(),
        DefinitionKind::Entity => vec![DefinitionKind::FeatureView, DefinitionKind::Check, DefinitionKind::FeatureService],
        DefinitionKind::FeatureView => vec![DefinitionKind::Check, DefinitionKind::FeatureService],
        DefinitionKind::Source => vec![DefinitionKind::FeatureView],
        DefinitionKind::Check | DefinitionKind::FeatureService => Vec::new(),
    }
}

/// Whether columns change their name or type without breaking anybody: a bound of a check must fit the type all the same.
fn changes_keys(change: &DefinitionChange) -> bool {
    let matters = |path: &str| path == "entities" || path.starts_with("join_keys.") || path.starts_with("fields.") && !path.ends_with(".description");
    change.action == Action::Update && change.fields.iter().any(|field| field.from.is_some() && matters(&field.path))
}

#[cfg(test)]
mod tests;
